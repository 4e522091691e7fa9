"""The engine of attend against its definition: bits over named rows, tolerance over all keys."""

from __future__ import annotations

import numpy as np
import pytest

from containers import to_bfloat16
from memcore import _core, reference
from memcore.errors import InputError, ShapeError

REALS = [np.float32, np.float64]
# (n_queries, n_keys, dim, value_dim): below, at and above the tiles of 48 and 128 and words of 16.
SHAPES = [
    (1, 1, 1, 1),
    (3, 0, 5, 4),
    (0, 9, 5, 4),
    (7, 127, 33, 20),
    (48, 128, 16, 16),
    (50, 300, 64, 17),
    (5, 9000, 8, 3),
    (200, 140, 15, 64),
]


def normal(rng, shape, real):
    return rng.standard_normal(shape).astype(real)


def dense_inputs(rng, shape, real, lead=(2,)):
    n_queries, n_keys, dim, value_dim = shape
    mask = rng.random((*lead, n_queries, n_keys)) < 0.7
    return {
        "queries": normal(rng, (*lead, n_queries, dim), real),
        "keys": normal(rng, (*lead, n_keys, dim), real),
        "values": normal(rng, (*lead, n_keys, value_dim), real),
        "beta": rng.uniform(0.1, 1.0, lead),
        "bias": normal(rng, (*lead, n_keys), real),
        "mask": mask,
        "exclude": rng.integers(-1, max(1, n_keys), (*lead, n_queries)),
    }


def run_attend(inputs):
    queries, values = inputs["queries"], inputs["values"]
    real = np.float64 if queries.dtype == np.float64 else np.float32
    out = None
    if values is not None:
        out = np.full((*queries.shape[:-1], values.shape[-1]), np.nan, real)
    lse = np.full(queries.shape[:-1], np.nan, real)
    _core.attend(*inputs.values(), out, lse)
    return out, lse


def close(got, expected, real, scale=1.0):
    # Sums of up to a few thousand terms, in another order than NumPy's.
    tolerance = (1e-12 if real == np.float64 else 2e-5) * scale
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("given", ["all", "plain", "no values"])
def test_attend(rng, isa, shape, real, given):
    inputs = dense_inputs(rng, shape, real)
    if given == "plain":
        inputs |= {"bias": None, "mask": None, "exclude": None}
    if given == "no values":
        inputs["values"] = None
    out, lse = run_attend(inputs)
    expected_out, expected_lse = reference.attend(**inputs)
    close(lse, expected_lse, real)
    if out is not None:
        close(out, expected_out, real)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("shape", SHAPES)
def test_attend_backward(rng, isa, shape, real):
    inputs = dense_inputs(rng, shape, real)
    out, lse = run_attend(inputs)
    out_grad = normal(rng, out.shape, real)
    shift = (out * out_grad).sum(-1) - normal(rng, lse.shape, real)
    expected = reference.attend_backward(**inputs, lse=lse, out_grad=out_grad, shift=shift)
    grads = [np.full(array.shape, np.nan, array.dtype) for array in expected]
    _core.attend_backward(*inputs.values(), lse, out_grad, shift, *grads)
    for name, got, wanted in zip(
        ("queries", "keys", "values", "bias", "beta"), grads, expected, strict=True
    ):
        # beta's is a sum over all pairs of terms of both signs.
        scale = 100.0 if name == "beta" else 1.0 + np.abs(wanted).max(initial=0)
        close(got, wanted, real, scale)


@pytest.mark.parametrize("real", REALS)
def test_gradients_of_the_log_sum_exp_alone(rng, real):
    inputs = dense_inputs(rng, (20, 150, 7, 1), real) | {"values": None}
    _, lse = run_attend(inputs)
    lse_grad = normal(rng, lse.shape, real)
    expected = reference.attend_backward(**inputs, lse=lse, out_grad=None, shift=-lse_grad)
    grads = [None if array is None else np.empty_like(array) for array in expected]
    _core.attend_backward(*inputs.values(), lse, None, -lse_grad, *grads)
    assert expected[2] is None
    for got, wanted in zip(grads, expected, strict=True):
        if got is not None:
            close(got, wanted, real, 20.0)


@pytest.mark.parametrize("real", REALS)
def test_what_does_not_count_is_never_touched(rng, isa, real):
    inputs = dense_inputs(rng, (9, 200, 16, 16), real) | {"bias": None, "exclude": None}
    clean, clean_lse = run_attend(inputs)
    out_grad = normal(rng, clean.shape, real)
    shift = (clean * out_grad).sum(-1)

    def gradients(given, lse):
        shapes = (given["queries"], given["keys"], given["values"])
        grads = [np.full(array.shape, np.nan, real) for array in shapes]
        _core.attend_backward(*given.values(), lse, out_grad, shift, *grads, None, None)
        return grads

    wanted = gradients(inputs, clean_lse)
    inputs["mask"][:, :, 5] = inputs["mask"][:, :, 130] = False
    clean, clean_lse = run_attend(inputs)
    shift = (clean * out_grad).sum(-1)
    wanted = gradients(inputs, clean_lse)
    inputs["keys"][:, 5], inputs["values"][:, 130] = np.nan, np.inf
    out, lse = run_attend(inputs)
    # The tile that holds the odd row is summed in another order.
    close(out, clean, real)
    close(lse, clean_lse, real)
    for got, expected in zip(gradients(inputs, lse), wanted, strict=True):
        close(got, expected, real, 10.0)
    assert np.isfinite(out).all()


def test_a_bias_of_minus_infinity_counts_for_nobody(rng):
    inputs = dense_inputs(rng, (4, 40, 8, 8), np.float32) | {"mask": None, "exclude": None}
    inputs["bias"][...] = -np.inf
    out, lse = run_attend(inputs)
    assert (out == 0).all()
    assert (lse == -np.inf).all()


def test_threads_change_no_bit(rng, threads):
    inputs = dense_inputs(rng, (300, 9000, 16, 16), np.float32)
    few = dense_inputs(rng, (3, 9000, 16, 16), np.float32)
    found = []
    for n in (1, 3):
        threads(n)
        found.append((*run_attend(inputs), *run_attend(few)))
    for one, three in zip(*found, strict=True):
        assert (one == three).all()


def test_halves_are_widened_and_batches_shared(rng, isa):
    keys = normal(rng, (60, 24), np.float32)
    values = normal(rng, (60, 24), np.float16)
    inputs = {
        "queries": normal(rng, (3, 24, 5), np.float32).swapaxes(1, 2).copy(),
        "keys": np.broadcast_to(to_bfloat16(keys), (3, 60, 24)),
        "values": np.broadcast_to(values[::-1], (3, 60, 24)),
        "beta": np.ones(3),
        "bias": None,
        "mask": np.broadcast_to(rng.random(60) < 0.5, (3, 5, 60)),
        "exclude": None,
    }
    out, lse = run_attend(inputs)
    expected_out, expected_lse = reference.attend(**inputs)
    close(out, expected_out, np.float32)
    close(lse, expected_lse, np.float32)


def named_inputs(rng, real, n_queries=9, n_ids=6, n_rows=40, dim=37, lead=(2,)):
    ids = rng.integers(-1, n_rows, (*lead, n_queries, n_ids))
    rows = normal(rng, (*lead, n_rows, dim), real)
    queries = normal(rng, (*lead, n_queries, dim), real)
    return queries, rows, ids, normal(rng, ids.shape, real)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("dim", [1, 16, 37, 64, 150])
def test_products_over_named_rows_have_the_bits_of_the_definition(rng, isa, real, dim):
    queries, rows, ids, weights = named_inputs(rng, real, dim=dim)
    scores, out = np.full(ids.shape, np.nan, real), np.full(queries.shape, np.nan, real)
    sums = np.zeros((2, 40, dim), real)
    _core.dots(queries, rows, ids, scores)
    _core.aggregate(weights, rows, ids, out)
    _core.scatter(weights, queries, ids, 40, sums)
    # NumPy multiplies float64 rows in an order of its own.
    close(scores, reference.dots(queries, rows, ids), real)
    if real == np.float32:
        assert (scores == reference.dots(queries, rows, ids)).all()
    assert (out == reference.aggregate(weights, rows, ids)).all()
    assert (sums == reference.scatter(weights, queries, ids, 40)).all()
    assert (scores[ids < 0] == 0).all()


def test_named_halves(rng, isa):
    queries, rows, ids, weights = named_inputs(rng, np.float32, lead=())
    for kept in (rows.astype(np.float16), to_bfloat16(rows)):
        scores, out = np.empty(ids.shape, np.float32), np.empty(queries.shape, np.float32)
        _core.dots(queries, kept, ids, scores)
        _core.aggregate(weights, kept, ids, out)
        assert (scores == reference.dots(queries, kept, ids)).all()
        assert (out == reference.aggregate(weights, kept, ids)).all()


def test_scatter_has_one_order_for_any_number_of_threads(rng, threads):
    ids = rng.integers(-1, 5000, (1, 2000, 16))
    weights, rows = normal(rng, ids.shape, np.float32), normal(rng, (1, 2000, 8), np.float32)
    found = []
    for n in (1, 4):
        threads(n)
        found.append(np.zeros((1, 5000, 8), np.float32))
        _core.scatter(weights, rows, ids, 5000, found[-1])
    assert (found[0] == found[1]).all()
    assert np.abs(found[0]).sum() > 0


def test_the_engine_guards_its_memory(rng):
    queries, rows, ids, weights = named_inputs(rng, np.float32, lead=())
    scores = np.empty(ids.shape, np.float32)
    for bad in (40, -2):
        ids[3, 2] = bad
        with pytest.raises(InputError, match=f"dots: ids has {bad} at 20, should be from -1 to 39"):
            _core.dots(queries, rows, ids, scores)
    ids[3, 2] = 0
    with pytest.raises(ShapeError, match="dots: keys has dim 5"):
        _core.dots(queries, rows[:, :5], ids, scores)
    with pytest.raises(ShapeError, match="aggregate: out is not a plain array"):
        _core.aggregate(weights, rows, ids, np.empty((9, 36), np.float32))
    queries[4, 1] = np.nan
    inputs = (queries, rows, None, np.ones(1), None, None, None)
    with pytest.raises(InputError, match="attend: queries row 4 is not finite"):
        _core.attend(*inputs, None, np.empty(9, np.float32))

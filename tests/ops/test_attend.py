"""attend, aggregate and merge_lse as a caller sees them: selection, shapes, libraries, errors."""

from __future__ import annotations

import re

import numpy as np
import pytest

import memcore
from memcore import BackendError, DtypeError, InputError, ShapeError, reference


def normal(rng, *shape, real=np.float32):
    return rng.standard_normal(shape).astype(real)


def softmax(logits):
    """Weights and lse of float64 logits."""
    largest = logits.max(-1, keepdims=True)
    powers = np.exp(logits - largest)
    return powers / powers.sum(-1, keepdims=True), (largest + np.log(powers.sum(-1)[..., None]))[
        ..., 0
    ]


def by_hand(queries, keys, values, k, beta, bias=None, mask=None):
    """Top-k attention of one batch through `search`, in float64."""
    weights = {} if bias is None else {"scale": np.full(len(keys), beta, np.float32), "bias": bias}
    hits = memcore.search(queries, keys, k, mask=mask, **weights)
    logits = hits.scores.astype(np.float64) * (beta if bias is None else 1.0)
    shares, lse = softmax(logits)
    return np.einsum("qk,qkd->qd", shares, values[hits.ids].astype(np.float64)), lse, hits.ids


@pytest.mark.parametrize("is_biased", [False, True])
@pytest.mark.parametrize("is_masked", [False, True])
def test_the_keys_are_those_of_search(rng, backend, is_biased, is_masked):
    queries, keys, values = normal(rng, 20, 24), normal(rng, 300, 24), normal(rng, 300, 7)
    bias = normal(rng, 300) if is_biased else None
    mask = rng.random(300) < 0.5 if is_masked else None
    options = {"return_lse": True, "return_weights": True, "backend": backend}
    read = memcore.attend(queries, keys, values, 9, beta=0.4, bias=bias, mask=mask, **options)
    out, lse, ids = by_hand(queries, keys, values, 9, 0.4, bias, mask)
    assert (read.ids == ids).all()
    np.testing.assert_allclose(read.out, out, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(read.lse, lse, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(read.weights.sum(-1), 1, rtol=1e-5)
    assert read.out.dtype == read.weights.dtype == np.float32


def test_float64_is_selected_in_float32_and_done_in_float64(rng, backend):
    queries, keys = normal(rng, 6, 10, real=np.float64), normal(rng, 50, 10, real=np.float64)
    values = normal(rng, 50, 3)
    read = memcore.attend(
        queries, keys, values, 5, beta=0.7, return_weights=True, return_lse=True, backend=backend
    )
    ids = memcore.search(queries, keys, 5).ids
    logits = 0.7 * np.einsum("qd,qkd->qk", queries, keys[ids])
    weights, lse = softmax(logits)
    assert (read.ids == ids).all()
    np.testing.assert_allclose(read.weights, weights, rtol=1e-13)
    np.testing.assert_allclose(read.lse, lse, rtol=1e-13)
    expected = np.einsum("qk,qkd->qd", weights, values[ids].astype(np.float64))
    np.testing.assert_allclose(read.out, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_all_keys_are_the_k_of_all(rng, backend, real):
    queries, keys, values = (normal(rng, n, 12, real=real) for n in (5, 40, 40))
    options = {"beta": 0.8, "return_lse": True, "backend": backend}
    dense = memcore.attend(queries, keys, values, **options)
    for k in (40, 60):
        top = memcore.attend(queries, keys, values, k, **options)
        tolerance = 1e-6 if real == np.float32 else 1e-14
        np.testing.assert_allclose(top.out, dense.out, rtol=tolerance * 10, atol=tolerance)
        np.testing.assert_allclose(top.lse, dense.lse, rtol=tolerance * 10)


@pytest.mark.parametrize("options", [{}, {"k": 6}, {"ids": True}])
def test_leading_axes_broadcast(rng, options):
    queries, keys, values = normal(rng, 2, 3, 5, 8), normal(rng, 3, 30, 8), normal(rng, 2, 1, 30, 4)
    beta, bias = rng.uniform(0.5, 1, 3), normal(rng, 2, 1, 30)
    mask = rng.random((3, 5, 30)) < 0.7
    ids = rng.integers(-1, 30, (2, 1, 5, 6)) if options.pop("ids", False) else None
    read = memcore.attend(
        queries, keys, values, beta=beta, bias=bias, mask=mask, ids=ids, return_lse=True, **options
    )
    assert read.out.shape == (2, 3, 5, 4)
    for b in range(2):
        for h in range(3):
            one = memcore.attend(
                queries[b, h], keys[h], values[b, 0], beta=beta[h], bias=bias[b, 0], mask=mask[h],
                ids=None if ids is None else ids[b, 0], return_lse=True, **options,
            )  # fmt: skip
            np.testing.assert_allclose(read.out[b, h], one.out, rtol=1e-6, atol=1e-6)
            np.testing.assert_allclose(read.lse[b, h], one.lse, rtol=1e-6, atol=1e-6)


def test_batches_that_share_their_keys(rng):
    queries, keys, values = normal(rng, 4, 2, 5, 8), normal(rng, 30, 8), normal(rng, 1, 30, 4)
    bias, mask = normal(rng, 30), rng.random(30) < 0.5
    options = {"beta": 0.6, "bias": bias, "mask": mask, "return_lse": True}
    for k in (None, 7):
        read = memcore.attend(queries, keys, values, k, **options)
        flat = memcore.attend(queries.reshape(40, 8), keys, values[0], k, **options)
        assert read.out.shape == (4, 2, 5, 4)
        assert (read.out == flat.out.reshape(4, 2, 5, 4)).all()
        assert (read.lse == flat.lse.reshape(4, 2, 5)).all()


def test_nothing_is_copied_nor_changed(rng, monkeypatch):
    from memcore import products

    given = []

    def spy(op, backend=None):
        run = products_engine(op, backend)

        def call(*arguments):
            given.extend(a for a in arguments if isinstance(a, np.ndarray))
            run(*arguments)

        return call

    products_engine = products.engine
    monkeypatch.setattr(products, "engine", spy)
    queries, keys, values = normal(rng, 3, 5, 8), normal(rng, 3, 300, 8), normal(rng, 3, 300, 4)
    kept = [array.copy() for array in (queries, keys, values)]
    for array in (queries, keys, values):
        array.flags.writeable = False
    for k in (None, 4):
        given.clear()
        memcore.attend(queries.transpose(0, 1, 2), keys, values, k, beta=1.0)
        assert any(np.shares_memory(array, keys) for array in given)
        assert any(np.shares_memory(array, values) for array in given)
    for array, before in zip((queries, keys, values), kept, strict=True):
        assert (array == before).all()


def numbers_of(container, rng, n):
    array = normal(rng, n, 16)
    return container.wrap(array), container.numbers(array)


def test_the_numbers_of_every_container(rng, container):
    queries, plain_queries = numbers_of(container, rng, 4)
    keys, plain_keys = numbers_of(container, rng, 40)
    values, plain_values = numbers_of(container, rng, 40)
    for k in (None, 5):
        out = memcore.attend(queries, keys, values, k, beta=0.5)
        expected = memcore.attend(plain_queries, plain_keys, plain_values, k, beta=0.5)
        np.testing.assert_allclose(np.asarray(out), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nothing", ["no keys", "k = 0", "masked", "padded ids", "bias"])
def test_over_nothing(rng, backend, nothing):
    queries, keys, values = normal(rng, 3, 8), normal(rng, 10, 8), normal(rng, 10, 4)
    options = {"beta": 1.0, "return_lse": True, "backend": backend}
    if nothing == "no keys":
        given = [{"k": 4}, {}]
        keys, values = keys[:0], values[:0]
    else:
        given = {
            "k = 0": [{"k": 0}],
            "masked": [{"k": 4, "mask": np.zeros(10, bool)}, {"mask": np.zeros(10, bool)}],
            "padded ids": [{"ids": np.full((3, 2), -1)}, {"ids": np.zeros((3, 0), np.int64)}],
            "bias": [{"k": 4, "bias": np.full(10, -np.inf)}, {"bias": np.full(10, -np.inf)}],
        }[nothing]
    for more in given:
        read = memcore.attend(queries, keys, values, **options, **more)
        assert (read.out == np.zeros((3, 4))).all()
        assert (read.lse == -np.inf).all()
    assert memcore.attend(queries[:0], keys, values, beta=1.0, steps=3).shape == (0, 4)


def test_ids_repeat_and_pad(rng, backend):
    queries, keys, values = normal(rng, 2, 8), normal(rng, 10, 8), normal(rng, 10, 4)
    ids = np.array([[3, 3, -1, 7], [0, -1, -1, -1]])
    read = memcore.attend(
        queries, keys, values, ids=ids, beta=0.9, return_weights=True, backend=backend
    )
    logits = 0.9 * np.einsum("qd,qjd->qj", queries, keys[ids]).astype(np.float64)
    weights, _ = softmax(np.where(ids < 0, -np.inf, logits))
    np.testing.assert_allclose(read.weights, weights, rtol=1e-5)
    assert (read.weights[ids < 0] == 0).all()
    np.testing.assert_allclose(
        read.out, np.einsum("qj,qjd->qd", weights, values[ids]), rtol=1e-5, atol=1e-6
    )
    assert (read.ids == ids).all()


def test_dropped_mass(rng, backend):
    queries, keys, values = normal(rng, 6, 8), normal(rng, 100, 8), normal(rng, 100, 4)
    read = memcore.attend(queries, keys, values, 10, beta=0.3, return_dropped=True, backend=backend)
    weights, _ = softmax(0.3 * (queries @ keys.T).astype(np.float64))
    kept = np.take_along_axis(weights, memcore.search(queries, keys, 10).ids, 1).sum(1)
    np.testing.assert_allclose(read.dropped, 1 - kept, atol=1e-6)
    assert read.lse is None
    assert read.weights is None


def test_steps_read_keys_first_and_select_anew(rng, backend):
    queries, keys, values = normal(rng, 6, 8), normal(rng, 60, 8), normal(rng, 60, 3)
    for k in (None, 4):
        options = {"beta": 0.5, "backend": backend}
        first = memcore.attend(queries, keys, None, k, **options)
        second = memcore.attend(first, keys, keys, k, **options)
        expected = memcore.attend(second, keys, values, k, **options)
        out = memcore.attend(queries, keys, values, k, steps=3, **options)
        np.testing.assert_allclose(out, expected, rtol=1e-6, atol=1e-6)


def test_a_tolerance_stops_the_steps(rng):
    keys = normal(rng, 30, 64)
    queries = keys + 0.1 * normal(rng, 30, 64)
    far = memcore.attend(queries, keys, keys, beta=1.0, steps=50)
    near = memcore.attend(queries, keys, keys, beta=1.0, steps=50, tol=1e-3)
    np.testing.assert_allclose(near, far, atol=1e-3)
    once = memcore.attend(queries, keys, keys, beta=1.0, steps=2)
    stopped = memcore.attend(queries, keys, keys, beta=1.0, steps=50, tol=1e9)
    assert (stopped == once).all()


@pytest.mark.parametrize("real", [np.float32, np.float64])
def test_aggregate(rng, backend, real):
    weights, values = normal(rng, 2, 5, 3, real=real), normal(rng, 7, 4, real=real)
    ids = rng.integers(-1, 7, (5, 3))
    out = memcore.aggregate(weights, values, ids, backend=backend)
    wide = np.broadcast_to(ids, weights.shape)
    expected = reference.aggregate(weights, np.broadcast_to(values, (2, 7, 4)), wide)
    assert (out == expected).all()
    one = memcore.aggregate(weights[0, 0], values, ids[0], backend=backend)
    assert (one == out[0, :1]).all()


def test_merge_lse_joins_parts(rng, backend):
    queries, keys, values = (normal(rng, n, 8, real=np.float64) for n in (5, 60, 60))
    whole = memcore.attend(queries, keys, values, beta=0.9, return_lse=True)
    parts = [
        memcore.attend(queries, keys[a:b], values[a:b], beta=0.9, return_lse=True, backend=backend)
        for a, b in ((0, 10), (10, 10), (10, 57), (57, 60))
    ]
    out, lse = memcore.merge_lse([part.out for part in parts], [part.lse for part in parts])
    np.testing.assert_allclose(out, whole.out, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(lse, whole.lse, rtol=1e-12)
    expected = reference.merge_lse([part.out for part in parts], [part.lse for part in parts])
    np.testing.assert_allclose(out, expected[0], rtol=1e-13, atol=1e-14)
    nothing = memcore.merge_lse([parts[1].out] * 2, [parts[1].lse] * 2)
    assert (nothing[0] == 0).all()
    assert (nothing[1] == -np.inf).all()


Q, K, V = np.ones((3, 4)), np.ones((5, 4)), np.ones((5, 2))
BAD = [
    ({"beta": 0.0}, InputError, "attend: beta is 0.0, should be above 0"),
    ({"beta": -1}, InputError, "attend: beta is -1, should be above 0"),
    ({"beta": np.nan}, InputError, "attend: beta is nan, should be above 0"),
    ({"beta": [1.0, -2.0]}, InputError, "attend: beta is [1.0, -2.0], should be above 0"),
    ({"k": -1}, InputError, "attend: k is -1, should be at least 0"),
    ({"k": 2.0}, DtypeError, "attend: k is 2.0, should be an int"),
    ({"steps": 0}, InputError, "attend: steps is 0, should be at least 1"),
    ({"keys": np.ones((5, 3))}, ShapeError, "attend: keys has dim 3, should be 4 as queries has"),
    ({"values": np.ones((4, 2))}, ShapeError, "attend: values has 4 rows, should have 5 as keys"),
    ({"values": np.ones(5)}, ShapeError, "attend: values has shape (5,), should be (…, n, dim)"),
    ({"keys": np.ones((2, 5, 4)), "values": np.ones((3, 5, 2))}, ShapeError, "should broadcast"),
    ({"bias": np.ones(4)}, ShapeError, "attend: bias has shape (4,), should have 5 at axis -1"),
    ({"mask": np.ones(4, bool)}, ShapeError, "attend: mask has shape (1, 4), should have 5 at"),
    ({"mask": np.ones(5)}, DtypeError, "attend: mask has dtype float64, should be bool"),
    ({"ids": np.ones((2, 2), int)}, ShapeError, "attend: ids has shape (2, 2), should have 3 at"),
    ({"ids": np.full((3, 1), 5)}, InputError, "ids has 5 at 0, should be from -1 to 4"),
    ({"ids": np.ones((3, 1), int), "k": 1}, InputError, "attend: k is given with ids"),
    ({"ids": np.ones((3, 1))}, DtypeError, "attend: ids has dtype float64, should be int64"),
    ({"queries": np.full((3, 4), np.nan)}, InputError, "attend: queries row 0 is not finite"),
    ({"queries": np.full((3, 4), 1e30)}, InputError, "attend: queries row 0 is not finite"),
    ({"queries": [["a"] * 4] * 3}, DtypeError, "attend: queries has dtype"),
    ({"return_weights": True}, InputError, "attend: return_weights is True for all keys"),
    ({"banks": [1]}, InputError, "attend: banks is given with an array of keys"),
    ({"backend": "gpu"}, BackendError, "backend is 'gpu', should be one of"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "error", "sentence"), BAD)
def test_bad_arguments(more, error, sentence):
    given = {"queries": Q, "keys": K, "values": V, "beta": 1.0} | more
    with pytest.raises(error, match=re.escape(sentence)):
        memcore.attend(**given)


@pytest.mark.parametrize("more", [{"k": 2}, {}, {"ids": np.zeros((2, 3, 1), np.int64)}])
def test_the_first_bad_query_is_named(more):
    queries = np.ones((2, 3, 4), np.float32)
    queries[1, 1, 2] = np.inf
    with pytest.raises(InputError, match="attend: queries row 4 is not finite or too large"):
        memcore.attend(queries, K, V, beta=1.0, **more)


def test_bad_arguments_of_aggregate_and_merge_lse():
    with pytest.raises(ShapeError, match=re.escape("aggregate: ids has shape (3, 2)")):
        memcore.aggregate(np.ones((3, 3)), V, np.ones((3, 2), int))
    with pytest.raises(InputError, match="aggregate: ids has 5 at 0, should be from -1 to 4"):
        memcore.aggregate(np.ones((3, 1)), V, np.full((3, 1), 5))
    with pytest.raises(ShapeError, match="merge_lse: lses has 1 parts, should have 2"):
        memcore.merge_lse([V, V], [np.ones(5)])
    with pytest.raises(ShapeError, match="merge_lse: lses has 0 parts, should have at least one"):
        memcore.merge_lse([], [])
    with pytest.raises(ShapeError, match=re.escape("merge_lse: lses has shape (4,)")):
        memcore.merge_lse([V], [np.ones(4)])

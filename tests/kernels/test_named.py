"""dots, aggregate and scatter by their kernels against the definition: the same bits."""

import numpy as np
import pytest

import memcore
from memcore import reference

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from memcore import kernels  # noqa: E402
from on_device import DEVICE, tensor  # noqa: E402

REALS = [np.float32, np.float64]


def poisoned(shape, real):
    dtype = torch.float64 if real == np.float64 else torch.float32
    return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


def named_inputs(rng, real, n_queries=3, n_ids=9, n_rows=12, dim=37, lead=(2,)):
    """queries, rows, ids and weights."""
    ids = rng.integers(-1, n_rows, (*lead, n_queries, n_ids))
    shapes = ((*lead, n_queries, dim), (*lead, n_rows, dim), ids.shape)
    queries, rows, weights = (rng.standard_normal(shape).astype(real) for shape in shapes)
    return queries, rows, ids, weights


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("dim", [1, 16, 37, 70])
def test_products_over_named_rows_have_the_bits_of_the_definition(rng, real, dim):
    queries, rows, ids, weights = named_inputs(rng, real, dim=dim)
    scores, out = poisoned(ids.shape, real), poisoned(queries.shape, real)
    sums = poisoned(rows.shape, real)
    kernels.dots(tensor(queries), tensor(rows), tensor(ids), scores)
    kernels.aggregate(tensor(weights), tensor(rows), tensor(ids), out)
    kernels.scatter(tensor(weights), tensor(queries), tensor(ids), 12, sums)
    expected = reference.dots(queries, rows, ids)
    if real == np.float32:
        assert (scores.cpu().numpy() == expected).all()
    else:
        # NumPy multiplies float64 rows in an order of its own.
        np.testing.assert_allclose(scores.cpu(), expected, rtol=1e-12, atol=1e-12)
    assert (out.cpu().numpy() == reference.aggregate(weights, rows, ids)).all()
    assert (sums.cpu().numpy() == reference.scatter(weights, queries, ids, 12)).all()
    assert (scores.cpu().numpy()[ids < 0] == 0).all()


def test_a_sum_of_many_pairs_and_sums_of_none(rng):
    queries, _, ids, weights = named_inputs(rng, np.float32, n_queries=8, n_rows=3, dim=9)
    ids[1, :, 4:] = -1
    expected = reference.scatter(weights, queries, ids, 30)
    sums = poisoned((2, 30, 9), np.float32)
    kernels.scatter(tensor(weights), tensor(queries), tensor(ids), 30, sums)
    assert (sums.cpu().numpy() == expected).all()
    kernels.scatter(tensor(weights), tensor(queries), tensor(ids), 30, sums.fill_(7), atomic=True)
    np.testing.assert_allclose(sums.cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8])
def test_narrow_rows_that_batches_share(rng, dtype):
    queries, rows, ids, weights = named_inputs(rng, np.float32, lead=(2, 3))
    kept = (tensor(rows[:1, :1]) * 20).to(dtype)
    wide = np.broadcast_to(kept.float().cpu().numpy(), rows.shape)
    shared = kept.expand(rows.shape)
    scores, out = poisoned(ids.shape, np.float32), poisoned(queries.shape, np.float32)
    kernels.dots(tensor(queries), shared, tensor(ids), scores)
    kernels.aggregate(tensor(weights), shared, tensor(ids), out)
    assert (scores.cpu().numpy() == reference.dots(queries, wide, ids)).all()
    assert (out.cpu().numpy() == reference.aggregate(weights, wide, ids)).all()


def test_ids_that_name_nothing_and_rows_that_are_not_finite(rng):
    queries, rows, ids, weights = named_inputs(rng, np.float32, lead=())
    rows[0] = np.nan
    ids[ids == 0] = 12
    ids[1, 2] = -9
    inside = np.where((ids >= 0) & (ids < 12), ids, -1)
    scores, out = poisoned(ids.shape, np.float32), poisoned(queries.shape, np.float32)
    sums = poisoned(rows.shape, np.float32)
    kernels.dots(tensor(queries), tensor(rows), tensor(ids), scores)
    kernels.aggregate(tensor(weights), tensor(rows), tensor(ids), out)
    kernels.scatter(tensor(weights), tensor(queries), tensor(ids), 12, sums)
    assert (scores.cpu().numpy() == reference.dots(queries, rows, inside)).all()
    assert (out.cpu().numpy() == reference.aggregate(weights, rows, inside)).all()
    assert (sums.cpu().numpy() == reference.scatter(weights, queries, inside, 12)).all()


def test_nothing_to_add():
    empty = torch.zeros((3, 0), device=DEVICE)
    none = torch.zeros((3, 0), dtype=torch.int64, device=DEVICE)
    out, sums = poisoned((3, 4), np.float32), poisoned((5, 4), np.float32)
    rows = torch.ones((5, 4), device=DEVICE)
    kernels.aggregate(empty, rows, none, out)
    kernels.scatter(empty, rows[:3], none, 5, sums)
    kernels.dots(rows[:3], rows, none, empty)
    assert (out == 0).all()
    assert (sums == 0).all()


def test_the_public_aggregate_and_its_gradients(rng, by_kernels):
    _, rows, ids, weights = named_inputs(rng, np.float32, lead=())
    given, held = (tensor(x).requires_grad_() for x in (weights, rows))
    out = memcore.aggregate(given, held, tensor(ids), backend="triton")
    assert out.device.type == by_kernels
    assert (out.detach().cpu().numpy() == reference.aggregate(weights, rows, ids)).all()
    grad = rng.standard_normal(out.shape).astype(np.float32)
    weight_grad, value_grad = torch.autograd.grad(out, (given, held), tensor(grad))
    assert (weight_grad.cpu().numpy() == reference.dots(grad, rows, ids)).all()
    assert (value_grad.cpu().numpy() == reference.scatter(weights, grad, ids, 12)).all()
    with torch.no_grad():
        plain = memcore.aggregate(given, held, tensor(ids.astype(np.int32)), backend="triton")
    assert torch.equal(plain, out)


def test_the_three_products_are_each_others_derivatives(rng, by_kernels):
    queries, rows, ids, weights = named_inputs(rng, np.float64, 2, 2, 3, 2, lead=())
    queries, rows, weights = (tensor(x).requires_grad_() for x in (queries, rows, weights))
    ids, ops = tensor(ids), torch.ops.memcore
    for product, given in (
        (lambda q, k: ops.dots(q, k, ids), (queries, rows)),
        (lambda w, k: ops.aggregate(w, k, ids), (weights, rows)),
        (lambda w, q: ops.scatter(w, q, ids, 3), (weights, queries)),
    ):
        assert torch.autograd.gradcheck(product, given, fast_mode=True)
    assert torch.autograd.gradgradcheck(
        lambda q, k: ops.dots(q, k, ids), (queries, rows), fast_mode=True
    )


def test_opcheck(rng, by_kernels):
    queries, rows, ids, weights = named_inputs(rng, np.float32, 2, 2, 4, 3, lead=())
    queries, rows, weights = (tensor(x).requires_grad_() for x in (queries, rows, weights))
    ids, ops = tensor(ids), torch.ops.memcore
    torch.library.opcheck(ops.dots.default, (queries, rows, ids))
    torch.library.opcheck(ops.aggregate.default, (weights, rows, ids))
    torch.library.opcheck(ops.scatter.default, (weights, queries, ids, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gather_and_the_sums_of_its_gradient(rng, by_kernels, dtype):
    values = tensor(rng.standard_normal((20, 3, 7))).to(dtype).requires_grad_()
    ids = tensor(rng.integers(-3, 23, (6, 10)))
    held = (ids >= 0) & (ids < 20)
    found = torch.ops.memcore.gather(values, ids)
    assert torch.equal(found[held], values[ids[held]])
    assert (found[~held] == 0).all()
    grad = tensor(rng.standard_normal((6, 10, 3, 7))).to(dtype)
    (sums,) = torch.autograd.grad(found, values, grad)
    inside = torch.where(held, ids, -1).cpu().numpy()
    expected = reference.gather_backward(grad.float().cpu().numpy(), inside, 20)
    assert torch.equal(sums.cpu(), torch.from_numpy(expected).to(dtype))

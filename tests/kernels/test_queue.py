"""nce and disperse by their kernels against the definition: interpreted, or on a GPU."""

import numpy as np
import pytest

from memcore import reference
from memcore.errors import BackendError, InputError
from memcore.ops.queue import disperse, gather, nce

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from on_device import DEVICE, tensor  # noqa: E402


def normal(rng, *shape, real=np.float32):
    return rng.standard_normal(shape).astype(real)


def close(got, expected, real=np.float32):
    tolerance = 1e-12 if real == np.float64 else 5e-6
    np.testing.assert_allclose(got.detach().cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 70, 5), (9, 150, 40)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_losses_and_gradients(rng, by_kernels, real, shape, has_bias):
    n, n_negatives, dim = shape
    queries, positives = normal(rng, n, dim, real=real), normal(rng, n, dim, real=real)
    negatives = normal(rng, n_negatives, dim, real=real)
    bias = normal(rng, n_negatives, real=real) if has_bias else None
    temperature = float(np.sqrt(dim))
    offset = {"bias": tensor(bias) if has_bias else None, "reduction": "none", "backend": "triton"}

    leaves = [tensor(x).requires_grad_() for x in (queries, positives, negatives)]
    losses = nce(*leaves, temperature=temperature, **offset)
    assert losses.device.type == by_kernels
    expected = reference.nce(queries, positives, negatives, temperature, bias)
    close(losses, expected[0], real)
    for got, wanted in zip(torch.autograd.grad(losses.sum(), leaves), expected[1:], strict=True):
        close(got, wanted, real)

    rows, far = leaves[0], leaves[2]
    values = disperse(rows, far, **offset)
    expected = reference.disperse(queries, negatives, dim, bias)
    close(values, expected[0], real)
    for got, wanted in zip(
        torch.autograd.grad(values.sum(), (rows, far)), expected[1:], strict=True
    ):
        close(got, wanted, real)
    with torch.no_grad():
        assert torch.equal(nce(*leaves, temperature=temperature, **offset), losses)


def test_halves_groups_and_rows_that_repel_each_other(rng, by_kernels):
    queries, negatives = normal(rng, 2, 3, 16), normal(rng, 2, 50, 16)
    half = tensor(negatives).half()
    values = disperse(tensor(queries), half, reduction="none", backend="triton")
    wide = half.float().cpu().numpy()
    for group in range(2):
        expected = reference.disperse(queries[group], wide[group], 16)[0]
        close(values[group], expected)
    rows = tensor(queries[0]).requires_grad_()
    value = disperse(rows, backend="triton")
    apart = ((rows[:, None] - rows) ** 2).sum(-1)
    expected = torch.exp(-apart / 16).mean().log()
    close(value, expected.detach().cpu())
    found, wanted = (torch.autograd.grad(each, rows)[0] for each in (value, expected))
    close(found, wanted.cpu())


def test_gradcheck_and_opcheck(rng, by_kernels):
    queries, keys = (tensor(rng.standard_normal((n, 4))).requires_grad_() for n in (3, 6))
    bias = tensor(rng.standard_normal(6)).requires_grad_()
    op = torch.ops.memcore.log_sum_exp.default
    torch.library.opcheck(op, ("disperse", queries, keys, 0.8, bias, "l2", True))

    def repel(q, n, b):
        return disperse(q, n, tau=2.0, bias=b, reduction="none", backend="triton")

    def contrast(q, n, b):
        return nce(q, q * 2, n, temperature=0.7, bias=b, backend="triton")

    for loss in (repel, contrast):
        assert torch.autograd.gradcheck(loss, (queries, keys, bias), fast_mode=True)


def test_compiled_whole(rng, by_kernels):
    leaves = [tensor(normal(rng, n, 8)).requires_grad_() for n in (4, 4, 30)]
    values, ids = (
        tensor(normal(rng, 30, 2, 3)).requires_grad_(),
        tensor(np.array([[3, -1], [3, 0]])),
    )

    def loss(q, p, n, v):
        found = nce(q, p, n, backend="triton") + disperse(q, n, backend="triton")
        return found + gather(v, ids).square().sum()

    leaves.append(values)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for one, other in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_negatives_that_do_not_count_and_queries_that_cannot(rng, by_kernels):
    queries, negatives = normal(rng, 4, 8), normal(rng, 40, 8)
    bias = np.where(rng.random(40) < 0.5, -np.inf, 0).astype(np.float32)
    expected = reference.nce(queries, queries, negatives, 1.0, bias)
    negatives[bias < 0] = np.nan
    queries_on = tensor(queries).requires_grad_()
    given = (tensor(queries), tensor(negatives))
    options = {"temperature": 1.0, "bias": tensor(bias), "reduction": "none", "backend": "triton"}
    losses = nce(queries_on, *given, **options)
    close(losses, expected[0])
    (grad,) = torch.autograd.grad(losses.sum(), queries_on)
    close(grad, expected[1])


def test_what_it_refuses():
    rows = torch.zeros(2, 3, device=DEVICE)
    with pytest.raises(BackendError, match=r"^nce: positives is not a tensor"):
        nce(rows, np.zeros((2, 3), np.float32), rows, backend="triton")
    with pytest.raises(BackendError, match=r"^disperse: backend is 'cpu', should be 'triton'"):
        disperse(torch.zeros(2, 3, device="meta"), backend="cpu")
    with pytest.raises(InputError, match=r"^nce: temperature is 0"):
        nce(rows, rows, rows, temperature=0, backend="triton")

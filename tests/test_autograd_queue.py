"""The losses and `gather` in torch: gradients, torch.library's checks, torch.compile."""

from __future__ import annotations

import numpy as np
import pytest

from memcore.errors import BackendError, InputError
from memcore.ops.queue import disperse, gather, nce
from memcore.queue import Queue
from memcore.reference import queue as reference

torch = pytest.importorskip("torch")


def normal(rng, *shape, real=np.float64, grad=True):
    return torch.from_numpy(rng.standard_normal(shape).astype(real)).requires_grad_(grad)


def relative(got, expected):
    return np.linalg.norm(got.detach().numpy() - expected) / np.linalg.norm(expected)


def test_gradients_by_finite_differences(rng):
    queries, positives, negatives = (normal(rng, n, 5) for n in (3, 3, 7))
    bias = normal(rng, 7)

    def contrast(q, p, n, b):
        return nce(q, p, n, temperature=0.7, bias=b)

    def repel(q, n, b):
        return disperse(q, n, tau=2.0, bias=b, reduction="none")

    assert torch.autograd.gradcheck(contrast, (queries, positives, negatives, bias))
    assert torch.autograd.gradcheck(repel, (queries, negatives, bias))
    assert torch.autograd.gradcheck(lambda z: disperse(z, tau=2.0), (queries,))
    batched, near, shared = normal(rng, 2, 3, 5), normal(rng, 2, 3, 5), normal(rng, 7, 5)
    assert torch.autograd.gradcheck(
        lambda *given: nce(*given, temperature=1.0), (batched, near, shared)
    )


def test_gradients_of_some_inputs_only(rng):
    given = [normal(rng, n, 6, grad=False) for n in (4, 4, 9)]
    expected = reference.nce(*(g.numpy() for g in given), 0.5)[1:]
    for wanted in range(3):
        leaves = [g.clone().requires_grad_(i == wanted) for i, g in enumerate(given)]
        nce(*leaves, temperature=0.5, reduction="none").sum().backward()
        assert relative(leaves[wanted].grad, expected[wanted]) < 1e-12


def test_float32_gradients_against_a_large_queue(rng):
    queries, positives, negatives = (
        torch.nn.functional.normalize(normal(rng, n, 128, real=np.float32, grad=False))
        for n in (256, 256, 65_536)
    )
    leaf = queries.clone().requires_grad_()
    loss = nce(leaf, positives, negatives, reduction="none")
    loss.sum().backward()
    values, query_grad, *_ = reference.nce(
        *(x.numpy() for x in (queries, positives, negatives)), 0.07
    )
    assert relative(loss, values) < 1e-6
    assert relative(leaf.grad, query_grad) < 1e-6

    rows = (queries * 11).requires_grad_()
    far = negatives * 11
    value = disperse(rows, far, reduction="none")
    value.sum().backward()
    exact = rows.detach().double().requires_grad_()
    truth = (-(torch.cdist(exact, far.double()) ** 2) / 128).logsumexp(1) - np.log(65_536)
    truth.sum().backward()
    assert relative(value, truth.detach().numpy()) < 1e-6
    assert relative(rows.grad, exact.grad.numpy()) < 1e-6


def test_float32_gradients_of_the_negatives(rng):
    queries, positives, negatives = (normal(rng, n, 32, real=np.float32) for n in (64, 64, 3000))
    nce(queries, positives, negatives, temperature=5.0, reduction="none").sum().backward()
    given = (x.detach().numpy() for x in (queries, positives, negatives))
    expected = reference.nce(*given, 5.0)[1:]
    for leaf, grad in zip((queries, positives, negatives), expected, strict=True):
        assert relative(leaf.grad, grad) < 1e-6
    rows, far = (x.detach().requires_grad_() for x in (queries, negatives))
    disperse(rows, far, reduction="none").sum().backward()
    expected = reference.disperse(rows.detach().numpy(), far.detach().numpy(), 32)[1:]
    for leaf, grad in zip((rows, far), expected, strict=True):
        assert relative(leaf.grad, grad) < 2e-6


def test_the_queue_may_be_written_between_forward_and_backward(rng):
    queue = Queue(50)
    queue.add(normal(rng, 50, 8, real=np.float32))
    queries, rows = (normal(rng, 6, 8, real=np.float32) for _ in range(2))
    positives = normal(rng, 6, 8, real=np.float32, grad=False)
    held = queue.data().numpy().copy()
    expected = reference.nce(queries.detach().numpy(), positives.numpy(), held, 0.5)
    pulls = reference.disperse(rows.detach().numpy(), held, 8)
    loss = queue.nce(queries, positives, temperature=0.5, reduction="none")
    value = queue.disperse(rows, reduction="none")
    queue.add(normal(rng, 50, 8, real=np.float32))
    (loss.sum() + value.sum()).backward()
    assert relative(loss, expected[0]) < 1e-6
    assert relative(queries.grad, expected[1]) < 1e-6
    assert relative(rows.grad, pulls[1]) < 2e-6


def test_groups_contrast_with_their_own_rows(rng):
    queue = Queue(10, n_groups=3)
    groups = np.repeat([0, 1, 2], [4, 10, 1])
    queue.add(normal(rng, 15, 8, real=np.float32), groups=groups)
    queries = normal(rng, 3, 5, 8, real=np.float32)
    losses = queue.nce(queries, queries.detach(), temperature=2.0, reduction="none")
    losses.sum().backward()
    values = queue.disperse(queries, reduction="none")
    for group in range(3):
        own = queue.get(queue.ids[queue.groups == group]).numpy()
        q = queries.detach().numpy()[group]
        expected = reference.nce(q, q, own, 2.0)
        assert relative(losses[group], expected[0]) < 1e-6
        assert relative(queries.grad[group], expected[1]) < 2e-6
        assert relative(values[group], reference.disperse(q, own, 8)[0]) < 1e-6


def test_an_empty_queue_has_no_dispersion():
    queue = Queue(3, n_groups=2)
    with pytest.raises(InputError, match="nce: name is None, should be added first"):
        queue.nce(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
    queue.add(torch.zeros(1, 4), groups=[0])
    with pytest.raises(InputError, match="disperse: a queue is empty"):
        queue.disperse(torch.zeros(2, 1, 4))


def test_opcheck(rng):
    from memcore import autograd_queue  # noqa: F401

    queries, keys, bias = normal(rng, 3, 4), normal(rng, 6, 4), normal(rng, 6)
    op = torch.ops.memcore.log_sum_exp.default
    for metric in ("dot", "l2"):
        for given in (bias, None):
            torch.library.opcheck(op, ("nce", queries, keys, 0.8, given, metric, True))
    fixed = keys.detach()
    torch.library.opcheck(op, ("nce", queries, fixed, 0.8, None, "dot", True))
    torch.library.opcheck(op, ("nce", queries.detach(), keys, 0.8, None, "dot", False))
    values, ids = normal(rng, 5, 2, 3), torch.tensor([[0, -1], [4, 4]])
    torch.library.opcheck(torch.ops.memcore.gather.default, (values, ids))
    grad = normal(rng, 2, 2, 2, 3)
    torch.library.opcheck(torch.ops.memcore.gather_backward.default, (grad, ids, 5))


def test_compiled_whole(rng):
    queries, positives, negatives = (normal(rng, n, 8, real=np.float32) for n in (4, 4, 30))
    values = normal(rng, 30, 2, 3, real=np.float32)
    ids = torch.tensor([[3, -1], [3, 0]])

    def loss(q, p, n, v):
        return nce(q, p, n) + disperse(q, n) + disperse(q) + gather(v, ids).square().sum()

    leaves = (queries, positives, negatives, values)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*leaves), leaves)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_first_derivatives_only(rng):
    queries = normal(rng, 2, 3)
    loss = disperse(queries)
    with pytest.raises(BackendError, match="create_graph is True"):
        torch.autograd.grad(loss, queries, create_graph=True)


def test_gather_gradients(rng):
    values = normal(rng, 6, 2, 3)
    ids = torch.tensor([[0, 0, 5], [-1, 2, 0]])
    assert torch.autograd.gradcheck(lambda v: gather(v, ids), (values,))
    assert torch.autograd.gradgradcheck(lambda v: gather(v, ids) ** 2, (values,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gather_sums_in_one_order(rng, dtype):
    values = torch.zeros(20, 3, 7, dtype=dtype, requires_grad=True)
    ids = torch.from_numpy(rng.integers(-1, 20, (40, 50)))
    grad = torch.from_numpy(rng.standard_normal((40, 50, 3, 7))).to(dtype)
    found = []
    for _ in range(3):
        values.grad = None
        gather(values, ids).backward(grad)
        found.append(values.grad.clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    expected = reference.gather_backward(grad.double().numpy(), ids.numpy(), 20)
    # About a hundred terms of the dtype's own rounding.
    tolerance = {torch.float32: 1e-6, torch.float16: 2e-2, torch.bfloat16: 2e-1}[dtype]
    assert relative(found[0].double(), expected) < tolerance
    if dtype is torch.float32:
        in_order = reference.gather_backward(grad.numpy(), ids.numpy(), 20)
        np.testing.assert_array_equal(found[0].numpy(), in_order)


def test_gather_refuses_an_id_that_names_nothing():
    values = torch.zeros(3, 2, requires_grad=True)
    with pytest.raises(InputError, match="gather: ids has 3"):
        gather(values, [[3]])

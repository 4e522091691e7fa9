"""The differentiable ops under torch: opcheck, gradcheck, torch.compile, search's gradients."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import memcore
from memcore.errors import DtypeError

torch = pytest.importorskip("torch")
from memcore import autograd  # noqa: E402

OPS = torch.ops.memcore


def tensors(rng, *shapes, dtype=torch.float64, requires_grad=True):
    made = [torch.from_numpy(rng.standard_normal(shape)).to(dtype) for shape in shapes]
    return [tensor.requires_grad_(requires_grad) for tensor in made]


def random_ids(rng, shape, n):
    return torch.from_numpy(rng.integers(-1, n, shape))


def attend_arguments(rng, dtype=torch.float64, lead=(2,)):
    """queries, keys, values, beta and bias that need gradients."""
    shapes = ((*lead, 3, 6), (*lead, 9, 6), (*lead, 9, 2), lead, (*lead, 9))
    queries, keys, values, beta, bias = tensors(rng, *shapes, dtype=dtype)
    beta = (beta.detach().abs() + 0.3).requires_grad_()
    return queries, keys, values, beta, bias


@pytest.mark.parametrize(
    ("dtype", "requires_grad"), [(torch.float32, True), (torch.float64, False)]
)
def test_opcheck(rng, dtype, requires_grad):
    made = tensors(rng, (2, 4, 5), (2, 7, 5), (2, 4, 3), dtype=dtype, requires_grad=requires_grad)
    queries, keys, weights = made
    ids = random_ids(rng, (2, 4, 3), 7)
    torch.library.opcheck(OPS.dots.default, (queries, keys, ids))
    torch.library.opcheck(OPS.aggregate.default, (weights, keys, ids))
    torch.library.opcheck(OPS.scatter.default, (weights, queries, ids, 7))
    beta = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=requires_grad)
    mask = torch.from_numpy(rng.random((2, 4, 7)) < 0.7)
    (bias,) = tensors(rng, (2, 7), dtype=dtype, requires_grad=requires_grad)
    torch.library.opcheck(OPS.attend.default, (queries, keys, keys, beta, bias, mask))
    torch.library.opcheck(OPS.attend.default, (queries, keys, None, beta, None, None))
    plain = [tensor.detach() for tensor in (queries, keys, beta, bias)]
    torch.library.opcheck(OPS.select.default, (plain[0], plain[1], 3, plain[2], plain[3], mask))
    lse = plain[0].new_zeros((2, 4))
    given = (plain[0], plain[1], plain[1], plain[2], None, mask, lse, plain[0], lse)
    torch.library.opcheck(OPS.attend_backward.default, (*given, [True] * 5))
    torch.library.opcheck(OPS.attend_backward.default, (*given, [False, True, True, False, False]))


def test_the_three_products_are_each_others_derivatives(rng):
    queries, keys, weights = tensors(rng, (2, 4, 5), (2, 7, 5), (2, 4, 3))
    ids = random_ids(rng, (2, 4, 3), 7)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda q, k: OPS.dots(q, k, ids), (queries, keys))
        assert check(lambda w, k: memcore.aggregate(w, k, ids), (weights, keys))
        assert check(lambda w, q: OPS.scatter(w, q, ids, 7), (weights, queries))


# A selection that changes under the step of the check would be no fault of the gradient.
VARIANTS = {
    "top-k": {"k": 4},
    "all": {},
    "k above n_keys": {"k": 20},
    "steps": {"k": 9, "steps": 3},
    "steps over all": {"steps": 3},
    "ids": {"ids": "some"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradcheck(rng, variant):
    options = dict(VARIANTS[variant])
    if "ids" in options:
        options["ids"] = random_ids(rng, (2, 3, 5), 9)

    def read(queries, keys, values, beta, bias):
        given = {"beta": beta, "bias": bias, **options}
        if options.get("steps"):
            return memcore.attend(queries, keys, values, **given)
        return memcore.attend(queries, keys, values, return_lse=True, **given)[:2]

    arguments = attend_arguments(rng)
    assert torch.autograd.gradcheck(read, arguments)
    if variant in ("top-k", "ids"):
        assert torch.autograd.gradgradcheck(read, arguments)


def test_gradients_of_weights_dropped_mass_and_masks(rng):
    queries, keys, values, beta, _ = attend_arguments(rng)
    mask = torch.from_numpy(rng.random((2, 3, 9)) < 0.6)

    def read(queries, keys, beta):
        options = {"return_weights": True, "return_dropped": True}
        found = memcore.attend(queries, keys, values, 3, beta=beta, mask=mask, **options)
        return found.weights, found.dropped

    assert torch.autograd.gradcheck(read, (queries, keys, beta))


@pytest.mark.parametrize(
    ("options", "dynamic"),
    [({"k": 4}, True), ({}, True), ({"k": 4, "steps": 3}, False), ({"ids": True}, False)],
)
def test_compiled_whole(rng, options, dynamic):
    ids = random_ids(rng, (2, 3, 5), 9)
    given = {name: ids if name == "ids" else value for name, value in options.items()}

    def read(queries, keys, values, beta, bias):
        read = memcore.attend(queries, keys, values, beta=beta, bias=bias, return_lse=True, **given)
        return (read.out * 2).sum() + read.lse.sum()

    arguments = attend_arguments(rng, torch.float32)
    compiled = torch.compile(read, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    plain = torch.autograd.grad(read(*arguments), arguments)
    traced = torch.autograd.grad(compiled(*arguments), arguments)
    torch.testing.assert_close(compiled(*arguments), read(*arguments))
    for one, other in zip(plain, traced, strict=True):
        torch.testing.assert_close(one, other)


def test_compiled_without_gradients(rng):
    queries, keys = tensors(rng, (5, 8), (30, 8), dtype=torch.float32, requires_grad=False)
    compiled = torch.compile(
        lambda q, k: memcore.attend(q, k, k, 3, beta=1.0), fullgraph=True, backend="aot_eager"
    )
    expected = memcore.attend(queries, keys, keys, 3, beta=1.0)
    torch.testing.assert_close(compiled(queries, keys), expected)


def test_the_backward_has_one_order_for_any_number_of_threads(rng, threads):
    queries, keys, values = tensors(
        rng, (500, 16), (300, 16), (300, 8), dtype=torch.float32, requires_grad=True
    )
    for options in ({"k": 8}, {}):
        found = []
        for n in (1, 3, 1):
            threads(n)
            out = memcore.attend(queries, keys, values, beta=0.5, **options)
            found.append(torch.autograd.grad(out.square().sum(), (queries, keys, values)))
        for other in found[1:]:
            for one, two in zip(found[0], other, strict=True):
                assert torch.equal(one, two)


def test_what_is_shared_gets_the_sum_of_gradients(rng):
    queries, keys, values, _, _ = attend_arguments(rng, lead=(3, 2))
    shared_keys, shared_values = keys[0, 0].detach(), values[0, :1].detach()
    for leaf in (shared_keys, shared_values):
        leaf.requires_grad_()
    out = memcore.attend(queries, shared_keys, shared_values, 4, beta=0.7)
    grads = torch.autograd.grad(out.square().sum(), (shared_keys, shared_values))
    wide = [x.detach().expand(3, 2, *x.shape[-2:]).contiguous().requires_grad_()
            for x in (shared_keys, shared_values)]  # fmt: skip
    out = memcore.attend(queries, *wide, 4, beta=0.7)
    each = torch.autograd.grad(out.square().sum(), wide)
    torch.testing.assert_close(grads[0], each[0].sum((0, 1)))
    torch.testing.assert_close(grads[1], each[1].sum(0)[:1] + each[1].sum(0)[1:])


def test_halves_get_gradients_of_their_own_kind(rng):
    queries, keys, values = tensors(rng, (4, 8), (20, 8), (20, 3), dtype=torch.bfloat16)
    for options in ({"k": 5}, {}):
        out = memcore.attend(queries, keys, values, beta=1.0, **options)
        assert out.dtype == torch.float32
        wide = [x.detach().float().requires_grad_() for x in (queries, keys, values)]
        expected = memcore.attend(*wide, beta=1.0, **options)
        torch.testing.assert_close(out, expected)
        grads = torch.autograd.grad(out.sum(), (queries, keys, values))
        for grad, wanted in zip(grads, torch.autograd.grad(expected.sum(), wide), strict=True):
            assert grad.dtype == torch.bfloat16
            torch.testing.assert_close(grad, wanted.bfloat16())


def test_a_padded_id_gets_no_gradient_even_of_a_bad_row(rng):
    weights, values = tensors(rng, (2, 3), (4, 5))
    values.data[3] = torch.nan
    ids = torch.tensor([[0, -1, 1], [-1, 2, -1]])
    out = memcore.aggregate(weights, values, ids)
    weight_grad, value_grad = torch.autograd.grad(out.sum(), (weights, values))
    assert (weight_grad[ids < 0] == 0).all()
    assert (value_grad[3] == 0).all()
    assert torch.isfinite(out).all()
    expected = torch.zeros(4, 5, dtype=torch.float64)
    expected[0], expected[1], expected[2] = weights[0, 0], weights[0, 2], weights[1, 1]
    torch.testing.assert_close(value_grad, expected.detach())


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_search_gives_gradients_and_the_same_bits(rng, metric, is_weighted):
    queries, keys, scale, bias = tensors(rng, (4, 6), (12, 6), (12,), (12,), dtype=torch.float32)
    weights = {"scale": scale, "bias": bias} if is_weighted else {}
    hits = memcore.search(queries, keys, 20, metric=metric, **weights)
    plain_weights = {name: x.detach().numpy() for name, x in weights.items()}
    plain = memcore.search(
        queries.detach().numpy(), keys.detach().numpy(), 20, metric=metric, **plain_weights
    )
    assert (hits.scores.detach().numpy().view(np.uint32) == plain.scores.view(np.uint32)).all()
    assert (hits.ids.numpy() == plain.ids).all()

    if metric == "cosine":
        unit = torch.nn.functional.normalize
        scores = unit(queries, dim=1) @ unit(keys, dim=1).T
    elif metric == "l2":
        scores = -(queries[:, None] - keys).square().sum(-1)
    else:
        scores = queries @ keys.T
    if is_weighted:
        scores = scale * scores + bias
    upstream = torch.from_numpy(rng.standard_normal((4, 12))).float()
    leaves = (queries, keys, *weights.values())
    found = torch.autograd.grad((hits.scores[:, :12] * upstream).sum(), leaves)
    chosen = torch.gather(scores, 1, hits.ids[:, :12])
    expected = torch.autograd.grad((chosen * upstream).sum(), leaves)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_second_derivatives_of_dense_attention_are_refused(rng):
    queries, keys, values, beta, _ = attend_arguments(rng)
    out = memcore.attend(queries, keys, values, beta=beta)
    with pytest.raises(memcore.BackendError, match="should be an int: dense attention has first"):
        torch.autograd.grad(out.sum(), queries, create_graph=True)


@pytest.mark.parametrize("transform", [torch.vmap, torch.func.grad, torch.func.jacrev])
def test_transforms_of_functions_are_refused_in_one_sentence(rng, transform):
    queries, keys = tensors(rng, (2, 4, 5), (7, 5), dtype=torch.float32, requires_grad=False)
    ids = torch.zeros(4, 2, dtype=torch.int64)
    calls = {
        "search": lambda rows: memcore.search(rows, keys, 3).scores.sum(),
        "attend": lambda rows: memcore.attend(rows, keys, k=3, beta=1.0).sum(),
        "aggregate": lambda rows: memcore.aggregate(rows[:, :2], keys, ids).sum(),
        "nce": lambda rows: memcore.nce(rows, rows.detach(), keys, temperature=1.0),
    }
    for op, call in calls.items():
        with pytest.raises(DtypeError, match=f"^{op}: .* is a tensor inside torch.vmap or torch"):
            transform(call)(queries if transform is torch.vmap else queries[0])


def test_no_tensor_outlives_its_graph(rng):
    queries, keys, values, beta, bias = attend_arguments(rng)
    for options in ({"k": 4}, {}):
        memcore.attend(queries, keys, values, beta=beta, bias=bias, **options).sum().backward()
    kept = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.grad_fn is not None]
    assert kept == []


def test_merge_lse_has_gradients(rng):
    queries, keys, values, beta, bias = attend_arguments(rng)

    def halves(queries, keys, values, beta, bias):
        parts = [
            memcore.attend(queries, keys[:, s], values[:, s], beta=beta, bias=bias[:, s],
                           return_lse=True)
            for s in (slice(0, 4), slice(4, 9))
        ]  # fmt: skip
        return memcore.merge_lse([p.out for p in parts], [p.lse for p in parts])

    assert torch.autograd.gradcheck(halves, (queries, keys, values, beta, bias))


def test_the_module_shares_the_names_of_products():
    from memcore import products

    for name in ("rows", "widen", "expand", "slopes", "biases", "bools", "ints", "hits", "logits",
                 "softmax", "aggregate", "dense", "stack", "moved", "dropped"):  # fmt: skip
        assert callable(getattr(autograd, name))
        assert callable(getattr(products, name))

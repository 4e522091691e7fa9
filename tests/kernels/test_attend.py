"""attend and the losses by their kernels against the definition: interpreted, or on a GPU.

The k best keys are those of the definition, by equality. Softmaxes are compared with tolerance, as
the CPU's: sums have another order than NumPy's, exponentials another last digit. Of float16 and
bfloat16 values the weights are rounded to that dtype on their way into a tensor core.
"""

import importlib

import numpy as np
import pytest

import memcore
from memcore import reference

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from memcore import kernels  # noqa: E402
from on_device import DEVICE, tensor  # noqa: E402

REALS = [np.float32, np.float64]
# (n_queries, n_keys, dim, value_dim): below, at and above tiles of 16, 32 and 64 and split keys.
SHAPES = [
    (1, 1, 1, 1),
    (3, 0, 5, 4),
    (0, 9, 5, 4),
    (7, 127, 33, 20),
    (48, 128, 16, 16),
    (3, 520, 8, 3),
    (66, 40, 15, 130),
]


def tensors(inputs):
    return [None if array is None else tensor(array) for array in inputs.values()]


def normal(rng, *shape, real=np.float32):
    return rng.standard_normal(shape).astype(real)


def dense_inputs(rng, shape, real=np.float32, lead=(2,)):
    n_queries, n_keys, dim, value_dim = shape
    return {
        "queries": normal(rng, *lead, n_queries, dim, real=real),
        "keys": normal(rng, *lead, n_keys, dim, real=real),
        "values": normal(rng, *lead, n_keys, value_dim, real=real),
        "beta": rng.uniform(0.1, 1.0, lead),
        "bias": normal(rng, *lead, n_keys, real=real),
        "mask": rng.random((*lead, n_queries, n_keys)) < 0.7,
        "exclude": rng.integers(-1, max(1, n_keys), (*lead, n_queries)),
    }


def poisoned(shape, real=np.float32):
    dtype = torch.float64 if real == np.float64 else torch.float32
    return torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)


def run(inputs, metric="dot"):
    queries, values = inputs["queries"], inputs["values"]
    real = np.float64 if queries.dtype == np.float64 else np.float32
    out = None if values is None else poisoned((*queries.shape[:-1], values.shape[-1]), real)
    lse = poisoned(queries.shape[:-1], real)
    kernels.attend(*tensors(inputs), out, lse, metric=metric)
    return None if out is None else out.cpu().numpy(), lse.cpu().numpy()


def run_backward(inputs, lse, out_grad, shift, wanted):
    grads = [
        None if like is None else poisoned(like.shape, np.float64 if i == 4 else shift.dtype)
        for i, like in enumerate(wanted)
    ]
    given = [None if each is None else tensor(each) for each in (lse, out_grad, shift)]
    kernels.attend_backward(*tensors(inputs), *given, *grads)
    return [None if grad is None else grad.cpu().numpy() for grad in grads]


def close(got, expected, real=np.float32, scale=1.0):
    tolerance = (1e-12 if real == np.float64 else 2e-5) * scale
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("shape", "real"),
    [*((shape, np.float32) for shape in SHAPES), *((shape, np.float64) for shape in SHAPES[1:4])],
)
def test_both_directions(rng, shape, real):
    inputs = dense_inputs(rng, shape, real)
    out, lse = run(inputs)
    expected_out, expected_lse = reference.attend(**inputs)
    close(lse, expected_lse, real)
    close(out, expected_out, real)
    out_grad = normal(rng, *out.shape, real=real)
    shift = (out * out_grad).sum(-1) - normal(rng, *lse.shape, real=real)
    expected = reference.attend_backward(**inputs, lse=lse, out_grad=out_grad, shift=shift)
    grads = run_backward(inputs, lse, out_grad, shift, expected)
    for name, got, wanted in zip(
        ("queries", "keys", "values", "bias", "beta"), grads, expected, strict=True
    ):
        # beta's is a sum over all pairs of terms of both signs.
        scale = 100.0 if name == "beta" else 1.0 + np.abs(wanted).max(initial=0)
        close(got, wanted, real, scale)


@pytest.mark.parametrize("given", ["plain", "no values"])
def test_what_is_left_out(rng, given):
    inputs = dense_inputs(rng, (20, 150, 7, 9))
    if given == "plain":
        inputs |= {"bias": None, "mask": None, "exclude": None}
    else:
        inputs["values"] = None
    out, lse = run(inputs)
    expected_out, expected_lse = reference.attend(**inputs)
    close(lse, expected_lse)
    assert (out is None) == (expected_out is None)
    if out is not None:
        close(out, expected_out)
        return
    lse_grad = normal(rng, *lse.shape)
    expected = reference.attend_backward(**inputs, lse=lse, out_grad=None, shift=-lse_grad)
    grads = run_backward(inputs, lse, None, -lse_grad, expected)
    assert grads[2] is None
    for got, wanted in zip(grads, expected, strict=True):
        if got is not None:
            close(got, wanted, scale=20.0)


@pytest.mark.parametrize("real", REALS)
def test_what_does_not_count_is_never_touched(rng, real):
    inputs = dense_inputs(rng, (9, 90, 16, 16), real) | {"bias": None, "exclude": None}
    # Masked for all queries of the first batch, and for some of the second.
    inputs["mask"][0, :, 5] = inputs["mask"][0, :, 70] = False
    inputs["mask"][1, ::2, 5] = False
    clean, clean_lse = run(inputs)
    out_grad = normal(rng, *clean.shape, real=real)
    shift = (clean * out_grad).sum(-1)
    wanted = (inputs["queries"], inputs["keys"], inputs["values"], None, None)
    clean_grads = run_backward(inputs, clean_lse, out_grad, shift, wanted)
    inputs["keys"][0, 5], inputs["values"][0, 70] = np.nan, np.inf
    inputs["values"][1, 5] = np.nan
    out, lse = run(inputs)
    close(out[0], clean[0], real)
    close(out[1, ::2], clean[1, ::2], real)
    assert np.isnan(out[1, 1::2][inputs["mask"][1, 1::2, 5]]).all()
    close(lse, clean_lse, real)
    inputs["values"][1, 5] = 0
    grads = run_backward(inputs, lse, out_grad, shift, wanted)
    for got, expected in zip(grads[:3], clean_grads[:3], strict=True):
        close(got[0], expected[0], real, 10.0)


def test_a_query_that_is_not_finite_finds_nothing_and_moves_nothing(rng):
    inputs = dense_inputs(rng, (5, 40, 8, 6), lead=()) | {"mask": None, "exclude": None}
    clean, clean_lse = run(inputs)
    inputs["queries"][3, 2] = np.nan
    out, lse = run(inputs)
    sound = [0, 1, 2, 4]
    assert (out[3] == 0).all()
    assert lse[3] == -np.inf
    assert (out[sound] == clean[sound]).all()
    assert (lse[sound] == clean_lse[sound]).all()
    out_grad = normal(rng, *out.shape)
    shift = (out * out_grad).sum(-1)
    wanted = (inputs["queries"], inputs["keys"], inputs["values"], inputs["bias"], np.zeros(()))
    grads = run_backward(inputs, lse, out_grad, shift, wanted)
    assert all(np.isfinite(grad).all() for grad in grads)
    assert (grads[0][3] == 0).all()


def test_a_bias_of_minus_infinity_counts_for_nobody(rng):
    inputs = dense_inputs(rng, (4, 40, 8, 8)) | {"mask": None, "exclude": None}
    inputs["bias"][...] = -np.inf
    out, lse = run(inputs)
    assert (out == 0).all()
    assert (lse == -np.inf).all()


# Weights in 8 and 11 bits; int8 is widened to float16.
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "int8": 2.0**-11}


@pytest.mark.parametrize("dtype", ROUNDING)
def test_narrow_rows_and_what_is_shared(rng, dtype):
    kind = getattr(torch, dtype)
    inputs = dense_inputs(rng, (5, 70, 24, 10), lead=(2, 3)) | {"exclude": None}
    given = dict(zip(inputs, tensors(inputs), strict=True))
    for name in ("queries", "keys", "values"):
        rows = (given[name] * (30 if dtype == "int8" else 1)).to(kind)
        inputs[name] = rows.float().cpu().numpy()
        given[name] = rows
    # Keys for all heads, values for all batches, one mask for all queries.
    given["keys"] = given["keys"][:, :1].expand(2, 3, 70, 24)
    given["values"] = given["values"][:1].expand(2, 3, 70, 10)
    given["mask"] = given["mask"][..., :1, :].expand(2, 3, 5, 70)
    if dtype == "int8":
        given["beta"] = given["beta"] / 900
    for name in ("keys", "values", "mask", "beta"):
        wide = given[name].float() if name in ("keys", "values") else given[name]
        inputs[name] = wide.cpu().numpy()
    out, lse = poisoned((2, 3, 5, 10)), poisoned((2, 3, 5))
    kernels.attend(*given.values(), out, lse)
    expected_out, expected_lse = reference.attend(**inputs)
    close(lse.cpu(), expected_lse)
    size = np.abs(inputs["values"]).max()
    np.testing.assert_allclose(out.cpu(), expected_out, atol=2 * ROUNDING[dtype] * size)
    out_grad = normal(rng, *out.shape)
    shift = (expected_out * out_grad).sum(-1)
    more = {"lse": expected_lse, "out_grad": out_grad, "shift": shift}
    expected = reference.attend_backward(**inputs, **more)
    grads = [
        poisoned(each.shape, np.float64 if i == 4 else np.float32)
        for i, each in enumerate(expected)
    ]
    kernels.attend_backward(*given.values(), *(tensor(each) for each in more.values()), *grads)
    sizes = [np.linalg.norm(each) for each in expected]
    # Beta's is a sum of terms of both signs: what counts is their size. Beta times it is q · dq.
    terms = np.linalg.norm(expected[0], axis=-1) * np.linalg.norm(inputs["queries"], axis=-1)
    sizes[4] = np.linalg.norm(terms.sum(-1) / inputs["beta"])
    for got, wanted, size in zip(grads, expected, sizes, strict=True):
        error = np.linalg.norm(got.cpu().numpy() - wanted) / size
        assert error < 4 * max(ROUNDING[dtype], 2.0**-10)


def test_every_gradient_has_the_same_bits_each_time(rng):
    inputs = dense_inputs(rng, (20, 130, 16, 16))
    out, lse = run(inputs)
    out_grad, shift = normal(rng, *out.shape), normal(rng, *lse.shape)
    wanted = [inputs[name] for name in ("queries", "keys", "values", "bias", "beta")]
    first, second = (run_backward(inputs, lse, out_grad, shift, wanted) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert (one == other).all()


@pytest.mark.parametrize("options", ["bias", "mask", "neither"])
def test_the_k_best_keys_are_those_of_the_definition(rng, by_kernels, options):
    queries, keys, values = normal(rng, 2, 3, 24), normal(rng, 60, 24), normal(rng, 2, 60, 7)
    # Ties, which go to the smaller id.
    keys[30:] = keys[:30]
    given = {"beta": 0.4, "return_lse": True, "return_weights": True}
    if options == "bias":
        given["bias"] = normal(rng, 2, 60)
    if options == "mask":
        given["mask"] = rng.random((2, 3, 60)) < 0.5
    expected = memcore.attend(queries, keys, values, 9, **given, backend="reference")
    on_device = {k: tensor(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    read = memcore.attend(
        tensor(queries), tensor(keys), tensor(values), 9, **on_device, backend="triton"
    )
    assert read.out.device.type == by_kernels
    assert (read.ids.cpu().numpy() == expected.ids).all()
    for name in ("out", "lse", "weights"):
        close(getattr(read, name).cpu(), getattr(expected, name))


@pytest.mark.parametrize(("n_queries", "k"), [(1, 3), (3, 4)])
def test_the_k_best_keys_of_many_batches_take_one_launch(n_queries, k, monkeypatch, rng):
    from memcore import autograd_device, products

    queries, keys = normal(rng, 2, 2, n_queries, 20), normal(rng, 2, 1, 40, 20)
    keys[..., 20:, :] = keys[..., :20, :]
    keys = np.broadcast_to(keys, (2, 2, 40, 20))
    beta, bias = rng.random((2, 2)) + 0.5, normal(rng, 2, 2, 40)
    mask = rng.random((2, 2, n_queries, 40)) < 0.5
    mask[1, 0, 0, 2:] = False
    # Were a batch large, each would be searched by itself.
    monkeypatch.delattr(importlib.import_module("memcore.kernels.select"), "search")
    for weights in ((beta, bias, mask), (beta, None, None)):
        given = [None if each is None else tensor(each) for each in (queries, keys, *weights)]
        found = autograd_device.select(*given[:2], k, *given[2:])
        _, expected = products.select(queries, keys, k, *weights)
        np.testing.assert_array_equal(found.cpu().numpy(), expected)
    given[0][1, 1, 0, 3] = torch.nan
    found = autograd_device.select(*given[:2], k, *given[2:])
    assert (found[1, 1, 0] == -1).all()


def test_named_rows_steps_dropped_mass_and_joined_parts(rng, by_kernels):
    queries, keys, values = normal(rng, 4, 12), normal(rng, 60, 12), normal(rng, 60, 5)
    given = [tensor(x) for x in (queries, keys, values)]
    ids = rng.integers(-1, 60, (4, 7))
    named = memcore.attend(*given, beta=0.5, ids=tensor(ids), backend="triton")
    close(named.cpu(), memcore.attend(queries, keys, values, beta=0.5, ids=ids))
    # On the host this is refused; here nothing is read back, and it is skipped.
    wrong = np.where(ids == 3, 60, np.where(ids == -1, -5, ids))
    inside = np.where(wrong == 60, -1, ids)
    named = memcore.attend(*given, beta=0.5, ids=tensor(wrong), backend="triton")
    close(named.cpu(), memcore.attend(queries, keys, values, beta=0.5, ids=inside))
    for k in (None, 6):
        options = {"beta": 0.3, "steps": 3, "return_dropped": True}
        read = memcore.attend(*given, k, **options, backend="triton")
        expected = memcore.attend(queries, keys, values, k, **options)
        close(read.out.cpu(), expected.out)
        close(read.dropped.cpu(), expected.dropped, scale=10)
    halves = [
        memcore.attend(given[0], given[1][part], given[2][part], beta=0.5, return_lse=True,
                       backend="triton")
        for part in (slice(0, 20), slice(20, 60))
    ]  # fmt: skip
    out, lse = memcore.merge_lse([half.out for half in halves], [half.lse for half in halves])
    whole = memcore.attend(queries, keys, values, beta=0.5, return_lse=True)
    close(out.cpu(), whole.out)
    close(lse.cpu(), whole.lse)
    beta = torch.tensor(0.5, device=DEVICE)
    close(memcore.attend(*given, beta=beta, backend="triton").cpu(), whole.out)


def gradient_arguments(rng, dtype=torch.float64):
    shapes = ((2, 4), (5, 4), (5, 2), (), (5,))
    made = [tensor(np.asarray(rng.standard_normal(shape))).to(dtype) for shape in shapes]
    made[3] = made[3].abs() + 0.3
    return [each.requires_grad_() for each in made]


@pytest.mark.parametrize("k", [None, 3])
def test_gradcheck(rng, by_kernels, k):
    mask = tensor(rng.random((2, 5)) < 0.8)
    # Nothing differs from minus infinity by a number.
    mask[:, 0] = True

    def read(queries, keys, values, beta, bias):
        options = {"beta": beta, "bias": bias, "mask": mask, "return_lse": True}
        return memcore.attend(queries, keys, values, k, **options, backend="triton")[:2]

    assert torch.autograd.gradcheck(read, gradient_arguments(rng), fast_mode=True)


def test_opcheck(rng, by_kernels):
    queries, keys, values, beta, bias = gradient_arguments(rng, torch.float32)
    beta = beta.detach().double().requires_grad_()
    mask, ops = tensor(rng.random((2, 5)) < 0.7), torch.ops.memcore
    torch.library.opcheck(ops.attend.default, (queries, keys, values, beta, bias, mask))
    torch.library.opcheck(ops.attend.default, (queries, keys, None, beta, None, None))
    plain = [each.detach() for each in (queries, keys, values, beta, bias)]
    chosen = (plain[0], plain[1], 3, plain[3], plain[4], mask)
    torch.library.opcheck(ops.select.default, chosen)
    lse = plain[0].new_zeros(2)
    given = (*plain[:4], None, mask, lse, plain[2][:2], lse)
    torch.library.opcheck(ops.attend_backward.default, (*given, [True] * 5))
    torch.library.opcheck(ops.attend_backward.default, (*given, [False, True, True, False, False]))


@pytest.mark.parametrize("k", [None, 3])
def test_compiled_whole(rng, by_kernels, k):
    def loss(queries, keys, values, beta, bias):
        options = {"beta": beta, "bias": bias, "return_lse": True, "backend": "triton"}
        read = memcore.attend(queries, keys, values, k, **options)
        return (read.out * 2).sum() + read.lse.sum()

    arguments = gradient_arguments(rng, torch.float32)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain = torch.autograd.grad(loss(*arguments), arguments)
    traced = torch.autograd.grad(compiled(*arguments), arguments)
    for one, other in zip(plain, traced, strict=True):
        torch.testing.assert_close(one, other)


def test_what_it_refuses(rng, monkeypatch):
    rows = torch.zeros(3, 8, device=DEVICE)
    with pytest.raises(memcore.BackendError, match=r"^attend: keys is not a tensor"):
        memcore.attend(rows, rows.cpu().numpy(), beta=1.0, backend="triton")
    with pytest.raises(memcore.BackendError, match=r"^attend: bias is on meta, should be on"):
        memcore.attend(rows, rows, beta=1.0, bias=torch.zeros(3, device="meta"), backend="triton")
    with pytest.raises(memcore.BackendError, match="backend is 'cpu', should be 'triton'"):
        memcore.attend(torch.zeros(3, 8, device="meta"), rows, beta=1.0, backend="cpu")
    with pytest.raises(memcore.ShapeError, match=r"^attend: keys has dim 7, should be 8"):
        memcore.attend(rows, rows[:, :7], beta=1.0, backend="triton")
    with pytest.raises(memcore.InputError, match=r"^attend: beta is 0, should be above 0"):
        memcore.attend(rows, rows, beta=0, backend="triton")
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(memcore.BackendError, match="should be on a GPU where triton runs"):
        memcore.attend(rows.cpu(), rows.cpu(), beta=1.0, backend="triton")

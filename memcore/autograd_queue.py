"""The losses against many negatives and `gather`, differentiable in torch.

Each op is one of torch.library (define, impl, fake, autograd), so that torch.compile sees through
it. `log_sum_exp` gives the softmax mean of the keys beside its result: it is the gradient of the
queries, so their backward reads no key. Only where keys or bias need a gradient are they saved, and
streamed once more. The functions at the end have the names of their namesakes in `losses`.
"""

from typing import Any

import numpy as np
import torch

from memcore import arrays, autograd_device, losses, tensors
from memcore.errors import BackendError

Tensor = Any

_LIBRARY = torch.library.Library("memcore", "FRAGMENT")
_LIBRARY.define(
    "log_sum_exp(str op, Tensor queries, Tensor keys, float beta, Tensor? bias, str metric,"
    " bool wants_mean) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "log_sum_exp_backward(Tensor queries, Tensor keys, float beta, Tensor? bias, str metric,"
    " Tensor lse, Tensor grad) -> (Tensor, Tensor)"
)
_LIBRARY.define("gather(Tensor values, Tensor ids) -> Tensor")
_LIBRARY.define("gather_backward(Tensor grad, Tensor ids, SymInt n) -> Tensor")
_OPS = torch.ops.memcore


def _array(tensor: Tensor) -> Any:
    return None if tensor is None else arrays.reals("log_sum_exp", "rows", tensor)


def _real(rows: Tensor) -> Any:
    return torch.float64 if rows.dtype is torch.float64 else torch.float32


def _log_sum_exp(
    op: str, queries: Any, keys: Any, beta: float, bias: Any, metric: str, wants_mean: bool
) -> Any:
    given = (op, _array(queries), _array(keys), beta, _array(bias), metric, wants_mean)
    lse, mean = losses.streamed(*given)
    nothing = queries.new_empty((*lse.shape, 0), dtype=_real(queries))
    return torch.from_numpy(lse), nothing if mean is None else torch.from_numpy(mean)


def _log_sum_exp_fake(
    op: str, queries: Any, keys: Any, beta: float, bias: Any, metric: str, wants_mean: bool
) -> Any:
    lse = queries.new_empty(queries.shape[:-1], dtype=_real(queries))
    return lse, lse.new_empty((*lse.shape, queries.shape[-1] if wants_mean else 0))


def _log_sum_exp_backward(
    queries: Any, keys: Any, beta: float, bias: Any, metric: str, lse: Any, grad: Any
) -> Any:
    rows = (_array(queries), _array(keys), beta, _array(bias), metric)
    found = losses.key_gradients(*rows, _array(lse), _array(grad))
    return tuple(torch.from_numpy(each) for each in found)


def _log_sum_exp_backward_fake(
    queries: Any, keys: Any, beta: float, bias: Any, metric: str, lse: Any, grad: Any
) -> Any:
    return keys.new_empty(keys.shape, dtype=lse.dtype), keys.new_empty(
        keys.shape[:-1], dtype=lse.dtype
    )


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    _, queries, keys, beta, bias, metric, wants_mean = inputs
    lse, mean = output
    ctx.mark_non_differentiable(mean)
    ctx.set_materialize_grads(False)
    needs_queries, needs_keys = ctx.needs_input_grad[1], any(ctx.needs_input_grad[2:5:2])
    # Keys that need no gradient are not kept: a queue may be written to before the backward.
    ctx.beta, ctx.metric = beta, metric
    ctx.has_mean = needs_queries and wants_mean
    ctx.save_for_backward(
        queries if needs_keys or metric == "l2" else None,
        keys if needs_keys else None,
        bias if needs_keys else None,
        lse,
        mean if needs_queries else None,
    )
    ctx.dtypes = (queries.dtype, keys.dtype, None if bias is None else bias.dtype)


def _gradients(ctx: Any, grad: Tensor | None, _: Tensor | None) -> Any:
    if grad is None:
        return (None,) * 7
    if torch.is_grad_enabled():
        raise BackendError(
            "log_sum_exp: create_graph is True, should be False: the losses against many "
            "negatives have first derivatives only"
        )
    queries, keys, bias, lse, mean = ctx.saved_tensors
    query_dtype, key_dtype, bias_dtype = ctx.dtypes
    query_grad = key_grad = bias_grad = None
    if ctx.needs_input_grad[1]:
        if ctx.metric == "l2":
            # A query that found nothing has no pull.
            pull = 2 * torch.where(torch.isinf(lse)[..., None], 0, mean - queries)
        else:
            pull = mean
        query_grad = (ctx.beta * grad[..., None] * pull).to(query_dtype)
    if keys is not None:
        # Expanded or reversed gradients reach the engine as plain arrays.
        found = _OPS.log_sum_exp_backward(
            queries, keys, ctx.beta, bias, ctx.metric, lse, grad.contiguous()
        )
        key_grad = found[0].to(key_dtype) if ctx.needs_input_grad[2] else None
        bias_grad = found[1].to(bias_dtype) if ctx.needs_input_grad[4] else None
    return None, query_grad, key_grad, None, bias_grad, None, None


def _gather(values: Any, ids: Any) -> Tensor:
    losses.check_ids(ids.detach().cpu().numpy(), len(values))
    if len(values) == 0:
        return values.new_zeros((*ids.shape, *values.shape[1:]))
    found = values[ids.clamp(min=0)]
    missing = (ids < 0).reshape((*ids.shape, *(1,) * (values.ndim - 1)))
    return found.masked_fill_(missing, 0)


def _gather_fake(values: Any, ids: Any) -> Tensor:
    return values.new_empty((*ids.shape, *values.shape[1:]))


def _gather_backward(grad: Any, ids: Any, n: Any) -> Tensor:
    row = grad.shape[ids.ndim :]
    flat, named = grad.detach().reshape(ids.numel(), -1), ids.reshape(-1)
    if grad.device.type == "cpu" and grad.dtype in (torch.float32, torch.float64):
        sums = torch.from_numpy(losses.scattered(flat.numpy(), named.numpy(), int(n)))
    else:
        # Sorted by id first, and so in one order.
        held = named >= 0
        sums = flat.new_zeros((n, flat.shape[1]))
        sums.index_put_((named[held],), flat[held], accumulate=True)
    return sums.reshape((n, *row))


def _gather_backward_fake(grad: Any, ids: Any, n: Any) -> Tensor:
    return grad.new_empty((n, *grad.shape[ids.ndim :]))


def _save_gather(ctx: Any, inputs: Any, output: Any) -> None:
    values, ids = inputs
    ctx.n = values.shape[0]
    ctx.save_for_backward(ids)


def _gather_gradients(ctx: Any, grad: Tensor) -> Any:
    (ids,) = ctx.saved_tensors
    return _OPS.gather_backward(grad, ids, ctx.n), None


def _save_scatter(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(inputs[1])


def _scatter_gradients(ctx: Any, grad: Tensor) -> Any:
    (ids,) = ctx.saved_tensors
    return _OPS.gather(grad, ids), None, None


for _name, _impl, _fake, _key in (
    ("log_sum_exp", _log_sum_exp, _log_sum_exp_fake, "CPU"),
    ("log_sum_exp_backward", _log_sum_exp_backward, _log_sum_exp_backward_fake, "CPU"),
    ("gather", _gather, _gather_fake, "CompositeExplicitAutograd"),
    ("gather_backward", _gather_backward, _gather_backward_fake, "CompositeExplicitAutograd"),
):
    _LIBRARY.impl(_name, _impl, _key)
    _LIBRARY.impl(_name, getattr(autograd_device, _name), "CUDA")
    torch.library.register_fake(f"memcore::{_name}", _fake, lib=_LIBRARY)
for _name, _backward, _context in (
    ("log_sum_exp", _gradients, _save),
    ("gather", _gather_gradients, _save_gather),
    ("gather_backward", _scatter_gradients, _save_scatter),
):
    torch.library.register_autograd(
        f"memcore::{_name}", _backward, setup_context=_context, lib=_LIBRARY
    )


# ---- the names of `losses`


def same(op: str, given: dict[str, Any]) -> list[Tensor]:
    """Rows as tensors, all float64 if one is."""
    found = {name: _rows(op, name, array) for name, array in given.items()}
    losses.check_rows(op, found)
    if any(rows.dtype is torch.float64 for rows in found.values()):
        return [rows.to(torch.float64) for rows in found.values()]
    return list(found.values())


def _rows(op: str, name: str, array: Any) -> Tensor:
    if not isinstance(array, torch.Tensor):
        if arrays.place(array) != "cpu":
            return tensors.vectors(op, name, array)
        return arrays.as_tensor(arrays.reals(op, name, array))
    arrays.check_plain(op, name, array)
    return array if array.is_floating_point() else array.to(torch.float32)


def bias(op: str, bias: Any, like: Tensor) -> Tensor:
    """In the dtype of the products."""
    return _rows(op, "bias", bias).to(_real(like))


def expand(array: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The array seen in a wider shape."""
    return array.expand(shape)


def lse(
    op: str,
    queries: Tensor,
    keys: Tensor,
    beta: float,
    bias: Tensor | None,
    metric: str,
    backend: str | None,
) -> Tensor:
    """The log-sum-exp, with gradients."""
    wants_mean = torch.is_grad_enabled() and queries.requires_grad
    return _OPS.log_sum_exp(op, queries, keys, beta, bias, metric, wants_mean)[0]


def dot(left: Tensor, right: Tensor) -> Tensor:
    """Dot products of pairs of rows (…, dim)."""
    return (left.to(_real(left)) * right.to(_real(left))).sum(-1)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)."""
    return torch.logaddexp(x, torch.zeros_like(x))


def total(logits: Tensor) -> Tensor:
    """Log-sum-exp over the last axis."""
    return torch.logsumexp(logits, -1)


def gather(values: Any, ids: Any) -> Tensor:
    """The values that ids name, zeros for -1."""
    if not isinstance(values, torch.Tensor):
        is_view = isinstance(values, np.ndarray)
        values = arrays.as_tensor(values) if is_view else torch.from_dlpack(values)
    if not isinstance(ids, torch.Tensor):
        on_host = arrays.place(ids) == "cpu"
        ids = (
            arrays.as_tensor(arrays.ints("gather", "ids", ids))
            if on_host
            else tensors.ints("gather", "ids", ids)
        )
    return _OPS.gather(values, ids.to(values.device, torch.int64))

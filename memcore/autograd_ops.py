"""The differentiable ops of torch.library, which are there once this is imported.

Three products over named rows, `dots`, `aggregate` and `scatter`, are each the derivative of the
other two, and so can be differentiated any number of times; `attend` streams over all keys and has
first derivatives. Each is defined with its engines, the shapes of its results and its gradients, so
that torch.compile sees through it.

What a backward needs is saved by torch: the tensors that went in, ids and weights. Nothing of size
n_queries x n_keys, and no gathered rows. Every gradient is summed in one fixed order.
"""

from typing import Any

import torch

from memcore import arrays, autograd_device, products
from memcore.errors import BackendError

Tensor = Any

_LIBRARY = torch.library.Library("memcore", "FRAGMENT")
_LIBRARY.define(
    "select(Tensor queries, Tensor keys, SymInt k, Tensor beta, Tensor? bias, Tensor? mask)"
    " -> Tensor"
)
_LIBRARY.define("dots(Tensor queries, Tensor keys, Tensor ids) -> Tensor")
_LIBRARY.define("aggregate(Tensor weights, Tensor values, Tensor ids) -> Tensor")
_LIBRARY.define("scatter(Tensor weights, Tensor rows, Tensor ids, SymInt n_sums) -> Tensor")
_LIBRARY.define(
    "attend(Tensor queries, Tensor keys, Tensor? values, Tensor beta, Tensor? bias, Tensor? mask)"
    " -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "attend_backward(Tensor queries, Tensor keys, Tensor? values, Tensor beta, Tensor? bias,"
    " Tensor? mask, Tensor lse, Tensor? out_grad, Tensor shift, bool[] wanted)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
OPS = torch.ops.memcore


def _array(tensor: Tensor) -> Any:
    return None if tensor is None else arrays.reals("attend", "rows", tensor)


def _items(tensor: Tensor) -> Any:
    return None if tensor is None else tensor.detach().numpy()


def real(rows: Tensor) -> Any:
    """The dtype that products with rows have."""
    return torch.float64 if rows.dtype is torch.float64 else torch.float32


def _select(queries: Any, keys: Any, k: Any, beta: Any, bias: Any, mask: Any) -> Tensor:
    given = (_array(queries), _array(keys), int(k), _items(beta), _array(bias), _items(mask))
    return torch.from_numpy(products.select(*given)[1])


def _select_fake(queries: Any, keys: Any, k: Any, beta: Any, bias: Any, mask: Any) -> Tensor:
    return queries.new_empty((*queries.shape[:-1], k), dtype=torch.int64)


def _dots(queries: Any, keys: Any, ids: Any) -> Tensor:
    return torch.from_numpy(products.dots(_array(queries), _array(keys), _items(ids)))


def _dots_fake(queries: Any, keys: Any, ids: Any) -> Tensor:
    return queries.new_empty(ids.shape, dtype=real(queries))


def _aggregate(weights: Any, values: Any, ids: Any) -> Tensor:
    return torch.from_numpy(products.aggregate(_items(weights), _array(values), _items(ids)))


def _aggregate_fake(weights: Any, values: Any, ids: Any) -> Tensor:
    return values.new_empty((*ids.shape[:-1], values.shape[-1]), dtype=real(values))


def _scatter(weights: Any, rows: Any, ids: Any, n_sums: Any) -> Tensor:
    sums = products.scatter(_items(weights), _array(rows), _items(ids), int(n_sums))
    return torch.from_numpy(sums)


def _scatter_fake(weights: Any, rows: Any, ids: Any, n_sums: Any) -> Tensor:
    return rows.new_empty((*ids.shape[:-2], n_sums, rows.shape[-1]), dtype=real(rows))


def _attend(queries: Any, keys: Any, values: Any, beta: Any, bias: Any, mask: Any) -> Any:
    given = (_array(queries), _array(keys), _array(values), _items(beta), _items(bias))
    out, lse = products.dense(*given, _items(mask))
    read = queries.new_empty((*lse.shape, 0), dtype=real(queries))
    return read if out is None else torch.from_numpy(out), torch.from_numpy(lse)


def _attend_fake(queries: Any, keys: Any, values: Any, beta: Any, bias: Any, mask: Any) -> Any:
    lse = queries.new_empty(queries.shape[:-1], dtype=real(queries))
    return lse.new_empty((*lse.shape, 0 if values is None else values.shape[-1])), lse


def _attend_backward(
    queries: Any, keys: Any, values: Any, beta: Any, bias: Any, mask: Any, lse: Any, out_grad: Any,
    shift: Any, wanted: Any,
) -> Any:  # fmt: skip
    rows = (_array(queries), _array(keys), _array(values), _items(beta), _items(bias))
    given = (_items(mask), _items(lse), _items(out_grad), _items(shift))
    grads = products.dense_backward(*rows, *given, tuple(wanted))
    empty = queries.new_empty(0, dtype=real(queries))
    return tuple(empty.clone() if g is None else torch.from_numpy(g) for g in grads)


def _attend_backward_fake(
    queries: Any, keys: Any, values: Any, beta: Any, bias: Any, mask: Any, lse: Any, out_grad: Any,
    shift: Any, wanted: Any,
) -> Any:  # fmt: skip
    like = (queries, keys, values, beta, keys[..., 0])
    grads = []
    for rows, want in zip(like, wanted, strict=True):
        shape = rows.shape if want and rows is not None else (0,)
        is_beta = rows is beta and want
        dtype = torch.float64 if is_beta else real(queries)
        grads.append(queries.new_empty(shape, dtype=dtype))
    return tuple(grads)


def _save_dots(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _dots_gradients(ctx: Any, grad: Tensor) -> Any:
    queries, keys, ids = ctx.saved_tensors
    wants_queries, wants_keys, _ = ctx.needs_input_grad
    query_grad = key_grad = None
    if wants_queries:
        query_grad = OPS.aggregate(grad, keys, ids).to(queries.dtype)
    if wants_keys:
        key_grad = OPS.scatter(grad, queries, ids, keys.shape[-2]).to(keys.dtype)
    return query_grad, key_grad, None


def _aggregate_gradients(ctx: Any, grad: Tensor) -> Any:
    weights, values, ids = ctx.saved_tensors
    wants_weights, wants_values, _ = ctx.needs_input_grad
    weight_grad = value_grad = None
    if wants_weights:
        weight_grad = OPS.dots(grad, values, ids).to(weights.dtype)
    if wants_values:
        value_grad = OPS.scatter(weights, grad, ids, values.shape[-2]).to(values.dtype)
    return weight_grad, value_grad, None


def _save_scatter(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])


def _scatter_gradients(ctx: Any, grad: Tensor) -> Any:
    weights, rows, ids = ctx.saved_tensors
    wants_weights, wants_rows = ctx.needs_input_grad[:2]
    weight_grad = OPS.dots(rows, grad, ids).to(weights.dtype) if wants_weights else None
    row_grad = OPS.aggregate(weights, grad, ids).to(rows.dtype) if wants_rows else None
    return weight_grad, row_grad, None, None


def _save_attend(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs, *output)


def _attend_gradients(ctx: Any, out_grad: Tensor, lse_grad: Tensor) -> Any:
    if torch.is_grad_enabled():
        raise BackendError(
            "attend: k is None with create_graph, should be an int: dense attention has first "
            "derivatives only"
        )
    *inputs, out, lse = ctx.saved_tensors
    queries, keys, values, beta, bias, mask = inputs
    wanted = [bool(w) for w in ctx.needs_input_grad[:5]]
    shift = -lse_grad if values is None else (out * out_grad).sum(-1) - lse_grad
    given = None if values is None else out_grad
    grads = OPS.attend_backward(queries, keys, values, beta, bias, mask, lse, given, shift, wanted)
    like = (queries, keys, values, beta, bias)
    found = [
        grad.to(rows.dtype) if want else None
        for grad, rows, want in zip(grads, like, wanted, strict=True)
    ]
    return (*found, None)


for _name, _impl, _fake in (
    ("select", _select, _select_fake),
    ("dots", _dots, _dots_fake),
    ("aggregate", _aggregate, _aggregate_fake),
    ("scatter", _scatter, _scatter_fake),
    ("attend", _attend, _attend_fake),
    ("attend_backward", _attend_backward, _attend_backward_fake),
):
    _LIBRARY.impl(_name, _impl, "CPU")
    _LIBRARY.impl(_name, getattr(autograd_device, _name), "CUDA")
    torch.library.register_fake(f"memcore::{_name}", _fake, lib=_LIBRARY)
for _name, _gradients, _save in (
    ("dots", _dots_gradients, _save_dots),
    ("aggregate", _aggregate_gradients, _save_dots),
    ("scatter", _scatter_gradients, _save_scatter),
    ("attend", _attend_gradients, _save_attend),
):
    torch.library.register_autograd(
        f"memcore::{_name}", _gradients, setup_context=_save, lib=_LIBRARY
    )

"""The differentiable ops, for torch. Imported when a tensor that needs a gradient comes by.

Three products over named rows, `dots`, `aggregate` and `scatter`, are each the derivative of the
other two, and so can be differentiated any number of times; `attend` streams over all keys and has
first derivatives. Each is an op of torch.library (define, impl, fake, autograd), so that
torch.compile sees through it. The functions at the end have the names and parameters of their
namesakes in `products`.

What a backward needs is saved by torch: the tensors that went in, ids and weights. Nothing of size
n_queries x n_keys, and no gathered rows. Every gradient is summed in one fixed order.
"""

from typing import Any

import torch

from memcore import arrays, autograd_device, products, tensors
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
_OPS = torch.ops.memcore


def _array(tensor: Tensor) -> Any:
    return None if tensor is None else arrays.reals("attend", "rows", tensor)


def _items(tensor: Tensor) -> Any:
    return None if tensor is None else tensor.detach().numpy()


def _real(rows: Tensor) -> Any:
    return torch.float64 if rows.dtype is torch.float64 else torch.float32


# ---- the ops by the engine, and their shapes


def _select(queries: Any, keys: Any, k: Any, beta: Any, bias: Any, mask: Any) -> Tensor:
    given = (_array(queries), _array(keys), int(k), _items(beta), _array(bias), _items(mask))
    return torch.from_numpy(products.select(*given)[1])


def _select_fake(queries: Any, keys: Any, k: Any, beta: Any, bias: Any, mask: Any) -> Tensor:
    return queries.new_empty((*queries.shape[:-1], k), dtype=torch.int64)


def _dots(queries: Any, keys: Any, ids: Any) -> Tensor:
    return torch.from_numpy(products.dots(_array(queries), _array(keys), _items(ids)))


def _dots_fake(queries: Any, keys: Any, ids: Any) -> Tensor:
    return queries.new_empty(ids.shape, dtype=_real(queries))


def _aggregate(weights: Any, values: Any, ids: Any) -> Tensor:
    return torch.from_numpy(products.aggregate(_items(weights), _array(values), _items(ids)))


def _aggregate_fake(weights: Any, values: Any, ids: Any) -> Tensor:
    return values.new_empty((*ids.shape[:-1], values.shape[-1]), dtype=_real(values))


def _scatter(weights: Any, rows: Any, ids: Any, n_sums: Any) -> Tensor:
    sums = products.scatter(_items(weights), _array(rows), _items(ids), int(n_sums))
    return torch.from_numpy(sums)


def _scatter_fake(weights: Any, rows: Any, ids: Any, n_sums: Any) -> Tensor:
    return rows.new_empty((*ids.shape[:-2], n_sums, rows.shape[-1]), dtype=_real(rows))


def _attend(queries: Any, keys: Any, values: Any, beta: Any, bias: Any, mask: Any) -> Any:
    given = (_array(queries), _array(keys), _array(values), _items(beta), _items(bias))
    out, lse = products.dense(*given, _items(mask))
    read = queries.new_empty((*lse.shape, 0), dtype=_real(queries))
    return read if out is None else torch.from_numpy(out), torch.from_numpy(lse)


def _attend_fake(queries: Any, keys: Any, values: Any, beta: Any, bias: Any, mask: Any) -> Any:
    lse = queries.new_empty(queries.shape[:-1], dtype=_real(queries))
    return lse.new_empty((*lse.shape, 0 if values is None else values.shape[-1])), lse


def _attend_backward(
    queries: Any, keys: Any, values: Any, beta: Any, bias: Any, mask: Any, lse: Any, out_grad: Any,
    shift: Any, wanted: Any,
) -> Any:  # fmt: skip
    rows = (_array(queries), _array(keys), _array(values), _items(beta), _items(bias))
    given = (_items(mask), _items(lse), _items(out_grad), _items(shift))
    grads = products.dense_backward(*rows, *given, tuple(wanted))
    empty = queries.new_empty(0, dtype=_real(queries))
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
        dtype = torch.float64 if is_beta else _real(queries)
        grads.append(queries.new_empty(shape, dtype=dtype))
    return tuple(grads)


# ---- their derivatives


def _save_dots(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _dots_gradients(ctx: Any, grad: Tensor) -> Any:
    queries, keys, ids = ctx.saved_tensors
    wants_queries, wants_keys, _ = ctx.needs_input_grad
    query_grad = key_grad = None
    if wants_queries:
        query_grad = _OPS.aggregate(grad, keys, ids).to(queries.dtype)
    if wants_keys:
        key_grad = _OPS.scatter(grad, queries, ids, keys.shape[-2]).to(keys.dtype)
    return query_grad, key_grad, None


def _aggregate_gradients(ctx: Any, grad: Tensor) -> Any:
    weights, values, ids = ctx.saved_tensors
    wants_weights, wants_values, _ = ctx.needs_input_grad
    weight_grad = value_grad = None
    if wants_weights:
        weight_grad = _OPS.dots(grad, values, ids).to(weights.dtype)
    if wants_values:
        value_grad = _OPS.scatter(weights, grad, ids, values.shape[-2]).to(values.dtype)
    return weight_grad, value_grad, None


def _save_scatter(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])


def _scatter_gradients(ctx: Any, grad: Tensor) -> Any:
    weights, rows, ids = ctx.saved_tensors
    wants_weights, wants_rows = ctx.needs_input_grad[:2]
    weight_grad = _OPS.dots(rows, grad, ids).to(weights.dtype) if wants_weights else None
    row_grad = _OPS.aggregate(weights, grad, ids).to(rows.dtype) if wants_rows else None
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
    grads = _OPS.attend_backward(queries, keys, values, beta, bias, mask, lse, given, shift, wanted)
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


# ---- the names of `products`


def rows(op: str, name: str, array: Any) -> Tensor:
    """Any array of numbers as a tensor; float64 stays what it is."""
    if isinstance(array, torch.Tensor):
        arrays.check_plain(op, name, array)
        if not array.is_floating_point() and array.dtype is not torch.int8:
            return array.to(torch.float32)
        return array
    if arrays.place(array) != "cpu":
        return tensors.vectors(op, name, array)
    return arrays.as_tensor(arrays.reals(op, name, array))


def widen(array: Tensor) -> Tensor:
    """As float64."""
    return array.to(torch.float64)


def expand(array: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The array seen in a wider shape."""
    return array.expand(shape)


def slopes(beta: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Beta as float64 in the shape of the batches, beside the rows."""
    if isinstance(beta, (int, float)):
        return torch.full(shape, beta, dtype=torch.float64, device=like.device)
    return torch.as_tensor(beta, dtype=torch.float64, device=like.device).expand(shape)


def biases(op: str, bias: Any, like: Tensor) -> Tensor:
    """A bias in the dtype that products with these rows have."""
    return rows(op, "bias", bias).to(_real(like))


def bools(op: str, name: str, array: Any) -> Tensor:
    """A mask."""
    if isinstance(array, torch.Tensor) and array.dtype is torch.bool:
        return array
    if arrays.place(array) != "cpu":
        return tensors.bools(op, name, array)
    return arrays.as_tensor(arrays.bools(op, name, array))


def ints(op: str, name: str, array: Any) -> Tensor:
    """Ids."""
    if isinstance(array, torch.Tensor) and array.dtype is torch.int64:
        return array
    if arrays.place(array) != "cpu":
        return tensors.ints(op, name, array)
    return arrays.as_tensor(arrays.ints(op, name, array))


def within(ids: Tensor, n: int) -> Tensor:
    """Ids with -1 in the place of those that name none of n: a device is not asked for them."""
    return torch.where((ids >= 0) & (ids < n), ids, -1)


def hits(
    queries: Tensor,
    keys: Tensor,
    k: int,
    beta: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits and ids (…, n_queries, k) of the k best keys. The choice itself has no gradient."""
    with torch.no_grad():
        ids = _OPS.select(queries, keys, k, beta, bias, mask)
    return logits(queries, keys, ids, beta, bias, None), ids


def logits(
    queries: Tensor,
    keys: Tensor,
    ids: Tensor,
    beta: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    backend: str | None = None,
) -> Tensor:
    """The logits of named keys, -inf where there is none or it does not count."""
    raw = _OPS.dots(queries, keys, ids)
    found = beta[..., None, None].to(raw.dtype) * raw
    if bias is not None:
        found = found + take(bias, ids)
    counts = (ids >= 0) & ~torch.isnan(found)
    if mask is not None:
        counts = counts & torch.gather(mask, -1, ids.clamp(min=0))
    return torch.where(counts, found, -torch.inf)


def take(items: Tensor, ids: Tensor) -> Tensor:
    """The items (…, n) that ids (…, n_queries, n_ids) name, 0 for -1; a deterministic gather."""
    shape = ids.shape
    flat = ids.reshape(*shape[:-2], -1, 1)
    ones = torch.ones_like(flat, dtype=_real(items))
    return _OPS.aggregate(ones, items[..., None], flat).reshape(shape)


def softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and log-sum-exp over the last axis; zeros and -inf where all are -inf."""
    if logits.shape[-1] == 0:
        return logits, logits.new_full(logits.shape[:-1], -torch.inf)
    largest = logits.detach().amax(-1, keepdim=True)
    largest = torch.where(largest == -torch.inf, 0, largest)
    powers = torch.exp(logits - largest)
    sums = powers.sum(-1, keepdim=True)
    found = sums != 0
    divisor = torch.where(found, sums, 1)
    lse = torch.where(found, largest + torch.log(divisor), -torch.inf)
    return powers / divisor, lse[..., 0]


def aggregate(weights: Tensor, values: Tensor, ids: Tensor, backend: str | None = None) -> Tensor:
    """Weighted sums (…, n_queries, dim) of the values that ids name."""
    return _OPS.aggregate(weights, values, ids)


def dense(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    beta: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    backend: str | None = None,
) -> tuple[Tensor | None, Tensor]:
    """Softmax over all keys: the read (…, n_queries, value_dim) and lse (…, n_queries)."""
    out, lse = _OPS.attend(queries, keys, values, beta, bias, mask)
    return None if values is None else out, lse


def stack(parts: list[Tensor]) -> Tensor:
    """Tensors side by side along a new last axis."""
    return torch.stack(parts, -1)


def moved(before: Tensor, after: Tensor) -> float:
    """The largest distance between rows."""
    apart = torch.linalg.vector_norm((after - before).detach(), dim=-1)
    return float(apart.max()) if apart.numel() else 0.0


def dropped(lse: Tensor, all_lse: Tensor) -> Tensor:
    """The share of the whole softmax that a part of it leaves out."""
    kept = torch.where(all_lse == -torch.inf, 0, lse - all_lse)
    return torch.clamp(-torch.expm1(kept), min=0)


def attach_best(best: Tensor, ids: Tensor, scores: Tensor) -> Tensor:
    """The best (n_queries, k) of rows of scores, with the gradients of the scores that they are."""
    given = scores[None] if scores.ndim == 1 else scores
    if not given.shape[-1]:
        return best
    chosen = torch.gather(given, 1, ids.clamp(min=0)).to(_real(given))
    is_sound = (ids >= 0) & torch.isfinite(chosen)
    return best + torch.where(is_sound, chosen - chosen.detach(), 0).to(best.dtype)


def attach(
    scores: Tensor, ids: Tensor, queries: Any, keys: Any, metric: str, scale: Any, bias: Any
) -> Tensor:
    """The scores (n_queries, k) of a search, with the gradients of what they are scores of."""
    asked, given = rows("search", "queries", queries), rows("search", "keys", keys)
    asked = asked[None] if asked.ndim == 1 else asked
    if asked.dtype != given.dtype:
        dtype = torch.promote_types(_real(asked), _real(given))
        asked, given = asked.to(dtype), given.to(dtype)
    raw = _OPS.dots(asked, given, ids)
    if metric == "cosine":
        norms = torch.linalg.vector_norm(given.to(raw.dtype), dim=-1)
        own = torch.linalg.vector_norm(asked.to(raw.dtype), dim=-1, keepdim=True)
        product = own * take(norms, ids)
        raw = torch.where(product == 0, 0, raw / torch.where(product == 0, 1, product))
    elif metric == "l2":
        squares = (given.to(raw.dtype) ** 2).sum(-1)
        raw = 2 * raw - (asked.to(raw.dtype) ** 2).sum(-1, keepdim=True) - take(squares, ids)
    if scale is not None:
        raw = take(rows("search", "scale", scale), ids) * raw
    if bias is not None:
        raw = raw + take(rows("search", "bias", bias), ids)
    # The values stay the canonical ones, to the bit: what is added is 0.
    is_sound = (ids >= 0) & torch.isfinite(raw)
    return scores + torch.where(is_sound, raw - raw.detach(), 0).to(scores.dtype)

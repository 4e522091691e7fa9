"""The ops of `autograd` and `autograd_queue` on a device: tensors in, new tensors out, by kernels.

Each function runs the op of its name where tensors are in GPU memory. Nothing waits for the device:
an id that names no row adds nothing, and a query that is not finite finds nothing.
"""

from typing import Any

import torch

from memcore.backends import engine
from memcore.errors import in_room

Tensor = Any


def real(rows: Tensor) -> Any:
    """The dtype in which products with these rows are made."""
    return torch.float64 if rows.dtype is torch.float64 else torch.float32


@in_room("select")
def select(
    queries: Tensor, keys: Tensor, k: int, beta: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Ids (…, n_queries, k) of the k best keys by canonical logits; see `products.select`."""
    ids = torch.empty((*queries.shape[:-1], int(k)), dtype=torch.int64, device=queries.device)
    asked, rows = (x.to(torch.float32) if real(x) is torch.float64 else x for x in (queries, keys))
    slopes, offset = beta.to(torch.float32), None if bias is None else bias.to(torch.float32)
    engine("select", "triton")(asked, rows, int(k), slopes, offset, mask, ids)
    return ids


@in_room("dots")
def dots(queries: Tensor, keys: Tensor, ids: Tensor) -> Tensor:
    """Dot products (…, n_queries, n_ids) with the keys that ids name, 0 where there is none."""
    scores = queries.new_empty(ids.shape, dtype=real(queries))
    engine("dots", "triton")(queries, keys, ids, scores)
    return scores


@in_room("aggregate")
def aggregate(weights: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    """Weighted sums (…, n_queries, dim) of the values that ids name."""
    out = values.new_empty((*ids.shape[:-1], values.shape[-1]), dtype=real(values))
    engine("aggregate", "triton")(weights, values, ids, out)
    return out


@in_room("scatter")
def scatter(weights: Tensor, rows: Tensor, ids: Tensor, n_sums: int) -> Tensor:
    """Sums (…, n_sums, dim) of the rows (…, n_queries, dim) by weight: `aggregate` transposed."""
    sums = rows.new_empty((*ids.shape[:-2], int(n_sums), rows.shape[-1]), dtype=real(rows))
    engine("scatter", "triton")(weights, rows, ids, int(n_sums), sums)
    return sums


@in_room("attend")
def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    beta: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Softmax over all keys: the read (…, n_queries, value_dim), of width 0 without values; lse."""
    lse = queries.new_empty(queries.shape[:-1], dtype=real(queries))
    out = lse.new_empty((*lse.shape, 0 if values is None else values.shape[-1]))
    read = None if values is None else out
    engine("attend", "triton")(queries, keys, values, beta, bias, mask, None, read, lse)
    return out, lse


@in_room("attend_backward")
def attend_backward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor | None,
    beta: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    lse: Tensor,
    out_grad: Tensor | None,
    shift: Tensor,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """The gradients of queries, keys, values, beta and bias that are wanted, the others empty."""
    like = (queries, keys, values, beta, keys[..., 0])
    dtypes = (lse.dtype, lse.dtype, lse.dtype, torch.float64, lse.dtype)
    grads = [
        lse.new_empty(rows.shape, dtype=dtype) if want and rows is not None else None
        for rows, dtype, want in zip(like, dtypes, wanted, strict=True)
    ]
    *first, beta_grad, bias_grad = grads
    engine("attend_backward", "triton")(
        queries, keys, values, beta, bias, mask, None, lse, out_grad, shift, *first, bias_grad,
        beta_grad,
    )  # fmt: skip
    return tuple(lse.new_empty(0) if grad is None else grad for grad in grads)


def log_sum_exp(
    op: str,
    queries: Tensor,
    keys: Tensor,
    beta: float,
    bias: Tensor | None,
    metric: str,
    wants_mean: bool,
) -> tuple[Tensor, Tensor]:
    """As `losses.streamed`: lse (…, n_queries) and the softmax mean of the keys, or width 0."""
    lse = queries.new_empty(queries.shape[:-1], dtype=real(queries))
    mean = lse.new_empty((*lse.shape, keys.shape[-1] if wants_mean else 0))
    slopes = torch.full(queries.shape[:-2], beta, dtype=torch.float64, device=lse.device)
    values, read = (keys, mean) if wants_mean else (None, None)
    engine("attend", "triton")(
        queries, keys, values, slopes, bias, None, None, read, lse, metric=metric
    )
    return lse, mean


def log_sum_exp_backward(
    queries: Tensor,
    keys: Tensor,
    beta: float,
    bias: Tensor | None,
    metric: str,
    lse: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor]:
    """As `losses.key_gradients`: those of keys and bias, the keys streamed again."""
    slopes = torch.full(queries.shape[:-2], beta, dtype=torch.float64, device=lse.device)
    key_grad = lse.new_empty(keys.shape)
    bias_grad = lse.new_empty(keys.shape[:-1])
    engine("attend_backward", "triton")(
        queries, keys, None, slopes, bias, None, None, lse, None, -grad, None, key_grad, None,
        bias_grad, None, metric=metric,
    )  # fmt: skip
    return key_grad, bias_grad


@in_room("gather")
def gather(values: Tensor, ids: Tensor) -> Tensor:
    """The values (n, …) that ids name; zeros where there is none."""
    row = values.shape[1:]
    if len(values) == 0:
        return values.new_zeros((*ids.shape, *row))
    is_held = (ids >= 0) & (ids < len(values))
    found = values[torch.where(is_held, ids, 0)]
    return found.masked_fill_(~is_held.reshape((*ids.shape, *(1,) * len(row))), 0)


@in_room("gather_backward")
def gather_backward(grad: Tensor, ids: Tensor, n: int) -> Tensor:
    """Sums (n, …) of the rows of grad that ids name, in their order, in float32 or float64."""
    row = grad.shape[ids.ndim :]
    flat, named = grad.reshape(ids.numel(), row.numel()), ids.reshape(-1, 1)
    ones = torch.ones(named.shape, dtype=real(grad), device=grad.device)
    return scatter(ones, flat, named, n).to(grad.dtype).reshape((int(n), *row))

"""Attention over torch tensors, with gradients: the names and parameters of `products`.

Imported when a tensor that needs a gradient, or lies on a device, comes by.
"""

from typing import Any

import torch

from memcore import arrays, tensors
from memcore.autograd_ops import OPS, real

Tensor = Any


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


def numbers(op: str, name: str, array: Any) -> Tensor:
    """Weights, reads or logarithms: float32, or float64 where they are."""
    found = rows(op, name, array)
    return found.to(real(found))


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
    return rows(op, "bias", bias).to(real(like))


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
        ids = OPS.select(queries, keys, k, beta, bias, mask)
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
    raw = OPS.dots(queries, keys, ids)
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
    ones = torch.ones_like(flat, dtype=real(items))
    return OPS.aggregate(ones, items[..., None], flat).reshape(shape)


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
    return OPS.aggregate(weights, values, ids)


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
    out, lse = OPS.attend(queries, keys, values, beta, bias, mask)
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
    chosen = torch.gather(given, 1, ids.clamp(min=0)).to(real(given))
    is_sound = (ids >= 0) & torch.isfinite(chosen)
    return best + torch.where(is_sound, chosen - chosen.detach(), 0).to(best.dtype)


def attach(
    scores: Tensor, ids: Tensor, queries: Any, keys: Any, metric: str, scale: Any, bias: Any
) -> Tensor:
    """The scores (n_queries, k) of a search, with the gradients of what they are scores of."""
    asked, given = rows("search", "queries", queries), rows("search", "keys", keys)
    asked = asked[None] if asked.ndim == 1 else asked
    if asked.dtype != given.dtype:
        dtype = torch.promote_types(real(asked), real(given))
        asked, given = asked.to(dtype), given.to(dtype)
    raw = OPS.dots(asked, given, ids)
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

"""select: the k best keys of each query, for the attention that reads these alone."""

from typing import NamedTuple

import torch
import triton

from . import batches
from .layout import Rows, over
from .search import MAX_KEPT, MIN_KEYS, MIN_QUERIES, merge, room, search
from .workspace import blocks, n_kept, parts, splits


class Logits(NamedTuple):
    """What the logits of some batches are made of; arguments as `select`."""

    queries: torch.Tensor
    keys: torch.Tensor
    beta: torch.Tensor
    bias: torch.Tensor | None
    mask: torch.Tensor | None

    def of(self, block: tuple[slice, ...]) -> "Logits":
        """The same for some batches, and some of the queries of each."""
        batches_of = block[:-1]
        bias = None if self.bias is None else self.bias[batches_of]
        mask = None if self.mask is None else self.mask[block]
        return Logits(self.queries[block], self.keys[batches_of], self.beta[batches_of], bias, mask)


def select(
    queries: torch.Tensor,
    keys: torch.Tensor,
    k: int,
    beta: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    ids: torch.Tensor,
) -> None:
    """Write the ids of the k best keys by canonical logits into ids (…, n_queries, k).

    One launch serves all batches, if there is room. Where a batch by itself is large enough for the
    first pass of `search`, or k too large for a scan, batches are searched one after the other.

    Args:
        queries: (…, n_queries, dim); one that may not be asked finds nothing.
        keys: (…, n_keys, dim).
        k: hits of a query.
        beta: (…) float32; a logit is its product with the score, rounded, plus the bias.
        bias: (…, n_keys) float32 or None: then the order is that of the scores.
        mask: (…, n_queries, n_keys) bool or None, True for keys that count.
        ids: int64, contiguous; -1 pads.
    """
    if not ids.numel():
        return
    logits = Logits(queries, keys, beta, bias, mask)
    is_large = queries.shape[-2] >= MIN_QUERIES and keys.shape[-2] >= MIN_KEYS
    if is_large or k > MAX_KEPT or ids.ndim == 2:
        _one_by_one(logits, ids)
        return
    for block in blocks(ids.shape[:-1], 12 * n_kept(k) + 4 * k):
        _scan(logits.of(block), ids[block])


def _scan(logits: Logits, ids: torch.Tensor) -> None:
    queries, keys, beta, bias, mask = logits
    k = ids.shape[-1]
    asked, held = Rows.of(queries), Rows.of(keys)
    biases = None if bias is None else Rows.of(bias[..., None, :])
    masks = None if mask is None else Rows.of(mask)
    n_at_once = min(4, triton.next_power_of_2(asked.n))
    n_programs = asked.n_batches * triton.cdiv(asked.n, n_at_once)
    kept = n_kept(k)
    n_splits = splits(n_programs, held.n, kept)
    best, best_ids = room(ids, asked.n_batches * asked.n, n_splits, kept)
    batches.scan_kernel[(n_programs, n_splits)](
        over(asked, held, None, beta, biases, masks, None),
        best,
        best_ids,
        n_splits,
        Q=n_at_once,
        N=64 if n_at_once > 1 else 128,
        K=kept,
        enable_fp_fusion=False,
    )
    scores = best.new_empty((len(best), k), dtype=torch.float32)
    merge(best, best_ids, None, None, scores, ids.view(-1, k))


def _one_by_one(logits: Logits, ids: torch.Tensor) -> None:
    queries, keys, beta, bias, mask = logits
    lead, k = ids.shape[:-2], ids.shape[-1]
    # A search takes most of the workspace; the scores, which nobody asked for, an eighth.
    turns = [*parts(ids.shape[-2], 24 * k)]
    scores = ids.new_empty((turns[0].stop, k), dtype=torch.float32)
    for at in range(lead.numel()):
        batch = _place(at, lead)
        allowed = None if mask is None else mask[batch]
        if allowed is not None and allowed.stride(0) == 0 and len(allowed):
            allowed = allowed[0]
        scale = offset = None
        if bias is not None:
            scale = beta[batch].expand(keys.shape[-2]).contiguous()
            offset = bias[batch].contiguous()
        for part in turns:
            some, hits = queries[batch][part], ids[batch][part]
            own = allowed if allowed is None or allowed.ndim == 1 else allowed[part]
            weights = (own, None, scale, offset)
            bounds = (-torch.inf, torch.inf, None)
            given = (some, keys[batch], None, None, k, "dot", *weights, *bounds)
            search(*given, scores[: len(some)], hits)


def _place(at: int, shape: torch.Size) -> tuple[int, ...]:
    """The index of the at-th place of a shape."""
    place = []
    for size in reversed(shape):
        place.append(at % size)
        at //= size
    return tuple(reversed(place))

"""The k best keys of each query of many batches, by canonical logits, in one launch.

As the scan of `scan.py`, but that each batch has keys, a beta, biases and a mask of its own.
"""

import triton
import triton.language as tl

from .canonical import squares, sums
from .order import NOTHING, to_key
from .scan import keep_best
from .tiles import rows_of


@triton.jit
def scan_kernel(
    given,
    parts_ptr,
    part_ids_ptr,
    n_splits,
    Q: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Search Q queries of a batch in one split of its keys; parts hold the best.

    Args beside sizes:
        given: an `layout.AttentionView`, beta float32 and read only where there is a bias.
        parts_ptr, part_ids_ptr: (n_batches, n_queries, n_splits, K).
    """
    n_queries, n_keys, dim = given.n_queries, given.n_keys, given.dim
    n_tiles = tl.cdiv(n_queries, Q)
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    query = (tl.program_id(0) % n_tiles) * Q + tl.arange(0, Q)
    is_query = query < n_queries
    asked = rows_of(given.queries, batch, given.inner)
    asked += query.to(tl.int64) * given.queries.stride
    keys = rows_of(given.keys, batch, given.inner)
    # False for NaN: a query that may not be asked finds nothing.
    may_ask = is_query & (squares(asked, is_query, 1, dim, Q) <= 1e36)
    share = tl.cdiv(tl.cdiv(n_keys, n_splits), N) * N
    best = tl.full((Q, K), NOTHING, tl.int32)
    best_ids = tl.full((Q, K), -1, tl.int32)
    for first in range(split * share, tl.minimum((split + 1) * share, n_keys), N):
        place = first + tl.arange(0, N)
        is_key = place < n_keys
        key = place.to(tl.int64)
        rows = keys + key * given.keys.stride
        logits = sums(asked, may_ask, 1, rows, is_key, 1, dim, False, Q, N)
        if given.bias is not None:
            biases = rows_of(given.bias, batch, given.inner)
            bias = tl.load(biases + key, mask=is_key, other=0)
            logits = tl.load(given.beta + batch) * logits + bias[None, :]
        logits = logits + 0.0
        # False for NaN.
        counts = may_ask[:, None] & is_key[None, :] & (logits == logits)
        if given.mask is not None:
            masks = rows_of(given.mask, batch, given.inner)
            at = masks + query[:, None].to(tl.int64) * given.mask.stride + key[None, :]
            counts = counts & tl.load(at, mask=counts, other=0).to(tl.int1)
        ids = tl.broadcast_to(place[None, :], (Q, N))
        ranked = tl.where(counts, to_key(logits), NOTHING)
        best, best_ids = keep_best(best, best_ids, ranked, ids, Q, N, K)
    slot = tl.arange(0, K)
    out = ((batch * n_queries + query) * n_splits + split)[:, None] * K + slot[None, :]
    tl.store(parts_ptr + out, best, mask=is_query[:, None])
    tl.store(part_ids_ptr + out, best_ids.to(tl.int64), mask=is_query[:, None])

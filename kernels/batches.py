"""The k best keys of each query of many batches, by canonical logits, in one launch.

As the scan of `scan.py`, but that each batch has keys, a beta, biases and a mask of its own.
"""

import triton
import triton.language as tl

from .canonical import squares, sums
from .named import of_batch
from .order import NOTHING, to_key
from .scan import keep_best


@triton.jit
def scan_kernel(
    queries_ptr,
    query_outer,
    query_inner,
    query_stride,
    keys_ptr,
    key_outer,
    key_inner,
    key_stride,
    beta_ptr,
    bias_ptr,
    bias_outer,
    bias_inner,
    mask_ptr,
    mask_outer,
    mask_inner,
    mask_stride,
    parts_ptr,
    part_ids_ptr,
    inner,
    n_queries,
    n_keys,
    dim,
    n_splits,
    Q: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Search Q queries of a batch in one split of its keys; parts hold the best.

    Args beside rows, which come with strides from batch to batch, counted over (outer, inner):
        beta_ptr: (n_batches,) float32; read only where there is a bias.
        mask_ptr: (n_batches, n_queries, n_keys) bool, by strides, or None.
        parts_ptr, part_ids_ptr: (n_batches, n_queries, n_splits, K).
    """
    n_tiles = tl.cdiv(n_queries, Q)
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    query = (tl.program_id(0) % n_tiles) * Q + tl.arange(0, Q)
    is_query = query < n_queries
    asked = of_batch(queries_ptr, batch, inner, query_outer, query_inner)
    asked += query.to(tl.int64) * query_stride
    keys = of_batch(keys_ptr, batch, inner, key_outer, key_inner)
    # False for NaN: a query that may not be asked finds nothing.
    may_ask = is_query & (squares(asked, is_query, 1, dim, Q) <= 1e36)
    share = tl.cdiv(tl.cdiv(n_keys, n_splits), N) * N
    best = tl.full((Q, K), NOTHING, tl.int32)
    best_ids = tl.full((Q, K), -1, tl.int32)
    for first in range(split * share, tl.minimum((split + 1) * share, n_keys), N):
        place = first + tl.arange(0, N)
        is_key = place < n_keys
        key = place.to(tl.int64)
        logits = sums(asked, may_ask, 1, keys + key * key_stride, is_key, 1, dim, False, Q, N)
        if bias_ptr is not None:
            biases = of_batch(bias_ptr, batch, inner, bias_outer, bias_inner)
            bias = tl.load(biases + key, mask=is_key, other=0)
            logits = tl.load(beta_ptr + batch) * logits + bias[None, :]
        logits = logits + 0.0
        # False for NaN.
        counts = may_ask[:, None] & is_key[None, :] & (logits == logits)
        if mask_ptr is not None:
            masks = of_batch(mask_ptr, batch, inner, mask_outer, mask_inner)
            at = masks + query[:, None].to(tl.int64) * mask_stride + key[None, :]
            counts = counts & tl.load(at, mask=counts, other=0).to(tl.int1)
        ids = tl.broadcast_to(place[None, :], (Q, N))
        ranked = tl.where(counts, to_key(logits), NOTHING)
        best, best_ids = keep_best(best, best_ids, ranked, ids, Q, N, K)
    slot = tl.arange(0, K)
    out = ((batch * n_queries + query) * n_splits + split)[:, None] * K + slot[None, :]
    tl.store(parts_ptr + out, best, mask=is_query[:, None])
    tl.store(part_ids_ptr + out, best_ids.to(tl.int64), mask=is_query[:, None])

"""Softmax over all keys in tiles, forward: no array of n_queries x n_keys anywhere.

A program keeps a running maximum and sum (Milakov and Gimelshein, arXiv 1805.02867), and a read.
"""

import triton
import triton.language as tl

from .named import of_batch
from .tiles import LN2, tile_logits, tile_of, weigh


@triton.jit
def attend_kernel(
    queries_ptr,
    query_outer,
    query_inner,
    query_stride,
    keys_ptr,
    key_outer,
    key_inner,
    key_stride,
    values_ptr,
    value_outer,
    value_inner,
    value_stride,
    beta_ptr,
    bias_ptr,
    bias_outer,
    bias_inner,
    mask_ptr,
    mask_outer,
    mask_inner,
    mask_stride,
    exclude_ptr,
    reads_ptr,
    lses_ptr,
    inner,
    n_batches,
    n_queries,
    n_keys,
    dim,
    value_dim,
    n_splits,
    IS_L2: tl.constexpr,
    IS_CAREFUL: tl.constexpr,
    KIND: tl.constexpr,
    VALUE_KIND: tl.constexpr,
    REAL: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
):
    """The read of Q queries over one split of the keys, in V columns, and its log-sum-exp.

    Args beside rows, which come with strides from batch to batch, counted over (outer, inner):
        beta_ptr: (n_batches,) float64.
        mask_ptr: (n_batches, n_queries, n_keys) bool, by strides, or None.
        exclude_ptr: (n_batches, n_queries) int64, one key that does not count; or None.
        reads_ptr, lses_ptr: (n_splits, n_batches, n_queries, value_dim) and without value_dim.
        IS_CAREFUL: only where a read holds NaN, and then without products of what does not count.
    """
    n_tiles = tl.cdiv(n_queries, Q)
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    query = (tl.program_id(0) % n_tiles) * Q + tl.arange(0, Q)
    is_query = query < n_queries
    column = tl.program_id(2) * V + tl.arange(0, V)
    row = (split * n_batches + batch) * n_queries + query
    if IS_CAREFUL:
        place = reads_ptr + row[:, None] * value_dim + column[None, :]
        inside = is_query[:, None] & (column < value_dim)[None, :]
        read = tl.load(place, mask=inside, other=0)
        if tl.max(tl.max((read != read).to(tl.int32), 1), 0) == 0:
            return

    queries = of_batch(queries_ptr, batch, inner, query_outer, query_inner)
    keys = of_batch(keys_ptr, batch, inner, key_outer, key_inner)
    values = values_ptr
    if values_ptr is not None:
        values = of_batch(values_ptr, batch, inner, value_outer, value_inner)
    beta = tl.load(beta_ptr + batch).to(REAL)

    query = query.to(tl.int64)
    largest = tl.full((Q,), float("-inf"), REAL)
    powers = tl.zeros((Q,), REAL)
    read = tl.zeros((Q, V), REAL)
    share = tl.cdiv(tl.cdiv(n_keys, n_splits), N) * N
    for first in range(split * share, tl.minimum((split + 1) * share, n_keys), N):
        key = (first + tl.arange(0, N)).to(tl.int64)
        is_key = key < n_keys
        _, logits = tile_logits(
            queries,
            query,
            is_query,
            query_stride,
            keys,
            key,
            is_key,
            key_stride,
            beta,
            bias_ptr,
            bias_outer,
            bias_inner,
            mask_ptr,
            mask_outer,
            mask_inner,
            mask_stride,
            exclude_ptr,
            batch,
            inner,
            n_queries,
            dim,
            IS_L2,
            KIND,
            REAL,
            Q,
            N,
            DIM,
            D,
        )
        top = tl.maximum(largest, tl.max(logits, 1))
        shift = tl.where(top == float("-inf"), 0.0, top)
        weights = tl.exp2(logits - shift[:, None])
        fade = tl.exp2(largest - shift)
        powers = powers * fade + tl.sum(weights, 1)
        largest = top
        if values_ptr is not None:
            rows = tile_of(values, key, is_key, value_stride, column, value_dim)  # (N, V)
            read = weigh(weights, rows, read * fade[:, None], IS_CAREFUL, VALUE_KIND, REAL, N)

    found = powers != 0
    divisor = tl.where(found, powers, 1.0)
    if tl.program_id(2) == 0:
        lse = tl.where(found, (largest + tl.log2(divisor)) * LN2, float("-inf"))
        tl.store(lses_ptr + row, lse, mask=is_query)
    if values_ptr is not None:
        place = reads_ptr + row[:, None] * value_dim + column[None, :]
        inside = is_query[:, None] & (column < value_dim)[None, :]
        tl.store(place, read / divisor[:, None], mask=inside)

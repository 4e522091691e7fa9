"""Softmax over all keys in tiles, forward: no array of n_queries x n_keys anywhere.

A program keeps a running maximum and sum (Milakov and Gimelshein, arXiv 1805.02867), and a read.
"""

import triton
import triton.language as tl

from .tiles import LN2, rows_of, tile_logits, tile_of, weigh


@triton.jit
def attend_kernel(
    given,
    reads_ptr,
    lses_ptr,
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

    Args beside sizes:
        given: an `layout.AttentionView`, beta float64.
        reads_ptr, lses_ptr: (n_splits, n_batches, n_queries, value_dim) and without value_dim.
        IS_CAREFUL: only where a read holds NaN, and then without products of what does not count.
    """
    n_tiles = tl.cdiv(given.n_queries, Q)
    value_dim = given.value_dim
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    query = (tl.program_id(0) % n_tiles) * Q + tl.arange(0, Q)
    is_query = query < given.n_queries
    column = tl.program_id(2) * V + tl.arange(0, V)
    row = (split * given.n_batches + batch) * given.n_queries + query
    if IS_CAREFUL:
        place = reads_ptr + row[:, None] * value_dim + column[None, :]
        inside = is_query[:, None] & (column < value_dim)[None, :]
        read = tl.load(place, mask=inside, other=0)
        if tl.max(tl.max((read != read).to(tl.int32), 1), 0) == 0:
            return

    queries = rows_of(given.queries, batch, given.inner)
    keys = rows_of(given.keys, batch, given.inner)
    values = None
    if given.contents is not None:
        values = rows_of(given.contents, batch, given.inner)
    beta = tl.load(given.beta + batch).to(REAL)

    query = query.to(tl.int64)
    largest = tl.full((Q,), float("-inf"), REAL)
    powers = tl.zeros((Q,), REAL)
    read = tl.zeros((Q, V), REAL)
    share = tl.cdiv(tl.cdiv(given.n_keys, n_splits), N) * N
    for first in range(split * share, tl.minimum((split + 1) * share, given.n_keys), N):
        key = (first + tl.arange(0, N)).to(tl.int64)
        is_key = key < given.n_keys
        _, logits = tile_logits(
            given, batch, queries, query, is_query, keys, key, is_key, beta, IS_L2, KIND, REAL,
            Q, N, DIM, D,
        )  # fmt: skip
        top = tl.maximum(largest, tl.max(logits, 1))
        shift = tl.where(top == float("-inf"), 0.0, top)
        weights = tl.exp2(logits - shift[:, None])
        fade = tl.exp2(largest - shift)
        powers = powers * fade + tl.sum(weights, 1)
        largest = top
        if given.contents is not None:
            rows = tile_of(values, key, is_key, given.contents.stride, column, value_dim)  # (N, V)
            read = weigh(weights, rows, read * fade[:, None], IS_CAREFUL, VALUE_KIND, REAL, N)

    found = powers != 0
    divisor = tl.where(found, powers, 1.0)
    if tl.program_id(2) == 0:
        lse = tl.where(found, (largest + tl.log2(divisor)) * LN2, float("-inf"))
        tl.store(lses_ptr + row, lse, mask=is_query)
    if given.contents is not None:
        place = reads_ptr + row[:, None] * value_dim + column[None, :]
        inside = is_query[:, None] & (column < value_dim)[None, :]
        tl.store(place, read / divisor[:, None], mask=inside)

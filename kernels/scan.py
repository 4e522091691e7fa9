"""The exact scan: canonical scores of every allowed pair, the best kept in registers.

What every other way of searching falls back to, and what runs where keys are few, named or masked
by query. Each program keeps the best of one split of the keys; `merge` joins the splits.
"""

import triton
import triton.language as tl

from .canonical import scores, squares, sums
from .order import NOTHING, to_key, to_score


@triton.jit
def norms_kernel(
    rows_ptr, row_stride, column_stride, squares_ptr, norms_ptr, n_rows, dim, ROWS: tl.constexpr
):
    """The canonical square and norm of each row."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    square = squares(rows_ptr + row * row_stride, row < n_rows, column_stride, dim, ROWS)
    tl.store(squares_ptr + row, square, mask=row < n_rows)
    tl.store(norms_ptr + row, tl.sqrt_rn(square), mask=row < n_rows)


@triton.jit
def score_tile(
    queries_ptr,
    query_row_stride,
    query_stride,
    query,
    is_query,
    query_norm,
    keys_ptr,
    key_row_stride,
    key_stride,
    key_norms_ptr,
    place,
    is_key,
    mask_ptr,
    mask_row_stride,
    mask_stride,
    scale_ptr,
    bias_ptr,
    low,
    high,
    dim,
    METRIC: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
):
    """The final scores of queries (Q,) and places (N,) as keys; NOTHING where not allowed."""
    total = sums(
        queries_ptr + query * query_row_stride,
        is_query,
        query_stride,
        keys_ptr + place * key_row_stride,
        is_key,
        key_stride,
        dim,
        METRIC == "l2",
        Q,
        N,
    )
    key_norm = tl.zeros((N,), tl.float32)
    if METRIC == "cosine":
        key_norm = tl.load(key_norms_ptr + place, mask=is_key, other=0)
    final = scores(total, query_norm, key_norm, METRIC)
    if scale_ptr is not None:
        final = tl.load(scale_ptr + place, mask=is_key, other=1)[None, :] * final
    if bias_ptr is not None:
        final = final + tl.load(bias_ptr + place, mask=is_key, other=0)[None, :]
    final = final + 0.0
    # False for NaN, whatever the bounds.
    allowed = is_query[:, None] & is_key[None, :] & (final >= low) & (final <= high)
    if mask_ptr is not None:
        allowed = allowed & tl.load(
            mask_ptr + query[:, None] * mask_row_stride + place[None, :] * mask_stride,
            mask=allowed,
            other=0,
        ).to(tl.int1)
    return tl.where(allowed, to_key(final), NOTHING)


@triton.jit
def range_of(query, begins_ptr, ends_ptr, named_ptr, n_keys, n_named):
    """The positions of what a query may see: in the list of its keys, or in all keys."""
    begin = tl.zeros((), tl.int64)
    end = begin + n_keys
    if named_ptr is not None:
        end = begin + n_named
    elif begins_ptr is not None:
        begin = tl.maximum(tl.load(begins_ptr + query), 0)
        end = tl.minimum(tl.load(ends_ptr + query), end)
    return begin, end


@triton.jit
def places_of(query, begins_ptr, ends_ptr, named_ptr, first, end, n_keys, n_named, N: tl.constexpr):
    """The keys at positions first to first + N of what a query may see, and which of them are."""
    place = first + tl.arange(0, N)
    is_key = place < end
    if named_ptr is not None:
        place = tl.load(named_ptr + query * n_named + place, mask=is_key, other=-1)
        is_key = (place >= 0) & (place < n_keys)
        if begins_ptr is not None:
            is_key = is_key & (place >= tl.load(begins_ptr + query))
            is_key = is_key & (place < tl.load(ends_ptr + query))
        place = tl.where(is_key, place, 0)
    return place, is_key


@triton.jit
def keep_best(best, best_ids, keys, ids, Q: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """Put the better of keys (Q, N) into best (Q, K): as long as any beats the worst, one a row.

    Ids (Q, N) must be larger than all before, so that a tie never replaces what is there.
    """
    place = tl.arange(0, N)[None, :]
    slot = tl.arange(0, K)[None, :]
    worst = tl.min(best, 1)
    top = tl.max(keys, 1)
    while tl.max((top > worst).to(tl.int32), 0) > 0:
        at = tl.argmax(keys, 1)[:, None]
        taken = (place == at) & (top > worst)[:, None]
        id = tl.sum(tl.where(taken, ids, 0), 1)
        # Of equal worst ones, the one with the largest id goes.
        out = tl.argmax(tl.where(best == worst[:, None], best_ids, -2), 1)[:, None]
        filled = (slot == out) & (top > worst)[:, None]
        best = tl.where(filled, top[:, None], best)
        best_ids = tl.where(filled, id[:, None], best_ids)
        keys = tl.where(taken, NOTHING, keys)
        worst = tl.min(best, 1)
        top = tl.max(keys, 1)
    return best, best_ids


@triton.jit
def scan_kernel(
    queries_ptr,
    query_row_stride,
    query_stride,
    query_squares_ptr,
    keys_ptr,
    key_row_stride,
    key_stride,
    key_norms_ptr,
    needed_ptr,
    begins_ptr,
    ends_ptr,
    named_ptr,
    mask_ptr,
    mask_row_stride,
    mask_stride,
    scale_ptr,
    bias_ptr,
    low,
    high,
    parts_ptr,
    part_ids_ptr,
    n_queries,
    n_keys,
    n_named,
    dim,
    n_splits,
    METRIC: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Search Q queries in one split of their keys; parts (n_queries, n_splits, K) hold the best.

    Args beside arrays and strides:
        needed_ptr: (n_queries,) bool, which queries to search; None for all.
        begins_ptr, ends_ptr: (n_queries,) int64, the keys of each query; None for all keys. Q is 1.
        named_ptr: (n_queries, n_named) int64 in rising order, the keys of each query, -1 to skip;
            else None. Q is 1.
    """
    query = tl.program_id(0).to(tl.int64) * Q + tl.arange(0, Q)
    split = tl.program_id(1)
    is_query = query < n_queries
    if needed_ptr is not None:
        is_query = is_query & tl.load(needed_ptr + query, mask=is_query, other=0).to(tl.int1)
    if tl.max(is_query.to(tl.int32), 0) == 0:
        return
    begin, end = range_of(tl.program_id(0), begins_ptr, ends_ptr, named_ptr, n_keys, n_named)
    share = tl.cdiv(tl.cdiv(end - begin, n_splits), N) * N
    begin = begin + split * share
    end = tl.minimum(end, begin + share)

    query_square = tl.load(query_squares_ptr + query, mask=is_query, other=0)
    # False for NaN: a query that may not be asked finds nothing.
    is_query = is_query & (query_square <= 1e36)
    query_norm = tl.sqrt_rn(query_square)
    best = tl.full((Q, K), NOTHING, tl.int32)
    best_ids = tl.full((Q, K), -1, tl.int64)
    for first in range(begin, end, N):
        place, is_key = places_of(
            tl.program_id(0).to(tl.int64),
            begins_ptr,
            ends_ptr,
            named_ptr,
            first,
            end,
            n_keys,
            n_named,
            N,
        )
        key = score_tile(
            queries_ptr,
            query_row_stride,
            query_stride,
            query,
            is_query,
            query_norm,
            keys_ptr,
            key_row_stride,
            key_stride,
            key_norms_ptr,
            place,
            is_key,
            mask_ptr,
            mask_row_stride,
            mask_stride,
            scale_ptr,
            bias_ptr,
            low,
            high,
            dim,
            METRIC,
            Q,
            N,
        )
        ids = tl.broadcast_to(place[None, :], (Q, N))
        best, best_ids = keep_best(best, best_ids, key, ids, Q, N, K)
    out = (query[:, None] * n_splits + split) * K + tl.arange(0, K)[None, :]
    tl.store(parts_ptr + out, best, mask=(query < n_queries)[:, None])
    tl.store(part_ids_ptr + out, best_ids, mask=(query < n_queries)[:, None])


@triton.jit
def pairs_kernel(
    queries_ptr,
    query_row_stride,
    query_stride,
    query_squares_ptr,
    keys_ptr,
    key_row_stride,
    key_stride,
    key_norms_ptr,
    begins_ptr,
    ends_ptr,
    named_ptr,
    mask_ptr,
    mask_row_stride,
    mask_stride,
    scale_ptr,
    bias_ptr,
    low,
    high,
    pairs_ptr,
    n_keys,
    n_named,
    n_columns,
    dim,
    METRIC: tl.constexpr,
    N: tl.constexpr,
):
    """The keys of all pairs, (n_queries, n_columns): what is sorted where k is large."""
    query = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    begin, end = range_of(tl.program_id(0), begins_ptr, ends_ptr, named_ptr, n_keys, n_named)
    tile = tl.program_id(1).to(tl.int64) + tl.program_id(2) * tl.num_programs(1)
    place, is_key = places_of(
        tl.program_id(0).to(tl.int64),
        begins_ptr,
        ends_ptr,
        named_ptr,
        begin + tile * N,
        end,
        n_keys,
        n_named,
        N,
    )
    query_square = tl.load(query_squares_ptr + query)
    key = score_tile(
        queries_ptr,
        query_row_stride,
        query_stride,
        query,
        query_square <= 1e36,
        tl.sqrt_rn(query_square),
        keys_ptr,
        key_row_stride,
        key_stride,
        key_norms_ptr,
        place,
        is_key,
        mask_ptr,
        mask_row_stride,
        mask_stride,
        scale_ptr,
        bias_ptr,
        low,
        high,
        dim,
        METRIC,
        1,
        N,
    )
    column = tile * N + tl.arange(0, N)
    out = pairs_ptr + query[:, None] * n_columns + column[None, :]
    tl.store(out, key, mask=(column < n_columns)[None, :])


@triton.jit
def merge_kernel(
    parts_ptr,
    part_ids_ptr,
    needed_ptr,
    widths_ptr,
    scores_ptr,
    ids_ptr,
    n_parts,
    width,
    N: tl.constexpr,
):
    """Write the best of parts (n_queries, n_parts), each at its rank: the number of better ones.

    Args beside arrays:
        needed_ptr: as for `scan_kernel`; what is not needed stays as it is.
        widths_ptr: (n_queries,) int64, the hits of each query; None for `width`.
    """
    query = tl.program_id(0).to(tl.int64)
    if needed_ptr is not None:
        if tl.load(needed_ptr + query) == 0:
            return
    k = tl.zeros((), tl.int64) + width
    if widths_ptr is not None:
        k = tl.load(widths_ptr + query)
    begin = query * n_parts
    n_found = tl.zeros((), tl.int64)
    for first in range(0, n_parts, N):
        place = first + tl.arange(0, N)
        key = tl.load(parts_ptr + begin + place, mask=place < n_parts, other=NOTHING)
        id = tl.load(part_ids_ptr + begin + place, mask=place < n_parts, other=-1)
        rank = tl.zeros((N,), tl.int64)
        for other_first in range(0, n_parts, N):
            other = other_first + tl.arange(0, N)
            other_key = tl.load(parts_ptr + begin + other, mask=other < n_parts, other=NOTHING)
            other_id = tl.load(part_ids_ptr + begin + other, mask=other < n_parts, other=-1)
            is_better = other_key[None, :] > key[:, None]
            is_before = (other_key[None, :] == key[:, None]) & (other_id[None, :] < id[:, None])
            rank += tl.sum((is_better | is_before).to(tl.int64), 1)
        found = (key != NOTHING) & (rank < k)
        n_found += tl.sum(found.to(tl.int64), 0)
        tl.store(scores_ptr + query * width + rank, to_score(key), mask=found)
        tl.store(ids_ptr + query * width + rank, id, mask=found)
    for first in range(n_found, width, N):
        column = first + tl.arange(0, N)
        tl.store(scores_ptr + query * width + column, float("-inf"), mask=column < width)
        tl.store(ids_ptr + query * width + column, -1, mask=column < width)

"""The scan over the banks of an arena, thousands in one launch: pages are found on the device.

Nothing is asked of the host but handles. From four fixed words (`root`) the kernels read where the
banks' heads, their tables and the directory of pages lie, so that all of them may grow, and banks
come and go, under a launch that was recorded before. A handle that names no bank finds nothing.
"""

import triton
import triton.language as tl

from .canonical import scores, sums
from .coded import code_sums
from .order import NOTHING, to_key
from .pages import LANES, ids_of, norms_of, rows_of
from .where import is_among, meets, number


@triton.jit
def bank_of(root, handle):
    """The rows of a bank, its table and the directory of pages; no rows where there is no bank.

    Of one handle, or of several.
    """
    heads = tl.load(root).to(tl.pointer_type(tl.int64))
    n_banks = tl.load(root + 1)
    tables = tl.load(root + 2).to(tl.pointer_type(tl.int32))
    directory = tl.load(root + 3).to(tl.pointer_type(tl.int64))
    index = handle & 0xFFFFFFFF
    is_bank = (handle >= 0) & (index < n_banks)
    head = heads + index * 3
    is_bank = is_bank & (tl.load(head, mask=is_bank, other=-1) == handle >> 32)
    n_rows = tl.load(head + 1, mask=is_bank, other=0)
    return n_rows, tables + tl.load(head + 2, mask=is_bank, other=0), directory


@triton.jit
def page_of(table, directory, row, is_row):
    """The addresses of the pages of rows (N,) of one bank."""
    return tl.load(directory + tl.load(table + row // LANES, mask=is_row, other=0), mask=is_row)


@triton.jit
def score_rows(
    pages,
    queries,
    query,
    is_query,
    query_norm,
    page,
    lane,
    is_row,
    limits,
    dim,
    METRIC: tl.constexpr,
    ITEM: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
):
    """The final scores of queries (Q,) and rows (N,) as keys (Q, N), and the rows' ids (N,).

    Args beside sizes:
        pages: an `arguments.PagesView`.
        queries: an `arguments.Matrix`, of which those at `query` (Q,) are asked.
        query_norm: (Q,), their canonical norms.
        page, lane: (N,), where the rows are.
        limits: an `arguments.LimitsView`.
    """
    id = tl.load(ids_of(pages.root, page, lane, pages.ids_at), mask=is_row, other=-1)
    if limits.programs is not None:
        program = tl.load(limits.programs.index + tl.program_id(0) * Q)
        if program >= 0:
            is_row = is_row & meets(pages, page, lane, is_row, limits.programs, program)
    if limits.candidates is not None:
        named = limits.candidates + tl.program_id(0).to(tl.int64) * limits.n_candidates
        is_row = is_row & is_among(id, named, limits.n_candidates)
    asked = queries.ptr + query * queries.row_stride
    if pages.books is None:
        rows = rows_of(pages.root, page, lane, dim, ITEM)
        total = sums(asked, is_query, queries.stride, rows, is_row, 1, dim, METRIC == "l2", Q, N)
    else:
        total = code_sums(
            asked, is_query, queries.stride, pages, page, lane, is_row, dim, METRIC == "l2", Q, N
        )
    norm = tl.zeros((N,), tl.float32)
    if METRIC == "cosine":
        norm = tl.load(norms_of(pages.root, page, lane, pages.ids_at), mask=is_row, other=0)
    final = scores(total, query_norm, norm, METRIC)
    if limits.scale is not None:
        final = number(pages, page, lane, is_row, limits.scale, 1.0)[None, :] * final
    if limits.bias is not None:
        final = final + number(pages, page, lane, is_row, limits.bias, 0.0)[None, :]
    final = final + 0.0
    # False for NaN, whatever the bounds.
    allowed = is_query[:, None] & is_row[None, :]
    allowed = allowed & (final >= limits.low) & (final <= limits.high)
    return tl.where(allowed, to_key(final), NOTHING), id


@triton.jit
def keep_best(best, best_ids, keys, ids, Q: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    """Put the better of keys (Q, N) into best (Q, K), equal ones by the smaller of ids (N,)."""
    slot = tl.arange(0, K)[None, :]
    named = tl.broadcast_to(ids[None, :], (Q, N))
    last: tl.constexpr = 2**63 - 1
    worst = tl.min(best, 1)
    top = tl.max(keys, 1)
    is_better = (top > NOTHING) & (top >= worst)
    while tl.max(is_better.to(tl.int32), 0) > 0:
        id = tl.min(tl.where(keys == top[:, None], named, last), 1)
        at = (keys == top[:, None]) & (named == id[:, None])
        # Of equal worst ones, the one with the largest id goes.
        worst_id = tl.max(tl.where(best == worst[:, None], best_ids, -2), 1)
        is_better = is_better & ((top > worst) | (id < worst_id))
        out = tl.argmax(tl.where(best == worst[:, None], best_ids, -2), 1)[:, None]
        filled = (slot == out) & is_better[:, None]
        best = tl.where(filled, top[:, None], best)
        best_ids = tl.where(filled, id[:, None], best_ids)
        keys = tl.where(at, NOTHING, keys)
        worst = tl.min(best, 1)
        top = tl.max(keys, 1)
        is_better = is_better & (top > NOTHING) & (top >= worst)
    return best, best_ids


@triton.jit
def paged_kernel(
    pages,
    handles_ptr,
    handle_stride,
    queries,
    query_squares_ptr,
    limits,
    needed_ptr,
    parts_ptr,
    part_ids_ptr,
    n_queries,
    dim,
    n_splits,
    METRIC: tl.constexpr,
    ITEM: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    ARE_FORKS: tl.constexpr = False,
):
    """Search Q queries in one split of their bank; parts (n_queries, n_splits, K) hold the best.

    Where Q is more than 1, all queries have one condition, and one handle, unless ARE_FORKS: then
    each has its own, and a page that lies at one place of several of their banks is loaded once.

    Args beside what `score_rows` takes:
        needed_ptr: (n_queries,) int8, which queries to search; None for all.
    """
    query = tl.program_id(0).to(tl.int64) * Q + tl.arange(0, Q)
    split = tl.program_id(1)
    is_query = query < n_queries
    if needed_ptr is not None:
        is_query = is_query & (tl.load(needed_ptr + query, mask=is_query, other=0) != 0)
        if tl.max(is_query.to(tl.int32), 0) == 0:
            return
    if ARE_FORKS:
        handle = tl.load(handles_ptr + query * handle_stride, mask=is_query, other=-1)
        ends, tables, directory = bank_of(pages.root, handle)
        end = tl.max(ends, 0)
    else:
        handle = tl.load(handles_ptr + tl.program_id(0).to(tl.int64) * Q * handle_stride)
        end, table, directory = bank_of(pages.root, handle)
    share = tl.cdiv(tl.cdiv(end, n_splits), N) * N
    begin = split * share
    end = tl.minimum(end, begin + share)

    square = tl.load(query_squares_ptr + query, mask=is_query, other=0)
    norm = tl.sqrt_rn(square)
    # False for NaN: a query that may not be asked finds nothing.
    is_query = is_query & (square <= 1e36)
    best = tl.full((Q, K), NOTHING, tl.int32)
    best_ids = tl.full((Q, K), -1, tl.int64)
    for first in range(begin, end, N):
        row = first + tl.arange(0, N)
        lane = row % LANES
        if ARE_FORKS:
            mine = (row[None, :] < ends[:, None]) & is_query[:, None]
            named = tl.load(tables[:, None] + (row // LANES)[None, :], mask=mine, other=-1)
            n_left = tl.sum(mine.to(tl.int32), 1)
            while tl.max(n_left, 0) > 0:
                # The pages of the longest bank that is left, for all whose rows here are in them.
                is_first = tl.arange(0, Q) == tl.argmax(n_left, 0)
                number = tl.max(tl.where(is_first[:, None], named, -1), 0)
                differs = mine & (named != number[None, :])
                is_asked = (n_left > 0) & (tl.max(differs.to(tl.int32), 1) == 0)
                n_left = tl.where(is_asked, 0, n_left)
                is_row = number >= 0
                page = tl.load(directory + number, mask=is_row, other=0)
                key, id = score_rows(
                    pages, queries, query, is_asked, norm, page, lane, is_row, limits, dim, METRIC,
                    ITEM, Q, N,
                )  # fmt: skip
                key = tl.where(mine, key, NOTHING)
                best, best_ids = keep_best(best, best_ids, key, id, Q, N, K)
        else:
            is_row = row < end
            page = page_of(table, directory, row, is_row)
            key, id = score_rows(
                pages, queries, query, is_query, norm, page, lane, is_row, limits, dim, METRIC,
                ITEM, Q, N,
            )  # fmt: skip
            best, best_ids = keep_best(best, best_ids, key, id, Q, N, K)
    out = (query[:, None] * n_splits + split) * K + tl.arange(0, K)[None, :]
    is_query = query < n_queries
    tl.store(parts_ptr + out, best, mask=is_query[:, None])
    tl.store(part_ids_ptr + out, best_ids, mask=is_query[:, None])


@triton.jit
def paged_pairs_kernel(
    pages,
    handles_ptr,
    handle_stride,
    queries,
    query_squares_ptr,
    limits,
    pairs_ptr,
    pair_ids_ptr,
    n_columns,
    dim,
    METRIC: tl.constexpr,
    ITEM: tl.constexpr,
    N: tl.constexpr,
):
    """The keys and ids of all pairs, (n_queries, n_columns): what is sorted where k is large."""
    query = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    handle = tl.load(handles_ptr + tl.program_id(0).to(tl.int64) * handle_stride)
    end, table, directory = bank_of(pages.root, handle)
    square = tl.load(query_squares_ptr + query)
    tile = tl.program_id(1).to(tl.int64) + tl.program_id(2) * tl.num_programs(1)
    row = tile * N + tl.arange(0, N)
    is_row = row < end
    page = page_of(table, directory, row, is_row)
    key, id = score_rows(
        pages, queries, query, square <= 1e36, tl.sqrt_rn(square), page, row % LANES, is_row,
        limits, dim, METRIC, ITEM, 1, N,
    )  # fmt: skip
    out = query[:, None] * n_columns + row[None, :]
    inside = (row < n_columns)[None, :]
    tl.store(pairs_ptr + out, key, mask=inside)
    tl.store(pair_ids_ptr + out, id[None, :], mask=inside)

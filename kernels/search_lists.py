"""search over lists: banks of pages, several for each query, in one launch.

A list is a bank whose rows are a part of another bank's, so that no id is in two lists of a query.
"""

import triton
import triton.language as tl

from .order import NOTHING
from .paged import bank_of, keep_best, page_of, score_rows
from .pages import LANES


@triton.jit
def lists_kernel(
    pages,
    handles_ptr,
    handle_row_stride,
    handle_stride,
    queries,
    query_squares_ptr,
    limits,
    parts_ptr,
    part_ids_ptr,
    n_lists,
    n_segments,
    dim,
    n_splits,
    METRIC: tl.constexpr,
    ITEM: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """Search a query in one split of its lists; parts (n_queries, n_splits, K) hold the best.

    Args as of `paged.paged_kernel`, but:
        handles_ptr: (n_queries, n_lists) int64; one that names no bank is a list without rows.
        n_segments: parts of each list, so that few lists still occupy the whole card. Splits take
            the segments of all lists in turn.
    """
    query = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    split = tl.program_id(1)
    lists = handles_ptr + tl.program_id(0).to(tl.int64) * handle_row_stride
    square = tl.load(query_squares_ptr + query)
    norm = tl.sqrt_rn(square)
    # False for NaN: a query that may not be asked finds nothing.
    is_query = square <= 1e36
    best = tl.full((1, K), NOTHING, tl.int32)
    best_ids = tl.full((1, K), -1, tl.int64)
    for part in range(split, n_lists * n_segments, n_splits):
        handle = tl.load(lists + (part // n_segments).to(tl.int64) * handle_stride)
        end, table, directory = bank_of(pages.root, handle)
        share = tl.cdiv(tl.cdiv(end, n_segments), N) * N
        begin = (part % n_segments) * share
        end = tl.minimum(end, begin + share)
        for first in range(begin, end, N):
            row = first + tl.arange(0, N)
            is_row = row < end
            page = page_of(table, directory, row, is_row)
            key, id = score_rows(
                pages, queries, query, is_query, norm, page, row % LANES, is_row, limits, dim,
                METRIC, ITEM, 1, N,
            )  # fmt: skip
            best, best_ids = keep_best(best, best_ids, key, id, 1, N, K)
    out = (query[:, None] * n_splits + split) * K + tl.arange(0, K)[None, :]
    tl.store(parts_ptr + out, best)
    tl.store(part_ids_ptr + out, best_ids)


def shares(n_queries: int, n_lists: int, longest: int, kept: int) -> tuple[int, int]:
    """Segments of each list, and splits of them all: programs enough, and a merge that is small."""
    n_most = max(1, min(triton.cdiv(1024, n_queries), 2048 // kept))
    n_segments = max(1, min(n_most // n_lists, triton.cdiv(longest, 64)))
    return n_segments, min(n_most, n_lists * n_segments)

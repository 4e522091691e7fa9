"""Search over codes: a table of scores for each part of a query, looked up and added."""

import triton
import triton.language as tl

from .canonical import sums
from .order import NOTHING, to_key
from .scan import keep_best


@triton.jit
def table_kernel(
    queries_ptr,
    row_stride,
    column_stride,
    words_ptr,
    tables_ptr,
    n_parts,
    n_subspaces,
    n_codes,
    sub_dim,
    IS_L2: tl.constexpr,
    P: tl.constexpr,
):
    """Canonical scores (n_queries, n_parts, n_codes) of a query's part and P codewords."""
    query = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    part = tl.program_id(1)
    code = tl.program_id(2) * P + tl.arange(0, P)
    is_code = code < n_codes
    own = queries_ptr + query * row_stride + (part % n_subspaces) * sub_dim * column_stride
    words = words_ptr + (part.to(tl.int64) * n_codes + code) * sub_dim
    scores = sums(own, query >= 0, column_stride, words, is_code, 1, sub_dim, IS_L2, 1, P)
    if IS_L2:
        scores = -scores
    out = tables_ptr + (query[:, None] * n_parts + part) * n_codes + code[None, :]
    tl.store(out, scores, mask=is_code[None, :])


@triton.jit
def looked_up(
    tables_ptr,
    query_squares_ptr,
    codes_ptr,
    squares_ptr,
    query,
    place,
    is_row,
    n_parts,
    n_codes,
    N: tl.constexpr,
):
    """The scores of rows (N,) as keys; NOTHING for a query that may not be asked, and for NaN."""
    query_square = tl.load(query_squares_ptr + query + tl.zeros((N,), tl.int64))
    total = tl.zeros((N,), tl.float32)
    for part in range(n_parts):
        code = tl.load(codes_ptr + place * n_parts + part, mask=is_row, other=0).to(tl.int64)
        is_code = is_row & (code < n_codes)
        table = tables_ptr + (query * n_parts + part) * n_codes
        total = total + tl.load(table + code, mask=is_code, other=0)
    if squares_ptr is not None:
        total = (2.0 * total - tl.load(squares_ptr + place, mask=is_row, other=0)) - query_square
    total = total + 0.0
    # False for NaN.
    allowed = is_row & (query_square <= 1e36) & (total == total)
    return tl.where(allowed, to_key(total), NOTHING)


@triton.jit
def scan_codes_kernel(
    tables_ptr,
    query_squares_ptr,
    codes_ptr,
    squares_ptr,
    parts_ptr,
    part_ids_ptr,
    n_rows,
    n_parts,
    n_codes,
    n_splits,
    N: tl.constexpr,
    K: tl.constexpr,
):
    """The best of one split of the rows for one query: parts (n_queries, n_splits, K)."""
    query = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1).to(tl.int64)
    share = tl.cdiv(tl.cdiv(n_rows, n_splits), N) * N
    begin = split * share
    end = tl.minimum(begin + share, n_rows)
    best = tl.full((1, K), NOTHING, tl.int32)
    best_ids = tl.full((1, K), -1, tl.int64)
    for first in range(begin, end, N):
        place = first + tl.arange(0, N)
        keys = looked_up(
            tables_ptr,
            query_squares_ptr,
            codes_ptr,
            squares_ptr,
            query,
            place,
            place < end,
            n_parts,
            n_codes,
            N,
        )
        best, best_ids = keep_best(best, best_ids, keys[None, :], place[None, :], 1, N, K)
    out = (query * n_splits + split) * K + tl.arange(0, K)[None, :]
    tl.store(parts_ptr + out, best)
    tl.store(part_ids_ptr + out, best_ids)


@triton.jit
def all_codes_kernel(
    tables_ptr,
    query_squares_ptr,
    codes_ptr,
    squares_ptr,
    pairs_ptr,
    n_rows,
    n_parts,
    n_codes,
    N: tl.constexpr,
):
    """The keys (n_queries, n_rows) of all rows: what is sorted where k is large."""
    query = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1).to(tl.int64) + tl.program_id(2) * tl.num_programs(1)
    place = tile * N + tl.arange(0, N)
    keys = looked_up(
        tables_ptr,
        query_squares_ptr,
        codes_ptr,
        squares_ptr,
        query,
        place,
        place < n_rows,
        n_parts,
        n_codes,
        N,
    )
    tl.store(pairs_ptr + query * n_rows + place, keys, mask=place < n_rows)

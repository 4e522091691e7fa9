"""Rows of banks by their ids: where they lie, and what is read of them without the host.

A place is the address of a page times 16, plus a lane; `NOWHERE` is that of an id that is not in
its bank, and of padding.
"""

import torch
import triton
import triton.language as tl

from .arguments import Matrix
from .canonical import scores, sums
from .coded import book_of, code_sums, components, next_book
from .layout import grid_of, near
from .paged import bank_of, page_of
from .pages import LANES, Layout, cells_of, ids_of, norms_of, rows_of
from .where import number
from .workspace import splits

NOWHERE: tl.constexpr = tl.constexpr(-(2**63))


@triton.jit
def find_kernel(
    root_ptr,
    handles_ptr,
    handle_row_stride,
    handle_stride,
    ids_ptr,
    places_ptr,
    n_named,
    ids_at,
    n_lists,
    n_segments,
    n_splits,
    N: tl.constexpr,
    M: tl.constexpr,
):
    """Look for M ids in one split of their banks: places (n_queries, n_named) of those found.

    Args beside sizes:
        root_ptr: (4,) int64, as for `paged.bank_of`.
        handles_ptr: n_lists for each row of ids, the banks that its ids may be in.
        ids_ptr: (n_queries, n_named) int64.
        places_ptr: int64, NOWHERE where nobody writes.
    """
    query = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1) + tl.program_id(2) * tl.num_programs(1)
    column = tile // n_splits * M + tl.arange(0, M)
    named = tl.load(ids_ptr + query * n_named + column, mask=column < n_named, other=-1)
    for part in range(tile % n_splits, n_lists * n_segments, n_splits):
        at = query * handle_row_stride + (part // n_segments).to(tl.int64) * handle_stride
        end, table, directory = bank_of(root_ptr, tl.load(handles_ptr + at))
        share = tl.cdiv(tl.cdiv(end, n_segments), N) * N
        begin = (part % n_segments) * share
        end = tl.minimum(end, begin + share)
        for first in range(begin, end, N):
            row = first + tl.arange(0, N)
            is_row = row < end
            lane = row % LANES
            page = page_of(table, directory, row, is_row)
            id = tl.load(ids_of(root_ptr, page, lane, ids_at), mask=is_row, other=-2)
            # Rows have ids from 0, so that padding is nowhere.
            is_here = id[:, None] == named[None, :]
            place = tl.max(tl.where(is_here, (page * LANES + lane)[:, None], NOWHERE), 0)
            tl.store(places_ptr + query * n_named + column, place, mask=place != NOWHERE)


@triton.jit
def gather_kernel(
    origin_ptr, places_ptr, out_ptr, n, dim, ITEM: tl.constexpr, N: tl.constexpr, D: tl.constexpr
):
    """The rows at places (n,) into out (n, dim), zeros for nowhere."""
    i = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    place = tl.load(places_ptr + i, mask=i < n, other=NOWHERE)
    row = rows_of(origin_ptr, place >> 4, place & 15, dim, ITEM)
    column = tl.program_id(1) * D + tl.arange(0, D)
    inside = (column < dim)[None, :]
    is_row = (place != NOWHERE)[:, None]
    x = tl.load(row[:, None] + column[None, :], mask=is_row & inside, other=0)
    out = out_ptr + i[:, None] * dim + column[None, :]
    tl.store(out, x.to(out_ptr.dtype.element_ty), mask=(i < n)[:, None] & inside)


@triton.jit
def gather_codes_kernel(pages, places_ptr, out_ptr, n, dim, N: tl.constexpr, D: tl.constexpr):
    """As `gather_kernel`, what codes stand for; nowhere stays as it is."""
    i = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    place = tl.load(places_ptr + i, mask=i < n, other=NOWHERE)
    is_left = place != NOWHERE
    page, lane = place >> 4, place & 15
    cells = cells_of(pages.root, page, lane, pages.book_column, pages.ids_at)
    numbers = tl.load(cells, mask=is_left, other=-1)
    first = tl.program_id(1) * D
    while tl.max(is_left.to(tl.int32), 0) > 0:
        number, is_its = next_book(numbers, is_left)
        words, steps, begins, n_blocks, low_bits = book_of(pages.books, number)
        for begin in range(first, tl.minimum(first + D, dim), 16):
            x = components(
                cells + LANES, is_its, words, steps, begins, n_blocks, low_bits, begin // 16, N
            )
            column = begin + tl.arange(0, 16)
            out = out_ptr + i[:, None] * dim + column[None, :]
            inside = is_its[:, None] & (column < dim)[None, :]
            tl.store(out, x.to(out_ptr.dtype.element_ty), mask=inside)
        is_left = is_left & (numbers != number)


@triton.jit
def numbers_kernel(pages, places_ptr, out_ptr, n, column, missing, N: tl.constexpr):
    """The numbers of a column at places (n,) into out (n,) float32; null is `missing`."""
    i = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    place = tl.load(places_ptr + i, mask=i < n, other=NOWHERE)
    is_row = place != NOWHERE
    x = number(pages, place >> 4, place & 15, is_row, column, missing)
    tl.store(out_ptr + i, x, mask=i < n)


@triton.jit
def score_kernel(
    pages,
    places_ptr,
    queries,
    query_squares_ptr,
    scores_ptr,
    n_named,
    dim,
    METRIC: tl.constexpr,
    ITEM: tl.constexpr,
    N: tl.constexpr,
):
    """The canonical scores (n_queries, n_named) of a query and the rows at its places.

    -inf for nowhere, and for a query that may not be asked.
    """
    query = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    square = tl.load(query_squares_ptr + query)
    # False for NaN.
    is_query = square <= 1e36
    tile = tl.program_id(1) + tl.program_id(2) * tl.num_programs(1)
    column = tile * N + tl.arange(0, N)
    here = tl.program_id(0).to(tl.int64) * n_named + column
    place = tl.load(places_ptr + here, mask=column < n_named, other=NOWHERE)
    is_row = place != NOWHERE
    page, lane = place >> 4, place & 15
    asked = queries.ptr + query * queries.row_stride
    if pages.books is None:
        rows = rows_of(pages.root, page, lane, dim, ITEM)
        total = sums(asked, is_query, queries.stride, rows, is_row, 1, dim, METRIC == "l2", 1, N)
    else:
        total = code_sums(
            asked, is_query, queries.stride, pages, page, lane, is_row, dim, METRIC == "l2", 1, N
        )
    norm = tl.zeros((N,), tl.float32)
    if METRIC == "cosine":
        norm = tl.load(norms_of(pages.root, page, lane, pages.ids_at), mask=is_row, other=0)
    final = scores(total, tl.sqrt_rn(square), norm, METRIC) + 0.0
    final = tl.where(is_query[:, None] & is_row[None, :], final, float("-inf"))
    tl.store(scores_ptr + here[None, :], final, mask=(column < n_named)[None, :])


def find(
    layout: Layout, root: torch.Tensor, longest: int, handles: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    """The places (n, m) int64 of the rows that ids (n, m) name in the banks of handles.

    Args:
        layout: of the pages.
        root: as for `search_pages`.
        longest: rows of the longest bank.
        handles: one for each row of ids, or one for all; or (n or 1, n_lists), several banks each,
            no two of which share an id.
        ids: int64, contiguous; -1 pads.
    """
    n, m = ids.shape
    places = torch.full_like(ids, NOWHERE.value)
    if ids.numel():
        n_blocks = triton.cdiv(m, 16)
        n_lists = handles.shape[1] if handles.ndim > 1 else 1
        n_splits = splits(n * n_blocks, longest * n_lists, 1, 1024)
        n_segments = triton.cdiv(n_splits, n_lists)
        find_kernel[grid_of(n, n_splits * n_blocks)](
            root,
            handles,
            0 if len(handles) == 1 else handles.stride(0),
            handles.stride(1) if handles.ndim > 1 else 1,
            ids,
            places,
            m,
            layout.ids_at,
            n_lists,
            n_segments,
            n_splits,
            N=64,
            M=16,
        )
    return places


def gather(
    layout: Layout, root: torch.Tensor, places: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """The rows at places (…), (…, dim) in a dtype of floats; zeros for nowhere."""
    shape = (*places.shape, layout.vector_dim)
    if layout.books is not None:
        out = places.new_zeros(shape, dtype=dtype)
        if out.numel():
            gather_codes_kernel[(triton.cdiv(places.numel(), 16), triton.cdiv(shape[-1], 64))](
                layout.view(root), places, out, places.numel(), shape[-1], N=16, D=64
            )
        return out
    out = places.new_empty(shape, dtype=dtype)
    if out.numel():
        grid = (triton.cdiv(places.numel(), 16), triton.cdiv(layout.dim, 64))
        gather_kernel[grid](
            root, places, out, places.numel(), layout.dim, ITEM=layout.item, N=16, D=64
        )
    return out


def numbers(
    layout: Layout,
    root: torch.Tensor,
    kinds: torch.Tensor,
    places: torch.Tensor,
    column: int,
    missing: float,
) -> torch.Tensor:
    """The numbers of a column at places (…) as float32; `missing` for null and for nowhere."""
    out = places.new_empty(places.shape, dtype=torch.float32)
    if out.numel():
        numbers_kernel[(triton.cdiv(out.numel(), 128),)](
            layout.view(root, kinds), places, out, out.numel(), column, missing, N=128
        )
    return out


def score(
    layout: Layout,
    root: torch.Tensor,
    places: torch.Tensor,
    queries: torch.Tensor,
    squares: torch.Tensor,
    metric: str,
) -> torch.Tensor:
    """The canonical scores (n, m) of queries (n, dim) and the rows at places (n, m).

    Args:
        layout: of the pages.
        root: what addresses count from.
        places: as `find` gives them.
        queries: floats.
        squares: (n,), their canonical squares; one above 1e36, or NaN, has no scores.
        metric: "dot", "cosine" or "l2".
    """
    out = places.new_empty(places.shape, dtype=torch.float32)
    if out.numel():
        n, m = places.shape
        score_kernel[grid_of(n, triton.cdiv(m, 16))](
            layout.view(root),
            places,
            Matrix.of(near(queries)),
            squares,
            out,
            m,
            layout.vector_dim,
            METRIC=metric,
            ITEM=layout.item,
            N=16,
            enable_fp_fusion=False,
            # As in `search_pages`.
            maxnreg=None if layout.books is None else 64,
        )
    return out

"""What the first pass over the rows of one long bank reads through its table of pages.

Its other kernels see dense codes alone. Pages of 16 rows are the pages whose bounds they compare.
"""

import triton
import triton.language as tl

from .order import NOTHING
from .paged import bank_of, page_of, score_rows
from .pages import LANES, rows_of
from .shadow import write_shadow
from .where import meets, number


@triton.jit
def paged_keys_kernel(
    pages,
    handles_ptr,
    limits,
    codes_ptr,
    factor_ptr,
    beta_ptr,
    epsilon_ptr,
    nu_ptr,
    dim,
    dim_padded,
    METRIC: tl.constexpr,
    ITEM: tl.constexpr,
    IS_WEIGHED: tl.constexpr,
):
    """The shadow of a page of a bank, as `shadow.keys_kernel`.

    Args beside arrays:
        pages: an `arguments.PagesView`.
        handles_ptr: (1,) the bank.
        limits: an `arguments.LimitsView`; its condition, the first alone, scale and bias.
    """
    row = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    n_rows, table, directory = bank_of(pages.root, tl.load(handles_ptr))
    # A page that is not full is filled with copies of the last row.
    place = tl.minimum(row, n_rows - 1)
    lane = place % LANES
    is_row = place >= 0
    page = page_of(table, directory, place, is_row)
    if limits.programs is not None:
        is_row = is_row & meets(pages, page, lane, is_row, limits.programs, 0)
    scales = limits.scale
    if limits.scale is not None:
        scales = number(pages, page, lane, is_row, limits.scale, 1.0)
    biases = limits.bias
    if limits.bias is not None:
        biases = number(pages, page, lane, is_row, limits.bias, 0.0)
    write_shadow(
        rows_of(pages.root, page, lane, dim, ITEM),
        row,
        is_row,
        is_row & (row < n_rows),
        1,
        scales,
        biases,
        codes_ptr,
        factor_ptr,
        beta_ptr,
        epsilon_ptr,
        nu_ptr,
        dim,
        dim_padded,
        METRIC,
        IS_WEIGHED,
    )


@triton.jit
def paged_rescore_kernel(
    pages,
    handles_ptr,
    queries,
    query_squares_ptr,
    limits,
    places_ptr,
    finals_ptr,
    ids_ptr,
    n_places,
    dim,
    METRIC: tl.constexpr,
    ITEM: tl.constexpr,
    PAGES: tl.constexpr,
):
    """The final scores, as keys (n_queries, n_places * 16), of the rows of chosen pages; their ids.

    Args beside what `score_rows` takes:
        handles_ptr: (1,) the bank.
        places_ptr: (n_queries, n_places) int32, pages of the bank; -1 for none.
        ids_ptr: (n_queries, n_places * 16) int64, written where finals are not NOTHING.
    """
    N: tl.constexpr = PAGES * LANES
    query = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    slot = tl.program_id(1) * N + tl.arange(0, N)
    lane = slot % LANES
    place = tl.load(places_ptr + tl.program_id(0).to(tl.int64) * n_places + slot // LANES)
    row = place.to(tl.int64) * LANES + lane
    n_rows, table, directory = bank_of(pages.root, tl.load(handles_ptr))
    is_row = (place >= 0) & (row < n_rows)
    out = query[:, None] * (n_places * LANES) + slot[None, :]
    if tl.max(is_row.to(tl.int32), 0) == 0:
        tl.store(finals_ptr + out, NOTHING)
        return
    norm = tl.sqrt_rn(tl.load(query_squares_ptr + query))
    page = page_of(table, directory, row, is_row)
    key, id = score_rows(
        pages, queries, query, query >= 0, norm, page, lane, is_row, limits, dim, METRIC, ITEM, 1, N
    )
    tl.store(finals_ptr + out, key)
    tl.store(ids_ptr + out, id[None, :], mask=key > NOTHING)

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
    root_ptr,
    handles_ptr,
    kinds_ptr,
    steps_ptr,
    constants_ptr,
    ends_ptr,
    scale,
    bias,
    codes_ptr,
    factor_ptr,
    beta_ptr,
    epsilon_ptr,
    nu_ptr,
    dim,
    dim_padded,
    ids_at,
    METRIC: tl.constexpr,
    ITEM: tl.constexpr,
    IS_WEIGHED: tl.constexpr,
):
    """The shadow of a page of a bank, as `shadow.keys_kernel`.

    Args beside arrays:
        handles_ptr: (1,) the bank.
        steps_ptr, constants_ptr, ends_ptr: a condition, or None.
        scale, bias: columns, or None.
    """
    row = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    n_rows, table, directory = bank_of(root_ptr, tl.load(handles_ptr))
    # A page that is not full is filled with copies of the last row.
    place = tl.minimum(row, n_rows - 1)
    lane = place % LANES
    is_row = place >= 0
    page = page_of(table, directory, place, is_row)
    if ends_ptr is not None:
        is_row = is_row & meets(
            root_ptr, page, lane, is_row, ids_at, steps_ptr, constants_ptr, kinds_ptr,
            tl.load(ends_ptr), tl.load(ends_ptr + 1),
        )  # fmt: skip
    scales = scale
    if scale is not None:
        scales = number(root_ptr, page, lane, is_row, ids_at, scale, kinds_ptr, 1.0)
    biases = bias
    if bias is not None:
        biases = number(root_ptr, page, lane, is_row, ids_at, bias, kinds_ptr, 0.0)
    write_shadow(
        rows_of(root_ptr, page, lane, dim, ITEM),
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
    root_ptr,
    handles_ptr,
    queries_ptr,
    query_row_stride,
    query_stride,
    query_squares_ptr,
    kinds_ptr,
    steps_ptr,
    constants_ptr,
    ends_ptr,
    index_ptr,
    scale,
    bias,
    low,
    high,
    places_ptr,
    finals_ptr,
    ids_ptr,
    n_places,
    dim,
    ids_at,
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
    n_rows, table, directory = bank_of(root_ptr, tl.load(handles_ptr))
    is_row = (place >= 0) & (row < n_rows)
    out = query[:, None] * (n_places * LANES) + slot[None, :]
    if tl.max(is_row.to(tl.int32), 0) == 0:
        tl.store(finals_ptr + out, NOTHING)
        return
    key, id = score_rows(
        root_ptr, queries_ptr, query_row_stride, query_stride, query, query >= 0,
        tl.sqrt_rn(tl.load(query_squares_ptr + query)), page_of(table, directory, row, is_row),
        lane, is_row, kinds_ptr, steps_ptr, constants_ptr, ends_ptr, index_ptr, None, 0, scale,
        bias, low, high, dim, ids_at, None, None, METRIC, ITEM, 1, N,
    )  # fmt: skip
    tl.store(finals_ptr + out, key)
    tl.store(ids_ptr + out, id[None, :], mask=key > NOTHING)

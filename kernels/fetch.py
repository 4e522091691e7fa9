"""Pages that a device reads from the host's memory by itself, into its own.

The host keeps rows, ids and cells of its pages apart from each other, each aligned to 64 bytes, so
that all of it is read 16 bytes at a time. Norms are computed where the rows have arrived.
"""

import torch
import triton
import triton.language as tl

from .canonical import fold
from .pages import LANES, Layout, cells_of, ids_of, norms_of, rows_of


@triton.jit
def fetch_kernel(origin_ptr, places_ptr, nulls_ptr, n_units, n_columns, ids_at, N: tl.constexpr):
    """Copy one page a program: rows of n_units times 16 bytes, ids, and cells.

    Args beside sizes:
        origin_ptr: int64, what addresses count from.
        places_ptr: (n, 5) int64, in units of 16 bytes: where a page goes, where its rows, ids and
            cells are, and how far it is from one column's cells to the next.
        nulls_ptr: (n_columns, 2) int64: whether cells are there, and what they are if not.
    """
    place = places_ptr + tl.program_id(0).to(tl.int64) * 5
    page = tl.load(place)
    rows, ids, cells = tl.load(place + 1), tl.load(place + 2), tl.load(place + 3)
    stride = tl.load(place + 4)
    word = tl.arange(0, 2)[None, :]
    for begin in range(0, n_units, N):
        unit = begin + tl.arange(0, N)[:, None]
        x = tl.load(origin_ptr + (rows + unit) * 2 + word, mask=unit < n_units, other=0)
        tl.store(origin_ptr + (page + unit) * 2 + word, x, mask=unit < n_units)
    pair = tl.arange(0, 8)[:, None]
    id = tl.load(origin_ptr + (ids + pair) * 2 + word)
    tl.store(ids_of(origin_ptr, page, pair * 2 + word, ids_at), id)
    for column in range(0, n_columns):
        is_there = tl.load(nulls_ptr + 2 * column) > 0
        null = tl.load(nulls_ptr + 2 * column + 1)
        cell = tl.load(
            origin_ptr + (cells + column * stride + pair) * 2 + word,
            mask=(pair + word >= 0) & is_there,
            other=0,
        )
        cell = tl.where(is_there | (id < 0), cell, null)
        tl.store(cells_of(origin_ptr, page, pair * 2 + word, column, ids_at), cell)


@triton.jit
def norm_kernel(origin_ptr, places_ptr, dim, ids_at, ITEM: tl.constexpr):
    """Write the norms of the rows of one page a program: places_ptr (n, 5) as above."""
    page = tl.load(places_ptr + tl.program_id(0).to(tl.int64) * 5)
    lane = tl.arange(0, LANES)
    row = rows_of(origin_ptr, page, lane, dim, ITEM)
    lanes = tl.zeros((LANES, 16), tl.float32)
    for begin in range(0, dim, 16):
        column = begin + tl.arange(0, 16)[None, :]
        x = tl.load(row[:, None] + column, mask=column < dim, other=0)
        wide = x.to(tl.float32)
        lanes = lanes + wide * wide
    tl.store(norms_of(origin_ptr, page, lane, ids_at), tl.sqrt_rn(fold(lanes, LANES)))


def fetch_pages(
    layout: Layout, origin: torch.Tensor, places: torch.Tensor, nulls: torch.Tensor
) -> None:
    """Copy whole pages from the host's memory, which the device sees at addresses of its own.

    Args:
        layout: of the pages on the device.
        origin: what addresses count from, all of them in units of 16 bytes.
        places: (n, 5) int64: where a page goes; where its rows, ids and cells are; from the cells
            of one column to those of the next.
        nulls: (n_columns, 2) int64: whether cells of a column are there, and what they are if not.
    """
    if len(places):
        grid = (len(places),)
        fetch_kernel[grid](
            origin, places, nulls, layout.row_bytes, len(layout.kinds), layout.ids_at, N=512
        )
        norm_kernel[grid](
            origin, places, layout.dim, layout.ids_at, ITEM=layout.item, enable_fp_fusion=False
        )

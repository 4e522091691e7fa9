"""Sums of the rows of each code in their order, the moving average, and codes back to vectors."""

import triton
import triton.language as tl


@triton.jit
def sums_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    order_ptr,
    begins_ptr,
    sums_ptr,
    dim,
    D: tl.constexpr,
    AHEAD: tl.constexpr,
):
    """Add one code's rows to D components of its sum, one row after the other: (n_codes, dim).

    Args beside arrays:
        order_ptr: (n,) int64, rows sorted by code, those of a code in rising order.
        begins_ptr: (n_codes + 1,) int64, where each code begins in that order.
        AHEAD: rows that are read before they are added.
    """
    code = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * D + tl.arange(0, D)
    is_column = column < dim
    begin = tl.load(begins_ptr + code)
    end = tl.load(begins_ptr + code + 1)
    total = tl.load(sums_ptr + code * dim + column, mask=is_column, other=0)
    for first in range(begin, end, AHEAD):
        for ahead in tl.static_range(AHEAD):
            is_there = first + ahead < end
            row = tl.load(order_ptr + first + ahead, mask=is_there, other=0)
            x = tl.load(
                rows_ptr + row * row_stride + column * column_stride,
                mask=is_column & is_there,
                other=0,
            ).to(tl.float32)
            total = total + x
    tl.store(sums_ptr + code * dim + column, total, mask=is_column)


@triton.jit
def ema_kernel(
    batch_ptr,
    sums_ptr,
    divisors_ptr,
    running_ptr,
    words_ptr,
    kept,
    new,
    n,
    dim,
    N: tl.constexpr,
):
    """N of n components of the running sums and the codewords, as `reference.codebook_ema`."""
    place = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = place < n
    batch = tl.load(batch_ptr + place, mask=inside, other=0)
    running = kept * tl.load(sums_ptr + place, mask=inside, other=0) + new * batch
    divisor = tl.load(divisors_ptr + place // dim, mask=inside, other=1)
    tl.store(running_ptr + place, running, mask=inside)
    tl.store(words_ptr + place, tl.div_rn(running, divisor), mask=inside)


@triton.jit
def decode_kernel(
    codes_ptr,
    words_ptr,
    rows_ptr,
    n_rows,
    n_levels,
    n_subspaces,
    n_codes,
    sub_dim,
    R: tl.constexpr,
    D: tl.constexpr,
):
    """R vectors (n_rows, n_subspaces * sub_dim) of codes, D components, levels in their order."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    is_row = row < n_rows
    dim = n_subspaces * sub_dim
    column = tl.program_id(1) * D + tl.arange(0, D)
    inside = is_row[:, None] & (column < dim)[None, :]
    subspace = column // sub_dim
    total = tl.zeros((R, D), tl.float32)
    for level in range(n_levels):
        part = level * n_subspaces + subspace
        code = tl.load(
            codes_ptr + row[:, None] * (n_levels * n_subspaces) + part[None, :],
            mask=inside,
            other=0,
        )
        # What is no code is nothing, rather than memory of somebody else.
        is_code = inside & (code >= 0) & (code < n_codes)
        place = (part[None, :] * n_codes + code) * sub_dim + (column % sub_dim)[None, :]
        words = tl.load(words_ptr + place, mask=is_code, other=0)
        total = tl.where(level == 0, words, total + words)
    tl.store(rows_ptr + row[:, None] * dim + column[None, :], total, mask=inside)

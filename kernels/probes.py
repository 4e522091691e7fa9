"""Multi-probe: the margins of vectors to planes, and what sets of flipped bits cost."""

import triton
import triton.language as tl

from .canonical import sums


@triton.jit
def margins_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    planes_ptr,
    margins_ptr,
    n_rows,
    n_planes,
    dim,
    M: tl.constexpr,
    P: tl.constexpr,
):
    """The canonical dots (n_rows, n_planes) of M rows and P planes (n_planes, dim)."""
    row = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    plane = tl.program_id(1).to(tl.int64) * P + tl.arange(0, P)
    dots = sums(
        rows_ptr + row * row_stride,
        row < n_rows,
        column_stride,
        planes_ptr + plane * dim,
        plane < n_planes,
        1,
        dim,
        False,
        M,
        P,
    )
    inside = (row < n_rows)[:, None] & (plane < n_planes)[None, :]
    tl.store(margins_ptr + row[:, None] * n_planes + plane[None, :], dots, mask=inside)


@triton.jit
def costs_kernel(
    sizes_ptr,
    bits_ptr,
    sets_ptr,
    costs_ptr,
    flips_ptr,
    n,
    n_bits,
    n_sets,
    n_ranks,
    R: tl.constexpr,
    N: tl.constexpr,
):
    """What N sets of ranks cost R codes, and the bits that they flip.

    Args beside sizes:
        sizes_ptr: (n, n_bits) float32, the sizes of a code's margins, rising.
        bits_ptr: (n, n_bits) int64, the bit of each.
        sets_ptr: (n_sets,) int64, a bit for each rank in the set.
        costs_ptr: (n, n_sets) float64, written: squares added from the smallest up.
        flips_ptr: (n, n_sets) int64, written.
        n_ranks: ranks that are in any set, at most n_bits.
    """
    code = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    place = tl.program_id(1) * N + tl.arange(0, N)
    members = tl.load(sets_ptr + place, mask=place < n_sets, other=0)
    cost = tl.zeros((R, N), tl.float64)
    flips = tl.zeros((R, N), tl.int64)
    for rank in range(0, n_ranks):
        size = tl.load(sizes_ptr + code * n_bits + rank, mask=code < n, other=0).to(tl.float64)
        bit = tl.load(bits_ptr + code * n_bits + rank, mask=code < n, other=0)
        is_in = (((members >> rank) & 1) != 0)[None, :]
        cost = tl.where(is_in, cost + (size * size)[:, None], cost)
        flip = tl.full((R,), 1, tl.int64) << bit
        flips = tl.where(is_in, flips | flip[:, None], flips)
    inside = (code < n)[:, None] & (place < n_sets)[None, :]
    out = code[:, None] * n_sets + place[None, :]
    tl.store(costs_ptr + out, cost, mask=inside)
    tl.store(flips_ptr + out, flips, mask=inside)

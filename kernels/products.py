"""First passes on tensor cores: products of rows and words in bfloat16 halves, with a bound.

A float32 number is a high half and a low half of 8 bits each, and what is left of it, at most
2^-16 of it. Rows times words are summed as low x high + high x low + high x high, in that order;
what that may differ from the canonical sum is `slack` times the sum of the sizes of the products
(docs/gpu.md, "The bound of a product").
"""

import triton
import triton.language as tl

from .canonical import fold

# Below this a row is too small for a bound: products may underflow.
TINY: tl.constexpr = tl.constexpr(2.0**-60)
# Columns that words are padded to a multiple of.
STEP = 64


@triton.jit
def products(
    rows,
    is_row,
    column_stride,
    high_ptr,
    low_ptr,
    word,
    dim,
    dim_padded,
    ROWS_ARE_EXACT: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
):
    """Estimates (M, N) of rows times words.

    Args beside sizes and strides:
        rows: M pointers to first components.
        high_ptr: (…, dim_padded) bfloat16, the high halves of words, zeros beyond dim.
        low_ptr: likewise the low halves; None where words have 8 bits at most.
        word: (N,) which words; int64 where all may be more than 2^31 numbers.
        ROWS_ARE_EXACT: rows have 8 bits at most.
    """
    total = tl.zeros((M, N), tl.float32)
    if low_ptr is not None or not ROWS_ARE_EXACT:
        for begin in range(0, dim_padded, D):
            column = begin + tl.arange(0, D)
            x = tl.load(
                rows[:, None] + column[None, :] * column_stride,
                mask=is_row[:, None] & (column < dim)[None, :],
                other=0,
            ).to(tl.float32)  # (M, D)
            high = x.to(tl.bfloat16)
            place = word[None, :] * dim_padded + column[:, None]
            if not ROWS_ARE_EXACT:
                low = (x - high.to(tl.float32)).to(tl.bfloat16)
                total = tl.dot(low, tl.load(high_ptr + place), acc=total)
            if low_ptr is not None:
                total = tl.dot(high, tl.load(low_ptr + place), acc=total)
    for begin in range(0, dim_padded, D):
        column = begin + tl.arange(0, D)
        x = tl.load(
            rows[:, None] + column[None, :] * column_stride,
            mask=is_row[:, None] & (column < dim)[None, :],
            other=0,
        ).to(tl.float32)  # (M, D)
        high = tl.load(high_ptr + word[None, :] * dim_padded + column[:, None])
        total = tl.dot(x.to(tl.bfloat16), high, acc=total)
    return total


@triton.jit
def sizes(rows, is_row, column_stride, dim, M: tl.constexpr, D: tl.constexpr):
    """The sums of sizes and of squares of rows given by pointer, in any order: both (M,)."""
    total = tl.zeros((M,), tl.float32)
    squares = tl.zeros((M,), tl.float32)
    for begin in range(0, dim, D):
        column = begin + tl.arange(0, D)
        x = tl.load(
            rows[:, None] + column[None, :] * column_stride,
            mask=is_row[:, None] & (column < dim)[None, :],
            other=0,
        ).to(tl.float32)  # (M, D)
        total += tl.sum(tl.abs(x), 1)
        squares += tl.sum(x * x, 1)
    return total, squares


@triton.jit
def two_largest(numbers, column, LEAST: tl.constexpr):
    """The largest of each row of (M, N), where it stands, and the next, at least LEAST."""
    at = tl.argmax(numbers, 1)
    rest = tl.max(tl.where(column[None, :] == at[:, None], LEAST, numbers), 1)
    return tl.max(numbers, 1), at, rest


@triton.jit
def pair_sums(
    rows,
    row_stride,
    words,
    word_stride,
    is_pair,
    dim,
    IS_L2: tl.constexpr,
    N: tl.constexpr,
):
    """The canonical sum of x * w, or of (x - w)^2, of N pairs given by pointers: (N,)."""
    lane = tl.arange(0, 16)
    lanes = tl.zeros((N, 16), tl.float32)
    for begin in range(0, dim, 16):
        column = begin + lane
        inside = is_pair[:, None] & (column < dim)[None, :]
        x = tl.load(rows[:, None] + column[None, :] * row_stride, mask=inside, other=0)
        w = tl.load(words[:, None] + column[None, :] * word_stride, mask=inside, other=0)
        if IS_L2:
            apart = x.to(tl.float32) - w.to(tl.float32)
            lanes = lanes + apart * apart
        else:
            lanes = lanes + x.to(tl.float32) * w.to(tl.float32)
    return fold(lanes, N)


@triton.jit
def held(flags, scratch_ptr, N: tl.constexpr):
    """Which of N places have a flag: writes them to scratch (N,) in rising order; how many."""
    is_held = flags != 0
    counts = is_held.to(tl.int32)
    tl.store(scratch_ptr + tl.cumsum(counts, 0) - 1, tl.arange(0, N), mask=is_held)
    tl.debug_barrier()
    return tl.sum(counts, 0)

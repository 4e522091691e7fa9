"""The nearest codeword of each row: products on tensor cores, and a canonical verdict in doubt."""

import triton
import triton.language as tl

from .canonical import sums
from .order import NOTHING, to_key, to_score
from .products import TINY, held, pair_sums, products, sizes, two_largest


@triton.jit
def store_nearest(
    best,
    second,
    code,
    square,
    rows_ptr,
    row_stride,
    column_stride,
    words_ptr,
    largest_ptr,
    slack,
    codes_ptr,
    scores_ptr,
    doubts_ptr,
    row,
    is_row,
    dim,
    M: tl.constexpr,
):
    """Write codes and canonical scores of M rows where estimates are certain, and the doubts."""
    # Both norms are within a rounding of a sum of squares, which slack has paid for.
    reach = tl.sqrt(square) + tl.load(largest_ptr)
    bound = slack * (reach * reach)
    # False for NaN, and for what is so small that products may underflow or so large that sums may.
    is_certain = (best - second > 2 * bound) & (bound >= TINY * TINY) & (bound <= 1e36)
    is_sound = square <= 1.01e36
    is_asked = is_row & is_certain & is_sound
    total = pair_sums(
        rows_ptr + row * row_stride,
        column_stride,
        words_ptr + code.to(tl.int64) * dim,
        1,
        is_asked,
        dim,
        True,
        M,
    )
    tl.store(codes_ptr + row, tl.where(is_asked, code, -1).to(tl.int64), mask=is_row)
    tl.store(scores_ptr + row, tl.where(is_asked, 0.0 - total, float("-inf")), mask=is_row)
    tl.store(doubts_ptr + row, (is_sound & (is_certain == 0)).to(tl.int32), mask=is_row)


@triton.jit
def nearest_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    words_ptr,
    high_ptr,
    low_ptr,
    halves_ptr,
    largest_ptr,
    slack,
    codes_ptr,
    scores_ptr,
    doubts_ptr,
    n_rows,
    n_words,
    n_padded,
    dim,
    dim_padded,
    ROWS_ARE_EXACT: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    D: tl.constexpr,
):
    """Codes and canonical scores of M rows, and which of them are in doubt.

    The nearest codeword w has the largest `x.w - w.w / 2`. It is certain if the next is further
    below than twice what the estimates may differ from minus half the canonical scores.

    Args beside arrays:
        words_ptr: (n_words, dim) float32, contiguous.
        halves_ptr: (n_padded,) float32, half of each canonical square; inf where there is no word.
        largest_ptr: (1,) float32, the largest norm of a codeword.
        slack: of an estimate, in (norm of row + largest norm)^2.
        doubts_ptr: (n_rows,) int32, written here.
    """
    row = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    is_row = row < n_rows
    column = tl.arange(0, N)
    best = tl.full((M,), float("-inf"), tl.float32)
    second = tl.full((M,), float("-inf"), tl.float32)
    code = tl.zeros((M,), tl.int32)
    for first in range(0, n_padded, N):
        total = products(
            rows_ptr + row * row_stride,
            is_row,
            column_stride,
            high_ptr,
            low_ptr,
            (first + column).to(tl.int64),
            dim,
            dim_padded,
            ROWS_ARE_EXACT,
            M,
            N,
            D,
        )
        estimates = total - tl.load(halves_ptr + first + column)[None, :]
        # False for NaN.
        estimates = tl.where(estimates > float("-inf"), estimates, float("-inf"))
        top, at, rest = two_largest(estimates, column, float("-inf"))
        second = tl.maximum(tl.maximum(second, rest), tl.minimum(best, top))
        code = tl.where(top > best, first + at, code)
        best = tl.maximum(best, top)
    _, square = sizes(rows_ptr + row * row_stride, is_row, column_stride, dim, M, D)
    store_nearest(
        best,
        second,
        code,
        square,
        rows_ptr,
        row_stride,
        column_stride,
        words_ptr,
        largest_ptr,
        slack,
        codes_ptr,
        scores_ptr,
        doubts_ptr,
        row,
        is_row,
        dim,
        M,
    )


@triton.jit
def resident_nearest_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    words_ptr,
    high_ptr,
    low_ptr,
    halves_ptr,
    largest_ptr,
    slack,
    codes_ptr,
    scores_ptr,
    doubts_ptr,
    n_rows,
    n_padded,
    dim,
    ROWS_ARE_EXACT: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    DIM: tl.constexpr,
):
    """As `nearest_kernel`, for rows of at most DIM components: they stay, and codewords pass by.

    Each place of a tile keeps its own best and second, so that rows are looked across once, at the
    end. There are at most 2^15 tiles of codewords.
    """
    row = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    is_row = row < n_rows
    component = tl.arange(0, DIM)
    x = tl.load(
        rows_ptr + row[:, None] * row_stride + component[None, :] * column_stride,
        mask=is_row[:, None] & (component < dim)[None, :],
        other=0,
    ).to(tl.float32)  # (M, DIM)
    square = tl.sum(x * x, 1)
    # False for NaN.
    x = tl.where((square <= 1.01e36)[:, None], x, 0.0)
    near = x.to(tl.bfloat16)
    rest = (x - near.to(tl.float32)).to(tl.bfloat16)
    column = tl.arange(0, N)
    top = tl.full((M, N), float("-inf"), tl.float32)
    second = tl.full((M, N), float("-inf"), tl.float32)
    tile = tl.zeros((M, N), tl.int16)
    for first in range(0, n_padded, N):
        place = (first + column)[None, :] * DIM + component[:, None]
        high = tl.load(high_ptr + place)  # (DIM, N)
        total = tl.zeros((M, N), tl.float32)
        if not ROWS_ARE_EXACT:
            total = tl.dot(rest, high, acc=total)
        total = tl.dot(near, tl.load(low_ptr + place), acc=total)
        total = tl.dot(near, high, acc=total)
        estimates = total - tl.load(halves_ptr + first + column)[None, :]
        # NaN, where a sum overflowed, is of rows that the bound refuses.
        here = tl.full((M, N), first // N, tl.int16)
        tile = tl.where(estimates > top, here, tile)
        second = tl.maximum(second, tl.minimum(top, estimates))
        top = tl.maximum(top, estimates)
    best, at, other = two_largest(top, column, float("-inf"))
    code = tl.sum(tl.where(column[None, :] == at[:, None], tile.to(tl.int32), 0), 1) * N + at
    store_nearest(
        best,
        tl.maximum(other, tl.max(second, 1)),
        code,
        square,
        rows_ptr,
        row_stride,
        column_stride,
        words_ptr,
        largest_ptr,
        slack,
        codes_ptr,
        scores_ptr,
        doubts_ptr,
        row,
        is_row,
        dim,
        M,
    )


@triton.jit
def settle_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    words_ptr,
    codes_ptr,
    scores_ptr,
    doubts_ptr,
    scratch_ptr,
    n_rows,
    n_words,
    dim,
    N: tl.constexpr,
    P: tl.constexpr,
):
    """Score all codewords canonically for the rows in doubt among N."""
    begin = tl.program_id(0).to(tl.int64) * N
    every = begin + tl.arange(0, N)
    doubts = tl.load(doubts_ptr + every, mask=every < n_rows, other=0)
    n_held = held(doubts, scratch_ptr + begin, N)
    one = tl.arange(0, 1)
    for place in range(0, n_held):
        row = begin + tl.load(scratch_ptr + begin + place) + one
        best = tl.full((1,), NOTHING, tl.int32)
        code = tl.full((1,), -1, tl.int32)
        for first in range(0, n_words, P):
            word = first + tl.arange(0, P)
            is_word = word < n_words
            total = sums(
                rows_ptr + row * row_stride,
                one == 0,
                column_stride,
                words_ptr + word.to(tl.int64) * dim,
                is_word,
                1,
                dim,
                True,
                1,
                P,
            )
            # False for NaN.
            is_allowed = is_word[None, :] & (total >= 0)
            keys = tl.where(is_allowed, to_key(0.0 - total), NOTHING)
            top = tl.max(keys, 1)
            # Of equal ones the first.
            code = tl.where(top > best, first + tl.argmax(keys, 1), code)
            best = tl.maximum(best, top)
        tl.store(codes_ptr + row, code.to(tl.int64))
        tl.store(scores_ptr + row, to_score(best))

"""Hashes of vectors: codes from products on tensor cores, canonical sums where these leave doubt.

Planes stand in slots of 8, 16 or 32, one slot or two a table, so that a slot's bits are (part of)
one word of 32 bits.
"""

import triton
import triton.language as tl

from .canonical import sums
from .order import NOTHING, to_key
from .products import TINY, held, pair_sums, products, sizes, two_largest


@triton.jit
def store_signs(
    estimates,
    size,
    size_ptr,
    slack,
    most,
    codes_ptr,
    doubts_ptr,
    row,
    n_rows,
    n_slots,
    n_words,
    n_bits,
    ARE_ALIKE: tl.constexpr,
    WORDS: tl.constexpr,
    SLOT: tl.constexpr,
    M: tl.constexpr,
    P: tl.constexpr,
):
    """Write the bits of estimates (M, P) in slots, and which are in doubt; see `sign_kernel`.

    ARE_ALIKE: planes share one largest component.
    """
    bound = tl.where((size >= TINY) | (size == 0), size * slack, float("inf"))[:, None]
    if ARE_ALIKE:
        bound = bound * tl.load(size_ptr)
    else:
        bound = bound * tl.load(size_ptr + tl.program_id(0) * P + tl.arange(0, P))[None, :]
    # Nothing times no bound is NaN.
    bound = tl.where(bound >= 0, bound, float("inf"))
    # What is above the bound is set for certain; what is below it, not for certain.
    weight = (tl.full((P,), 1, tl.int32) << (tl.arange(0, P) % SLOT))[None, :]
    SLOTS: tl.constexpr = P // SLOT
    above = tl.sum(tl.reshape(tl.where(estimates >= bound, weight, 0), (M, SLOTS, SLOT)), 2)
    maybe = tl.sum(tl.reshape(tl.where(estimates >= -bound, weight, 0), (M, SLOTS, SLOT)), 2)
    slot = tl.program_id(0) * SLOTS + tl.arange(0, SLOTS)
    n_left = n_bits - slot % WORDS * 32
    asked = tl.where(n_left < 32, (tl.full((SLOTS,), 1, tl.int32) << n_left) - 1, -1)
    # False for NaN.
    asked = tl.where((size <= most)[:, None], asked[None, :], 0)
    is_slot = (row < n_rows)[:, None] & (slot < n_slots)[None, :]
    word = (slot // WORDS) * 2 + slot % WORDS
    tl.store(codes_ptr + row[:, None] * n_words + word[None, :], above & asked, mask=is_slot)
    doubts = maybe & (above ^ -1) & asked
    tl.store(doubts_ptr + row[:, None] * n_slots + slot[None, :], doubts, mask=is_slot)


@triton.jit
def sign_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    high_ptr,
    low_ptr,
    size_ptr,
    slack,
    most,
    codes_ptr,
    doubts_ptr,
    n_rows,
    n_slots,
    n_words,
    n_bits,
    dim,
    dim_padded,
    ROWS_ARE_EXACT: tl.constexpr,
    WORDS: tl.constexpr,
    SLOT: tl.constexpr,
    M: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
):
    """Sign codes of M rows in P / SLOT slots, and which bits are in doubt.

    Args beside arrays:
        size_ptr: float32, the largest component of each plane, or, without low_ptr, of all; inf
            where there is no bound.
        slack: of the estimates, times what the bound itself may lose.
        most: the largest sum of sizes of a vector that may be hashed; others get zeros.
        codes_ptr: (n_rows, n_words) int32, two words a table.
        doubts_ptr: (n_rows, n_slots) int32, written here.
        WORDS: slots of a table, 1 or 2.
    """
    tile = tl.program_id(1).to(tl.int64) + tl.program_id(2) * tl.num_programs(1)
    row = tile * M + tl.arange(0, M)
    is_row = row < n_rows
    estimates = products(
        rows_ptr + row * row_stride,
        is_row,
        column_stride,
        high_ptr,
        low_ptr,
        tl.program_id(0) * P + tl.arange(0, P),
        dim,
        dim_padded,
        ROWS_ARE_EXACT,
        M,
        P,
        D,
    )
    size, _ = sizes(rows_ptr + row * row_stride, is_row, column_stride, dim, M, D)
    store_signs(
        estimates,
        size,
        size_ptr,
        slack,
        most,
        codes_ptr,
        doubts_ptr,
        row,
        n_rows,
        n_slots,
        n_words,
        n_bits,
        low_ptr is None,
        WORDS,
        SLOT,
        M,
        P,
    )


@triton.jit
def resident_sign_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    words_ptr,
    size_ptr,
    slack,
    most,
    codes_ptr,
    doubts_ptr,
    n_rows,
    n_slots,
    n_words,
    n_bits,
    dim,
    WORDS: tl.constexpr,
    SLOT: tl.constexpr,
    M: tl.constexpr,
    P: tl.constexpr,
    DIM: tl.constexpr,
):
    """As `sign_kernel`, for exact rows and planes of at most DIM components.

    A program keeps P planes in shared memory, and rows pass by: each is read once for P planes,
    and what is the same for all tiles is computed once.
    """
    column = tl.arange(0, DIM)
    plane = tl.program_id(0) * P + tl.arange(0, P)
    words = tl.load(words_ptr + plane[None, :] * DIM + column[:, None])  # (DIM, P)
    for tile in range(tl.program_id(1), tl.cdiv(n_rows, M), tl.num_programs(1)):
        row = tile * M + tl.arange(0, M).to(tl.int64)
        x = tl.load(
            rows_ptr + row[:, None] * row_stride + column[None, :] * column_stride,
            mask=(row < n_rows)[:, None] & (column < dim)[None, :],
            other=0,
        )  # (M, DIM)
        estimates = tl.dot(x.to(tl.bfloat16), words)
        store_signs(
            estimates,
            tl.sum(tl.abs(x.to(tl.float32)), 1),
            size_ptr,
            slack,
            most,
            codes_ptr,
            doubts_ptr,
            row,
            n_rows,
            n_slots,
            n_words,
            n_bits,
            True,
            WORDS,
            SLOT,
            M,
            P,
        )


@triton.jit
def settle_signs_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    planes_ptr,
    codes_ptr,
    doubts_ptr,
    scratch_ptr,
    n_entries,
    n_slots,
    n_words,
    n_bits,
    dim,
    WORDS: tl.constexpr,
    SLOT: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
):
    """Take the bits in doubt of N slots from canonical sums, R slots at a time."""
    begin = tl.program_id(0).to(tl.int64) * N
    every = begin + tl.arange(0, N)
    doubts = tl.load(doubts_ptr + every, mask=every < n_entries, other=0)
    n_held = held(doubts, scratch_ptr + begin, N)
    for first in range(0, n_held, R):
        place = first + tl.arange(0, R)
        is_held = place < n_held
        entry = begin + tl.load(scratch_ptr + begin + place, mask=is_held, other=0)
        doubt = tl.load(doubts_ptr + entry, mask=is_held, other=0)
        row = entry // n_slots
        slot = entry % n_slots
        plane = (slot // WORDS) * n_bits + (slot % WORDS) * 32
        settled = tl.zeros((R,), tl.int32)
        for bit in range(SLOT):
            is_asked = ((doubt >> bit) & 1) != 0
            if tl.max(is_asked.to(tl.int32), 0) > 0:
                dots = pair_sums(
                    rows_ptr + row * row_stride,
                    column_stride,
                    planes_ptr + (plane + bit) * dim,
                    1,
                    is_asked,
                    dim,
                    False,
                    R,
                )
                one = tl.full((R,), 1, tl.int32) << bit
                settled = settled | tl.where(is_asked & (dots >= 0), one, 0)
        out = codes_ptr + row * n_words + (slot // WORDS) * 2 + slot % WORDS
        code = tl.load(out, mask=is_held, other=0)
        tl.store(out, code | settled, mask=is_held)


@triton.jit
def place_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    high_ptr,
    low_ptr,
    sizes_ptr,
    slack,
    most,
    codes_ptr,
    doubts_ptr,
    n_rows,
    n_tables,
    half,
    half_padded,
    dim,
    dim_padded,
    ROWS_ARE_EXACT: tl.constexpr,
    M: tl.constexpr,
    P: tl.constexpr,
    D: tl.constexpr,
):
    """Cross-polytope codes (n_rows, n_tables) int64 of M rows in one table, and which are in doubt.

    Args beside arrays:
        sizes_ptr: (n_tables,) float32, the largest component of each table's planes.
        half: planes of a table, which stand in half_padded.
    """
    row = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)
    is_row = row < n_rows
    table = tl.program_id(1)
    column = tl.arange(0, P)
    best = tl.full((M,), -1, tl.float32)
    # At least 0, so that a lone plane's sign must be certain too.
    second = tl.zeros((M,), tl.float32)
    code = tl.zeros((M,), tl.int32)
    for first in range(0, half_padded, P):
        estimates = products(
            rows_ptr + row * row_stride,
            is_row,
            column_stride,
            high_ptr,
            low_ptr,
            (table * half_padded + first + column).to(tl.int64),
            dim,
            dim_padded,
            ROWS_ARE_EXACT,
            M,
            P,
            D,
        )
        both = tl.abs(estimates)
        # False for NaN.
        both = tl.where((first + column < half)[None, :] & (both >= 0), both, -1.0)
        top, at, rest = two_largest(both, column, -1.0)
        signed = tl.sum(tl.where(column[None, :] == at[:, None], estimates, 0.0), 1)
        second = tl.maximum(tl.maximum(second, rest), tl.minimum(best, top))
        code = tl.where(top > best, first + at + tl.where(signed < 0, half, 0), code)
        best = tl.maximum(best, top)
    size, _ = sizes(rows_ptr + row * row_stride, is_row, column_stride, dim, M, D)
    bound = size * slack * tl.load(sizes_ptr + table)
    is_certain = (best - second > 2 * bound) & ((size < TINY) == 0)
    # Of nothing all sums are 0, and the first place is the largest.
    is_empty = size == 0
    # False for NaN.
    is_sound = size <= most
    out = row * n_tables + table
    tl.store(codes_ptr + out, tl.where(is_certain & is_sound, code, 0).to(tl.int64), mask=is_row)
    is_doubt = is_sound & (is_certain == 0) & (is_empty == 0)
    tl.store(doubts_ptr + out, is_doubt.to(tl.int32), mask=is_row)


@triton.jit
def settle_places_kernel(
    rows_ptr,
    row_stride,
    column_stride,
    planes_ptr,
    codes_ptr,
    doubts_ptr,
    scratch_ptr,
    n_entries,
    n_tables,
    half,
    dim,
    N: tl.constexpr,
    P: tl.constexpr,
):
    """Take the codes in doubt among N from the canonical sums of all planes of their tables."""
    begin = tl.program_id(0).to(tl.int64) * N
    every = begin + tl.arange(0, N)
    doubts = tl.load(doubts_ptr + every, mask=every < n_entries, other=0)
    n_held = held(doubts, scratch_ptr + begin, N)
    one = tl.arange(0, 1)
    for place in range(0, n_held):
        entry = begin + tl.load(scratch_ptr + begin + place) + one
        row = entry // n_tables
        first_plane = (entry % n_tables) * half
        best = tl.full((1,), NOTHING, tl.int32)
        best_minus = tl.full((1,), NOTHING, tl.int32)
        at = tl.zeros((1,), tl.int32)
        at_minus = tl.zeros((1,), tl.int32)
        for first in range(0, half, P):
            column = first + tl.arange(0, P)
            is_plane = column < half
            plane = tl.sum(first_plane, 0) + column
            dots = sums(
                rows_ptr + row * row_stride,
                one == 0,
                column_stride,
                planes_ptr + plane * dim,
                is_plane,
                1,
                dim,
                False,
                1,
                P,
            )
            plus = tl.where(is_plane[None, :], to_key(dots + 0.0), NOTHING)
            minus = tl.where(is_plane[None, :], to_key(0.0 - dots), NOTHING)
            top = tl.max(plus, 1)
            top_minus = tl.max(minus, 1)
            # Of equal ones the first.
            at = tl.where(top > best, first + tl.argmax(plus, 1), at)
            at_minus = tl.where(top_minus > best_minus, first + tl.argmax(minus, 1), at_minus)
            best = tl.maximum(best, top)
            best_minus = tl.maximum(best_minus, top_minus)
        code = tl.where(best >= best_minus, at, half + at_minus)
        tl.store(codes_ptr + entry, code.to(tl.int64))

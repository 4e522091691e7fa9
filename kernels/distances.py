"""Hamming distances, which are small whole numbers: counted first, then those that count are kept.

Counts by distance say how far the k-th nearest code is; of the codes as far as that, the first ones
are taken, as many as there is room for. Keys are split over programs; what each may keep, and
where it goes, follows from the counts of all, so that nothing is written twice and no order is
left to chance.
"""

import triton
import triton.language as tl

from .order import to_key


@triton.jit
def ones(words):
    """How many bits of int32 words are set. LLVM knows this form as one instruction."""
    x = words.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    return ((x * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def distances(
    queries_ptr,
    query,
    keys_ptr,
    key,
    is_key,
    mask_ptr,
    mask_row_stride,
    mask_stride,
    n_words,
    N: tl.constexpr,
    WORDS: tl.constexpr,
    BINS: tl.constexpr,
):
    """In how many bits keys (N,) differ from a query; BINS - 1 where a key is not allowed."""
    total = tl.zeros((N,), tl.int32)
    for first in range(0, n_words, WORDS):
        word = first + tl.arange(0, WORDS)
        q = tl.load(queries_ptr + query * n_words + word, mask=word < n_words, other=0)
        k = tl.load(
            keys_ptr + key[:, None] * n_words + word[None, :],
            mask=is_key[:, None] & (word < n_words)[None, :],
            other=0,
        )
        total += tl.sum(ones(q[None, :] ^ k), 1)
    allowed = is_key
    if mask_ptr is not None:
        allowed = allowed & tl.load(
            mask_ptr + query * mask_row_stride + key * mask_stride, mask=allowed, other=0
        ).to(tl.int1)
    return tl.where(allowed, total, BINS - 1)


@triton.jit
def range_of(split, n_keys, n_splits, N: tl.constexpr):
    """The keys of one split, in whole tiles of N."""
    share = tl.cdiv(tl.cdiv(n_keys, n_splits), N) * N
    return split * share, tl.minimum(split * share + share, n_keys)


@triton.jit
def count_kernel(
    queries_ptr,
    keys_ptr,
    mask_ptr,
    mask_row_stride,
    mask_stride,
    counts_ptr,
    n_queries,
    n_keys,
    n_words,
    n_splits,
    Q: tl.constexpr,
    N: tl.constexpr,
    WORDS: tl.constexpr,
    BINS: tl.constexpr,
):
    """How many keys of one split are how far from Q queries: counts (n_queries, n_splits, BINS)."""
    split = tl.program_id(1).to(tl.int64)
    begin, end = range_of(split, n_keys, n_splits, N)
    first_query = tl.program_id(0).to(tl.int64) * Q
    # The split's keys stay in the nearest cache from one query to the next.
    for query in range(first_query, tl.minimum(first_query + Q, n_queries)):
        bins = tl.zeros((BINS,), tl.int32)
        for first in range(begin, end, N):
            key = first + tl.arange(0, N)
            far = distances(
                queries_ptr,
                query,
                keys_ptr,
                key,
                key < end,
                mask_ptr,
                mask_row_stride,
                mask_stride,
                n_words,
                N,
                WORDS,
                BINS,
            )
            # In any order: as it comes, each distance would be counted by several lanes in turn.
            bins += tl.histogram(tl.reshape(far, (N,), can_reorder=True), BINS)
        tl.store(counts_ptr + (query * n_splits + split) * BINS + tl.arange(0, BINS), bins)


@triton.jit
def share_kernel(
    counts_ptr,
    widths_ptr,
    farthest_ptr,
    begins_ptr,
    rooms_ptr,
    ends_ptr,
    k,
    max_distance,
    n_splits,
    S: tl.constexpr,
    BINS: tl.constexpr,
):
    """What each split of one query keeps: all nearer than the farthest, and its share of those.

    Args beside arrays:
        widths_ptr: (n_queries,) int64, the hits of each query; None for k.
        farthest_ptr: (n_queries,) int32, written: the distance of the last that may be kept.
        begins_ptr, ends_ptr: (n_queries, n_splits) int32, written: the slots of a split's keys.
        rooms_ptr: (n_queries, n_splits) int32, written: how many as far as the farthest it keeps.
    """
    query = tl.program_id(0).to(tl.int64)
    wanted = tl.zeros((), tl.int64) + k
    if widths_ptr is not None:
        wanted = tl.load(widths_ptr + query)
    bin = tl.arange(0, BINS)
    # The last bin holds what is not allowed.
    total = tl.zeros((BINS,), tl.int32)
    for first in range(0, n_splits, S):
        split = first + tl.arange(0, S)
        counts = tl.load(
            counts_ptr + (query * n_splits + split)[:, None] * BINS + bin[None, :],
            mask=(split < n_splits)[:, None] & (bin < BINS - 1)[None, :],
            other=0,
        )
        total += tl.sum(counts, 0)
    upto = tl.cumsum(total, 0)
    # The first distance within which there are enough: as many are not enough before it.
    farthest = tl.sum((upto < wanted).to(tl.int32), 0)
    farthest = tl.minimum(farthest, max_distance)
    farthest = tl.where(wanted > 0, farthest, -1)
    nearer = tl.sum(tl.where(bin < farthest, total, 0), 0)
    room = wanted.to(tl.int32) - nearer
    begin = tl.zeros((), tl.int32)
    for first in range(0, n_splits, S):
        split = first + tl.arange(0, S)
        counts = tl.load(
            counts_ptr + (query * n_splits + split)[:, None] * BINS + bin[None, :],
            mask=(split < n_splits)[:, None] & (bin < BINS - 1)[None, :],
            other=0,
        )
        near = tl.sum(tl.where((bin < farthest)[None, :], counts, 0), 1)
        level = tl.sum(tl.where((bin == farthest)[None, :], counts, 0), 1)
        left = tl.maximum(room - (tl.cumsum(level, 0) - level), 0)
        kept = near + tl.minimum(level, left)
        upto_here = begin + tl.cumsum(kept, 0)
        out = query * n_splits + split
        tl.store(begins_ptr + out, upto_here - kept, mask=split < n_splits)
        tl.store(ends_ptr + out, upto_here, mask=split < n_splits)
        tl.store(rooms_ptr + out, left, mask=split < n_splits)
        begin += tl.sum(kept, 0)
        room -= tl.sum(level, 0)
    tl.store(farthest_ptr + query, farthest)


@triton.jit
def keep_kernel(
    queries_ptr,
    keys_ptr,
    mask_ptr,
    mask_row_stride,
    mask_stride,
    farthest_ptr,
    begins_ptr,
    rooms_ptr,
    ends_ptr,
    parts_ptr,
    part_ids_ptr,
    n_queries,
    n_keys,
    n_words,
    n_splits,
    width,
    Q: tl.constexpr,
    N: tl.constexpr,
    WORDS: tl.constexpr,
    BINS: tl.constexpr,
):
    """Write what one split keeps for Q queries to its slots of parts (n_queries, width), by id."""
    split = tl.program_id(1).to(tl.int64)
    begin, end = range_of(split, n_keys, n_splits, N)
    first_query = tl.program_id(0).to(tl.int64) * Q
    for query in range(first_query, tl.minimum(first_query + Q, n_queries)):
        slot = tl.load(begins_ptr + query * n_splits + split)
        last = tl.load(ends_ptr + query * n_splits + split)
        room = tl.load(rooms_ptr + query * n_splits + split)
        farthest = tl.load(farthest_ptr + query)
        # No further than what is kept.
        first = begin
        while slot < last:
            key = first + tl.arange(0, N)
            far = distances(
                queries_ptr,
                query,
                keys_ptr,
                key,
                key < end,
                mask_ptr,
                mask_row_stride,
                mask_stride,
                n_words,
                N,
                WORDS,
                BINS,
            )
            level = (far == farthest).to(tl.int32)
            is_kept = (far < farthest) | ((far == farthest) & (tl.cumsum(level, 0) <= room))
            kept = is_kept.to(tl.int32)
            out = query * width + slot + tl.cumsum(kept, 0) - 1
            tl.store(parts_ptr + out, to_key(0.0 - far.to(tl.float32)), mask=is_kept)
            tl.store(part_ids_ptr + out, key, mask=is_kept)
            slot += tl.sum(kept, 0)
            room -= tl.sum(level, 0)
            first += N

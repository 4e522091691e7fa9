"""Buckets of fixed size and sums per bucket: what a batch leaves as if added row after row.

A batch comes as entries (row, table), sorted stably by their bucket. A program looks at N entries;
the entries of one bucket stand together in the order of the rows.
"""

import triton
import triton.language as tl


@triton.jit
def mixed(value):
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), on uint64."""
    value = value + 0x9E3779B97F4A7C15
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB
    return value ^ (value >> 31)


@triton.jit
def slot_of(draw, count, n_slots, IS_RANDOM: tl.constexpr):
    """Where the row goes that a bucket gets after count others; draw (uint64) is the bucket's."""
    slot = count % n_slots
    if IS_RANDOM:
        drawn = mixed(draw + count.to(tl.uint64)) % (tl.zeros((), tl.uint64) + n_slots)
        slot = tl.where(count < n_slots, slot, drawn.to(tl.int64))
    return slot


@triton.jit
def add_kernel(
    slots_ptr,
    counts_ptr,
    ids_ptr,
    keys_ptr,
    order_ptr,
    begins_ptr,
    ends_ptr,
    draws_ptr,
    n_entries,
    n_tables,
    n_buckets,
    n_keys,
    n_slots,
    IS_RANDOM: tl.constexpr,
    N: tl.constexpr,
):
    """Write the ids that stay until the batch's end to their slots; counts stay as they are.

    An entry stays unless a later one of its bucket takes its slot: no slot is written twice.

    Args beside sizes:
        slots_ptr: (n_tables, n_buckets, n_slots) int64.
        counts_ptr: (n_tables, n_buckets) int64, rows put there before the batch.
        ids_ptr: (n,) int64.
        keys_ptr: (n_entries,) int64, rising: table * n_buckets + bucket; n_keys for no bucket.
        order_ptr: (n_entries,) int64, row * n_tables + table of each.
        begins_ptr, ends_ptr: (n_entries,) int64, where the entries of the same bucket stand.
        draws_ptr: (n_tables,) int64, what each table mixes its buckets with.
    """
    entry = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    key = tl.load(keys_ptr + entry, mask=entry < n_entries, other=n_keys)
    stays = key < n_keys
    before = tl.load(counts_ptr + key, mask=stays, other=0)
    before -= tl.load(begins_ptr + entry, mask=stays, other=0)
    end = tl.load(ends_ptr + entry, mask=stays, other=0)
    draw = tl.load(draws_ptr + key // n_buckets, mask=stays, other=0).to(tl.uint64, bitcast=True)
    draw = mixed(draw + (key % n_buckets).to(tl.uint64))
    slot = slot_of(draw, before + entry, n_slots, IS_RANDOM)
    if IS_RANDOM:
        later = entry + 1
        is_open = stays & (later < end)
        while tl.max(is_open.to(tl.int32), 0) > 0:
            is_taken = is_open & (slot_of(draw, before + later, n_slots, IS_RANDOM) == slot)
            stays = stays & (is_taken == 0)
            later += 1
            is_open = is_open & stays & (later < end)
    else:
        stays = stays & (entry + n_slots >= end)
    row = tl.load(order_ptr + entry, mask=stays, other=0) // n_tables
    id = tl.load(ids_ptr + row, mask=stays, other=0)
    tl.store(slots_ptr + key * n_slots + slot, id, mask=stays)


@triton.jit
def count_kernel(counts_ptr, keys_ptr, begins_ptr, ends_ptr, n_entries, n_keys, N: tl.constexpr):
    """Add to the count of each bucket how many entries it got; the first of them does so."""
    entry = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    key = tl.load(keys_ptr + entry, mask=entry < n_entries, other=n_keys)
    begin = tl.load(begins_ptr + entry, mask=entry < n_entries, other=-1)
    is_first = (key < n_keys) & (begin == entry)
    count = tl.load(counts_ptr + key, mask=is_first, other=0)
    end = tl.load(ends_ptr + entry, mask=is_first, other=0)
    tl.store(counts_ptr + key, count + end - begin, mask=is_first)


@triton.jit
def gather_kernel(
    slots_ptr,
    probes_ptr,
    found_ptr,
    n_found,
    n_tables,
    n_buckets,
    n_probes,
    n_slots,
    N: tl.constexpr,
):
    """Copy the ids of the probed buckets: found (n, n_tables, n_probes, n_slots), -1 for none."""
    place = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = place < n_found
    probe = place // n_slots
    table = (probe // n_probes) % n_tables
    bucket = tl.load(probes_ptr + probe, mask=inside, other=-1)
    # What is no bucket holds nothing.
    is_bucket = (bucket >= 0) & (bucket < n_buckets)
    at = (table * n_buckets + bucket) * n_slots + place % n_slots
    tl.store(found_ptr + place, tl.load(slots_ptr + at, mask=is_bucket, other=-1), mask=inside)


@triton.jit
def hits_kernel(
    ids_ptr,
    places_ptr,
    scores_ptr,
    n_found,
    width,
    of_table,
    min_hits,
    N: tl.constexpr,
):
    """In how many tables each id lies: scores (n, width) at its first place, NaN elsewhere.

    Args beside sizes:
        ids_ptr: (n, width) int64, each row rising.
        places_ptr: (n, width) int64, where each stood, rising where ids are equal.
        of_table: places of one table.
        min_hits: tables; ids in fewer get NaN.
    """
    place = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    inside = place < n_found
    column = place % width
    id = tl.load(ids_ptr + place, mask=inside, other=-1)
    before = tl.load(ids_ptr + place - 1, mask=inside & (column > 0), other=-1)
    is_first = (id >= 0) & (id != before)
    table = tl.load(places_ptr + place, mask=is_first, other=0) // of_table
    n_hits = is_first.to(tl.int32)
    ahead = tl.full((), 1, tl.int32)
    is_open = is_first
    while tl.max(is_open.to(tl.int32), 0) > 0:
        is_open = is_open & (column + ahead < width)
        other = tl.load(ids_ptr + place + ahead, mask=is_open, other=-1)
        is_open = is_open & (other == id)
        next = tl.load(places_ptr + place + ahead, mask=is_open, other=0) // of_table
        # A table counts once, whatever it holds twice.
        n_hits += (is_open & (next != table)).to(tl.int32)
        table = tl.where(is_open, next, table)
        ahead += 1
    is_hit = is_first & (n_hits >= min_hits)
    score = tl.where(is_hit, n_hits.to(tl.float32), float("nan"))
    tl.store(scores_ptr + place, score, mask=inside)


@triton.jit
def sketch_kernel(
    sums_ptr,
    values_ptr,
    row_stride,
    column_stride,
    keys_ptr,
    order_ptr,
    n_entries,
    n_tables,
    n_keys,
    width,
    N: tl.constexpr,
    D: tl.constexpr,
):
    """Add values to the sums of their buckets, D of the width at a time, in the order of the rows.

    The first entry of a bucket adds all of them, so that each sum has one writer.

    Args beside strides and sizes:
        sums_ptr: (n_keys, width) float32 or float64.
        values_ptr: (n, width) of the same dtype.
        keys_ptr, order_ptr: (n_entries,) int64, as for `add_kernel`.
    """
    entry = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    column = tl.program_id(1) * D + tl.arange(0, D)
    key = tl.load(keys_ptr + entry, mask=entry < n_entries, other=n_keys)
    before = tl.load(keys_ptr + entry - 1, mask=(entry > 0) & (entry < n_entries), other=-1)
    is_first = (key < n_keys) & (key != before)
    at = sums_ptr + key[:, None] * width + column[None, :]
    inside = is_first[:, None] & (column < width)[None, :]
    total = tl.load(at, mask=inside, other=0)
    is_open = is_first
    while tl.max(is_open.to(tl.int32), 0) > 0:
        row = tl.load(order_ptr + entry, mask=is_open, other=0) // n_tables
        value = tl.load(
            values_ptr + row[:, None] * row_stride + column[None, :] * column_stride,
            mask=is_open[:, None] & (column < width)[None, :],
            other=0,
        )
        total = tl.where(is_open[:, None], total + value, total)
        entry += 1
        next = tl.load(keys_ptr + entry, mask=is_open & (entry < n_entries), other=-1)
        is_open = is_open & (next == key)
    tl.store(at, total, mask=inside)

"""Buckets of fixed size and sums per bucket, one row after the other."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint64]
Ints = NDArray[np.int64]


def bucket_add(
    slots: Ints, counts: Ints, ids: Ints, codes: Codes, is_random: bool, seed: int
) -> None:
    """Put row ids[i] into bucket codes[i, t] of every table t.

    A full bucket gives up its oldest slot, or, with is_random, one drawn from (seed, table, bucket,
    number of rows put there before): the same rows in other batches leave the same slots.

    Args:
        slots: (n_tables, n_buckets, n_slots) ids, -1 where empty; changed.
        counts: (n_tables, n_buckets): rows ever put there; changed.
        ids: (n,).
        codes: (n, n_tables), below n_buckets.
        is_random: which slot a full bucket gives up.
        seed: of the draws.
    """
    n_slots = slots.shape[2]
    for row, row_codes in zip(ids.tolist(), codes.tolist(), strict=True):
        for t, bucket in enumerate(row_codes):
            count = int(counts[t, bucket])
            counts[t, bucket] += 1
            slot = count % n_slots
            if is_random and count >= n_slots:
                slot = _mix(_mix(_mix(seed + t) + bucket) + count) % n_slots
            slots[t, bucket, slot] = row


def bucket_search(slots: Ints, probes: Codes, min_hits: int) -> tuple[Ints, Ints, Ints]:
    """The ids that lie in a probed bucket of at least min_hits tables.

    Args:
        slots: (n_tables, n_buckets, n_slots).
        probes: (n, n_tables, n_probes), below n_buckets.
        min_hits: tables.

    Returns:
        offsets (n + 1,); the ids of query q, most tables first, then by id, at
        offsets[q]:offsets[q + 1]; the number of tables of each.
    """
    ids: list[int] = []
    n_tables: list[int] = []
    offsets = [0]
    for query in probes.tolist():
        met: dict[int, int] = {}
        for t, buckets in enumerate(query):
            for row in {int(i) for bucket in buckets for i in slots[t, bucket] if i >= 0}:
                met[row] = met.get(row, 0) + 1
        for hits, row in sorted((-hits, row) for row, hits in met.items() if hits >= min_hits):
            ids.append(row)
            n_tables.append(-hits)
        offsets.append(len(ids))
    return np.array(offsets), np.array(ids, np.int64), np.array(n_tables, np.int64)


def sketch_add(sums: NDArray[Any], codes: Codes, values: NDArray[Any]) -> None:
    """Add values (n, width) to sums (n_tables, n_buckets, width)[t, codes[:, t]], in row order."""
    for t in range(len(sums)):
        np.add.at(sums[t], codes[:, t].astype(np.int64), values)


def _mix(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), on 64 bits."""
    mask = (1 << 64) - 1
    value = (value + 0x9E3779B97F4A7C15) & mask
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & mask
    return value ^ value >> 31

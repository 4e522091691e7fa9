"""bucket_add, bucket_search, sketch_add: tables of buckets on a device, batch after batch."""

from collections.abc import Iterable

import torch
import triton

from . import slots as kernels
from .layout import near
from .topk import row_bytes, topk
from .workspace import SORT_INT64, parts

# Entries of a program, and bytes that one takes on its way to its bucket.
_ENTRIES, _ENTRY = 128, 24 + SORT_INT64

_MASK = (1 << 64) - 1


def bucket_add(
    slots: torch.Tensor,
    counts: torch.Tensor,
    ids: torch.Tensor,
    codes: torch.Tensor,
    is_random: bool,
    seed: int,
) -> None:
    """Put rows ids[i] into bucket codes[i, t] of every table t, as `_core.bucket_add`.

    Args:
        slots: (n_tables, n_buckets, n_slots) int64, contiguous; changed.
        counts: (n_tables, n_buckets) int64, contiguous; changed.
        ids: (n,) int64; rows with a negative one are left out.
        codes: (n, n_tables) int64; what is no bucket is left out.
        is_random: which slot a full bucket gives up.
        seed: of the draws, below 2^64.
    """
    n_tables, n_buckets, n_slots = slots.shape
    if not codes.numel():
        return
    draws = [_mixed(seed + table & _MASK) for table in range(n_tables)]
    signed = [draw - (1 << 64) if draw >> 63 else draw for draw in draws]
    drawn = torch.tensor(signed, device=slots.device)
    for part in parts(len(codes), n_tables * _ENTRY):
        keys, order = _entries(codes[part], n_buckets, ids[part] >= 0)
        begins = torch.searchsorted(keys, keys)
        ends = torch.searchsorted(keys, keys, right=True)
        grid = (triton.cdiv(len(keys), _ENTRIES),)
        kernels.add_kernel[grid](
            slots,
            counts,
            ids[part],
            keys,
            order,
            begins,
            ends,
            drawn,
            len(keys),
            n_tables,
            n_buckets,
            counts.numel(),
            n_slots,
            IS_RANDOM=is_random,
            N=_ENTRIES,
        )
        sizes = (len(keys), counts.numel())
        kernels.count_kernel[grid](counts, keys, begins, ends, *sizes, N=_ENTRIES)


def bucket_search(
    slots: torch.Tensor, probes: torch.Tensor, min_hits: int, width: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids that lie in a probed bucket of at least min_hits tables, as `_core.bucket_search`.

    Args:
        slots: (n_tables, n_buckets, n_slots) int64, contiguous.
        probes: (n, n_tables, n_probes) int64, contiguous; what is no bucket holds nothing.
        min_hits: tables.
        width: ids of a query; None for as many as the largest answer has, which waits for it.

    Returns:
        scores (n, width) float32, the tables of each, most first and equal ones by id; ids (n,
        width) int64. -inf and -1 pad.
    """
    n_found = probes.shape[1] * probes.shape[2] * slots.shape[2]
    most = n_found if width is None else width
    each = (8 + SORT_INT64) * n_found + row_bytes(n_found, most) + 40 * most
    found: Iterable[tuple[slice, torch.Tensor, torch.Tensor]] = (
        (part, *_search_turn(slots, probes[part], min_hits, width))
        for part in parts(len(probes), each)
    )
    if width is None:
        found = [*found]
        width = max((scores.shape[1] for _, scores, _ in found), default=0)
    scores = slots.new_full((len(probes), width), -torch.inf, dtype=torch.float32)
    ids = torch.full_like(scores, -1, dtype=torch.int64)
    for part, some, named in found:
        scores[part, : some.shape[1]], ids[part, : some.shape[1]] = some, named
    return scores, ids


def _search_turn(
    slots: torch.Tensor, probes: torch.Tensor, min_hits: int, width: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    n, n_tables, n_probes = probes.shape
    of_table = n_probes * slots.shape[2]
    found = slots.new_empty((n, n_tables * of_table))
    grid = (triton.cdiv(found.numel(), _ENTRIES),)
    shape = (n_tables, slots.shape[1], n_probes, slots.shape[2])
    kernels.gather_kernel[grid](slots, probes, found, found.numel(), *shape, N=_ENTRIES)
    # Stable, so that the places of an id rise, and with them its tables.
    named, places = found.sort(dim=1, stable=True)
    hits = torch.empty_like(named, dtype=torch.float32)
    kernels.hits_kernel[grid](
        named, places, hits, named.numel(), named.shape[1], of_table, min_hits, N=_ENTRIES
    )
    if width is None:
        width = int((hits == hits).sum(1).max())
    scores = hits.new_empty((n, width))
    ids = torch.empty_like(scores, dtype=torch.int64)
    topk(hits, width, scores, ids)
    return scores, torch.where(ids < 0, -1, named.gather(1, ids.clamp(min=0)))


def sketch_add(sums: torch.Tensor, codes: torch.Tensor, values: torch.Tensor) -> None:
    """Add values (n, width) to sums (n_tables, n_buckets, width)[t, codes[:, t]], in row order.

    Args:
        sums: float32 or float64, contiguous; changed.
        codes: (n, n_tables) int64; what is no bucket is left out.
        values: of the dtype of sums; a row that is not finite is left out.
    """
    n_tables, n_buckets, width = sums.shape
    if not codes.numel():
        return
    values = near(values)
    columns = min(32, triton.next_power_of_2(width))
    rows = max(16, 256 // columns)
    for part in parts(len(codes), n_tables * _ENTRY + 12 * width):
        keys, order = _entries(codes[part], n_buckets, values[part].isfinite().all(1))
        kernels.sketch_kernel[(triton.cdiv(len(keys), rows), triton.cdiv(width, columns))](
            sums,
            values[part],
            *values.stride(),
            keys,
            order,
            len(keys),
            n_tables,
            n_tables * n_buckets,
            width,
            N=rows,
            D=columns,
        )


def _entries(
    codes: torch.Tensor, n_buckets: int, is_sound: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and tables by bucket: the buckets, rising, and row * n_tables + table of each."""
    n_tables = codes.shape[1]
    table = torch.arange(n_tables, device=codes.device)
    is_bucket = (codes >= 0) & (codes < n_buckets) & is_sound[:, None]
    keys = torch.where(is_bucket, table * n_buckets + codes, n_tables * n_buckets)
    # Stable, so that the rows of a bucket stay in their order.
    return keys.reshape(-1).sort(stable=True)


def _mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & _MASK
    return value ^ value >> 31

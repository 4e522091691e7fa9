"""Tables of buckets on a device: what they are given, and where their results go.

Arrays of the host are checked as everywhere, and copied. Those on the device are not looked at: an
id below 0, a code beyond the buckets or a row of values that is not finite is left out there.
"""

from typing import Any

import numpy as np

from memcore import arrays, tensors
from memcore.backends import Runner, check_device, engine
from memcore.errors import in_room
from memcore.hits import Hits
from memcore.ops import buckets as host


def zeros(op: str, shape: tuple[int, ...], dtype: str, device: str) -> Any:
    """A table of zeros on a device, as a tensor.

    Raises:
        BackendError: torch or Triton is not installed, or there is no such GPU.
    """
    place = tensors.place_for(op, device)
    torch = tensors.library(op)
    with in_room(op):
        return torch.zeros(shape, dtype=getattr(torch, dtype), device=place)


@in_room("add")
def add(table: tuple[Any, Any, bool, int], ids: Any, codes: Any, backend: str | None) -> None:
    """Arguments as `BucketTable.add`, and the table's slots, counts, choice and seed."""
    slots, counts, is_random, seed = table
    run = _engine("add", "bucket_add", backend)
    torch, device = tensors.library("add"), slots.device
    hashed = _codes("add", codes, slots.shape[:2], device)
    if tensors.lies_on(device, ids):
        named = tensors.ints("add", "ids", ids).reshape(-1)
    else:
        named = torch.tensor(host.ids_of("add", ids), device=device)
    host.check_lengths("add", hashed, named)
    run(slots, counts, named, hashed, is_random, seed)


@in_room("search")
def search(slots: Any, codes: Any, k: int | None, min_hits: int, backend: str | None) -> Hits:
    """Arguments as `BucketTable.search`, and the table's slots."""
    run = _engine("search", "bucket_search", backend)
    probes = _codes("search", codes, slots.shape[:2], slots.device, probes=True)
    scores, ids = run(slots, probes, min_hits, k)
    return Hits(_back(slots.device, codes, scores), _back(slots.device, codes, ids))


@in_room("add")
def sketch_add(sums: Any, codes: Any, values: Any, backend: str | None) -> None:
    """Arguments as `SketchTable.add`, and the table's sums."""
    run = _engine("add", "sketch_add", backend)
    torch, device = tensors.library("add"), sums.device
    hashed = _codes("add", codes, sums.shape[:2], device)
    if tensors.lies_on(device, values):
        rows = tensors.numbers("add", "values", values, sums.dtype)
    else:
        dtype = "float64" if sums.dtype is torch.float64 else "float32"
        rows = torch.tensor(host.values_of("add", values, np.dtype(dtype)), device=device)
    host.check_values("add", tuple(rows.shape), (len(hashed), sums.shape[2]))
    run(sums, hashed, rows)


@in_room("read")
def read(sums: Any, codes: Any) -> Any:
    """Arguments as `SketchTable.read`, and the table's sums; of no bucket they are zeros."""
    n_tables, n_buckets = sums.shape[:2]
    hashed = _codes("read", codes, sums.shape[:2], sums.device)
    is_bucket = (hashed >= 0) & (hashed < n_buckets)
    table = tensors.library("read").arange(n_tables, device=sums.device)
    found = sums[table, hashed.where(is_bucket, 0)]
    found.masked_fill_(~is_bucket[:, :, None], 0)
    return _back(sums.device, codes, found)


def _engine(verb: str, op: str, backend: str | None) -> Runner:
    check_device(verb, backend)
    return engine(op, "triton")


def _codes(
    op: str, given: Any, shape: tuple[int, ...], device: Any, *, probes: bool = False
) -> Any:
    """Codes on the device as int64 of the same bits, contiguous."""
    torch = tensors.library(op)
    if not tensors.lies_on(device, given):
        codes = host.codes_of(op, given, shape, probes=probes)
        return torch.tensor(codes.view(np.int64), device=device)
    hashed = tensors.words(op, "codes", given).view(torch.int64)
    if probes and hashed.ndim == 2:
        hashed = hashed[:, :, None]
    host.check_shape(op, tuple(hashed.shape), shape[0], probes=probes)
    return hashed


def _back(device: Any, given: Any, result: Any) -> Any:
    """A result where the codes are that were asked with, in their library."""
    if tensors.lies_on(device, given):
        return tensors.like(given, result)
    return arrays.like(given, result.cpu().numpy())

"""lsh_encode and lsh_probes over vectors on a device: the checks that need no look at the numbers.

Neither waits for the device. A vector that they refuse on the host by its value gets codes of zeros
here.
"""

from typing import Any

from memcore import arrays, tensors
from memcore.backends import Runner, check_device, engine, lay_out
from memcore.errors import BackendError, ShapeError


def planes_on(device: Any, planes: Any, n_bits: int, kind: str) -> Any:
    """Planes of the host or the device, laid out for the kernels there: what `packed` takes."""
    return lay_out("lsh_encode", _planes(device, planes), n_bits, kind)


def lsh_encode_device(
    vectors: Any, planes: Any, n_bits: int, kind: str, n_each: int, packed: Any, backend: str | None
) -> Any:
    """Codes on the device of the vectors, in their library; arguments as for `lsh_encode`.

    Args beside those:
        n_each: planes of one table.

    Raises:
        BackendError: an engine that does not run there, or a gradient asked for.
        ShapeError, DtypeError: as `lsh_encode`.
    """
    rows, run = _checked("lsh_encode", vectors, planes, n_each, backend)
    if packed is None:
        packed = planes_on(rows.device, planes, n_bits, kind)
    codes = _room(rows, len(planes) // n_each)
    run(rows, None, packed, n_bits, kind, codes)
    return _seen(vectors, codes)


def lsh_probes_device(
    vectors: Any,
    planes: Any,
    n_bits: int,
    kind: str,
    n_each: int,
    n_probes: int,
    backend: str | None,
) -> Any:
    """Codes on the device of the vectors, in their library; arguments as for `lsh_probes`.

    Args beside those:
        n_each: planes of one table.

    Raises:
        As `lsh_encode_device`.
    """
    rows, run = _checked("lsh_probes", vectors, planes, n_each, backend)
    probes = _room(rows, len(planes) // n_each, n_probes)
    run(rows, _planes(rows.device, planes), n_bits, kind, n_probes, probes)
    return _seen(vectors, probes)


def _checked(
    op: str, vectors: Any, planes: Any, n_each: int, backend: str | None
) -> tuple[Any, Runner]:
    """Vectors as (n, dim) where they lie, and what runs the op."""
    check_device(op, backend)
    device = tensors.device_of(op, ("vectors", vectors))
    if arrays.differentiates(vectors):
        raise BackendError(f"{op}: a tensor on {device} needs a gradient, should be detached")
    rows = tensors.vectors(op, "vectors", vectors)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ShapeError(f"{op}: vectors has shape {tuple(rows.shape)}, should be (n, dim)")
    if not isinstance(planes, tensors.library(op).Tensor):
        planes = arrays.vectors(op, "planes", planes)[0]
    if planes.ndim != 2 or planes.shape[1] != rows.shape[1]:
        raise ShapeError(
            f"{op}: planes has shape {tuple(planes.shape)}, should be (n_planes, {rows.shape[1]})"
        )
    n_planes = len(planes)
    if not n_planes or n_planes % n_each:
        raise ShapeError(f"{op}: planes has {n_planes} rows, should have a multiple of {n_each}")
    return rows, engine(op, "triton")


def _planes(device: Any, planes: Any) -> Any:
    """Planes of the host or the device as int8 or float32 there, contiguous."""
    torch = tensors.library("lsh_encode")
    if not isinstance(planes, torch.Tensor):
        return torch.tensor(planes, device=device)
    dtype = torch.int8 if planes.dtype is torch.int8 else torch.float32
    return planes.detach().to(device, dtype).contiguous()


def _room(rows: Any, *shape: int) -> Any:
    """Room for codes, as the signed words that kernels write."""
    return rows.new_empty((len(rows), *shape), dtype=tensors.library("lsh_encode").int64)


def _seen(vectors: Any, codes: Any) -> Any:
    """Codes in the library of vectors, unsigned."""
    return tensors.like(vectors, codes.view(tensors.library("lsh_encode").uint64))

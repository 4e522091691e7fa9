"""lsh_encode over vectors on a device: the checks that need no look at the numbers.

Encoding never waits for the device. A vector that `lsh_encode` refuses on the host by its value
gets codes of zeros here.
"""

from typing import Any

from memcore import arrays, tensors
from memcore.backends import engine, lay_out
from memcore.errors import BackendError, ShapeError


def planes_on(device: Any, planes: Any, n_bits: int, kind: str) -> Any:
    """Planes of the host or the device, laid out for the kernels there: what `packed` takes."""
    torch = tensors.library("lsh_encode")
    if not isinstance(planes, torch.Tensor):
        planes = torch.tensor(planes, device=device)
    elif planes.dtype is not torch.int8:
        planes = planes.to(torch.float32)
    return lay_out("lsh_encode", planes.detach(), n_bits, kind)


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
    op = "lsh_encode"
    if backend not in (None, "triton"):
        raise BackendError(f"{op}: backend is {backend!r}, should be 'triton' on a device")
    device = tensors.device_of(op, ("vectors", vectors))
    if arrays.differentiates(vectors):
        raise BackendError(f"{op}: a tensor on {device} needs a gradient, should be detached")
    rows = tensors.vectors(op, "vectors", vectors)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ShapeError(f"{op}: vectors has shape {tuple(rows.shape)}, should be (n, dim)")
    if planes.ndim != 2 or planes.shape[1] != rows.shape[1]:
        raise ShapeError(
            f"{op}: planes has shape {tuple(planes.shape)}, should be (n_planes, {rows.shape[1]})"
        )
    n_planes = len(planes)
    if not n_planes or n_planes % n_each:
        raise ShapeError(f"{op}: planes has {n_planes} rows, should have a multiple of {n_each}")
    run = engine(op, "triton")
    if packed is None:
        packed = planes_on(device, planes, n_bits, kind)
    torch = tensors.library(op)
    codes = torch.empty((len(rows), n_planes // n_each), dtype=torch.int64, device=device)
    run(rows, None, packed, n_bits, kind, codes)
    return tensors.like(vectors, codes.view(torch.uint64))

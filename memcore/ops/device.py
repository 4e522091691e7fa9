"""What ops share on a device: whether a call goes there, and room for its hits."""

from typing import Any

from memcore import arrays, scalars, tensors
from memcore.backends import check_device, check_readable, is_triton
from memcore.errors import BackendError
from memcore.ops import arguments


def is_on_device(op: str, backend: str | None, **given: Any) -> bool:
    """Whether a call is one for a device: an array lies there, or the engine is asked for.

    Args:
        op: for errors.
        backend: the engine that was asked for.
        given: the arrays by their names, None for what was not given.

    Raises:
        BackendError: another engine, arrays on several devices or where no kernel can read.
    """
    places = (arrays.place(array) for array in given.values() if array is not None)
    if not is_triton(backend) and all(place == "cpu" for place in places):
        return False
    check_device(op, backend)
    tensors.device_of(op, *given.items())
    if backend is not None and not tensors.library(op).compiler.is_compiling():
        check_readable(op, next(iter(given.values())))
    return True


def is_seen_by_torch(op: str, backend: str | None, *loose: Any, **given: Any) -> bool:
    """Whether torch must see a call: it is one for a device, or a tensor needs a gradient.

    Args:
        op: for errors.
        backend: the engine that was asked for.
        loose: what may need a gradient, and may lie elsewhere.
        given: what lies on one device, by names.

    Raises:
        BackendError: as `is_on_device`; an engine other than "cpu" where gradients are.
    """
    if is_on_device(op, backend, **given):
        return True
    if not arrays.differentiates(*loose, *given.values()):
        return False
    if backend is not None and not scalars.is_word(backend, "cpu"):
        raise BackendError(
            f"{op}: backend is {scalars.shown(backend)}, should be 'cpu' where gradients are"
        )
    return True


def hits(op: str, k: Any, n_queries: int, device: Any) -> tuple[Any, Any, Any]:
    """K as a kernel reads it, an int or a tensor of one per query, and room for scores and ids."""
    if not isinstance(k, int) and arrays.place(k) != "cpu":
        raise BackendError(f"{op}: k is on {arrays.place(k)}, should be on the host")
    k, width = arguments.widths(op, k, n_queries)
    scores, ids = outputs(op, n_queries, width, device)
    k = k if isinstance(k, int) else tensors.library(op).as_tensor(k, device=device)
    return k, scores, ids


def outputs(op: str, n_queries: int, width: int, device: Any) -> tuple[Any, Any]:
    """Room for scores and ids, (n_queries, width), on a device.

    Raises:
        MemoryError: no memory holds that.
    """
    torch = tensors.library(op)
    size = arguments.HIT_BYTES * (n_queries or 1) * width
    if device.type == "cpu" or size >> 62:
        # Where kernels are interpreted; and torch does not count beyond 64 bits.
        scalars.check_memory(op, size, k=width)
    scores = torch.empty((n_queries, width), dtype=torch.float32, device=device)
    return scores, torch.empty_like(scores, dtype=torch.int64)

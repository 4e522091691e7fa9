"""Arrays with leading axes, all of one library: what attention and sums over named rows share."""

from collections.abc import Sequence
from typing import Any

from memcore import arrays, products, tensors
from memcore.errors import ShapeError
from memcore.ops.device import is_seen_by_torch


def library_of(op: str, backend: str | None, *loose: Any, **given: Any) -> Any:
    """`autograd` where torch must see the call, else `products`; as `is_seen_by_torch`."""
    if not is_seen_by_torch(op, backend, *loose, **given):
        return products
    from memcore import autograd

    return autograd


def like(library: Any, given: Any, result: Any) -> Any:
    """A result in the library that the caller came with; a tensor keeps its gradient."""
    if library is products:
        return arrays.like(given, result)
    return result if arrays.place(given) == "cpu" else tensors.like(given, result)


def same_real(library: Any, *given: Any) -> tuple[Any, ...]:
    """All in float64 if one is."""
    if any(str(array.dtype).endswith("float64") for array in given):
        return tuple(
            array if str(array.dtype).endswith("float64") else library.widen(array)
            for array in given
        )
    return given


def broadcast(op: str, *shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all broadcast to. Plain Python, so that torch.compile can trace it."""
    out: list[int] = []
    for shape in shapes:
        out = [1] * (len(shape) - len(out)) + out
        first = len(out) - len(shape)
        for i, size in enumerate(shape):
            if out[first + i] == 1:
                out[first + i] = size
            elif size not in (1, out[first + i]):
                sizes = ", ".join(str(tuple(s)) for s in shapes)
                raise ShapeError(f"{op}: leading axes are {sizes}, should broadcast")
    return tuple(out)

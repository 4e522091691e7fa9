"""The exceptions of memcore. A message is one sentence: *op: argument is X, should be Y*."""

from collections.abc import Iterator
from contextlib import contextmanager


class ShapeError(ValueError):
    """An array's shape does not fit."""


class DtypeError(TypeError):
    """An array's dtype, or an argument's type, is not one that the op takes."""


class InputError(ValueError):
    """A value is bad: NaN in a stored vector, a negative k, an unknown field."""


class NotFoundError(KeyError):
    """A handle or an id names nothing that is there."""

    # KeyError prints the repr of its argument; a sentence should print as it is.
    __str__ = Exception.__str__


class BackendError(RuntimeError):
    """No engine can run this call, or the one that was asked for cannot."""


class StoreError(OSError):
    """A store on disk cannot be read or written."""


@contextmanager
def in_name_of(op: str) -> Iterator[None]:
    """Errors of the ops that `op` is made of name it, as the caller knows no others."""
    try:
        yield
    except (ShapeError, DtypeError, InputError, NotFoundError, BackendError) as error:
        _, _, sentence = str(error).partition(": ")
        error.args = (f"{op}: {sentence}",)
        raise


@contextmanager
def in_room(op: str) -> Iterator[None]:
    """A device without memory for what `op` needs there is a BackendError caused by torch's."""
    try:
        yield
    except RuntimeError as error:
        # By name: whoever has no GPU need not have torch.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        raise BackendError(
            f"{op}: the device has no memory left, should have it for the results and a workspace"
        ) from error

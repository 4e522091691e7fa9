"""The exceptions of memcore. A message is one sentence: *op: argument is X, should be Y*."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


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


class in_name_of:
    """A context in which errors of the ops that `op` is made of name it, as callers know no others.

    Keywords are the arguments that go by another name there: `rows="vectors"`. A class, since one
    made from a generator would cost hot calls a microsecond.
    """

    __slots__ = ("_names", "_op")

    def __init__(self, op: str, **names: str) -> None:
        self._op, self._names = op, names

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        typed = (ShapeError, DtypeError, InputError, NotFoundError, BackendError, MemoryError)
        if not isinstance(error, typed) or ": " not in str(error):
            return
        _, _, sentence = str(error).partition(": ")
        for inner, outer in self._names.items():
            if re.match(rf"{inner}\b", sentence):
                sentence = outer + sentence[len(inner) :]
                break
        error.args = (f"{self._op}: {sentence}",)


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

"""What an arena hands out: the rows that `get` reads, and the mark of a snapshot."""

import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore.errors import InputError

if TYPE_CHECKING:
    from memcore.bank.arena import Arena

Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """What `get` gives back, each in the shape of the ids.

    Attributes:
        vectors: (…, dim) in the bank's dtype (bfloat16 as uint16 where the library has no such
            type), 0 where a row is missing; None where rows have no vectors.
        fields: by name, nested lists of values; None for null and for a missing row.
        payloads: nested lists; None where there is none.
        found: (…,) bool.
    """

    vectors: Any
    fields: dict[str, list[Any]]
    payloads: list[Any]
    found: Any


class Mark:
    """Some banks of an arena as they were when `snapshot` was called.

    It holds page references, not rows: it costs page-table entries until the banks change. It can
    be rolled back to any number of times, and goes when it is released or collected.
    """

    def __init__(self, arena: "Arena", banks: Ints, copies: Ints) -> None:
        self._arena = arena
        self._banks = banks
        self._copies = copies
        self._finalizer = weakref.finalize(self, arena.drop, copies)
        # At exit the process gives back all at once.
        self._finalizer.atexit = False

    def release(self) -> None:
        """Let go of what the mark holds; no bank can go back to it then. Twice is harmless."""
        self._finalizer()

    def is_of(self, arena: "Arena") -> bool:
        """Whether the marked banks are of this arena."""
        return self._arena is arena

    def copies_of(self, arena: "Arena", handles: Ints) -> Ints:
        """The hidden banks that hold what these (n,) banks of an arena were: (n,) handles."""
        if self._arena is not arena:
            raise InputError("rollback: mark is of another arena, should be of this one")
        if not self._finalizer.alive:
            raise InputError("rollback: mark is released, should be live")
        places = np.searchsorted(self._banks, handles)
        known = np.take(self._banks, places, mode="clip") == handles if self._banks.size else None
        if handles.size and (known is None or not known.all()):
            handle = handles[0 if known is None else np.argmin(known)]
            raise InputError(f"rollback: banks has {handle}, should be banks of the mark")
        return self._copies[places]

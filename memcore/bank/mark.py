"""The mark of a snapshot."""

import weakref

import numpy as np
from numpy.typing import NDArray

from memcore.bank.store import Store
from memcore.errors import InputError

Ints = NDArray[np.int64]


class Mark:
    """Some banks of an arena as they were when `snapshot` was called.

    It holds page references, not rows: it costs page-table entries until the banks change. It can
    be rolled back to any number of times, and goes when it is released or collected.
    """

    def __init__(self, store: Store, banks: Ints, copies: Ints) -> None:
        self._store = store
        self._banks = banks
        self._copies = copies
        self._finalizer = weakref.finalize(self, store.drop, copies)
        # At exit the process gives back all at once.
        self._finalizer.atexit = False

    def release(self) -> None:
        """Let go of what the mark holds; no bank can go back to it then. Twice is harmless."""
        self._finalizer()

    def is_of(self, store: Store) -> bool:
        """Whether the marked banks are of this store."""
        return self._store is store

    def copies_of(self, store: Store, handles: Ints) -> Ints:
        """The hidden banks that hold what these (n,) banks of a store were: (n,) handles."""
        if self._store is not store:
            raise InputError("rollback: mark is of another arena, should be of this one")
        if not self._finalizer.alive:
            raise InputError("rollback: mark is released, should be live")
        places = np.searchsorted(self._banks, handles)
        known = np.take(self._banks, places, mode="clip") == handles if self._banks.size else None
        if handles.size and (known is None or not known.all()):
            handle = handles[0 if known is None else np.argmin(known)]
            raise InputError(f"rollback: banks has {handle}, should be banks of the mark")
        return self._copies[places]

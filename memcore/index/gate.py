"""Gate: many readers or one writer, for state that is made of several native calls."""

import os
import weakref
from collections.abc import Callable
from threading import Condition, Lock, get_ident
from typing import Any, TypeVar

T = TypeVar("T")


class Gate:
    """Runs calls: those that read beside each other, one that writes alone.

    Who wants to write comes before those who come later to read. A thread that is inside may read
    once more; nothing may write from inside.
    """

    def __init__(self) -> None:
        self._readers: list[int] = []
        self._writer = 0
        self._n_waiting = 0
        self._restart()
        _live.add(self)

    def read(self, call: Callable[[], T]) -> T:
        """Run a call that changes nothing."""
        me = get_ident()
        with self._lock:
            while self._writer or self._n_waiting:
                if self._writer == me or me in self._readers:
                    break
                self._free.wait()
            self._readers.append(me)
        try:
            return call()
        finally:
            with self._lock:
                self._readers.remove(me)
                if self._n_waiting and not self._readers:
                    self._free.notify_all()

    def write(self, call: Callable[[], T]) -> T:
        """Run a call that nobody sees half done."""
        with self._lock:
            self._n_waiting += 1
            try:
                while self._writer or self._readers:
                    self._free.wait()
                self._writer = get_ident()
            finally:
                self._n_waiting -= 1
                if not self._writer:
                    self._free.notify_all()
        return self._alone(call)

    def try_write(self, call: Callable[[], T]) -> T | None:
        """Run a call as `write` does if nobody is inside, else not at all."""
        # The thread may hold the lock: it is collecting in the middle of a line above.
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._writer or self._readers:
                return None
            self._writer = get_ident()
        finally:
            self._lock.release()
        return self._alone(call)

    def _alone(self, call: Callable[[], T]) -> T:
        try:
            return call()
        finally:
            with self._lock:
                self._writer = 0
                self._free.notify_all()

    def _restart(self) -> None:
        self._lock = Lock()
        self._free = Condition(self._lock)
        self._readers = []
        self._writer = 0
        self._n_waiting = 0


class DeviceGate:
    """A gate of state whose rows lie on a device too.

    Who is inside holds the section of the mirror, which comes first: what reads a device may be
    inside it already.
    """

    def __init__(self, rows: Any) -> None:
        """Guard a store on a device."""
        self._rows = rows
        self._gate = Gate()

    def read(self, call: Callable[[], T]) -> T:
        """As `Gate.read`."""
        with self._rows.mirror.section():
            return self._gate.read(call)

    def write(self, call: Callable[[], T]) -> T:
        """As `Gate.write`; the mirror follows all that was written at the end."""
        with self._rows.together():
            return self._gate.write(call)

    def try_write(self, call: Callable[[], T]) -> T | None:
        """As `Gate.try_write`, after other threads."""
        with self._rows.together():
            return self._gate.try_write(call)


_live: weakref.WeakSet[Gate] = weakref.WeakSet()


def _restart_all() -> None:
    # The threads that were inside are not in the child.
    for gate in list(_live):
        gate._restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all)

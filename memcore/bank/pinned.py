"""The host's pages as a device sees them: page-locked, so that it reads rows by itself.

What cannot be locked is gathered by the host, as all that is written is.
"""

import os
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.bank.driver import Driver, DriverError
from memcore.bank.turns import Turns

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# How often this process was forked: the system may have given it other memory for what was locked.
_n_forks = [0]


def _count_fork() -> None:
    _n_forks[0] += 1


os.register_at_fork(after_in_parent=_count_fork)


class Pinned:
    """The chunks of a native store that are page-locked. For who holds the mirror's section.

    Nobody may write to them while the device reads: `Turns.arrive`.
    """

    def __init__(self, pages: Any, driver: Driver | None, turns: Turns) -> None:
        """Lock nothing yet.

        Args:
            pages: the native store.
            driver: of the device; without one nothing is ever locked.
            turns: what the device does in that memory.
        """
        self._pages = pages
        self._driver = driver
        self._turns = turns
        self._n_forks = _n_forks[0]
        self._n_seen = 0
        # (n, 3), by address: where a locked chunk begins and ends; what to add for the device.
        self._chunks = np.zeros((0, 3), np.int64)
        # Where locks begin. The store outlives them.
        self._locks: list[int] = []
        end = weakref.finalize(self, _unlock, driver, turns, self._locks, pages)
        end.atexit = False

    @property
    def nbytes(self) -> int:
        """Bytes of the host's memory that are page-locked."""
        return int((self._chunks[:, 1] - self._chunks[:, 0]).sum())

    def follow(self) -> None:
        """Lock the chunks that are new."""
        if self._driver is None:
            return
        if self._n_forks != _n_forks[0]:
            self.release()
        memory = self._pages.chunk_memory()
        for begin, n_bytes in memory[self._n_seen :].tolist():
            self._n_seen += 1
            self._locks.append(begin)
            try:
                there = self._driver.lock(begin, n_bytes)
            except DriverError:
                self._locks.pop()
                continue
            chunk = [begin, begin + n_bytes, there - begin]
            self._chunks = np.concatenate([self._chunks, np.array([chunk])])
        self._chunks = self._chunks[np.argsort(self._chunks[:, 0])]

    def places(self, pages: Ints) -> tuple[Bools, Ints]:
        """Where the device sees pages (n,).

        Returns:
            Which of them it sees (n,), and of those (m, 4) the addresses of rows, ids and cells,
            and the bytes from one column's cells to the next.
        """
        if len(pages):
            self.follow()
        if not len(self._chunks):
            return np.zeros(len(pages), np.bool_), np.zeros((0, 4), np.int64)
        places = self._pages.page_addresses(pages)
        chunk = np.searchsorted(self._chunks[:, 0], places[:, 0], "right") - 1
        is_seen: Bools = (chunk >= 0) & (places[:, 0] < self._chunks[chunk, 1])
        places[:, :3] += self._chunks[chunk, 2, None]
        return is_seen, places[is_seen]

    def release(self) -> None:
        """Unlock everything, once the device has read: before the store gives memory back."""
        _unlock(self._driver, self._turns, self._locks, None)
        self._chunks = self._chunks[:0]
        self._n_seen = 0
        self._n_forks = _n_forks[0]


def _unlock(driver: Driver | None, turns: Turns, locks: list[int], _pages: Any) -> None:
    """Unlock what was locked, when nothing is under way; in a forked child, nothing."""
    if driver is None or not locks:
        return
    with suppress(DriverError), driver.context():
        turns.finish()
    while locks:
        # It is refused to a forked child, and to all once a device is lost.
        with suppress(DriverError):
            driver.unlock(locks.pop())

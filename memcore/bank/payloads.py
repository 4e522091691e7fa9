"""The Python objects that rows name by number: payloads, and the words of str and tags fields.

A row's cell holds a number; native code counts the cells that hold it, those of forks and snapshots
too, and reports the numbers whose last cell went. What a number stands for is known here alone;
banks, fields and conditions are not.
"""

import itertools
import os
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from threading import RLock
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
T = TypeVar("T")
Written = TypeVar("Written", bound=NDArray[Any])

# What native code raises before it has changed anything.
REFUSALS = (ValueError, TypeError, KeyError, MemoryError)

NO_OBJECT = -1


class Table:
    """The objects of one column, by number; None has no number.

    A destructor or a signal handler may run between any two lines here and use the same table. So
    every step takes what it needs in one move, and a number that is not known to be in a row stays
    among the unsettled.

    Attributes:
        objects: by number; None where the number is free.
        numbers: the number of each value, if equal values share one; else None.
        unsettled: numbers that were given out and may be in no row.
        version: grows whenever a number is given out.
    """

    __slots__ = ("_again", "_free", "_fresh", "numbers", "objects", "unsettled", "version")

    def __init__(self, interned: bool) -> None:
        self.objects: list[Any] = []
        self.numbers: dict[Hashable, int] | None = {} if interned else None
        self.unsettled: set[int] = set()
        self.version = 0
        self._again: set[int] = set()
        self._free: list[int] = []
        self._fresh = itertools.count()

    def put(self, objects: list[Any]) -> Ints:
        """The number of each object, -1 for None: (n,) int64."""
        return np.fromiter(map(self._number, objects), np.int64, len(objects))

    def settle(self, numbers: Ints) -> None:
        """Note that these numbers are in rows: from now on native code tells when they go."""
        if self.unsettled:
            self.unsettled.difference_update(numbers.tolist())

    def sweep(self, report: Callable[[], Ints]) -> list[Any]:
        """Free the numbers that native code reports, and the unsettled.

        Returns:
            Their objects, which live as long as the list.
        """
        self._again.clear()
        unsettled, self.unsettled = self.unsettled, set()
        taken = []
        for number in unsettled.union(report().tolist()):
            value = self.objects[number]
            is_known = self.numbers is not None and self.numbers.get(value) == number
            # A destructor or a handler has put the value into a row since the report.
            if number in self._again:
                continue
            if is_known:
                del self.numbers[value]  # type: ignore[union-attr]
            self.objects[number] = None
            taken.append(value)
            self._free.append(number)
        return taken

    def known(self, values: Iterable[Hashable]) -> set[int]:
        """The numbers of those of these values that are in use; the table must be interned."""
        numbers: Mapping[Hashable, int] = self.numbers or {}
        return {numbers[value] for value in values if value in numbers}

    def matching(self, compare: Callable[[Any, Any], bool], value: Any) -> list[int]:
        """The numbers of the objects that compare so with a value, ascending."""
        return [
            number
            for number, known in enumerate(self.objects)
            if known is not None and compare(known, value)
        ]

    def _number(self, value: Any) -> int:
        if value is None:
            return NO_OBJECT
        if self.numbers is not None:
            known = self.numbers.get(value)
            if known is not None:
                self._again.add(known)
                return known
        try:
            number = self._free.pop()
        except IndexError:
            number = next(self._fresh)
        self.unsettled.add(number)
        while len(self.objects) <= number:
            self.objects.append(None)
        self.objects[number] = value
        self.version += 1
        # Another number of this value may have come between: then ours stays unsettled, and goes.
        return number if self.numbers is None else self.numbers.setdefault(value, number)


class _Counted(Protocol):
    def dead_refs(self, column: int) -> Ints: ...

    def holds(self, column: int, numbers: Ints) -> NDArray[np.bool_]: ...


class Tables:
    """The tables of an arena, and the rule by which they let go.

    Numbers travel between here and the rows in two steps, which `hold` makes one: while a call is
    held, no number is freed, whatever runs in between. Objects are destroyed when nothing is
    locked, since a destructor may call back.

    Attributes:
        by_column: the table of each column that holds numbers.
    """

    def __init__(self, pages: _Counted, interned: Mapping[int, bool]) -> None:
        self.by_column = {column: Table(is_interned) for column, is_interned in interned.items()}
        self._pages = pages
        self._lock = RLock()
        self._n_held = 0
        _live.add(self)

    def hold(self, call: Callable[[], T]) -> T:
        """Run a call that moves numbers into rows or out of them; then let go of the rest."""
        with self.held():
            return call()

    @contextmanager
    def held(self) -> Iterator[None]:
        """As `hold`, for a block. Who wants the lock of a mirror too takes this one first."""
        try:
            with self._lock:
                self._n_held += 1
                try:
                    yield
                finally:
                    self._n_held -= 1
        finally:
            self.let_go()

    def write(
        self, cells: Sequence[Ints | list[Any] | None], call: Callable[[list[Ints | None]], Written]
    ) -> Written:
        """Run a native write whose cells are given as numbers, or as objects that get theirs here.

        Args:
            cells: for each column (n,) int64, a list of n objects, or None.
            call: takes the cells as numbers, and returns ids, or a mask of the rows it has written.
        """
        return self.hold(partial(self._write, cells, call))

    def let_go(self) -> None:
        """Destroy the objects whose last row went."""
        while True:
            with self._lock:
                # An outer call of this thread is under way, and will do it.
                if self._n_held:
                    return
                self._n_held += 1
                try:
                    dead = self._take_dead()
                finally:
                    self._n_held -= 1
            if not dead:
                return
            # Destructors run here. They may have called back into the arena, so look again.
            del dead

    def version(self, columns: Iterable[int]) -> int:
        """Changes whenever one of these columns has a new object."""
        return sum(self.by_column[column].version for column in columns)

    def _write(
        self, cells: Sequence[Ints | list[Any] | None], call: Callable[[list[Ints | None]], Written]
    ) -> Written:
        put = {i: self.by_column[i].put(c) for i, c in enumerate(cells) if isinstance(c, list)}
        numbers = [put[i] if isinstance(c, list) else c for i, c in enumerate(cells)]
        try:
            written = call(numbers)
            self._settle(put, written if written.dtype == np.bool_ else None)
        except REFUSALS:
            raise
        except BaseException:
            # Interrupted: the rows may be there, or not.
            for column, given in put.items():
                self.by_column[column].settle(given[self._pages.holds(column, given)])
            raise
        return written

    def _settle(self, put: dict[int, Ints], written: NDArray[np.bool_] | None) -> None:
        for column, numbers in put.items():
            self.by_column[column].settle(numbers if written is None else numbers[written])

    def _take_dead(self) -> list[Any]:
        dead: list[Any] = []
        for column, table in self.by_column.items():
            if table.objects:
                dead += table.sweep(partial(self._pages.dead_refs, column))
        return dead

    def _restart(self) -> None:
        # The thread that held the lock is not in the child, and what it put may be in rows already.
        self._lock = RLock()
        self._n_held = 0
        for table in self.by_column.values():
            table.unsettled.clear()


_live: weakref.WeakSet[Tables] = weakref.WeakSet()


def _restart_all() -> None:
    for tables in list(_live):
        tables._restart()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restart_all)

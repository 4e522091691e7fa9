"""Members: what the rows of each bank lie in, one list while it is small, a partition later."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.errors import InputError, NotFoundError
from memcore.index.lists import Lists
from memcore.index.partition import Partition

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

# A handle is a generation and, in its low bits, an index.
_INDEX = 0xFFFFFFFF


@contextmanager
def _in_the_name_of(op: str, done: str) -> Iterator[None]:
    """Errors of what is done name the op that was called."""
    try:
        yield
    except (InputError, NotFoundError) as error:
        raise type(error)(str(error.args[0]).replace(done, op, 1)) from None


class Members:
    """The banks of a directory. Nothing here locks, and of `drop` alone nobody need see to that.

    Attributes:
        partitions: those of banks that have outgrown one list, by handle.
    """

    def __init__(self, lists: Lists) -> None:
        self._lists = lists
        self._directory = lists.directory
        self.partitions: dict[int, Partition] = {}
        # The list of each bank, by the index in its handle; -1 where it has a partition. What it
        # says of a dropped bank means nothing: handles are checked by the directory.
        self._list_at = np.full(1, -1, np.int64)
        # What was dropped while somebody was inside.
        self._dropped_lists: list[Ints] = []
        self._dropped: list[Partition] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return self._list_at.nbytes + sum(p.nbytes for p in list(self.partitions.values()))

    def split(self, handles: Ints, n: int) -> tuple[Ints, list[tuple[Partition, Any]]]:
        """The list of each handle, -1 where there is a partition; and those, each with its rows.

        Args:
            handles: one for each row, or a single one for all.
            n: rows.
        """
        lists = self._list_at.take(handles & _INDEX, mode="clip")
        if handles.size == 1:
            partition = self.partitions.get(handles.item())
            return lists, [] if partition is None else [(partition, slice(0, n))]
        parts = []
        for handle in np.unique(handles[lists < 0]).tolist():
            partition = self.partitions.get(handle)
            if partition is not None:
                parts.append((partition, np.flatnonzero(handles == handle)))
        return lists, parts

    def check(self, op: str, handles: Ints) -> None:
        """Raise what the store says of a handle that names no bank."""
        if not self._directory.alive(handles).all():
            with _in_the_name_of(op, "count"):
                self._directory.count(handles)

    def found(self, op: str, handles: Ints, ids: Ints, skip: bool) -> Bools:
        """Which rows are there; raises what a write to them would, for missing or repeated ones."""
        with _in_the_name_of(op, "update"):
            found: Bools = self._directory.update(handles, ids, None, skip)
        return found

    def new(self, n: int) -> Ints:
        """Make n empty banks: (n,) handles."""
        lists = self._lists.new(n)
        handles: Ints = self._directory.new(n)
        self._put(handles, lists, [])
        return handles

    def fork(self, handles: Ints, n: int) -> Ints:
        """Copies of banks: (n_handles, n)."""
        forks: Ints = self._directory.fork(handles, n)
        owners = forks.reshape(-1)
        try:
            copies = self._copies(np.repeat(handles, n), owners)
        except BaseException:
            self._directory.drop(owners)
            raise
        self._put(owners, *copies)
        return forks

    def copy_from(self, handles: Ints, sources: Ints) -> None:
        """Make each bank what its source is."""
        self.check("rollback", sources)
        lists, partitions = self._copies(sources, handles)
        try:
            self._directory.copy_from(handles, sources)
        except BaseException:
            self._forget(lists, partitions)
            raise
        self._forget(*self._all_of(handles))
        self._put(handles, lists, partitions)

    def drop(self, handles: Ints) -> None:
        """Give up banks; what they have goes with the next `sweep`."""
        gone = self._all_of(handles)
        self._directory.drop(handles)
        for handle in handles.tolist():
            self.partitions.pop(handle, None)
        self._forget(*gone)

    def sweep(self) -> None:
        """Drop what was given up; nobody is inside."""
        while self._dropped:
            self._lists.drop(self._dropped.pop())
        while self._dropped_lists:
            self._lists.drop_lists(self._dropped_lists.pop())

    def divide(self, handle: int) -> Partition:
        """Give a partition to a bank that is one list."""
        ids = self._directory.ids(handle)
        places = np.zeros(ids.size, np.int64)
        self._directory.update(np.array([handle]), ids, places, False)
        partition = self._lists.partition(handle, self._list_at[handle & _INDEX], ids.size)
        self.partitions[handle] = partition
        self._list_at[handle & _INDEX] = -1
        return partition

    def unite(self, partition: Partition) -> None:
        """Let a bank whose partition is one list have that list alone."""
        self._list_at[partition.handle & _INDEX] = partition.lists[partition.places[0]]
        del self.partitions[partition.handle]
        self._lists.drop_centroids(partition)

    def trial(self, partition: Partition) -> Partition:
        """A copy of a bank, in a hidden one, for changes that happen whole or not at all."""
        fork = self._directory.fork(np.array([partition.handle]), 1).reshape(-1)
        try:
            return self._lists.copy(partition, fork.item())
        except BaseException:
            self._directory.drop(fork)
            raise

    def accept(self, partition: Partition, trial: Partition) -> None:
        """Put a copy in the place of what it is a copy of."""
        hidden, owner = trial.handle, partition.handle
        self._directory.copy_from(np.array([owner]), np.array([hidden]))
        trial.handle, self.partitions[owner] = owner, trial
        self._dropped.append(partition)
        self._directory.drop(np.array([hidden]))

    def refuse(self, trial: Partition | None) -> None:
        """Give up a copy, unless it was accepted."""
        if trial is not None and self.partitions.get(trial.handle) is not trial:
            self._dropped.append(trial)
            self._directory.drop(np.array([trial.handle]))

    def _put(self, handles: Ints, lists: Ints, partitions: list[Partition]) -> None:
        """Let banks have lists, or partitions where those are -1."""
        if not handles.size:
            return
        index = handles & _INDEX
        n_more = int(index.max()) + 1 - self._list_at.size
        if n_more > 0:
            n_more = max(n_more, self._list_at.size // 2)
            self._list_at = np.append(self._list_at, np.full(n_more, -1))
        for handle in handles.tolist() if self.partitions else ():
            self.partitions.pop(handle, None)
        self._list_at[index] = lists
        self.partitions.update({partition.handle: partition for partition in partitions})

    def _copies(self, sources: Ints, owners: Ints) -> tuple[Ints, list[Partition]]:
        """Copies of what banks have, for others: a list for each, or -1 and a partition."""
        lists = self._list_at[sources & _INDEX]
        is_list = lists >= 0
        lists[is_list] = self._lists.pages.fork(lists[is_list], 1).reshape(-1)
        partitions: list[Partition] = []
        pairs = zip(sources[~is_list].tolist(), owners[~is_list].tolist(), strict=True)
        try:
            for source, owner in pairs:
                partitions.append(self._lists.copy(self.partitions[source], owner))
        except BaseException:
            self._forget(lists, partitions)
            raise
        return lists, partitions

    def _all_of(self, handles: Ints) -> tuple[Ints, list[Partition]]:
        lists = self._list_at.take(handles & _INDEX, mode="clip")
        found = [self.partitions.get(handle) for handle in handles.tolist()]
        return lists, [partition for partition in found if partition is not None]

    def _forget(self, lists: Ints, partitions: list[Partition]) -> None:
        self._dropped_lists.append(lists[lists >= 0])
        self._dropped += partitions

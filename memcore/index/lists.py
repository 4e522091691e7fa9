"""Lists: where the rows of inverted files lie, and what moves them from list to list."""

from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import _core
from memcore.index.partition import Partition, Routes

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


class Lists:
    """The stores of many partitions. Nothing here locks: the caller sees to that.

    Attributes:
        pages: the rows; each list is a hidden bank.
        directory: the bank of each partition without its rows: ids, counter, the place of each.
    """

    def __init__(
        self, dim: int, dtype: str, metric: str, kinds: list[str], rows: Any = None
    ) -> None:
        """Make stores without lists; `rows` is the page store, where it is on a device too."""
        self.pages: _core.Pages = _core.Pages(dim, dtype, metric, kinds) if rows is None else rows
        self._host: _core.Pages = self.pages if rows is None else rows.host
        self.directory = _core.Directory()
        self._routes = Routes(int(dim), metric)
        self._stored = _STORED[dtype]
        self._n_columns = len(kinds)
        self._nowhere = int(self.pages.new(1, are_lists=True)[0])

    @property
    def nbytes(self) -> int:
        """Bytes of rows, directory and centroids."""
        return int(self.pages.nbytes) + int(self.directory.nbytes) + self._routes.nbytes

    def partition(self, handle: int, first: int, n_rows: int) -> Partition:
        """A partition of one list of n_rows rows, for a bank of the directory."""
        return Partition(handle, self._routes, first, n_rows, self._nowhere)

    def copy(self, partition: Partition, handle: int) -> Partition:
        """A partition like this one, for another bank of the directory."""
        forks = self.pages.fork(partition.lists[partition.places], 1).reshape(-1)
        try:
            return partition.copy(handle, forks)
        except BaseException:
            self.drop_lists(forks)
            raise

    def drop(self, partition: Partition) -> None:
        """Give up the lists and centroids of a partition."""
        self.drop_lists(partition.lists[partition.places])
        self.drop_centroids(partition)

    def drop_centroids(self, partition: Partition) -> None:
        """Give up the centroids of a partition."""
        self._routes.drop(partition.centroids)

    def new(self, n: int) -> Ints:
        """Make n empty lists: (n,) handles."""
        return self.pages.new(n, are_lists=True)

    def drop_lists(self, lists: Ints) -> None:
        """Give up lists."""
        self.pages.drop(lists)

    def places(self, handles: Ints, ids: Ints) -> Ints:
        """The place of each row in its partition, -1 where there is none: (n,)."""
        return self.directory.places(handles, ids)

    def put(self, lists: Ints, parts: list[tuple[Partition, Any]], places: Ints) -> Ints:
        """The list of each row: (n,) handles.

        Args:
            lists: of each row, or of all, where a bank is one list.
            parts: the partitions of the other banks, each with its rows.
            places: of those rows in their partitions; an empty list is taken at -1.
        """
        if not parts:
            return lists
        filled = np.array(np.broadcast_to(lists, places.shape))
        for partition, rows in parts:
            here = places[rows]
            filled[rows] = np.where(here >= 0, partition.lists[here], self._nowhere)
        return filled

    def check(self, queries: NDArray[Any]) -> None:
        """Raise what the store says of queries; of all, where some are to be searched apart."""
        nothing = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        rest = (None, None, None, None, None, -np.inf, np.inf, None, *nothing)
        self._host.search(np.array([self._nowhere]), queries, 0, *rest)

    def row_ids(self, partition: Partition, places: Ints) -> tuple[Ints, Ints]:
        """The ids in lists, list by list, and the place of each."""
        found = [self.pages.ids(handle) for handle in partition.lists[places].tolist()]
        ids = np.concatenate(found) if found else np.empty(0, np.int64)
        return ids, np.repeat(places, [len(some) for some in found])

    def vectors(self, partition: Partition, ids: Ints, places: Ints) -> NDArray[Any]:
        """The vectors of rows at places, as they are stored: (n, dim)."""
        vectors = np.empty((ids.size, self._routes.dim), self._stored)
        nothing = [None] * self._n_columns
        self.pages.get(partition.lists[places], ids, False, vectors, nothing)
        return vectors

    def floats(self, vectors: NDArray[Any]) -> Floats:
        """Stored vectors as those that are averaged: float32, of length 1 under cosine."""
        rows = self._routes.widen(vectors)
        if self._routes.metric == "cosine":
            norms = np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
            rows = (rows / np.where(norms > 0, norms, 1.0)).astype(np.float32)
        return rows

    def change(
        self, undo: ExitStack, lists: Ints, ids: Ints, vectors: NDArray[Any] | None, columns: Any
    ) -> None:
        """Change rows where they lie, with the cells that are given; `undo` puts them back."""
        before = self._rows(lists, ids, vectors is not None)
        self.pages.update(lists, ids, vectors, columns, False)
        undo.callback(self.pages.update, lists, ids, *before, False)

    def remove(self, undo: ExitStack, lists: Ints, ids: Ints) -> None:
        """Delete rows; `undo` adds them again."""
        before = self._rows(lists, ids)
        self.pages.delete(lists, ids, False)
        undo.callback(self.pages.add, lists, ids, *before)

    def move(
        self,
        undo: ExitStack,
        partition: Partition,
        ids: Ints,
        old: Ints,
        new: Ints,
        vectors: NDArray[Any] | None = None,
        columns: Any = None,
    ) -> None:
        """Move rows from list to list, with all that they have but what is given anew."""
        if ids.size == 0:
            return
        owner, here, there = (
            np.array([partition.handle]),
            partition.lists[old],
            partition.lists[new],
        )
        had, before = self._rows(here, ids)
        given = columns or before
        cells = [cell if one is None else one for one, cell in zip(given, before, strict=True)]
        self.pages.add(there, ids, had if vectors is None else vectors, cells)
        undo.callback(self.pages.delete, there, ids, False)
        self.pages.delete(here, ids, False)
        undo.callback(self.pages.add, here, ids, had, before)
        self.directory.update(owner, ids, new, False)
        undo.callback(self.directory.update, owner, ids, old, False)
        for places, step in ((old, -1), (new, 1)):
            partition.count(places, step)
            undo.callback(partition.count, places, -step)

    def _rows(self, lists: Ints, ids: Ints, has_vectors: bool = True) -> tuple[Any, list[Ints]]:
        """The vectors of rows, if they are wanted, and their cells."""
        cells = [np.empty(ids.size, np.int64) for _ in range(self._n_columns)]
        vectors = np.empty((ids.size, self._routes.dim), self._stored) if has_vectors else None
        self.pages.get(lists, ids, False, vectors, cells)
        return vectors, cells

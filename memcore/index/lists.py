"""Lists: where the rows of inverted files lie, and what moves them from list to list."""

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
        directory: the bank of each partition without vectors: ids, counter, the place of each row.
    """

    def __init__(self, dim: int, dtype: str, metric: str, kinds: list[str]) -> None:
        self.pages = _core.Pages(dim, dtype, metric, kinds)
        self.directory = _core.Pages(None, dtype, metric, ["int64"])
        self._routes = Routes(int(dim), metric)
        self._stored = _STORED[dtype]
        self._n_columns = len(kinds)
        self._nowhere = int(self.pages.new(1, are_lists=True)[0])

    @property
    def nbytes(self) -> int:
        """Bytes of rows, directory and centroids."""
        return int(self.pages.nbytes) + int(self.directory.nbytes) + self._routes.nbytes

    def partition(self, handle: int) -> Partition:
        """An empty partition of one list, for a bank of the directory."""
        return Partition(handle, self._routes, self.new(1), self._nowhere)

    def copy(self, partition: Partition, handle: int) -> Partition:
        """A partition like this one, for another bank of the directory."""
        forks = self.pages.fork(partition.lists[partition.places], 1).reshape(-1)
        return partition.copy(handle, forks)

    def drop(self, partition: Partition) -> None:
        """Give up the lists and centroids of a partition."""
        self.drop_lists(partition.lists[partition.places])
        self._routes.drop(partition.centroids)

    def new(self, n: int) -> Ints:
        """Make n empty lists: (n,) handles."""
        return self.pages.new(n, are_lists=True)

    def drop_lists(self, lists: Ints) -> None:
        """Give up lists."""
        self.pages.drop(lists)

    def places(self, handles: Ints, ids: Ints) -> Ints:
        """The place of each row in its partition, -1 where there is none: (n,)."""
        places = np.empty(ids.size, np.int64)
        found = self.directory.get(handles, ids, True, None, [places])
        places[~found] = -1
        return places

    def of(self, parts: list[tuple[Partition, Any]], places: Ints) -> Ints:
        """The list at the place of each row, whose partitions are known; an empty one at -1."""
        lists = np.full(places.size, self._nowhere)
        for partition, rows in parts:
            here = places[rows]
            lists[rows] = np.where(here >= 0, partition.lists[here], self._nowhere)
        return lists

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

    def move(
        self,
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
        cells = [np.empty(ids.size, np.int64) for _ in range(self._n_columns)]
        had = np.empty((ids.size, self._routes.dim), self._stored) if vectors is None else None
        self.pages.get(partition.lists[old], ids, False, had, cells)
        for i, column in enumerate(columns or []):
            cells[i] = cells[i] if column is None else column
        vectors = had if vectors is None else vectors
        self.pages.add(partition.lists[new], ids, vectors, cells)
        self.pages.delete(partition.lists[old], ids, False)
        self.directory.update(np.array([partition.handle]), ids, None, [new], False)
        partition.count(old, -1)
        partition.count(new, 1)

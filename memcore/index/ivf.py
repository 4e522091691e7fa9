"""Inverted file: rows in lists of neighbours, of which a query visits the likeliest.

Each list is a hidden bank of one page store. A second store without vectors is the directory: it
has the bank's ids and counter, and knows the list of each row. Jégou, Douze and Schmid 2011,
"Product Quantization for Nearest Neighbor Search", describe inverted files of vectors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from memcore.errors import InputError, NotFoundError
from memcore.hits import Hits
from memcore.index.balance import Balance
from memcore.index.gate import Gate
from memcore.index.lists import Lists
from memcore.index.partition import Partition
from memcore.index.probes import choose, reach

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class IVF:
    """The options of an inverted file: `Bank(dim, index=IVF(recall=0.99))`; "ivf" takes the usual.

    Attributes:
        recall: the share of the k best rows that a search finds if it does not say itself what it
            wants; 1 visits all lists.
        list_rows: rows of a list, on average; None follows the size of the bank.
        seed: of the samples that centroids are made from.
    """

    recall: float = 0.95
    list_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.recall <= 1:
            raise InputError(f"IVF: recall is {self.recall}, should be above 0 and at most 1")
        if self.list_rows is not None and self.list_rows < 2:
            raise InputError(f"IVF: list_rows is {self.list_rows}, should be at least 2")

    def pages(self, dim: int, dtype: str, metric: str, kinds: list[str]) -> "ListPages":
        """A store of banks whose rows lie in lists."""
        return ListPages(self, dim, dtype, metric, kinds)


class ListPages:
    """Banks whose rows lie in lists, with the methods of `_core.Pages`."""

    def __init__(self, options: IVF, dim: int, dtype: str, metric: str, kinds: list[str]) -> None:
        self._options = options
        self._lists = Lists(dim, dtype, metric, kinds)
        self._pages = self._lists.pages
        self._directory = self._lists.directory
        self._partitions: dict[int, Partition] = {}
        # Partitions that were dropped while somebody was inside.
        self._dropped: list[Partition] = []
        self._gate = Gate()

    @property
    def nbytes(self) -> int:
        """Bytes of all pages in use and their tables."""
        return self._lists.nbytes + sum(p.nbytes for p in list(self._partitions.values()))

    def new(self, n: int) -> Ints:
        """Make n empty banks: (n,) handles."""

        def new() -> Ints:
            handles: Ints = self._directory.new(n)
            for handle in handles.tolist():
                self._partitions[handle] = self._lists.partition(handle)
            return handles

        return self._write(new)

    def drop(self, handles: Ints) -> None:
        """Give up banks."""
        # A bank may be collected inside a read of the same thread, so nothing waits here.
        self._directory.drop(handles)
        self._dropped += [self._partitions.pop(handle) for handle in handles.tolist()]
        self._gate.try_write(self._sweep)

    def add(self, handles: Ints, ids: Ints | None, vectors: Any, columns: Any) -> Ints:
        """Add rows, as the page store does."""

        def add() -> Ints:
            self._pages.check("add", vectors, columns)
            parts = self._parts(handles, len(vectors))
            if parts is None:
                # It says what is wrong.
                return self._directory.add(handles, ids, None, [np.zeros(len(vectors), np.int64)])
            places = np.empty(len(vectors), np.int64)
            for partition, rows in parts:
                incoming = vectors[rows]
                self._balance(partition).prepare(incoming)
                places[rows] = partition.nearest(incoming)
            added: Ints = self._directory.add(handles, ids, None, [places])
            try:
                lists = self._lists.of(parts, places)
                self._pages.add(lists, added, vectors, columns)
            except BaseException:
                self._directory.delete(handles, added, True)
                raise
            for partition, rows in parts:
                partition.count(places[rows], 1)
                self._balance(partition).keep()
            return added

        return self._write(add)

    def update(self, handles: Ints, ids: Ints, vectors: Any, columns: Any, skip: bool) -> Bools:
        """Change rows; new vectors may send them to other lists."""

        def update() -> Bools:
            if vectors is not None:
                self._pages.check("update", vectors, columns)
            found: Bools = self._directory.update(handles, ids, None, [None], skip)
            parts = self._parts(handles, ids.size) or []
            for partition, rows in parts:
                here = np.arange(ids.size)[rows][found[rows]]
                self._change(partition, ids[here], _some(vectors, here), _columns(columns, here))
                self._balance(partition).keep()
            return found

        return self._write(update)

    def delete(self, handles: Ints, ids: Ints, skip: bool) -> Bools:
        """Delete rows."""

        def delete() -> Bools:
            places = self._lists.places(handles, ids)
            found: Bools = self._directory.delete(handles, ids, skip)
            parts = self._parts(handles, ids.size) or []
            self._pages.delete(self._lists.of(parts, places)[found], ids[found], False)
            for partition, rows in parts:
                partition.count(places[rows][found[rows]], -1)
                self._balance(partition).keep()
            return found

        return self._write(delete)

    def get(self, handles: Ints, ids: Ints, skip: bool, vectors: Any, columns: Any) -> Bools:
        """Read rows."""

        def get() -> Bools:
            found: Bools = self._directory.get(handles, ids, skip, None, [None])
            places = self._lists.places(handles, ids)
            parts = self._parts(handles, ids.size) or []
            self._pages.get(self._lists.of(parts, places), ids, True, vectors, columns)
            return found

        return self._gate.read(get)

    def contains(self, handles: Ints, ids: Ints) -> Bools:
        """Which ids are in their banks."""
        return self._directory.contains(handles, ids)

    def count(self, handles: Ints) -> Ints:
        """The number of rows of each bank."""
        return self._directory.count(handles)

    def ids(self, handle: int) -> Ints:
        """The ids of a bank, ascending."""
        return self._directory.ids(handle)

    def fork(self, handles: Ints, n: int) -> Ints:
        """Copies of banks: (n_handles, n)."""

        def fork() -> Ints:
            forks: Ints = self._directory.fork(handles, n)
            for parent, children in zip(handles.tolist(), forks.tolist(), strict=True):
                for child in children:
                    self._partitions[child] = self._lists.copy(self._partitions[parent], child)
            return forks

        return self._write(fork)

    def copy_from(self, handles: Ints, sources: Ints) -> None:
        """Make each bank what its source is."""

        def copy() -> None:
            self._directory.copy_from(handles, sources)
            pairs = list(zip(handles.tolist(), sources.tolist(), strict=True))
            copies = [self._lists.copy(self._partitions[source], to) for to, source in pairs]
            for (to, _), partition in zip(pairs, copies, strict=True):
                self._dropped.append(self._partitions[to])
                self._partitions[to] = partition

        self._write(copy)

    def dead_refs(self, column: int) -> Ints:
        """The references that no row holds any more."""
        return self._pages.dead_refs(column)

    def compact(self) -> None:
        """Give the memory of free pages back to the system."""
        self._pages.compact()
        self._directory.compact()

    def score(self, handles: Ints, queries: NDArray[Any], ids: Ints, scores: Floats) -> None:
        """The canonical scores of named rows, -inf where the id is -1."""

        def score() -> None:
            owners = np.repeat(np.broadcast_to(handles, len(queries)), ids.shape[1])
            named = ids.reshape(-1)
            places = self._lists.places(owners, named)
            missing = np.flatnonzero((places < 0) & (named >= 0))
            if missing.size:
                self._say_which("score", handles)
                raise NotFoundError(
                    f"score: id {named[missing[0]]} (position {missing[0]}) is not in its bank, "
                    "should be one of its rows"
                )
            lists = self._lists.of(self._parts(owners, named.size) or [], places)
            each = np.repeat(queries, ids.shape[1], axis=0)
            out = np.empty((named.size, 1), np.float32)
            self._pages.score(lists, each, named[:, None], out)
            scores[:] = out.reshape(ids.shape)

        self._gate.read(score)

    def search_plain(
        self, handles: Any, queries: Any, k: Any, n_probes: Any = None, recall: Any = None
    ) -> Hits | None:
        """Hits for float32 queries at one bank, an int k and one effort for all; else None."""
        if k.__class__ is not int or k < 1 or not isinstance(handles, np.ndarray):
            return None
        if n_probes is None:
            recall = self._options.recall if recall is None else recall
            is_plain = recall.__class__ is float and 0 < recall <= 1
        else:
            is_plain = n_probes.__class__ is int and n_probes > 0 and recall is None
        if not is_plain or handles.size != 1:
            return None

        def search() -> Hits | None:
            partition = self._partitions.get(handles.item())
            if partition is None:
                return None
            if not partition.n_centroids:
                return self._pages.search_plain(partition.lists[partition.places], queries, k)
            centroids = partition.routes.by_score(partition.centroids)
            effort = reach(self._lists, partition, k, n_probes, recall)
            return self._pages.search_routed(partition.lists, *centroids, *effort, queries, k)

        return self._gate.read(search)

    def search(
        self,
        handles: Ints,
        queries: NDArray[Any],
        k: Any,
        where: Any,
        where_index: Ints | None,
        candidates: Ints | None,
        scale: int | None,
        bias: int | None,
        min_score: float,
        max_score: float,
        first_pass: bool | None,
        scores: Floats,
        ids: Ints,
        n_probes: Any = None,
        recall: Any = None,
    ) -> None:
        """The k best rows of the lists that each query visits."""
        limits = (scale, bias, min_score, max_score, first_pass)
        if n_probes is None:
            # Recall is measured without conditions and weights: with them, all lists are visited.
            if where is not None or scale is not None or bias is not None or max_score < np.inf:
                recall = 1.0
            elif recall is None:
                recall = self._options.recall

        def search() -> None:
            parts = self._parts(handles, len(queries))
            if parts is None:
                self._say_which("search", handles)
            for partition, q in parts or []:
                if q.__class__ is slice and candidates is None:
                    probes = choose(self._lists, partition, queries, k, n_probes, recall)
                    self._pages.search_lists(
                        partition.lists, probes, queries, k, where, where_index, None, *limits,
                        scores, ids,
                    )  # fmt: skip
                else:
                    some(partition, np.arange(len(queries))[q])

        def some(partition: Partition, q: Ints) -> None:
            """Some of the queries, or queries at named rows."""
            asked, each, index = queries[q], _some(k, q), _some(where_index, q)
            named = _some(candidates, q)
            if named is None:
                wanted = (_some(n_probes, q), _some(recall, q))
                probes = choose(self._lists, partition, asked, each, *wanted)
            else:
                owner = np.array([partition.handle])
                probes = self._lists.places(owner, named.reshape(-1)).reshape(named.shape)
            out = scores[q], ids[q]
            self._pages.search_lists(
                partition.lists, probes, asked, each, where, index, named, *limits, *out
            )
            scores[q], ids[q] = out

        self._gate.read(search)

    def _say_which(self, op: str, handles: Ints) -> None:
        """Raise what the store says of a handle that names no bank."""
        try:
            self._directory.count(handles)
        except NotFoundError as error:
            raise NotFoundError(str(error).replace("count", op, 1)) from None

    def _write(self, call: Callable[[], T]) -> T:
        def swept() -> T:
            try:
                return call()
            finally:
                self._sweep()

        return self._gate.write(swept)

    def _sweep(self) -> None:
        while self._dropped:
            self._lists.drop(self._dropped.pop())

    def _parts(self, handles: Ints, n: int) -> list[tuple[Partition, Any]] | None:
        """The partitions behind handles, each with its rows; None if a handle names no bank."""
        if handles.size == 1:
            partition = self._partitions.get(handles.item())
            return None if partition is None else [(partition, slice(0, n))]
        parts = []
        for handle in np.unique(handles).tolist():
            partition = self._partitions.get(handle)
            if partition is None:
                return None
            parts.append((partition, np.flatnonzero(handles == handle)))
        return parts

    def _balance(self, partition: Partition) -> Balance:
        return Balance(self._lists, partition, self._options.list_rows, self._options.seed)

    def _change(self, partition: Partition, ids: Ints, vectors: Any, columns: Any) -> None:
        """Update rows that are there, with the cells that are given; vectors may move them."""
        owner = np.array([partition.handle])
        old = self._lists.places(owner, ids)
        if vectors is None:
            self._pages.update(partition.lists[old], ids, None, columns, False)
            return
        new = partition.nearest(vectors)
        stay, go = np.flatnonzero(old == new), np.flatnonzero(old != new)
        self._pages.update(
            partition.lists[old[stay]], ids[stay], vectors[stay], _columns(columns, stay), False
        )
        partition.count(old[stay], 1, is_move=True)
        given = _columns(columns, go)
        self._lists.move(partition, ids[go], old[go], new[go], vectors[go], given)


def _some(values: Any, places: Any) -> Any:
    """values[places] of what may be None or one number for all."""
    return values[places] if isinstance(values, np.ndarray) else values


def _columns(columns: Any, places: Any) -> list[Any]:
    return [_some(column, places) for column in columns]

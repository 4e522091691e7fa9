"""Inverted file: rows in lists of neighbours, of which a query visits the likeliest.

Each list is a hidden bank of one page store. The directory has the ids and the counter of each
bank, and knows the list of each row. Jégou, Douze and Schmid 2011,
"Product Quantization for Nearest Neighbor Search", describe inverted files of vectors.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from memcore.errors import InputError
from memcore.hits import Hits
from memcore.index.balance import Balance, Sizes
from memcore.index.gate import DeviceGate, Gate
from memcore.index.lists import Lists
from memcore.index.members import Members
from memcore.index.partition import Partition
from memcore.index.probes import choose, reach
from memcore.index.there import ListsThere

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

    def pages(
        self, dim: int, dtype: str, metric: str, kinds: list[str], rows: Any = None
    ) -> "ListPages":
        """A store of banks whose rows lie in lists; `rows` is on a device too, or None."""
        return ListPages(self, dim, dtype, metric, kinds, rows)


class ListPages:
    """Banks whose rows lie in lists, with the methods of `_core.Pages`.

    A bank of few rows is one list, so that many such banks take one call, as without an index.
    """

    def __init__(
        self,
        options: IVF,
        dim: int,
        dtype: str,
        metric: str,
        kinds: list[str],
        rows: Any = None,
    ) -> None:
        self._options = options
        self._lists = Lists(dim, dtype, metric, kinds, rows)
        self._pages = self._lists.pages
        self._directory = self._lists.directory
        self._members = Members(self._lists)
        self._device = None if rows is None else ListsThere(rows, self._lists, self._members)
        self._rows = rows
        self._gate: Gate | DeviceGate = Gate() if rows is None else DeviceGate(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages in use and their tables."""
        return self._lists.nbytes + self._members.nbytes

    def new(self, n: int) -> Ints:
        """Make n empty banks: (n,) handles."""
        return self._write("new", lambda: self._members.new(n))

    def drop(self, handles: Ints) -> None:
        """Give up banks."""
        # A bank may be collected inside a read of the same thread, so nothing waits here.
        self._members.drop(handles)
        self._gate.try_write(self._members.sweep)

    def add(self, handles: Ints, ids: Ints | None, vectors: Any, columns: Any) -> Ints:
        """Add rows, as the page store does."""

        def add() -> Ints:
            self._pages.check("add", vectors, columns)
            self._divide(handles, len(vectors))
            parts = self._members.split(handles, len(vectors))[1]
            places = np.zeros(len(vectors), np.int64)
            for partition, rows in parts:
                incoming = vectors[rows]
                places[rows] = self._keep(partition, incoming).nearest(incoming)
            lists, parts = self._members.split(handles, len(vectors))
            with ExitStack() as undo:
                # It says what is wrong.
                added: Ints = self._directory.add(handles, ids, places)
                undo.callback(self._directory.delete, handles, added, True)
                self._pages.add(self._lists.put(lists, parts, places), added, vectors, columns)
                undo.pop_all()
            for partition, rows in parts:
                partition.count(places[rows], 1)
                self._keep(partition)
            return added

        return self._write("add", add)

    def update(self, handles: Ints, ids: Ints, vectors: Any, columns: Any, skip: bool) -> Bools:
        """Change rows; new vectors may send them to other lists."""

        def update() -> Bools:
            self._members.check("update", handles)
            lists, parts = self._members.split(handles, ids.size)
            if not parts:
                return self._pages.update(lists, ids, vectors, columns, skip)
            if vectors is not None:
                self._pages.check("update", vectors, columns)
            found: Bools = self._directory.update(handles, ids, None, skip)
            with ExitStack() as undo:
                if handles.size > 1:
                    here = np.flatnonzero((lists >= 0) & found)
                    given = _some(vectors, here), _columns(columns, here)
                    self._lists.change(undo, lists[here], ids[here], *given)
                for partition, rows in parts:
                    here = np.arange(ids.size)[rows][found[rows]]
                    given = _some(vectors, here), _columns(columns, here)
                    self._change(undo, partition, ids[here], *given)
                undo.pop_all()
            for partition, _ in parts:
                self._keep(partition)
            return found

        return self._write("update", update)

    def delete(self, handles: Ints, ids: Ints, skip: bool) -> Bools:
        """Delete rows."""

        def delete() -> Bools:
            found = self._members.found("delete", handles, ids, skip)
            lists, parts = self._members.split(handles, ids.size)
            places = self._places(handles, ids, parts)
            lists = np.broadcast_to(self._lists.put(lists, parts, places), found.shape)[found]
            with ExitStack() as undo:
                self._lists.remove(undo, lists, ids[found])
                self._directory.delete(handles, ids, skip)
                undo.pop_all()
            for partition, rows in parts:
                partition.count(places[rows][found[rows]], -1)
                self._keep(partition)
            return found

        return self._write("delete", delete)

    def get(self, handles: Ints, ids: Ints, skip: bool, vectors: Any, columns: Any) -> Bools:
        """Read rows."""

        def get() -> Bools:
            self._members.check("get", handles)
            lists, parts = self._members.split(handles, ids.size)
            lists = self._lists.put(lists, parts, self._places(handles, ids, parts))
            return self._pages.get(lists, ids, skip, vectors, columns)

        return self._gate.read(get)

    def alive(self, handles: Ints) -> Bools:
        """Which handles name banks."""
        return self._directory.alive(handles)

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
        return self._write("fork", lambda: self._members.fork(handles, n))

    def copy_from(self, handles: Ints, sources: Ints) -> None:
        """Make each bank what its source is."""
        self._write("rollback", lambda: self._members.copy_from(handles, sources))

    def dead_refs(self, column: int) -> Ints:
        """The references that no row holds any more."""
        return self._pages.dead_refs(column)

    def holds(self, column: int, numbers: Ints) -> NDArray[np.bool_]:
        """Which of these references are in rows."""
        return self._pages.holds(column, numbers)

    def compact(self) -> None:
        """Give the memory of free pages back to the system."""
        self._pages.compact()

    @property
    def device_nbytes(self) -> int:
        """Bytes of the device's memory that are held."""
        return 0 if self._device is None else self._device.nbytes

    def prefetch(self, handles: Ints) -> None:
        """Have banks on the device, as far as they fit."""
        device: Any = self._device
        self._gate.read(lambda: device.prefetch(handles))

    def there(self, op: str, handles: Any) -> Any:
        """Handles on the device of all lists of each bank; None if not all of them are there."""
        device: Any = self._device
        return self._gate.read(lambda: device.there(op, handles))

    def score(self, handles: Ints, queries: NDArray[Any], ids: Ints, scores: Floats) -> None:
        """The canonical scores of named rows, -inf where the id is -1."""

        def score() -> None:
            self._members.check("score", handles)
            lists, parts = self._members.split(handles, len(queries))
            if not parts:
                return self._pages.score(lists, queries, ids, scores)
            n = ids.shape[1]
            owners = np.repeat(np.broadcast_to(handles, len(queries)), n)
            named = ids.reshape(-1)
            lists, parts = self._members.split(owners, named.size)
            places = self._places(owners, named, parts)
            out = np.empty((named.size, 1), np.float32)
            lists = self._lists.put(lists, parts, places)
            self._pages.score(lists, np.repeat(queries, n, axis=0), named[:, None], out)
            scores[:] = out.reshape(ids.shape)

        self._gate.read(score)

    def search_plain(
        self, handles: Any, queries: Any, k: Any, n_probes: Any = None, recall: Any = None
    ) -> Hits | None:
        """Hits for float32 queries at one bank, an int k and one effort for all; else None."""
        if k.__class__ is not int or k < 1 or not isinstance(handles, np.ndarray):
            return None
        if self._device is not None:
            return None
        if n_probes is None:
            recall = self._options.recall if recall is None else recall
            is_plain = recall.__class__ is float and 0 < recall <= 1
        else:
            is_plain = n_probes.__class__ is int and n_probes > 0 and recall is None
        if not is_plain or handles.dtype != np.int64 or handles.ndim != 1 or not handles.size:
            return None

        def search() -> Hits | None:
            lists, parts = self._members.split(handles, 0)
            if not parts:
                if not self._directory.alive(handles).all():
                    return None
                return self._pages.search_plain(lists, queries, k)
            if handles.size > 1:
                return None
            partition = parts[0][0]
            if not partition.n_centroids:
                return self._pages.search_plain(partition.lists[partition.places], queries, k)
            centroids = partition.routes.by_score(partition.centroids)
            effort = reach(self._lists, partition, k, n_probes, recall)
            return self._pages.search_routed(partition.lists, *centroids, *effort, queries, k)

        return self._gate.read(search)

    def search(
        self,
        handles: Any,
        queries: Any,
        k: Any,
        where: Any,
        where_index: Ints | None,
        candidates: Any,
        scale: int | None,
        bias: int | None,
        min_score: float,
        max_score: float,
        first_pass: bool | None,
        scores: Any,
        ids: Any,
        n_probes: Any = None,
        recall: Any = None,
    ) -> None:
        """The k best rows of the lists that each query visits."""
        if n_probes is None:
            # Recall is measured without conditions and weights: with them, all lists are visited.
            if where is not None or scale is not None or bias is not None or max_score < np.inf:
                recall = 1.0
            elif recall is None:
                recall = self._options.recall
        if self._device is not None:
            device = self._device
            limits = (where, where_index, candidates, scale, bias, min_score, max_score)
            given = (handles, queries, k, limits, first_pass, scores, ids, n_probes, recall)
            if not self._gate.read(lambda: device.search(*given)):
                self._rows.search_here(self._search, self.alive, *given)
            return
        self._search(
            handles, queries, k, where, where_index, candidates, scale, bias, min_score, max_score,
            first_pass, scores, ids, n_probes, recall,
        )  # fmt: skip

    def _search(
        self, handles: Ints, queries: NDArray[Any], k: Any, where: Any, where_index: Ints | None,
        candidates: Ints | None, scale: int | None, bias: int | None, min_score: float,
        max_score: float, first_pass: bool | None, scores: Floats, ids: Ints, n_probes: Any,
        recall: Any,
    ) -> None:  # fmt: skip
        """The same by the host's engine; recall is given unless n_probes is."""
        limits = (scale, bias, min_score, max_score, first_pass)

        def search() -> None:
            self._members.check("search", handles)
            lists, parts = self._members.split(handles, len(queries))
            if not parts:
                self._pages.search(
                    lists, queries, k, where, where_index, candidates, *limits, scores, ids
                )
                return
            if handles.size > 1:
                self._lists.check(queries)
                few(lists, np.flatnonzero(lists >= 0))
            for partition, q in parts:
                if q.__class__ is slice and candidates is None:
                    probes = choose(self._lists, partition, queries, k, n_probes, recall)
                    self._pages.search_lists(
                        partition.lists, probes, queries, k, where, where_index, None, *limits,
                        scores, ids,
                    )  # fmt: skip
                else:
                    some(partition, np.arange(len(queries))[q])

        def few(lists: Ints, q: Ints) -> None:
            """The queries at banks of one list."""
            rest = (_some(k, q), where, _some(where_index, q), _some(candidates, q), *limits)
            out = scores[q], ids[q]
            self._pages.search(lists[q], queries[q], *rest, *out)
            scores[q], ids[q] = out

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

    def _write(self, op: str, call: Callable[[], T]) -> T:
        def swept() -> T:
            try:
                return call()
            finally:
                self._members.sweep()

        if self._device is not None:
            self._device.mirror.check_writable(op)
        return self._gate.write(swept)

    def _divide(self, handles: Ints, n: int) -> None:
        """Give partitions to the banks that n rows will make too long for one list."""
        if handles.size == 1:
            owners, incoming = handles, np.array([n])
        else:
            owners, incoming = np.unique(handles, return_counts=True)
        lists = self._members.split(owners, owners.size)[0]
        if not self._directory.alive(owners).all():
            return
        sizes = self._directory.count(owners) + incoming
        few_rows = Sizes.of(0, self._options.list_rows).few_rows
        for handle in owners[(sizes > few_rows) & (lists >= 0)].tolist():
            self._members.divide(handle)

    def _places(self, handles: Ints, ids: Ints, parts: list[Any]) -> Ints:
        """The place of each row, where any bank has a partition."""
        return self._lists.places(handles, ids) if parts else np.zeros(0, np.int64)

    def _keep(self, partition: Partition, incoming: Any = None) -> Partition:
        """Mend the lists of a bank, before rows come in or after a write; the bank as it is then.

        All is done to a copy, which takes the bank's place in the end. Where memory runs out, the
        lists stay as they are until the next write.
        """
        options = (self._options.list_rows, self._options.seed)
        n_new = 0 if incoming is None else len(incoming)
        if incoming is not None and not n_new:
            return partition
        if Balance(self._lists, partition, *options).is_due(n_new):
            trial = None
            try:
                trial = self._members.trial(partition)
                balance = Balance(self._lists, trial, *options)
                balance.keep() if incoming is None else balance.prepare(incoming)
                self._members.accept(partition, trial)
            except BaseException as error:
                self._members.refuse(trial)
                if not isinstance(error, MemoryError):
                    raise
            partition = self._members.partitions[partition.handle]
        if incoming is None and partition.is_small(Sizes.of(0, options[0]).few_rows // 2):
            self._members.unite(partition)
        return partition

    def _change(
        self, undo: ExitStack, partition: Partition, ids: Ints, vectors: Any, columns: Any
    ) -> None:
        """Update rows that are there, with the cells that are given; vectors may move them."""
        old = self._lists.places(np.array([partition.handle]), ids)
        if vectors is None:
            self._lists.change(undo, partition.lists[old], ids, None, columns)
            return
        new = partition.nearest(vectors)
        stay, go = np.flatnonzero(old == new), np.flatnonzero(old != new)
        given = vectors[stay], _columns(columns, stay)
        self._lists.change(undo, partition.lists[old[stay]], ids[stay], *given)
        partition.count(old[stay], 1, is_move=True)
        given = vectors[go], _columns(columns, go)
        self._lists.move(undo, partition, ids[go], old[go], new[go], *given)


def _some(values: Any, places: Any) -> Any:
    """values[places] of what may be None or one number for all."""
    return values[places] if isinstance(values, np.ndarray) else values


def _columns(columns: Any, places: Any) -> list[Any]:
    return [_some(column, places) for column in columns]

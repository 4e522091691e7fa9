"""Partition: the lists of one bank, their centroids, and the way from a vector to a list."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import _core

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_INF = float("inf")


class Routes:
    """The centroids of many partitions, each in a bank whose row ids are the places of lists.

    Rows go to the list whose centroid is nearest: by direction under cosine, by distance else.
    Queries visit lists in the order of the centroids' scores under the bank's own metric.
    """

    def __init__(self, dim: int, metric: str) -> None:
        self.dim = dim
        self.metric = metric
        self.nearest_metric = "cosine" if metric == "cosine" else "l2"
        self._by_score = _core.Pages(dim, "float32", metric, [])
        self._by_distance = self._by_score
        if metric == "dot":
            self._by_distance = _core.Pages(dim, "float32", self.nearest_metric, [])
        self._stores = {id(store): store for store in (self._by_score, self._by_distance)}.values()

    @property
    def nbytes(self) -> int:
        """Bytes of all centroids."""
        return sum(int(store.nbytes) for store in self._stores)

    @staticmethod
    def widen(vectors: NDArray[Any]) -> Floats:
        """Vectors of any stored dtype as float32."""
        if vectors.dtype == np.uint16:
            return (vectors.astype(np.uint32) << 16).view(np.float32)
        return vectors.astype(np.float32)

    def new(self) -> list[Ints]:
        """An empty set of centroids."""
        return [store.new(1, are_lists=True) for store in self._stores]

    def fork(self, handles: list[Ints]) -> list[Ints]:
        """A copy of a set of centroids."""
        stores = zip(self._stores, handles, strict=True)
        return [store.fork(handle, 1).reshape(-1) for store, handle in stores]

    def drop(self, handles: list[Ints]) -> None:
        """Give up a set of centroids."""
        for store, handle in zip(self._stores, handles, strict=True):
            store.drop(handle)

    def set(self, handles: list[Ints], places: Ints, centroids: Floats) -> None:
        """Put centroids at places, new ones or not."""
        for store, handle in zip(self._stores, handles, strict=True):
            store.delete(handle, places, True)
            store.add(handle, places, centroids, [])

    def remove(self, handles: list[Ints], places: Ints) -> None:
        """Take the centroids at places away."""
        for store, handle in zip(self._stores, handles, strict=True):
            store.delete(handle, places, False)

    def nearest(self, handles: list[Ints], rows: Any, n: int = 1) -> Ints:
        """The n places that each row is nearest to: (n_rows, n) int64."""
        return self._search(self._by_distance, handles[-1], rows, n)[1]

    def centroids(self, handles: list[Ints], places: Ints) -> Floats:
        """The centroids at places."""
        centroids = np.empty((places.size, self.dim), np.float32)
        self._by_distance.get(handles[-1], places, False, centroids, [])
        return centroids

    def by_score(self, handles: list[Ints]) -> tuple[Any, int]:
        """The store and the bank of a set of centroids that queries look at."""
        return self._by_score, handles[0].item()

    def best(self, handles: list[Ints], queries: Any, n: int) -> tuple[Floats, Ints]:
        """The scores and places of the n best centroids for each query: (n_queries, n) twice."""
        return self._search(self._by_score, handles[0], queries, n)

    @staticmethod
    def _search(store: Any, handle: Ints, queries: Any, n: int) -> tuple[Floats, Ints]:
        scores = np.empty((len(queries), n), np.float32)
        places = np.empty((len(queries), n), np.int64)
        store.search(
            handle, queries, n, None, None, None, None, None, -_INF, _INF, None, scores, places
        )
        return scores, places


class Partition:
    """Which lists a bank has.

    Attributes:
        handle: the bank in the directory.
        lists: (n_places,) int64 handles of the hidden banks that hold the rows; places without a
            list hold that of an empty one, `nowhere`.
        sizes: (n_places,) rows of each.
        changes: (n_places,) rows that came or went since the centroid was their mean.
        centroids: what `Routes` knows this partition's centroids by.
        n_centroids: as many as there are lists, or none where there is one list.
        version: how many centroids were set or taken away so far.
        there: what `ListsThere` knows of it on a device.
        n_unfilled: rows that came, went or moved since lists were made to fill their pages.
    """

    def __init__(self, handle: int, routes: Routes, first: int, n_rows: int, nowhere: int) -> None:
        self.handle = handle
        self.routes = routes
        self.nowhere = nowhere
        self.lists = np.array([first], np.int64)
        self.sizes = np.array([n_rows], np.int64)
        self.changes = np.zeros(1, np.int64)
        # Lists whose rows no centroids divide are tried again when they have grown to this size.
        self.retry = np.zeros(1, np.int64)
        self.centroids = routes.new()
        self.has_centroid = np.zeros(1, bool)
        self.n_centroids = 0
        self.version = 0
        self.n_unfilled = n_rows
        self.calibrations: dict[int, Any] = {}
        self.there: Any = None

    @property
    def places(self) -> Ints:
        """The places that have a list, ascending."""
        return np.flatnonzero(self.lists != self.nowhere)

    @property
    def n_rows(self) -> int:
        """The rows of all lists."""
        return int(self.sizes.sum())

    def is_small(self, n_rows: int) -> bool:
        """Whether one list is enough, at up to so many rows."""
        return not self.n_centroids and self.places.size == 1 and self.n_rows <= n_rows

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        tables = (self.lists, self.sizes, self.changes, self.retry, self.has_centroid)
        return sum(table.nbytes for table in tables)

    def copy(self, handle: int, lists: Ints) -> "Partition":
        """The same partition of another bank, whose rows are in `lists`: one for each place."""
        copy = object.__new__(Partition)
        copy.__dict__.update(self.__dict__)
        copy.handle = handle
        copy.lists = np.full_like(self.lists, self.nowhere)
        copy.lists[self.places] = lists
        for name in ("sizes", "changes", "retry", "has_centroid"):
            setattr(copy, name, getattr(self, name).copy())
        copy.centroids = self.routes.fork(self.centroids)
        copy.calibrations = dict(self.calibrations)
        copy.there = None
        return copy

    def take_places(self, n: int) -> Ints:
        """Places without a list, ascending; the tables grow if there are too few."""
        free = np.flatnonzero(self.lists == self.nowhere)
        n_more = max(0, n - free.size)
        if n_more:
            n_more = max(n_more, len(self.lists) // 2)
            free = np.append(free, np.arange(len(self.lists), len(self.lists) + n_more))
            self.lists = np.append(self.lists, np.full(n_more, self.nowhere))
            none = np.zeros(n_more, np.int64)
            self.sizes = np.append(self.sizes, none)
            self.changes = np.append(self.changes, none)
            self.retry = np.append(self.retry, none)
            self.has_centroid = np.append(self.has_centroid, none.astype(bool))
        return free[:n]

    def count(self, places: Ints, step: int, is_move: bool = False) -> None:
        """Note that rows came to lists (step 1), left them (-1), or changed in them."""
        n = np.bincount(places, minlength=len(self.lists))
        self.changes += n
        self.n_unfilled += int(places.size)
        if not is_move:
            self.sizes += step * n

    def set_centroids(self, places: Ints, centroids: Floats) -> None:
        """Move the centroids of lists."""
        self.routes.set(self.centroids, places, centroids)
        self.has_centroid[places] = True
        self.n_centroids = int(np.count_nonzero(self.has_centroid))
        self.version += int(places.size)

    def remove_centroids(self, places: Ints) -> None:
        """Let no row or query be sent to these lists any more."""
        self.routes.remove(self.centroids, places[self.has_centroid[places]])
        self.has_centroid[places] = False
        self.n_centroids = int(np.count_nonzero(self.has_centroid))
        self.version += int(places.size)

    def nearest(self, rows: Any) -> Ints:
        """The place that each row belongs to: (n,) int64."""
        if not self.n_centroids:
            return np.full(len(rows), self.places[0], np.int64)
        return self.routes.nearest(self.centroids, rows)[:, 0]

    def best(self, queries: Any, n: int) -> tuple[Floats, Ints]:
        """The scores and places of the n likeliest lists for each query: (n_queries, n) twice."""
        return self.routes.best(self.centroids, queries, n)

"""Keeps the lists of a partition between a least and a largest size, and centroids near the means.

Lists split where they grow too long and dissolve where they grow too short; then the rows of the
lists around are sent to the nearest centroid again. Xu et al. 2023, "SPFresh: Incremental In-Place
Update for Billion-Scale Vector Search", arXiv:2410.14452, calls the protocol LIRE.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.index import filling
from memcore.index.lists import Lists
from memcore.index.partition import Partition
from memcore.ops.codebook import codebook_sums
from memcore.ops.kmeans import kmeans

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# More rows than this for each centroid change the centroids little.
ROWS_PER_CENTROID = 48
# Rows that are read and moved at a time.
SLICE = 1 << 16
# Lists around a new centroid whose rows might belong to it.
_N_NEIGHBOURS = 8
_BULK_STEPS, _SPLIT_STEPS = 8, 6
_MAX_ROUNDS = 8


@dataclass(frozen=True)
class Sizes:
    """How long lists are in a bank of n_rows rows.

    A list costs a query its centroid, whether it is visited or not; a row costs the queries that
    visit its list. So lists grow with the square root of the bank.
    """

    wanted: int
    few_rows: int

    @classmethod
    def of(cls, n_rows: int, list_rows: int | None) -> "Sizes":
        """The sizes in a bank of n_rows rows; list_rows, if given, is what is wanted."""
        if list_rows is not None:
            return cls(list_rows, 2 * list_rows)
        return cls(max(160, min(1024, round(math.sqrt(n_rows) / 4))), 2048)

    @property
    def largest(self) -> int:
        """A list of more rows is split."""
        return 2 * self.wanted

    @property
    def least(self) -> int:
        """A list of fewer rows dissolves."""
        return max(1, self.wanted // 8)


class Balance:
    """The upkeep of one partition, after a write."""

    def __init__(self, rows: Lists, partition: Partition, list_rows: int | None, seed: int) -> None:
        self._rows = rows
        self._partition = partition
        self._list_rows = list_rows
        self._seed = seed

    @cached_property
    def _rng(self) -> "np.random.Generator":
        # Most upkeep finds nothing to do, and draws nothing.
        return np.random.default_rng([self._seed, self._partition.version, self._partition.n_rows])

    @property
    def sizes(self) -> Sizes:
        """What the bank's size asks for."""
        return Sizes.of(self._partition.n_rows, self._list_rows)

    def is_due(self, n_new: int = 0) -> bool:
        """Whether there is something to do: before n_new rows come, or (for 0) after a write."""
        if not n_new:
            return self._next() is not None
        n_before = self._partition.n_rows
        few_rows = Sizes.of(n_before + n_new, self._list_rows).few_rows
        return n_new >= n_before and n_before + n_new > few_rows

    def prepare(self, incoming: NDArray[Any]) -> None:
        """Make lists for rows that are as many as those that are there, before they are added."""
        partition = self._partition
        n_before, n_new = partition.n_rows, len(incoming)
        sizes = Sizes.of(n_before + n_new, self._list_rows)
        n_lists = max(2, round((n_before + n_new) / sizes.wanted))
        n_sample = min(n_before + n_new, ROWS_PER_CENTROID * n_lists)
        n_old = n_sample * n_before // (n_before + n_new)
        chosen = self._rng.permutation(n_new)[: n_sample - n_old]
        sample = self._rows.floats(incoming[np.sort(chosen)])
        if n_old:
            ids, places = self._rows.row_ids(partition, partition.places)
            chosen = np.sort(self._rng.permutation(ids.size)[:n_old])
            old = self._rows.vectors(partition, ids[chosen], places[chosen])
            sample = np.concatenate([sample, self._rows.floats(old)])
        centroids = self._cluster(sample, n_lists, _BULK_STEPS)
        if len(centroids) < 2:
            return
        before = partition.places
        places = self._make_lists(before, len(centroids))
        partition.remove_centroids(np.setdiff1d(before, places))
        partition.set_centroids(places, centroids)
        self._send(before)
        self._drop_empty(np.setdiff1d(before, places))

    def keep(self) -> None:
        """Split and dissolve lists until all have a size that is right, then mend centroids."""
        for _ in range(_MAX_ROUNDS):
            task = self._next()
            if task is None:
                break
            task()

    def _next(self) -> Callable[[], None] | None:
        """What is to be done first, if anything."""
        partition, sizes = self._partition, self.sizes
        places = partition.places
        counts = partition.sizes[places]
        if places.size > 1 and partition.n_rows <= sizes.few_rows // 2:
            return partial(self._dissolve, places[1:], keep_centroid=False)
        is_large = (counts > sizes.largest) & (counts >= partition.retry[places])
        if partition.n_rows > sizes.few_rows and is_large.any():
            return partial(self._split, places[is_large], sizes)
        is_small = counts < sizes.least
        if is_small.any() and places.size > 1:
            # Some list has to stay and take the rows.
            is_small[np.argmax(counts)] = False
            return partial(self._dissolve, places[is_small], keep_centroid=True)
        is_stale = partition.has_centroid & (partition.changes > partition.sizes // 2 + 8)
        stale = np.flatnonzero(is_stale & (partition.sizes > 0))
        if stale.size:
            return partial(self._mend, stale)
        if filling.is_due(partition):
            return partial(filling.fill, self._rows, partition, sizes.largest)
        return None

    def _split(self, places: Ints, sizes: Sizes) -> None:
        partition = self._partition
        touched = []
        for place in places:
            ids, at = self._rows.row_ids(partition, np.array([place]))
            n = max(2, round(ids.size / sizes.wanted))
            if ids.size > n * ROWS_PER_CENTROID:
                chosen = np.sort(self._rng.permutation(ids.size)[: n * ROWS_PER_CENTROID])
                ids, at = ids[chosen], at[chosen]
            sample = self._rows.floats(self._rows.vectors(partition, ids, at))
            centroids = self._cluster(sample, n, _SPLIT_STEPS)
            if len(centroids) < 2:
                partition.retry[place] = 2 * partition.sizes[place]
                continue
            made = self._make_lists(np.array([place]), len(centroids))
            partition.set_centroids(made, centroids)
            touched.append((made, centroids))
        if not touched:
            return
        n = min(_N_NEIGHBOURS, partition.n_centroids)
        around = partition.best(np.concatenate([c for _, c in touched]), n)[1]
        self._send(np.union1d(np.concatenate([made for made, _ in touched]), around))
        # What could not be divided is not tried again before it has grown.
        left = places[partition.sizes[places] > sizes.largest]
        stuck = left[partition.changes[left] < partition.sizes[left] // 8]
        partition.retry[stuck] = 2 * partition.sizes[stuck]

    def _cluster(self, sample: Floats, n: int, n_steps: int) -> Floats:
        """The means of at most n clusters, fewer where rows repeat."""
        means, counts, _ = kmeans(sample, n, self._rng, n_iterations=n_steps)
        return means[counts > 0]

    def _dissolve(self, places: Ints, keep_centroid: bool) -> None:
        """Send the rows of lists to others. Without centroids the first list takes all."""
        partition = self._partition
        gone = places if keep_centroid else partition.places
        partition.remove_centroids(gone)
        self._send(places)
        self._drop_empty(places)

    def _make_lists(self, places: Ints, n: int) -> Ints:
        """N places that have a list: these, and new ones if they are too few."""
        places = places[:n]
        if n == places.size:
            return places
        made = self._partition.take_places(n - places.size)
        self._partition.lists[made] = self._rows.new(made.size)
        for table in (self._partition.sizes, self._partition.changes, self._partition.retry):
            table[made] = 0
        return np.concatenate([places, made])

    def _drop_empty(self, places: Ints) -> None:
        partition = self._partition
        if places.size:
            self._rows.drop_lists(partition.lists[places])
            partition.lists[places] = partition.nowhere

    def _send(self, places: Ints) -> None:
        """Send the rows of lists to the nearest centroids."""
        partition = self._partition
        ids, old = self._rows.row_ids(partition, places)
        for begin in range(0, ids.size, SLICE):
            some, at = ids[begin : begin + SLICE], old[begin : begin + SLICE]
            new = partition.nearest(self._rows.vectors(partition, some, at))
            moved = np.flatnonzero(new != at)
            self._rows.move(ExitStack(), partition, some[moved], at[moved], new[moved])

    def _mend(self, places: Ints) -> None:
        """Put centroids back to the means of lists that have changed by half."""
        partition = self._partition
        ids, at = self._rows.row_ids(partition, places)
        bounds = np.searchsorted(at, places)
        cuts = [0, *(np.flatnonzero(np.diff(bounds // SLICE)) + 1).tolist(), places.size]
        for first, last in pairwise(cuts):
            if first == last:
                continue
            begin, end = bounds[first], bounds[last] if last < places.size else ids.size
            rows = self._rows.floats(self._rows.vectors(partition, ids[begin:end], at[begin:end]))
            groups = np.searchsorted(places[first:last], at[begin:end])
            counts, sums = codebook_sums(rows, groups, last - first)
            sums /= counts[:, None].astype(np.float32)
            partition.set_centroids(places[first:last], sums)
        partition.changes[places] = 0

"""Which lists a query visits: as many as it asks for, or as a recall needs on the bank itself."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.index.lists import Lists
from memcore.index.partition import Partition
from memcore.reference import norms, widen

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Rows that are measured: for small k, each tells less.
_N_SAMPLE, _N_SAMPLE_OF_FEW = 400, 1000
# Up to here, each k is measured by itself.
_EVERY_K = 32
# A bank is measured anew when this share of its rows, or of its centroids, has changed.
_STALE = 0.25
# The longest row of lists that is measured: what needs more visits them all.
_MOST_PROBES = 256
_MOST_OF = 0.96
_ALL = 1 << 62
# What it costs to choose a list, as a part of what a visit costs.
_CHOICE = 0.5
# Rows of the bank are a little nearer to its centroids than queries are: this part of what may be
# missed is kept back.
_MARGIN = 0.1
# The norm that a shorter query is taken to have, so that it visits some lists.
LEAST_NORM = np.float32(1e-30)


def choose(
    lists: Lists, partition: Partition, queries: NDArray[Any], k: Any, n_probes: Any, recall: Any
) -> Ints:
    """The places of the lists that each query visits, likeliest first; -1 pads.

    Args:
        lists: the rows.
        partition: the bank.
        queries: (n_queries, dim).
        k: an int, or (n_queries,) ints.
        n_probes: how many lists, or (n_queries,) of them; None asks recall.
        recall: the share of the k best rows that should be found, or (n_queries,) of them.

    Returns:
        (n_queries, n) int64.
    """
    if not partition.n_centroids or not len(queries):
        return np.full((len(queries), 1), partition.places[0])
    counts, within = reaches(lists, partition, k, n_probes, recall)
    most = int(counts.max())
    scores, places = partition.best(queries, most)
    is_far = np.repeat(np.arange(most) >= counts, len(queries) // len(counts), axis=0)
    if np.isfinite(within).any():
        is_far |= _gaps(partition, queries, scores) > within
    is_far[:, 0] = False
    places[is_far] = -1
    return places


def reaches(
    lists: Lists, partition: Partition, k: Any, n_probes: Any, recall: Any
) -> tuple[Ints, NDArray[np.float64]]:
    """How far each query goes, as `reach` says: numbers of lists and gaps, (n or 1, 1) each.

    Args: as for `choose`; there are centroids, and queries.
    """
    width = int(k if isinstance(k, int) else k.max(initial=1))
    # What each query asks for, and which of them it is.
    wanted, which = np.unique(recall if n_probes is None else n_probes, return_inverse=True)
    asks = [(None, one) if n_probes is None else (one, None) for one in wanted.tolist()]
    found = [reach(lists, partition, width, *ask) for ask in asks]
    counts, within = zip(*found, strict=True)
    return np.array(counts)[which].reshape(-1, 1), np.array(within)[which].reshape(-1, 1)


def reach(
    lists: Lists, partition: Partition, k: int, n_probes: int | None, recall: float | None
) -> tuple[int, float]:
    """How far a query goes: at most so many of the likeliest lists, within this gap.

    A gap is by how much a centroid's score falls short of the best one's, divided by the query's
    norm under dot.

    Args:
        lists: the rows.
        partition: the bank; there are centroids.
        k: rows that are sought.
        n_probes: how many lists; None asks recall.
        recall: the share of the k best rows that should be found; None is all.
    """
    n_lists = partition.n_centroids
    if n_probes is not None:
        return min(n_probes, n_lists), math.inf
    if recall is None or recall == 1.0:
        return n_lists, math.inf
    gap, most = _measured(lists, partition, k).reach(recall)
    return min(most, n_lists), gap


class Calibration:
    """How far down the row of lists the k nearest neighbours of a bank's own rows are.

    A query visits the lists whose centroid's score falls short of the best one's by at most a gap
    (divided by the query's norm, under dot). The gap that finds a share of the neighbours is read
    from a sample of rows, each of which searched the whole bank for its neighbours.
    """

    def __init__(self, lists: Lists, partition: Partition, k: int) -> None:
        self.k = k
        self.version = partition.version
        self.n_rows = partition.n_rows
        rng = np.random.default_rng([partition.n_rows, k])
        owner = np.array([partition.handle])
        known = lists.directory.ids(partition.handle)
        n_sample = _N_SAMPLE if k >= 4 else _N_SAMPLE_OF_FEW
        chosen = np.sort(rng.permutation(known)[:n_sample])
        rows = lists.vectors(partition, chosen, lists.places(owner, chosen))
        near = _neighbours(lists, partition, chosen, rows, k)
        at = lists.places(owner, near.reshape(-1)).reshape(near.shape)

        n = min(_MOST_PROBES, partition.n_centroids)
        scores, places = partition.best(rows, n)
        gaps = _gaps(partition, rows, scores)
        is_list = at[:, :, None] == places[:, None, :]
        ranks = np.where(is_list.any(axis=2), is_list.argmax(axis=2), n)
        gaps = np.concatenate([gaps, np.full((len(gaps), 1), np.inf, np.float32)], axis=1)
        needed = np.take_along_axis(gaps, ranks, axis=1)
        # Of each neighbour: the gap and the number of lists that reach it.
        self._needed = needed[near >= 0]
        self._ranks = ranks[near >= 0]
        self._gaps = gaps[:, :-1]
        self._limits: dict[float, tuple[float, int]] = {}

    def reach(self, recall: float) -> tuple[float, int]:
        """The gap that finds a share of the neighbours, and how many lists lie within it.

        Where rows lie in clusters, a gap tells the queries that need few lists from the others.
        Where it does not, the same number of lists for all is less work, and the gap is infinite.
        """
        known = self._limits.get(recall)
        if known is None:
            share = recall + _MARGIN * (1 - recall)
            by_gap = limit, most = self._by_gap(share)
            n = int(_share(self._ranks, share)) + 1
            work = np.minimum(np.count_nonzero(self._gaps <= limit, axis=1), most).mean()
            is_less = n * (1 + _CHOICE) < work + min(most, self._gaps.shape[1]) * _CHOICE
            known = (math.inf, n) if n <= self._gaps.shape[1] and is_less else by_gap
            self._limits[recall] = known
        return known

    def _by_gap(self, share: float) -> tuple[float, int]:
        limit = _share(self._needed, share)
        if not np.isfinite(limit):
            return limit, _ALL
        counts = np.count_nonzero(self._gaps <= limit, axis=1)
        # The few queries with more lists within the gap do without the last ones; a wider gap for
        # all makes up for that, if it can.
        fewer = max(1, int(np.quantile(counts, _MOST_OF)))
        wider = _share(np.where(self._ranks < fewer, self._needed, np.inf), share)
        return (wider, fewer) if np.isfinite(wider) else (limit, int(counts.max()))


def _share(needed: NDArray[Any], share: float) -> float:
    """The smallest number that a share of these do not pass; 0 if there are none."""
    if not needed.size:
        return 0.0
    place = min(max(math.ceil(share * needed.size), 1), needed.size) - 1
    return float(np.partition(needed, place)[place])


def _measured(lists: Lists, partition: Partition, k: int) -> Calibration:
    """The calibration for k (a large one is rounded up), measured where it is missing or old."""
    k = k if k <= _EVERY_K else 1 << (k - 1).bit_length()
    known: Calibration | None = partition.calibrations.get(k)
    if (
        known is None
        or partition.version - known.version > _STALE * partition.n_centroids
        or abs(partition.n_rows - known.n_rows) > _STALE * known.n_rows
    ):
        known = Calibration(lists, partition, k)
        partition.calibrations[k] = known
    return known


def _gaps(partition: Partition, queries: NDArray[Any], scores: Floats) -> Floats:
    """By how much each centroid's score falls short of the best one's: (n_queries, n)."""
    gaps: Floats = scores[:, :1] - scores
    if partition.routes.metric == "dot":
        gaps /= np.maximum(norms(widen(queries)), LEAST_NORM)[:, None]
    return gaps


def _neighbours(lists: Lists, partition: Partition, ids: Ints, rows: NDArray[Any], k: int) -> Ints:
    """The k best rows of the whole bank for each of these, itself left out: (n, k); -1 pads."""
    probes = np.broadcast_to(partition.places, (len(ids), len(partition.places)))
    scores = np.empty((len(ids), k + 1), np.float32)
    found = np.empty((len(ids), k + 1), np.int64)
    rest = (None, None, None, None, None, -np.inf, np.inf, None, scores, found)
    lists.pages.search_lists(partition.lists, np.ascontiguousarray(probes), rows, k + 1, *rest)
    others = np.where(found == ids[:, None], -1, found)
    order = np.argsort(others == -1, axis=1, kind="stable")
    return np.take_along_axis(others, order, axis=1)[:, :k]

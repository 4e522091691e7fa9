"""Sends a few rows to another near list, so that lists fill their last pages.

A page takes all its memory, and the last page of a list is half empty on average. Lists take turns:
each gives away the rows beyond its last full page, or takes what that page lacks, whichever costs
less, and lists whose turn is over are left alone. So what is missing is handed on, as rounding
errors are in Floyd and Steinberg 1976, "An Adaptive Algorithm for Spatial Greyscale".
"""

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from memcore.index.lists import Lists
from memcore.index.partition import Partition

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Pages are filled when this part of a bank's rows has come, gone or moved since.
_CHANGED = 1 / 8
# In shorter lists, on average, too many of the rows would have to move.
_ROWS_OF_A_LIST = 64
# Rows go to lists whose centroid is at most this part farther, in squares of distances.
_FARTHER = 0.6
# Lists that are looked at for the rows of one.
_N_NEIGHBOURS = 8
# Lists that are read, and rows that are moved, at a time.
_LISTS, _SLICE = 256, 1 << 16


def is_due(partition: Partition) -> bool:
    """Whether the pages of a bank should be filled."""
    n_rows, n_lists = partition.n_rows, partition.n_centroids
    return (
        partition.n_unfilled >= _CHANGED * n_rows
        and n_lists > 1
        and n_rows >= _ROWS_OF_A_LIST * n_lists
    )


def fill(lists: Lists, partition: Partition, most_rows: int) -> None:
    """Fill the last pages of a bank's lists, none of which grows beyond so many rows."""
    found = list(_second_choices(lists, partition))
    ids, places, others, farther = (np.concatenate(parts) for parts in zip(*found, strict=True))
    sent = fill_pages(places, others, farther, lists.pages.page_rows, most_rows)
    moved = np.flatnonzero(sent != places)
    for some in np.split(moved, range(_SLICE, moved.size, _SLICE)):
        lists.move(ExitStack(), partition, ids[some], places[some], sent[some])
    partition.n_unfilled = 0


def _second_choices(
    lists: Lists, partition: Partition
) -> Iterator[tuple[Ints, Ints, Ints, Floats]]:
    """Of each row: its id and place, the nearest other place, by which part that is farther."""
    routes, places = partition.routes, partition.places
    centroids = lists.floats(routes.centroids(partition.centroids, places))
    n = min(_N_NEIGHBOURS + 1, places.size)
    around = routes.nearest(partition.centroids, centroids, n)
    for first in range(0, places.size, _LISTS):
        some = places[first : first + _LISTS]
        ids, at = lists.row_ids(partition, some)
        rows = lists.floats(lists.vectors(partition, ids, at))
        others, farther = np.empty(ids.size, np.int64), np.empty(ids.size, np.float32)
        bounds = [*np.searchsorted(at, some).tolist(), ids.size]
        for i in range(some.size):
            rows_here = slice(bounds[i], bounds[i + 1])
            near = around[first + i][around[first + i] != some[i]]
            ways = centroids[np.searchsorted(places, near)] - centroids[first + i]
            others[rows_here], farther[rows_here] = _nearest(
                rows[rows_here] - centroids[first + i], near, ways
            )
        yield ids, at, others, farther


def _nearest(rows: Floats, near: Ints, ways: Floats) -> tuple[Ints, Floats]:
    """For rows seen from their centroid: the nearest of others, and by which part it is farther.

    Args:
        rows: (n, dim), less the centroid.
        near: (n_others,) places.
        ways: (n_others, dim) centroids of these, less the rows' own.
    """
    here = np.maximum(np.einsum("ij,ij->i", rows, rows), np.float32(1e-30))
    longer = np.einsum("ij,ij->i", ways, ways) - 2 * (rows @ ways.T)
    best = longer.argmin(axis=1)
    with np.errstate(over="ignore"):
        return near[best], np.take_along_axis(longer, best[:, None], axis=1)[:, 0] / here


def fill_pages(places: Ints, others: Ints, farther: Floats, page_rows: int, most_rows: int) -> Ints:
    """The list that each row is sent to.

    Args:
        places: (n,) the list that each row is in; all rows of all lists.
        others: (n,) the list that it might be in.
        farther: (n,) by which part the square of the distance to that is larger.
        page_rows: rows of a page.
        most_rows: that a list may have.

    Returns:
        (n,) int64: of `places` and `others`.
    """
    sent: Ints = places.copy()
    counts = np.bincount(places, minlength=int(others.max(initial=-1)) + 1)
    rows = np.flatnonzero((farther < _FARTHER) & (counts[others] > 0))
    rows = rows[np.argsort(farther[rows], kind="stable")]
    price, here, there = farther[rows], places[rows], others[rows]
    leaving, arriving = _by_list(here, counts.size), _by_list(there, counts.size)
    is_settled, is_done = np.zeros(rows.size, bool), np.zeros(counts.size, bool)
    # Lists with the fewest rows to choose from come first.
    n_chances = np.array([a.size + b.size for a, b in zip(leaving, arriving, strict=True)])
    for at in np.argsort(n_chances, kind="stable").tolist():
        is_done[at] = True
        surplus = int(counts[at]) % page_rows
        if surplus == 0:
            continue
        go, come = leaving[at], arriving[at]
        is_full = counts[there[go]] > most_rows - page_rows
        go = go[~(is_settled[go] | is_done[there[go]] | is_full)][:surplus]
        come = come[~(is_settled[come] | is_done[here[come]])][: page_rows - surplus]
        if counts[at] + page_rows - surplus > most_rows:
            come = come[:0]
        costs = [
            price[some].sum() if some.size == n else np.inf
            for some, n in ((go, surplus), (come, page_rows - surplus))
        ]
        if min(costs) == np.inf:
            continue
        moved = go if costs[0] <= costs[1] else come
        is_settled[moved] = True
        sent[rows[moved]] = there[moved]
        np.subtract.at(counts, here[moved], 1)
        np.add.at(counts, there[moved], 1)
    return sent


def _by_list(lists: Ints, n: int) -> list[Ints]:
    """The places of each number below n in an array, ascending."""
    order: Ints = np.argsort(lists, kind="stable")
    parts: list[Ints] = np.split(order, np.searchsorted(lists[order], np.arange(1, n)))
    return parts

"""Which queries of a call ask one long bank, so that a first pass over its rows serves them all."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .first_pass import MOST_KEYS
from .search import MIN_KEYS, MIN_QUERIES

Ints = NDArray[np.int64]


class Run(NamedTuple):
    """Queries that follow each other and ask one bank, whose length the host knows.

    Attributes:
        begin: the first of them.
        end: one beyond the last.
        n_rows: of the bank.
    """

    begin: int
    end: int
    n_rows: int


def runs_of(
    handles: Ints, lengths: Ints, n_queries: int, first_pass: bool | None
) -> tuple[list[Run], Ints | None]:
    """Order queries so that those of a bank for which a first pass pays follow each other.

    Args:
        handles: one for each query, or one for all.
        lengths: the rows of the bank of each handle.
        n_queries: how many queries.
        first_pass: True for all banks that it can bound, False for none, None where it pays.

    Returns:
        The runs of such banks, the last queries; and the order (n_queries,), None for the given.
    """
    least, fewest = (1, 1) if first_pass else (MIN_KEYS, MIN_QUERIES)
    is_long = (lengths >= least) & (lengths <= MOST_KEYS)
    if first_pass is False or n_queries < fewest or not is_long.any():
        return [], None
    if len(handles) == 1:
        return [Run(0, n_queries, int(lengths[0]))], None
    _, first, owners, counts = np.unique(
        handles[is_long], return_index=True, return_inverse=True, return_counts=True
    )
    pays = counts >= fewest
    ranks = np.zeros(n_queries, np.int64)
    ranks[is_long] = np.where(pays, np.cumsum(pays), 0)[owners]
    order = np.argsort(ranks, kind="stable")
    ends = n_queries - counts[pays].sum() + np.cumsum(counts[pays])
    rows = lengths[is_long][first[pays]]
    given = zip(ends - counts[pays], ends, rows, strict=True)
    runs = [Run(*map(int, each)) for each in given]
    return runs, None if (order[1:] > order[:-1]).all() else order

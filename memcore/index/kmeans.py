"""k-means for the centroids of lists: Lloyd 1982, "Least squares quantization in PCM"."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.ops.search import search

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# More rows than this for each centroid change the centroids little.
ROWS_PER_CENTROID = 48


def kmeans(
    rows: Floats, n: int, *, metric: str, n_steps: int, rng: "np.random.Generator"
) -> Floats:
    """The centroids of at most n clusters of rows, fewer where rows repeat.

    Args:
        rows: (n_rows, dim), at least one.
        n: clusters wanted.
        metric: "l2" or "cosine", by which a row goes to a centroid.
        n_steps: of Lloyd's.
        rng: picks the first centroids, n distinct rows.

    Returns:
        (n_clusters, dim) float32.

    Cost:
        n_steps * n_rows * n scores.
    """
    centroids = rows[rng.permutation(len(rows))[:n]]
    for _ in range(n_steps):
        nearest = search(rows, centroids, 1, metric=metric)
        places = nearest.ids[:, 0]
        sizes = np.bincount(places, minlength=len(centroids))
        means = group_means(rows, places, len(centroids))
        empty = np.flatnonzero(sizes == 0)
        # A cluster without rows begins anew at a row that is far from its centroid.
        far = np.argsort(nearest.scores[:, 0], kind="stable")[: empty.size]
        means[empty] = rows[far]
        centroids = means
    used = np.unique(search(rows, centroids, 1, metric=metric).ids[:, 0])
    kept: Floats = centroids[used]
    return kept


def group_means(rows: Any, groups: Ints, n_groups: int) -> Floats:
    """(n_groups, dim) float32: the mean of the rows of each group, 0 where it has none."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups, minlength=n_groups)
    means = np.zeros((n_groups, rows.shape[1]), np.float32)
    filled = np.flatnonzero(sizes)
    if filled.size:
        begins = (np.cumsum(sizes) - sizes)[filled]
        means[filled] = np.add.reduceat(rows[order], begins, axis=0, dtype=np.float32)
        means[filled] /= sizes[filled, None].astype(np.float32)
    return means

"""k-means: seeding and iterations, on `assign` and `codebook_sums`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.ops.codebook import assign, codebook_sums, widened
from memcore.ops.search import search

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Rows that seeding looks at.
_SEEN_PER_CODE, _SEEN_AT_LEAST = 4, 4096


def kmeans(
    rows: NDArray[Any], n_codes: int, rng: "np.random.Generator", *, n_iterations: int = 10
) -> tuple[Floats, Ints, Floats]:
    """Lloyd's iterations from k-means++ seeds.

    Args:
        rows: (n, dim), finite, at least one row.
        n_codes: how many means.
        rng: where seeds are drawn from.
        n_iterations: at most so many; fewer if no row changes its code.

    Returns:
        codewords (n_codes, dim) float32; and of the rows with each code the counts (n_codes,) int64
        and the sums (n_codes, dim). A code that loses all its rows takes the worst-quantised one.
        Only where there are fewer distinct rows than codes, counts may be 0.

    Cost:
        One assign of all rows for each iteration, and less for the seeds.
    """
    codewords = seeds(rows, n_codes, rng)
    before: Ints | None = None
    for _ in range(max(1, n_iterations)):
        codes, scores = assign(rows, codewords)
        if before is not None and np.array_equal(codes, before):
            break
        before = codes
        counts, sums = codebook_sums(rows, codes, n_codes)
        if _fill_empty(rows, codes, scores, counts):
            counts, sums = codebook_sums(rows, codes, n_codes)
        means = sums / np.maximum(counts, 1)[:, None].astype(np.float32)
        codewords = np.where(counts[:, None] > 0, means, codewords)
    return codewords, counts, sums


def seeds(rows: NDArray[Any], n_codes: int, rng: "np.random.Generator") -> Floats:
    """Rows to start from: k-means++ (Arthur and Vassilvitskii 2007).

    Each seed is drawn with a probability proportional to the square of a row's distance to the
    seeds before it. A round draws half as many rows as there are seeds, by the distances of its
    start, and keeps each with the probability that makes up for what its forerunners in the round
    have changed: the same distribution in a few dozen assigns.

    Args:
        rows: (n, dim), at least one; of more than four a code (and 4,096), so many are drawn.
        n_codes: how many.
        rng: where they are drawn from.

    Returns:
        (n_codes, dim) float32, all distinct as long as there are distinct rows.
    """
    seen = looked_at(len(rows), n_codes, rng)
    rows = rows if seen is None else rows[seen]
    chosen: list[int] = []
    fresh = [int(rng.integers(len(rows)))]
    nearest = np.full(len(rows), np.inf)
    while True:
        chosen += fresh
        n_missing = n_codes - len(chosen)
        if n_missing == 0:
            return widened(rows[chosen])
        if fresh:
            _, scores = assign(rows, widened(rows[fresh]))
            np.minimum(nearest, -scores.astype(np.float64), out=nearest)
        total = np.cumsum(nearest)
        if total[-1] <= 0:
            fresh = rng.integers(len(rows), size=n_missing).tolist()
            continue
        points = rng.random(min(max(1, len(chosen) // 2), n_missing)) * total[-1]
        draws = np.minimum(np.searchsorted(total, points, side="right"), len(rows) - 1)
        fresh = _kept(widened(rows[draws]), draws, nearest[draws], rng)


def looked_at(n_rows: int, n_codes: int, rng: "np.random.Generator") -> Ints | None:
    """Which of the rows seeding looks at, rising; None for all."""
    n_most = max(_SEEN_AT_LEAST, _SEEN_PER_CODE * n_codes)
    return np.sort(rng.choice(n_rows, n_most, replace=False)) if n_rows > n_most else None


def _kept(
    candidates: Floats, draws: Ints, nearest: NDArray[np.float64], rng: "np.random.Generator"
) -> list[int]:
    """The draws that stay, each judged by its distance to those kept before it."""
    n = len(draws)
    hits = search(candidates, candidates, n, metric="l2")
    between = np.zeros((n, n))
    np.put_along_axis(between, hits.ids, -hits.scores.astype(np.float64), 1)
    kept: list[int] = []
    for i, chance in enumerate(rng.random(n)):
        now = min(nearest[i], between[i, kept].min(initial=np.inf))
        if now > chance * nearest[i]:
            kept.append(i)
    return [int(row) for row in draws[kept]]


def _fill_empty(rows: NDArray[Any], codes: Ints, scores: Floats, counts: Ints) -> bool:
    """Give codes without rows the worst-quantised rows; whether any code changed."""
    empty = np.flatnonzero(counts == 0)
    if not empty.size:
        return False
    worst = np.argsort(scores, kind="stable")[: empty.size]
    worst = worst[scores[worst] < 0]
    codes[worst] = empty[: worst.size]
    return bool(worst.size)

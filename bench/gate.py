"""The gate: an answer is checked before it is timed.

Ours must equal `memcore.reference` on sampled queries, ids and bits of scores, and the engine's
plain float32 scan, which takes no shortcut, on the rest. A rival's scores must be the true ones
within float32 rounding.
"""

from __future__ import annotations

import numpy as np

import memcore
from memcore import _core, reference

from .case import expect

Array = np.ndarray

# Pairs of query and key, times dim, that the checks may cost: a second or two each.
REFERENCE_WORK = 4e8
SCAN_WORK = 3e10
# Rivals order their sums as they like, and make l2 of squares: scores of unit vectors differ by
# about 1e-6.
RIVAL_TOLERANCE = 1e-4


def float32_scan(
    queries: Array,
    keys: Array,
    k: int,
    metric: str,
    offsets: Array | None = None,
    segments: Array | None = None,
) -> tuple[Array, Array]:
    """The engine's scan of all rows in float32, without the first pass."""
    scores = np.empty((len(queries), k), np.float32)
    ids = np.empty((len(queries), k), np.int64)
    bounds = (-np.inf, np.inf)
    _core.search(
        queries,
        keys,
        offsets,
        segments,
        k,
        metric,
        None,
        None,
        None,
        None,
        *bounds,
        False,
        scores,
        ids,
    )
    return scores, ids


def check_search(
    hits: memcore.Hits, queries: Array, keys: Array, k: int, metric: str, seed: int
) -> Array:
    """Check a search over one array of keys.

    Args:
        hits: what our engine gave.
        queries: (n_queries, dim) float32.
        keys: (n_keys, dim) float32.
        k: as searched.
        metric: as searched.
        seed: of the choice of sampled queries.

    Returns:
        (n_queries, k) the scores that passed; NaN for queries past what the float32 scan could
        check in its time.

    Raises:
        WrongAnswerError: names the first query that differs.
    """
    work = float(keys.size)
    n_scanned = int(np.clip(SCAN_WORK / work, 1, len(queries)))
    n_sampled = int(np.clip(REFERENCE_WORK / work, 1, min(8, len(queries))))
    order = np.random.default_rng([seed, 9]).permutation(len(queries))
    sampled, scanned = order[:n_sampled], order[:n_scanned]
    truth = reference.search(queries[sampled], keys, k, metric=metric)
    expect_equal("the reference", sampled, hits, truth)
    expect_equal("the float32 scan", scanned, hits, float32_scan(queries[scanned], keys, k, metric))
    passed = np.full((len(queries), k), np.nan, np.float32)
    passed[scanned] = hits.scores[scanned]
    return passed


def check_banks(
    hits: memcore.Hits,
    queries: Array,
    vectors: Array,
    offsets: Array,
    k: int,
    metric: str,
    seed: int,
) -> Array:
    """Check a search of bank i by query i, ids from 0 in each bank; returns its scores."""
    n_banks = len(offsets) - 1
    segments = np.arange(n_banks)
    scores, ids = float32_scan(queries, vectors, k, metric, offsets, segments)
    expect_equal("the float32 scan", segments, hits, (scores, _within(ids, offsets, segments)))
    sampled = np.random.default_rng([seed, 9]).permutation(n_banks)[:200]
    scores, ids = reference.search_ragged(
        queries[sampled], vectors, offsets, sampled, k, metric=metric
    )
    expect_equal("the reference", sampled, hits, (scores, _within(ids, offsets, sampled)))
    return np.asarray(hits.scores)


def expect_equal(oracle: str, rows: Array, hits: memcore.Hits, truth: tuple[Array, Array]) -> None:
    """Ids and bits of scores of the named rows of hits are those of an oracle."""
    scores, ids = np.asarray(hits.scores)[rows], np.asarray(hits.ids)[rows]
    same = (scores.view(np.int32) == truth[0].view(np.int32)) & (ids == truth[1])
    if same.all():
        return
    row, rank = np.argwhere(~same)[0]
    expect(
        False,
        f"query {rows[row]} differs from {oracle} at rank {rank}: "
        f"id {ids[row, rank]} with {scores[row, rank]!r}, "
        f"should be id {truth[1][row, rank]} with {truth[0][row, rank]!r}",
    )


def check_rival(scores: Array, truth: Array) -> None:
    """A rival's scores, best first, are the true ones but for rounding; NaN is not known."""
    known = ~np.isnan(truth[:, :1]).ravel()
    found, wanted = np.asarray(scores, np.float64)[known], truth[known].astype(np.float64)
    # Libraries pad with the lowest number that they know.
    found = np.where(found < -1e37, -np.inf, found)
    width = min(found.shape[1], wanted.shape[1])
    expect(
        bool(np.isneginf(wanted[:, width:]).all()), f"{width} columns, should be {wanted.shape[1]}"
    )
    found, wanted = found[:, :width], wanted[:, :width]
    with np.errstate(invalid="ignore"):
        close = np.abs(found - wanted) <= RIVAL_TOLERANCE * np.maximum(1, np.abs(wanted))
    close |= found == wanted
    if not close.all():
        row, rank = np.argwhere(~close)[0]
        expect(
            False,
            f"rank {rank} of query {row} has score {found[row, rank]}, "
            f"should be {wanted[row, rank]}",
        )


def _within(ids: Array, offsets: Array, segments: Array) -> Array:
    """Positions in the array of all banks, as ids that count from 0 in each bank."""
    within: Array = np.where(ids < 0, -1, ids - offsets[segments][:, None])
    return within

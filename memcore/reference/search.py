"""The canonical score, search, search_ragged and topk: what docs/score.md defines in words."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

LANES = 16
MAX_SQUARE = 1e36

# A tile of this many pairs keeps its 16 lanes in cache.
_TILE_PAIRS = 2048

# Scores held at a time while many queries are searched.
_BLOCK_SCORES = 1 << 24


def widen(rows: NDArray[np.generic]) -> Floats:
    """Rows as float32: float16, bfloat16 (uint16) and int8 exactly, float64 rounded once."""
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return rows.astype(np.float32)


def canonical_sum(terms: Iterable[Floats]) -> Floats:
    """Add terms of shape (16, …), one after the other, then fold the 16 lanes by halves."""
    lanes: Any = np.float32(0)
    for term in terms:
        lanes = lanes + term
    for half in (8, 4, 2, 1):
        lanes = lanes[:half] + lanes[half:]
    total: Floats = lanes[0]
    return total


def squares(rows: Floats) -> Floats:
    """The canonical dot of each row (n, dim) with itself: (n,)."""
    with np.errstate(all="ignore"):
        return canonical_sum(step * step for step in _steps(rows))


def norms(rows: Floats) -> Floats:
    """The canonical norm of each row (n, dim): (n,)."""
    roots: Floats = np.sqrt(squares(rows))
    return roots


def score(queries: Floats, keys: Floats, metric: str) -> Floats:
    """The canonical scores (n_queries, n_keys) of (n_queries, dim) and (n_keys, dim) float32."""
    with np.errstate(all="ignore"):
        if metric == "l2":
            return -_sums(queries, keys, metric)
        dots = _sums(queries, keys, metric)
        if metric == "dot":
            return dots
        scale = norms(queries)[:, None] * norms(keys)
        return np.where(scale == 0, np.float32(0), dots / scale)


def final_score(scores: Floats, scale: Floats | None, bias: Floats | None) -> Floats:
    """fl32(fl32(scale * score) + bias), one scale and bias per key, with -0 turned into +0."""
    with np.errstate(all="ignore"):
        if scale is not None:
            scores = scale * scores
        if bias is not None:
            scores = scores + bias
        final: Floats = scores + np.float32(0)
        return final


def search(
    queries: NDArray[np.generic],
    keys: NDArray[np.generic],
    k: ArrayLike = 10,
    *,
    metric: str = "dot",
    mask: NDArray[np.bool_] | None = None,
    candidates: Ints | None = None,
    scale: Floats | None = None,
    bias: Floats | None = None,
    min_score: float = -np.inf,
    max_score: float = np.inf,
) -> tuple[Floats, Ints]:
    """Find the k best keys of each query by scoring every pair.

    Args:
        queries: (n_queries, dim); float32, float16, bfloat16 as uint16, int8 or float64.
        keys: (n_keys, dim), likewise.
        k: one width for all, or (n_queries,); the widest sets the shape.
        metric: "dot", "cosine" or "l2".
        mask: (n_keys,) or (n_queries, n_keys); True = may be returned.
        candidates: (n_queries, m) positions in keys; -1 pads, a repeated one counts once.
        scale: (n_keys,) float32.
        bias: (n_keys,) float32.
        min_score: lowest final score returned, a float32.
        max_score: highest final score returned, a float32.

    Returns:
        scores (n_queries, k) float32 and ids (n_queries, k) int64, best first, equal scores by the
        smaller id, the rest -inf and -1. A final score that is NaN is not returned.
    """
    queries, keys = widen(queries), widen(keys)
    widths, scores, ids = _padding(len(queries), k)
    block = max(1, _BLOCK_SCORES // max(1, len(keys)))
    for begin in range(0, len(queries), block):
        chosen = slice(begin, begin + block)
        finals = final_score(score(queries[chosen], keys, metric), scale, bias)
        # False for NaN, whatever the bounds.
        allowed = (finals >= min_score) & (finals <= max_score)
        if mask is not None:
            allowed &= mask if mask.ndim == 1 else mask[chosen]
        if candidates is not None:
            allowed &= _named(candidates[chosen], len(keys))
        for i in range(len(finals)):
            _keep_best(finals[i], allowed[i], widths[begin + i], scores[begin + i], ids[begin + i])
    return scores, ids


def search_ragged(
    queries: NDArray[np.generic],
    keys: NDArray[np.generic],
    offsets: Ints,
    segments: Ints,
    k: ArrayLike = 10,
    *,
    metric: str = "dot",
    mask: NDArray[np.bool_] | None = None,
    candidates: Ints | None = None,
    scale: Floats | None = None,
    bias: Floats | None = None,
    min_score: float = -np.inf,
    max_score: float = np.inf,
) -> tuple[Floats, Ints]:
    """Search query i in keys[offsets[s]:offsets[s + 1]], where s = segments[i].

    Ids, masks and candidates are positions in keys; a candidate outside the segment is not
    returned. The rest is as in `search`.
    """
    widths, scores, ids = _padding(len(queries), k)
    for segment in np.unique(segments):
        asking = np.flatnonzero(segments == segment)
        begin, end = offsets[segment], offsets[segment + 1]
        inside = slice(begin, end)
        named = None if candidates is None else candidates[asking]
        part_scores, part_ids = search(
            queries[asking],
            keys[inside],
            widths[asking],
            metric=metric,
            mask=None if mask is None else mask[inside] if mask.ndim == 1 else mask[asking, inside],
            candidates=None
            if named is None
            else np.where((named >= begin) & (named < end), named - begin, -1),
            scale=None if scale is None else scale[inside],
            bias=None if bias is None else bias[inside],
            min_score=min_score,
            max_score=max_score,
        )
        width = part_ids.shape[1]
        scores[asking, :width] = part_scores
        ids[asking, :width] = np.where(part_ids < 0, -1, part_ids + begin)
    return scores, ids


def topk(scores: NDArray[np.generic], k: ArrayLike) -> tuple[Floats, Ints]:
    """The k best of each row of scores (n_rows, n), as `search` orders them."""
    finals = final_score(widen(scores), None, None)
    widths, best, ids = _padding(len(finals), k)
    for i, row in enumerate(finals):
        _keep_best(row, ~np.isnan(row), widths[i], best[i], ids[i])
    return best, ids


def _steps(rows: Floats) -> NDArray[np.float32]:
    """Rows (n, dim) as (n_steps, 16, n): component i in step i // 16, lane i % 16; +0 fills."""
    n_rows, dim = rows.shape
    n_steps = -(-dim // LANES)
    padded = np.zeros((n_rows, n_steps * LANES), np.float32)
    padded[:, :dim] = rows
    return np.ascontiguousarray(padded.T).reshape(n_steps, LANES, n_rows)


def _sums(queries: Floats, keys: Floats, metric: str) -> Floats:
    """The canonical sum of q * k, or of (q - k)^2, of every pair."""
    sums = np.zeros((len(queries), len(keys)), np.float32)
    query_steps, key_steps = _steps(queries), _steps(keys)
    for rows, columns in _tiles(*sums.shape):
        pairs = zip(query_steps[:, :, rows, None], key_steps[:, :, None, columns], strict=True)
        if metric == "l2":
            differences = (q - k for q, k in pairs)
            sums[rows, columns] = canonical_sum(d * d for d in differences)
        else:
            sums[rows, columns] = canonical_sum(q * k for q, k in pairs)
    return sums


def _tiles(n_rows: int, n_columns: int) -> Iterator[tuple[slice, slice]]:
    wide = min(n_columns, _TILE_PAIRS)
    high = max(1, _TILE_PAIRS // max(1, wide))
    for row in range(0, n_rows, high):
        for column in range(0, n_columns, max(1, wide)):
            yield slice(row, row + high), slice(column, column + wide)


def _padding(n_queries: int, k: ArrayLike) -> tuple[Ints, Floats, Ints]:
    """The width of each query, and outputs that hold no hit yet."""
    widths = np.broadcast_to(np.asarray(k, np.int64), n_queries)
    width = int(np.max(k)) if np.size(k) else 0
    return (
        widths,
        np.full((n_queries, width), -np.inf, np.float32),
        np.full((n_queries, width), -1, np.int64),
    )


def _named(candidates: Ints, n_keys: int) -> NDArray[np.bool_]:
    """Candidates (n_queries, m) as a mask (n_queries, n_keys)."""
    mask = np.zeros((len(candidates), n_keys), np.bool_)
    query, place = np.nonzero(candidates >= 0)
    mask[query, candidates[query, place]] = True
    return mask


def _keep_best(
    finals: Floats, allowed: NDArray[np.bool_], k: int, scores: Floats, ids: Ints
) -> None:
    """Write the k best allowed of finals (n,) over the padding of one row."""
    rows = np.flatnonzero(allowed)
    # Stable, so that equal scores stay in the order of their ids.
    best = rows[np.argsort(-finals[rows], kind="stable")[:k]]
    scores[: len(best)] = finals[best]
    ids[: len(best)] = best

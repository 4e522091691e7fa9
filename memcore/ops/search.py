"""Exact search over arrays of keys, whole or in segments.

What a score is, to the bit, is in docs/score.md. Stores (a Bank, an Arena) are handed the call as
it is.
"""

from typing import Any

import numpy as np

from memcore import arrays, scalars
from memcore.backends import search_plain
from memcore.errors import InputError
from memcore.hits import Hits
from memcore.ops import arguments, plain
from memcore.ops.hamming import hamming_search
from memcore.ops.plain import METRICS

__all__ = ["METRICS", "search", "search_ragged"]


def search(
    queries: Any,
    keys: Any,
    k: Any = 10,
    *,
    metric: str | None = None,
    banks: Any = None,
    where: Any = None,
    mask: Any = None,
    candidates: Any = None,
    scale: Any = None,
    bias: Any = None,
    min_score: float | None = None,
    max_score: float | None = None,
    backend: str | None = None,
) -> Hits:
    """Find the k best keys of each query, exactly.

    Args:
        queries: (n_queries, dim), or (dim,) for one query; float32, float16, bfloat16 or int8,
            other numbers are converted to float32; finite, with norms up to 1e18. NumPy or torch,
            any strides, read-only too. On a GPU (torch, CuPy) all arrays are, and the hits.
        keys: (n_keys, dim), likewise, of any of these dtypes; or a `Bank`; or an `Arena` with
            `banks`. An array of keys is not checked: a row whose score is NaN is not returned.
        k: an int, or an int array of one per query (the width is its maximum). More than there are
            keys is allowed.
        metric: "dot" (the default), "cosine" or "l2" (minus the squared distance). A store has its
            own. "hamming" (minus the bits that differ) takes queries and keys that are codes:
            (n, n_words) uint64, or bytes, with mask and min_score alone.
        banks: with an Arena, the handle of each query's bank, or one for all.
        where: with a store, a condition on its fields, or one per query.
        mask: (n_keys,) or (n_queries, n_keys) bool; True = may be returned. Ids stay positions in
            keys.
        candidates: (n_queries, m) ids that a query may find; -1 pads, a repeated id counts once.
        scale: (n_keys,) numbers; with bias, the final score is fl32(fl32(scale * score) + bias). In
            a store, a field's name.
        bias: (n_keys,) numbers, or a field's name.
        min_score: lowest final score to return, rounded to float32.
        max_score: highest final score to return, rounded to float32.
        backend: "cpu", "reference" or "triton"; see `memcore.explain`.

    Returns:
        Hits of shape (n_queries, k), in the library of queries: scores float32 and ids int64
        (positions in keys; a store's ids), best first, equal scores by the smaller id; then -inf
        and -1 where fewer were found. The bits of the scores depend on nothing but the query and
        the row. Where tensors of queries, keys, scale or bias need a gradient, the scores give it.

    Raises:
        ShapeError: shapes that do not fit each other.
        DtypeError: an array that is not of numbers; a k that is no int.
        InputError: a query with NaN, Inf or a norm above 1e18 (the first such row is named; on a
            GPU, where a search never waits, it finds nothing); a negative k.
        BackendError: an engine that is not there, or arrays on several devices.

    Example:
        >>> import memcore
        >>> keys = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
        >>> memcore.search([1.0, 0.0], keys, 2, metric="cosine").ids.tolist()
        [[0, 2]]
    """
    if (
        banks is None
        and where is None
        and mask is None
        and candidates is None
        and scale is None
        and bias is None
        and min_score is None
        and max_score is None
        and backend is None
        and (queries.__class__ is np.ndarray or not arrays.is_traced(queries))
    ):
        hits = search_plain(queries, keys, k, metric)
        if hits is not None:
            return hits
    if hasattr(keys, "search"):
        options = {
            "where": where,
            "candidates": candidates,
            "scale": scale,
            "bias": bias,
            "min_score": min_score,
            "max_score": max_score,
        }
        return _search_store(queries, keys, k, banks, metric, mask, backend, options)
    if banks is not None or where is not None:
        name = "where" if banks is None else "banks"
        raise InputError(
            f"search: {name} is given with an array of keys, should come with a Bank or an Arena"
        )
    if scalars.is_word(metric, "hamming"):
        for name, value in (
            ("candidates", candidates),
            ("scale", scale),
            ("bias", bias),
            ("max_score", max_score),
        ):
            if value is not None:
                raise InputError(f"search: {name} is given, should not be with metric 'hamming'")
        return hamming_search(queries, keys, k, mask=mask, min_score=min_score, backend=backend)
    limits = (mask, candidates, scale, bias, min_score, max_score)
    return _attached("search", queries, keys, None, None, k, metric, limits, backend)


def search_ragged(
    queries: Any,
    keys: Any,
    offsets: Any,
    k: Any = 10,
    *,
    segments: Any = None,
    metric: str | None = None,
    mask: Any = None,
    candidates: Any = None,
    scale: Any = None,
    bias: Any = None,
    min_score: float | None = None,
    max_score: float | None = None,
    backend: str | None = None,
) -> Hits:
    """Find the k best keys of each query within its own segment of keys, exactly.

    Args:
        queries: (n_queries, dim), as for `search`.
        keys: (n_keys, dim), all segments one after the other.
        offsets: (n_segments + 1,) int; segment i is keys[offsets[i]:offsets[i + 1]], and may be
            empty.
        k: an int, or an int array of one per query.
        segments: (n_queries,) int, the segment of each query; without it, query i searches segment
            i.
        metric: "dot" (the default), "cosine" or "l2".
        mask: over all keys, as for `search`: ids, masks and candidates are positions in keys, never
            in the segment.
        candidates: (n_queries, m); those outside the query's segment are not returned.
        scale: (n_keys,), as for `search`.
        bias: (n_keys,), as for `search`.
        min_score: lowest final score to return.
        max_score: highest final score to return.
        backend: "cpu" or "reference".

    Returns:
        Hits of shape (n_queries, k), as from `search`.

    Raises:
        ShapeError, DtypeError, InputError, BackendError: as `search` does, and for offsets that
        fall or leave the keys,
            or a segment that is not there.

    Example:
        >>> import memcore
        >>> keys = [[1.0], [2.0], [3.0], [4.0]]
        >>> memcore.search_ragged([[1.0], [1.0]], keys, [0, 1, 4], 2).ids.tolist()
        [[0, -1], [3, 2]]
    """
    limits = (mask, candidates, scale, bias, min_score, max_score)
    return _attached("search_ragged", queries, keys, offsets, segments, k, metric, limits, backend)


def _attached(
    op: str,
    queries: Any,
    keys: Any,
    offsets: Any,
    segments: Any,
    k: Any,
    metric: str | None,
    limits: tuple[Any, ...],
    backend: str | None,
) -> Hits:
    """The hits, whose scores have gradients where tensors need them."""
    if arrays.is_traced(queries):
        from memcore.ops import traced

        limits = (*map(traced.tensor, limits[:4]), *limits[4:])
        hits = traced.search(queries, keys, offsets, segments, k, metric, limits, backend)
    else:
        hits = plain.search(op, queries, keys, offsets, segments, k, metric, limits, backend)
    if queries.__class__ is np.ndarray and keys.__class__ is np.ndarray:
        return hits
    scale, bias = limits[2:4]
    if not arrays.differentiates(queries, keys, scale, bias):
        return hits
    from memcore import autograd

    found = autograd.rows(op, "scores", hits.scores), autograd.ints(op, "ids", hits.ids)
    return Hits(autograd.attach(*found, queries, keys, metric or "dot", scale, bias), found[1])


def _search_store(
    queries: Any,
    store: Any,
    k: Any,
    banks: Any,
    metric: str | None,
    mask: Any,
    backend: str | None,
    options: dict[str, Any],
) -> Hits:
    if metric is not None and not scalars.is_word(metric, store.metric):
        shown = scalars.shown(metric)
        raise InputError(f"search: metric is {shown}, should be the store's {store.metric!r}")
    if mask is not None:
        raise InputError("search: mask is given with a store, should be where or candidates")
    arguments.check_banks("search", store, banks)
    if backend is not None:
        # The store knows the one engine that reads its pages.
        options = {**options, "backend": backend}
    given = {name: value for name, value in options.items() if value is not None}
    hits: Hits = store.search(*(() if banks is None else (banks,)), queries, k, **given)
    return hits

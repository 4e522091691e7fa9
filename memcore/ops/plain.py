"""search, search_ragged and topk over arrays, with their checks and without gradients."""

from typing import Any

import numpy as np

from memcore import arrays, scalars, tensors
from memcore.backends import check_device, engine, is_triton
from memcore.errors import ShapeError, in_room
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops.device import hits
from memcore.ops.search_device import search_device

METRICS = ("dot", "cosine", "l2")

_INF = float("inf")


def search(
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
    """The hits of `memcore.search`, and with offsets those of `search_ragged`; op names which.

    The limits are mask, candidates, scale, bias, min_score and max_score.
    """
    mask, candidates, scale, bias, min_score, max_score = limits
    low = -_INF if min_score is None else arguments.bound(op, "min_score", min_score)
    high = _INF if max_score is None else arguments.bound(op, "max_score", max_score)
    if metric is None:
        metric = "dot"
    else:
        scalars.word(op, "metric", metric, METRICS)
    if is_triton(backend) or arrays.place(queries) != "cpu" or arrays.place(keys) != "cpu":
        given = (queries, keys, offsets, segments, k, metric, limits[:4], low, high, backend)
        with in_room(op):
            return search_device(op, *given)
    run = engine(op, backend)
    asked, _ = arrays.vectors(op, "queries", queries)
    rows, _ = arrays.vectors(op, "keys", keys)
    if asked.ndim == 1:
        asked = asked[None]
    try:
        n_queries, dim = asked.shape
        n_keys, key_dim = rows.shape
    except ValueError:
        raise ShapeError(_misfit(op, asked, rows)) from None
    if dim != key_dim or not dim:
        raise ShapeError(_misfit(op, asked, rows))
    if k.__class__ is int and k >= 0:
        width = k
    else:
        k, width = arguments.widths(op, k, n_queries)
    if offsets is not None:
        offsets, segments = arguments.segmentation(op, offsets, segments, n_queries, n_keys)
    if mask is not None:
        mask = arguments.mask(op, mask, n_queries, n_keys)
    if candidates is not None:
        candidates = arguments.candidates(op, candidates, n_queries, n_keys)
    if scale is not None:
        scale = arguments.weights(op, "scale", scale, n_keys)
    if bias is not None:
        bias = arguments.weights(op, "bias", bias, n_keys)
    scores, ids = arguments.outputs(op, n_queries, width)
    run(
        asked,
        rows,
        offsets,
        segments,
        k,
        metric,
        mask,
        candidates,
        scale,
        bias,
        low,
        high,
        None,
        scores,
        ids,
    )
    return Hits(arrays.like(queries, scores), arrays.like(queries, ids))


def _misfit(op: str, queries: np.ndarray[Any, Any], keys: np.ndarray[Any, Any]) -> str:
    """The sentence of the first shape that does not fit."""
    if queries.ndim != 2:
        return f"{op}: queries has shape {queries.shape}, should be (n_queries, dim) or (dim,)"
    if keys.ndim != 2:
        return f"{op}: keys has shape {keys.shape}, should be (n_keys, dim)"
    if queries.shape[1] != keys.shape[1]:
        return f"{op}: keys has dim {keys.shape[1]}, should be {queries.shape[1]} as queries has"
    return f"{op}: keys has dim 0, should be at least 1"


def topk(scores: Any, k: Any, backend: str | None) -> Hits:
    """The hits of `memcore.topk`."""
    if is_triton(backend) or (scores.__class__ is not np.ndarray and arrays.place(scores) != "cpu"):
        with in_room("topk"):
            return _topk_device(scores, k, backend)
    run = engine("topk", backend)
    rows = arrays.floats("topk", "scores", scores)
    if rows.ndim == 1:
        rows = rows[None]
    elif rows.ndim != 2:
        raise ShapeError(f"topk: scores has shape {rows.shape}, should be (n_queries, n)")
    n_queries = len(rows)
    if k.__class__ is int and k >= 0:
        width = k
    else:
        k, width = arguments.widths("topk", k, n_queries)
    best, ids = arguments.outputs("topk", n_queries, width)
    run(rows, k, best, ids)
    if scores.__class__ is np.ndarray:
        return tuple.__new__(Hits, (best, ids))
    if scores.__class__ is np.ndarray:
        return tuple.__new__(Hits, (best, ids))
    return Hits(arrays.like(scores, best), arrays.like(scores, ids))


def _topk_device(scores: Any, k: Any, backend: str | None) -> Hits:
    """The hits on the device of the scores, in their library; nothing waits for it."""
    check_device("topk", backend)
    device = tensors.device_of("topk", ("scores", scores))
    rows = tensors.vectors("topk", "scores", scores)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise ShapeError(f"topk: scores has shape {tuple(rows.shape)}, should be (n_queries, n)")
    k, best, ids = hits("topk", k, len(rows), device)
    engine("topk", "triton")(rows, k, best, ids)
    return Hits(tensors.like(scores, best), tensors.like(scores, ids))

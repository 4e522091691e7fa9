"""The k best of each row of scores."""

from typing import Any

import numpy as np

from memcore import arrays, tensors
from memcore.backends import engine
from memcore.errors import BackendError, ShapeError
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops.device import hits


def topk(scores: Any, k: Any = 10, *, backend: str | None = None) -> Hits:
    """Find the k largest scores of each row.

    Args:
        scores: (n_queries, n), or (n,) for one query; float32, float16 or bfloat16; other numbers
            are converted to float32. NumPy or torch, any strides; on a GPU, see docs/gpu.md.
        k: an int, or an int array of one per query (the width is its maximum).
        backend: "cpu", "reference" or, on a GPU, "triton"; see `memcore.explain`.

    Returns:
        Hits of shape (n_queries, k): float32 scores, and int64 positions in the row as ids. Largest
        first, equal scores by the smaller position; NaN is not returned, -0 counts and returns as
        +0; the rest is -inf and -1. Where a tensor of scores needs a gradient, those returned give
        it.

    Raises:
        ShapeError: scores is not one or two-dimensional.
        DtypeError: scores or k is not of numbers.
        InputError: k is negative.
        BackendError: an engine that is not there.

    Example:
        >>> import memcore
        >>> memcore.topk([2.0, 5.0, 5.0, 1.0], 3).ids.tolist()
        [[1, 2, 0]]
    """
    if backend == "triton" or (
        scores.__class__ is not np.ndarray and arrays.place(scores) != "cpu"
    ):
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
    return _attached(scores, arrays.like(scores, best), arrays.like(scores, ids))


def _attached(scores: Any, best: Any, ids: Any) -> Hits:
    """The hits, with gradients for scores that need them."""
    if arrays.differentiates(scores):
        from memcore import autograd

        best = autograd.attach_best(best, ids, scores)
    return Hits(best, ids)


def _topk_device(scores: Any, k: Any, backend: str | None) -> Hits:
    """The hits on the device of the scores, in their library; nothing waits for it."""
    if backend not in (None, "triton"):
        raise BackendError(f"topk: backend is {backend!r}, should be 'triton' on a device")
    device = tensors.device_of("topk", ("scores", scores))
    rows = tensors.vectors("topk", "scores", scores)
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2:
        raise ShapeError(f"topk: scores has shape {tuple(rows.shape)}, should be (n_queries, n)")
    k, best, ids = hits("topk", k, len(rows), device)
    engine("topk", "triton")(rows, k, best, ids)
    return _attached(scores, tensors.like(scores, best), tensors.like(scores, ids))

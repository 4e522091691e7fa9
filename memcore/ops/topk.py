"""The k best of each row of scores."""

from typing import Any

import numpy as np

from memcore import arrays
from memcore.backends import engine
from memcore.errors import ShapeError
from memcore.hits import Hits
from memcore.ops import arguments


def topk(scores: Any, k: Any = 10, *, backend: str | None = None) -> Hits:
    """Find the k largest scores of each row.

    Args:
        scores: (n_queries, n), or (n,) for one query; float32, float16 or bfloat16; other numbers
            are converted to float32. NumPy or CPU torch, any strides.
        k: an int, or an int array of one per query (the width is its maximum).
        backend: "cpu" or "reference"; see `memcore.explain`.

    Returns:
        Hits of shape (n_queries, k): float32 scores, and int64 positions in the row as ids. Largest
        first, equal scores by the smaller position; NaN is not returned, -0 counts and returns as
        +0; the rest is -inf and -1.

    Raises:
        ShapeError: scores is not one or two-dimensional.
        DtypeError: scores or k is not of numbers.
        InputError: k is negative.

    Example:
        >>> import memcore
        >>> memcore.topk([2.0, 5.0, 5.0, 1.0], 3).ids.tolist()
        [[1, 2, 0]]
    """
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
    return Hits(arrays.like(scores, best), arrays.like(scores, ids))

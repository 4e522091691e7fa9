"""The k best of each row of scores."""

from typing import Any

import numpy as np

from memcore import arrays
from memcore.hits import Hits
from memcore.ops import plain


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
    if scores.__class__ is np.ndarray:
        return plain.topk(scores, k, backend)
    if arrays.is_traced(scores):
        from memcore.ops import traced

        found = traced.topk(scores, k, backend)
    else:
        found = plain.topk(scores, k, backend)
    if not arrays.differentiates(scores):
        return found
    from memcore import autograd

    return Hits(autograd.attach_best(*found, scores), found.ids)

"""search and search_ragged over arrays on a device: the checks that need no look at the numbers.

A search never waits for the device. What `search` refuses on the host by its value, the kernels
leave out here: a query that is not finite finds nothing, a candidate outside the keys is skipped.
"""

from typing import Any

from memcore import tensors
from memcore.backends import check_device, engine
from memcore.errors import InputError, ShapeError
from memcore.hits import Hits
from memcore.ops.device import hits


def search_device(
    op: str,
    queries: Any,
    keys: Any,
    offsets: Any,
    segments: Any,
    k: Any,
    metric: str,
    limits: tuple[Any, ...],
    low: float,
    high: float,
    backend: str | None,
) -> Hits:
    """Hits on the device of the arrays, in the library of queries; arguments as for `search`.

    Raises:
        BackendError: arrays on several devices, or an engine that does not run there.
        ShapeError, DtypeError, InputError: as `search` does, but for what only the numbers tell.
    """
    check_device(op, backend)
    mask, candidates, scale, bias = limits
    given = (
        ("queries", queries),
        ("keys", keys),
        ("offsets", offsets),
        ("segments", segments),
        ("mask", mask),
        ("candidates", candidates),
        ("scale", scale),
        ("bias", bias),
    )
    device = tensors.device_of(op, *given)
    asked = tensors.vectors(op, "queries", queries)
    rows = tensors.vectors(op, "keys", keys)
    asked = asked[None] if asked.ndim == 1 else asked
    if asked.ndim != 2 or rows.ndim != 2 or asked.shape[1] != rows.shape[1] or not rows.shape[1]:
        raise ShapeError(
            f"{op}: queries has shape {tuple(asked.shape)} and keys {tuple(rows.shape)}, "
            "should be (n_queries, dim) and (n_keys, dim)"
        )
    n_queries, n_keys = len(asked), len(rows)
    k, scores, ids = hits(op, k, n_queries, device)
    if offsets is not None:
        offsets = tensors.ints(op, "offsets", offsets)
        segments = None if segments is None else tensors.ints(op, "segments", segments)
        offsets, segments = _segmentation(op, offsets, segments, n_queries)
    if mask is not None:
        mask = tensors.bools(op, "mask", mask)
        if mask.shape not in ((n_keys,), (n_queries, n_keys)):
            raise ShapeError(
                f"{op}: mask has shape {tuple(mask.shape)}, "
                f"should be ({n_keys},) or ({n_queries}, {n_keys})"
            )
    if candidates is not None:
        candidates = tensors.ints(op, "candidates", candidates)
        candidates = candidates[None] if candidates.ndim == n_queries == 1 else candidates
        if candidates.ndim != 2 or len(candidates) != n_queries:
            raise ShapeError(
                f"{op}: candidates has shape {tuple(candidates.shape)}, should be ({n_queries}, m)"
            )
    scale = None if scale is None else tensors.weights(op, "scale", scale, n_keys)
    bias = None if bias is None else tensors.weights(op, "bias", bias, n_keys)
    engine(op, "triton")(
        asked, rows, offsets, segments, k, metric, mask, candidates, scale, bias, low, high, None,
        scores, ids,
    )  # fmt: skip
    return Hits(tensors.like(queries, scores), tensors.like(queries, ids))


def _segmentation(op: str, offsets: Any, segments: Any, n_queries: int) -> tuple[Any, Any]:
    if offsets.ndim != 1 or not len(offsets):
        raise ShapeError(
            f"{op}: offsets has shape {tuple(offsets.shape)}, should be (n_segments + 1,)"
        )
    if segments is None:
        if n_queries != len(offsets) - 1:
            raise ShapeError(
                f"{op}: queries has {n_queries} rows, should have {len(offsets) - 1}, "
                "one per segment"
            )
        return offsets, tensors.library(op).arange(n_queries, device=offsets.device)
    if segments.shape != (n_queries,):
        raise ShapeError(
            f"{op}: segments has shape {tuple(segments.shape)}, should be ({n_queries},), "
            "one per query"
        )
    if n_queries and len(offsets) == 1:
        raise InputError(f"{op}: offsets has no segment, should have one")
    return offsets, segments.clamp(0, len(offsets) - 2)

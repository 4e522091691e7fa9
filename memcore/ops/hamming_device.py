"""search(metric="hamming") over codes on a device: the checks that need no look at the bits."""

from typing import Any

from memcore import tensors
from memcore.backends import check_device, engine
from memcore.errors import BackendError, ShapeError
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops.device import hits

# Counts of all distances have to fit a program.
_MOST_WORDS = 255


def hamming_search_device(
    op: str,
    queries: Any,
    keys: Any,
    k: Any,
    mask: Any,
    min_score: float | None,
    backend: str | None,
) -> Hits:
    """Hits on the device of the codes, in the library of queries; arguments as `hamming_search`.

    Raises:
        BackendError: arrays on several devices, an engine that does not run there, or codes of more
            than 255 words.
        ShapeError, DtypeError, InputError: as `hamming_search`.
    """
    check_device(op, backend)
    device = tensors.device_of(op, ("queries", queries), ("keys", keys), ("mask", mask))
    asked, rows = tensors.words(op, "queries", queries), tensors.words(op, "keys", keys)
    asked = asked[None] if asked.ndim == 1 else asked
    if asked.ndim != 2 or rows.ndim != 2 or asked.shape[1] != rows.shape[1] or not asked.shape[1]:
        shapes = [(*each.shape[:-1], each.shape[-1] // 2) for each in (asked, rows)]
        raise ShapeError(
            f"{op}: queries has shape {shapes[0]} and keys {shapes[1]} in words, "
            "should be (n_queries, n_words) and (n_keys, n_words)"
        )
    if asked.shape[1] > 2 * _MOST_WORDS:
        raise BackendError(
            f"{op}: codes have {asked.shape[1] // 2} words, should have at most {_MOST_WORDS} "
            "on a device"
        )
    n_queries, n_keys = len(asked), len(rows)
    k, scores, ids = hits(op, k, n_queries, device)
    max_distance = arguments.farthest(op, min_score, 32 * asked.shape[1])
    if mask is not None:
        mask = tensors.bools(op, "mask", mask)
        if mask.shape not in ((n_keys,), (n_queries, n_keys)):
            raise ShapeError(
                f"{op}: mask has shape {tuple(mask.shape)}, "
                f"should be ({n_keys},) or ({n_queries}, {n_keys})"
            )
    engine("hamming_search", "triton")(asked, rows, k, mask, max_distance, scores, ids)
    return Hits(tensors.like(queries, scores), tensors.like(queries, ids))

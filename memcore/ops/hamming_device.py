"""search(metric="hamming") over codes on a device: the checks that need no look at the bits."""

from typing import Any

from memcore import arrays, tensors
from memcore.backends import engine
from memcore.errors import BackendError, ShapeError
from memcore.hits import Hits
from memcore.ops import arguments

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
    if backend not in (None, "triton"):
        raise BackendError(f"{op}: backend is {backend!r}, should be 'triton' on a device")
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
    if not isinstance(k, int) and arrays.place(k) != "cpu":
        raise BackendError(f"{op}: k is on {arrays.place(k)}, should be on the host")
    k, width = arguments.widths(op, k, n_queries)
    max_distance = arguments.farthest(op, min_score, 32 * asked.shape[1])
    if mask is not None:
        mask = tensors.bools(op, "mask", mask)
        if mask.shape not in ((n_keys,), (n_queries, n_keys)):
            raise ShapeError(
                f"{op}: mask has shape {tuple(mask.shape)}, "
                f"should be ({n_keys},) or ({n_queries}, {n_keys})"
            )
    torch = tensors.library(op)
    scores = torch.empty((n_queries, width), dtype=torch.float32, device=device)
    ids = torch.empty_like(scores, dtype=torch.int64)
    if not isinstance(k, int):
        k = torch.as_tensor(k, device=device)
    engine("hamming_search", "triton")(asked, rows, k, mask, max_distance, scores, ids)
    return Hits(tensors.like(queries, scores), tensors.like(queries, ids))

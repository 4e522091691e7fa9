"""Exact search over packed codes by Hamming distance."""

from typing import Any

import numpy as np

from memcore import arrays
from memcore.backends import engine, is_triton
from memcore.errors import ShapeError, in_room
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops.hamming_device import hamming_search_device


def hamming_search(
    queries: Any,
    keys: Any,
    k: Any = 10,
    *,
    mask: Any = None,
    min_score: float | None = None,
    backend: str | None = None,
) -> Hits:
    """Find the k nearest codes of each query, exactly.

    Args:
        queries: (n_queries, n_words) uint64, or (n_words,) for one; or as many uint8, eight to a
            word.
        keys: (n_keys, n_words), likewise.
        k: an int, or an int array of one per query.
        mask: (n_keys,) or (n_queries, n_keys) bool; True = may be returned.
        min_score: lowest score to return.
        backend: "cpu", "reference" or "triton".

    Returns:
        Hits of shape (n_queries, k): scores are minus the number of bits that differ, equal ones by
        the smaller id; then -inf and -1.

    Raises:
        ShapeError: shapes that do not fit each other.
        DtypeError: codes that are neither 64-bit words nor bytes.
        InputError: a negative k.
        BackendError: an engine that is not there, arrays on several devices, or codes of more than
            16,320 bits on a device.

    Cost:
        Few queries read the codes once each. Sixteen and more, of up to 256 bits, look their
        nibbles up in tables of distances, 32 codes an instruction.
    """
    # What the caller wrote: search(metric="hamming").
    op = "search"
    if is_triton(backend) or arrays.place(queries) != "cpu" or arrays.place(keys) != "cpu":
        with in_room(op):
            return hamming_search_device(op, queries, keys, k, mask, min_score, backend)
    asked, rows = arrays.codes(op, "queries", queries), arrays.codes(op, "keys", keys)
    if asked.ndim == 1:
        asked = asked[None]
    if asked.ndim != 2 or rows.ndim != 2 or asked.shape[1] != rows.shape[1] or not asked.shape[1]:
        raise ShapeError(
            f"{op}: queries has shape {asked.shape} and keys {rows.shape} in words, "
            "should be (n_queries, n_words) and (n_keys, n_words)"
        )
    n_queries, n_keys = len(asked), len(rows)
    k, width = arguments.widths(op, k, n_queries)
    if mask is not None:
        mask = arguments.mask(op, mask, n_queries, n_keys)
    max_distance = arguments.farthest(op, min_score, 64 * rows.shape[1])
    scores, ids = arguments.outputs(op, n_queries, width)
    plain = (np.require(codes, requirements=["C", "A"]) for codes in (asked, rows))
    engine("hamming_search", backend)(*plain, k, mask, max_distance, scores, ids)
    return Hits(arrays.like(queries, scores), arrays.like(queries, ids))

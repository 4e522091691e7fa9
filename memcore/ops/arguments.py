"""Checks of the arguments that the ops share, and the allocation of results.

Every function takes the op's verb for its errors and gives back what the engines read.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars
from memcore.errors import DtypeError, InputError, ShapeError

_FLOAT32 = np.dtype(np.float32)
_INT64 = np.dtype(np.int64)

# Results up to this size are allocated without a look at the memory of the machine.
_FEW_HITS = 1 << 26

HIT_BYTES = _FLOAT32.itemsize + _INT64.itemsize

# Called twice by every op: the attribute look-up shows.
_empty = np.empty


def widths(op: str, k: Any, n_queries: int) -> tuple[Any, int]:
    """K as an engine reads it, an int or (n_queries,) int64, and the width of the result."""
    if isinstance(k, (bool, np.bool_, float, np.floating)):
        raise DtypeError(f"{op}: k is {k!r}, should be an int or an int array of one per query")
    each = arrays.ints(op, "k", k)
    result: Any
    if each.ndim == 0:
        width = result = int(each)
    elif each.shape != (n_queries,):
        raise ShapeError(f"{op}: k has shape {each.shape}, should be ({n_queries},), one per query")
    else:
        width, result = int(each.max(initial=0)), _plain(each)
    if each.size and each.min() < 0:
        raise InputError(f"{op}: k is {each.min()}, should be at least 0")
    return result, width


def outputs(op: str, n_queries: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Room for scores and ids, (n_queries, width)."""
    if (n_queries or 1) * width > _FEW_HITS:
        scalars.check_memory(op, HIT_BYTES * (n_queries or 1) * width, k=width)
    return _empty((n_queries, width), _FLOAT32), _empty((n_queries, width), _INT64)


def mask(op: str, mask: Any, n_queries: int, n_keys: int) -> NDArray[np.bool_]:
    """A mask over all queries or one per query."""
    allowed = arrays.bools(op, "mask", mask)
    if allowed.shape not in ((n_keys,), (n_queries, n_keys)):
        raise ShapeError(
            f"{op}: mask has shape {allowed.shape}, "
            f"should be ({n_keys},) or ({n_queries}, {n_keys})"
        )
    return allowed


def candidates(op: str, candidates: Any, n_queries: int, n_keys: int) -> NDArray[np.int64]:
    """Positions in keys, -1 where padded; one row may be given flat."""
    named = arrays.ints(op, "candidates", candidates)
    if named.ndim == 1 and n_queries == 1:
        named = named[None]
    if named.ndim != 2 or len(named) != n_queries:
        raise ShapeError(f"{op}: candidates has shape {named.shape}, should be ({n_queries}, m)")
    if named.size and (named.min() < -1 or named.max() >= n_keys):
        place = tuple(int(i) for i in np.argwhere((named < -1) | (named >= n_keys))[0])
        raise InputError(
            f"{op}: candidates{list(place)} is {named[place]}, should be -1 or below {n_keys}"
        )
    return _plain(named)


def weights(op: str, name: str, values: Any, n_keys: int) -> NDArray[np.float32]:
    """A scale or a bias of each key, contiguous."""
    each = arrays.floats(op, name, values)
    if each.shape != (n_keys,):
        raise ShapeError(f"{op}: {name} has shape {each.shape}, should be ({n_keys},), one per key")
    return _plain(each)


def bound(op: str, name: str, value: Any) -> float:
    """A bound on the final score, rounded to float32 as the scores are."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = value if isinstance(value, float) else value.__float__()
        with np.errstate(over="ignore"):
            rounded = float(np.float32(number))
    except Exception:
        raise DtypeError(f"{op}: {name} is {scalars.shown(value)}, should be a number") from None
    if rounded != rounded:
        raise InputError(f"{op}: {name} is NaN, should be a number")
    return rounded


def farthest(op: str, min_score: Any, n_bits: int) -> int:
    """The most bits in which a code of n_bits may differ to reach min_score; -1 where none may."""
    if min_score is None:
        return n_bits
    # Scores are whole numbers, so the bound may be rounded.
    return int(np.floor(np.clip(-bound(op, "min_score", min_score), -1, n_bits)))


def check_banks(op: str, store: Any, banks: Any) -> None:
    """Raise an error unless handles come with a store of many banks, and with no other."""
    if banks is None and hasattr(store, "new"):
        raise InputError(f"{op}: banks is None with an Arena, should be the handle of each query")
    if banks is not None and not hasattr(store, "new"):
        raise InputError(f"{op}: banks is given with a Bank, should be left out")


def segmentation(
    op: str, offsets: Any, segments: Any, n_queries: int, n_keys: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets that rise within the keys, and the segment of each query."""
    bounds = _plain(arrays.ints(op, "offsets", offsets))
    if bounds.ndim != 1 or len(bounds) == 0:
        raise ShapeError(f"{op}: offsets has shape {bounds.shape}, should be (n_segments + 1,)")
    falls = np.flatnonzero(np.diff(bounds) < 0)
    if falls.size:
        raise InputError(f"{op}: offsets falls after position {falls[0]}, should never fall")
    if bounds[0] < 0 or bounds[-1] > n_keys:
        raise InputError(
            f"{op}: offsets goes from {bounds[0]} to {bounds[-1]}, should stay in 0 to {n_keys}"
        )
    n_segments = len(bounds) - 1
    if segments is None:
        if n_queries != n_segments:
            raise ShapeError(
                f"{op}: queries has {n_queries} rows, should have {n_segments}, one per segment"
            )
        return bounds, np.arange(n_queries)
    asked = _plain(arrays.ints(op, "segments", segments))
    if asked.shape != (n_queries,):
        raise ShapeError(
            f"{op}: segments has shape {asked.shape}, should be ({n_queries},), one per query"
        )
    if asked.size and (asked.min() < 0 or asked.max() >= n_segments):
        place = int(np.flatnonzero((asked < 0) | (asked >= n_segments))[0])
        raise InputError(
            f"{op}: segments[{place}] is {asked[place]}, should be from 0 to {n_segments - 1}"
        )
    return bounds, asked


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """The array itself if it is contiguous and aligned, which engines ask of small arguments."""
    return np.require(array, requirements=["C", "A"])

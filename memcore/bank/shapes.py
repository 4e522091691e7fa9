"""How the arguments of a bank's verbs line up: handles, ids, rows and queries of one shape.

Every function takes the op's verb for its errors and gives back what native code reads.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars
from memcore.errors import InputError, ShapeError

Ints = NDArray[np.int64]
Shape = tuple[int, ...]

# What an empty bank takes.
_BANK_BYTES = 96


def handles(op: str, banks: Any) -> Ints:
    """Handles as given, wherever they lie: (…,) int64."""
    return _plain(arrays.ints(op, "banks", arrays.near(banks)))


def ids(op: str, given: Any) -> tuple[Ints, Shape]:
    """Ids flat, and their shape; a single number is a row of one."""
    named = _plain(arrays.ints(op, "ids", arrays.near(given)))
    return named.reshape(-1), named.shape or (1,)


def fit(op: str, banks: Any, shape: Shape, name: str) -> Any:
    """Handles of a shape, or the one that stands for all, flat: (n,) or (1,)."""
    if banks.shape != shape and math.prod(banks.shape) != 1:
        given = tuple(banks.shape)
        raise ShapeError(
            f"{op}: banks has shape {given}, should be {shape} as {name} has, or one handle"
        )
    return banks.reshape(-1)


def lead(op: str, name: str, vectors: NDArray[Any]) -> tuple[NDArray[Any], Shape]:
    """Vectors (…, dim) as (n, dim), and the shape before dim; (dim,) is one row."""
    if vectors.ndim == 2:
        return vectors, vectors.shape[:1]
    if vectors.ndim == 0:
        raise ShapeError(f"{op}: {name} is one number, should be (…, dim)")
    shape = vectors.shape[:-1] or (1,)
    return vectors.reshape(math.prod(shape), vectors.shape[-1]), shape


def per_row(op: str, name: str, given: Any, shape: Shape) -> Ints:
    """Ids of rows of a shape, flat."""
    named = _plain(arrays.ints(op, name, arrays.near(given)))
    if named.shape != shape and (named.shape or (1,)) != shape:
        raise ShapeError(f"{op}: {name} has shape {named.shape}, should be {shape}")
    return named.reshape(-1)


def candidates(op: str, name: str, given: Any, shape: Shape) -> Ints:
    """Ids (…, m) of rows that each query of a shape may find, as (n, m); -1 pads."""
    named = _plain(arrays.ints(op, name, arrays.near(given)))
    if named.ndim == 1 and shape == (1,):
        named = named[None]
    if named.ndim != len(shape) + 1 or named.shape[:-1] != shape:
        raise ShapeError(
            f"{op}: {name} has shape {named.shape}, should be {(*shape, 'm')} with any m".replace(
                "'", ""
            )
        )
    if named.size and named.min() < -1:
        place = tuple(int(i) for i in np.argwhere(named < -1)[0])
        raise InputError(f"{op}: {name}{list(place)} is {named[place]}, should be at least -1")
    return named.reshape(math.prod(shape), named.shape[-1])


def size(op: str, n: Any, n_parents: int = 1) -> int:
    """A number of banks, for each parent."""
    found: int = scalars.whole(op, "n", n, 0)
    scalars.check_memory(op, _BANK_BYTES * found * n_parents, n=found)
    return found


def is_skip(op: str, missing: Any) -> bool:
    """Whether ids that are not there are left out."""
    word: str = scalars.word(op, "missing", missing, ("raise", "skip"))
    return word == "skip"


def _plain(array: Ints) -> Ints:
    """Contiguous and aligned, as native code reads ids: a column of a group of forks is not."""
    is_plain = array.flags.c_contiguous and array.flags.aligned
    return array if is_plain else array.copy()

"""What tables of buckets are given: codes and ids, checked on the host."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays
from memcore.errors import InputError, ShapeError

Codes = NDArray[np.uint64]
Ints = NDArray[np.int64]


def codes_of(op: str, given: Any, shape: tuple[int, ...], *, probes: bool = False) -> Codes:
    """Codes (n, n_tables), or (n, n_tables, n_probes), all below n_buckets.

    Args:
        op: for errors.
        given: any array of uint64 words.
        shape: (n_tables, n_buckets).
        probes: whether a table may have several; the result has three axes then.
    """
    n_tables, n_buckets = shape
    codes = arrays.codes(op, "codes", given)
    if probes and codes.ndim == 2:
        codes = codes[:, :, None]
    check_shape(op, codes.shape, n_tables, probes=probes)
    if codes.size and int(codes.max()) >= n_buckets:
        raise InputError(f"{op}: codes has {codes.max()}, should be below {n_buckets}")
    return np.require(codes, requirements=["C", "A"])


def ids_of(op: str, given: Any) -> Ints:
    """Ids (n,), all at least 0."""
    ids = np.require(arrays.ints(op, "ids", given).reshape(-1), requirements=["C", "A"])
    if ids.size and ids.min() < 0:
        raise InputError(f"{op}: ids has {ids.min()}, should be at least 0")
    return ids


def check_shape(op: str, shape: tuple[int, ...], n_tables: int, *, probes: bool = False) -> None:
    """Refuse codes of another shape than (n, n_tables), or with probes (n, n_tables, n_probes)."""
    if len(shape) != (3 if probes else 2) or shape[1] != n_tables:
        raise ShapeError(f"{op}: codes has shape {shape}, should be (n, {n_tables})")


def check_lengths(op: str, codes: Any, ids: Any) -> None:
    """Refuse codes of more or fewer rows than ids."""
    if len(codes) != len(ids):
        raise ShapeError(f"{op}: codes has {len(codes)} rows, should have {len(ids)} as ids")


def check_values(op: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse values of another shape."""
    if shape != expected:
        raise ShapeError(f"{op}: values has shape {shape}, should be {expected}")


def values_of(op: str, given: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in the dtype of the sums, all finite."""
    values = np.require(arrays.numbers(op, "values", given), dtype, ["C", "A"])
    if not np.isfinite(values).all():
        raise InputError(f"{op}: values has NaN or Inf, should be finite")
    return values

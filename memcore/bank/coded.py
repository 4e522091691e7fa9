"""Banks of codes: the store behind them, and the verbs that only they have."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import _core
from memcore.codebook import Codebook, CodePages
from memcore.errors import DtypeError, InputError, ShapeError

Ints = NDArray[np.int64]


def pages(codebook: Any, dim: int | None, dtype: str, metric: str, kinds: list[str]) -> Any:
    """The store of an arena's rows: the page store, or with a codebook the store of codes."""
    if codebook is None:
        return _core.Pages(dim, dtype, metric, kinds)
    if not isinstance(codebook, Codebook):
        kind = type(codebook).__name__
        raise DtypeError(f"Arena: codebook is a {kind}, should be a Codebook")
    if dim != codebook.dim:
        raise ShapeError(f"Arena: codebook has dim {codebook.dim}, should be {dim}")
    if dtype != "float32":
        raise InputError(f"Arena: dtype is {dtype!r}, should be 'float32' with a codebook")
    return CodePages(codebook, metric, kinds)


def book(store: Any, handle: Ints) -> Codebook | None:
    """The book that one bank's rows to come are coded by; None where vectors are kept."""
    return store.book(int(handle[0])) if _keeps_codes(store) else None


def recode(store: Any, handle: Ints, other: Any) -> None:
    """Code the rows of one bank, and those to come, by another book."""
    if not isinstance(other, Codebook):
        raise DtypeError(f"recode: book is a {type(other).__name__}, should be a Codebook")
    _codes("recode", store).recode(handle, other)


def counted(store: Any, handle: Ints) -> tuple[NDArray[np.float32], Ints]:
    """The distinct vectors of one bank, (m, dim), and how many rows have each, (m,)."""
    found: tuple[NDArray[np.float32], Ints] = _codes("counted", store).counted(handle)
    return found


def _codes(op: str, store: Any) -> Any:
    if not _keeps_codes(store):
        raise InputError(f"{op}: the bank keeps vectors, should be a Bank with a codebook")
    return store


def _keeps_codes(store: Any) -> bool:
    """Whether a store, or the one of the host behind that of a device, keeps codes."""
    return isinstance(getattr(store, "host", store), CodePages)

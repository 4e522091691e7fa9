"""What stands behind `Bank(index=…)`: stores that narrow a search before they scan.

An index has the methods of the page store and stands in its place, so that payloads, fields,
conditions, forks and snapshots are what they are without one.
"""

from typing import Any

from memcore import _core, arrays
from memcore.errors import DtypeError, InputError, ShapeError
from memcore.index.ivf import IVF
from memcore.index.lsh import LshOptions
from memcore.lsh import LSH

__all__ = ["IVF", "effort", "options", "pages"]

_BY_NAME = {"ivf": IVF, "lsh": LshOptions}


def options(op: str, index: Any) -> Any:
    """The options of an index that is given by name, or by its options, or None.

    Args:
        op: the name of the caller, for errors.
        index: None, a name, or an object with a method `pages`.
    """
    names = ", ".join(repr(name) for name in _BY_NAME)
    if isinstance(index, str):
        if index not in _BY_NAME:
            raise InputError(f"{op}: index is {index!r}, should be one of {names}")
        return _BY_NAME[index]()
    if isinstance(index, LSH):
        return LshOptions(index)
    if index is not None and not hasattr(index, "pages"):
        kind = type(index).__name__
        raise DtypeError(f"{op}: index is a {kind}, should be None, {names} or an index's options")
    return index


def pages(
    index: Any, dim: int | None, dtype: str, metric: str, kinds: list[str], rows: Any = None
) -> Any:
    """The store of an arena's rows: the page store, or what stands in its place.

    Args:
        index: the options of an index, or None.
        dim: components of a vector, or None.
        dtype: what rows are stored as.
        metric: "cosine", "dot" or "l2".
        kinds: the kind of each column.
        rows: a page store that is on a device too (`bank.device.DevicePages`), or None for one of
            the host.
    """
    if index is None:
        return _core.Pages(dim, dtype, metric, kinds) if rows is None else rows
    if dim is None:
        raise InputError("Arena: dim is None, should be an int where there is an index")
    return index.pages(dim, dtype, metric, kinds, *(() if rows is None else (rows,)))


def effort(
    op: str, index: Any, n_probes: Any, recall: Any, shape: tuple[int, ...]
) -> tuple[Any, ...]:
    """What a search wants of an index, checked: () or (n_probes, recall), flat.

    Args:
        op: the name of the caller, for errors.
        index: as given to the arena.
        n_probes: an int from 1, ints of a shape, or None.
        recall: a number above 0 and at most 1, numbers of a shape, or None.
        shape: that of the queries.
    """
    if n_probes is None and recall is None:
        return ()
    if index is None:
        name = "recall" if n_probes is None else "n_probes"
        raise InputError(f"{op}: {name} is given, should be None: the bank has no index of lists")
    if n_probes is not None and recall is not None:
        raise InputError(f"{op}: n_probes and recall are given, should be one of them")
    # The usual, and cheap to see.
    if n_probes.__class__ is int and n_probes > 0:
        return (n_probes, None)
    if recall.__class__ is float and 0 < recall <= 1:
        return (None, recall)
    if n_probes is not None:
        values = arrays.ints(op, "n_probes", n_probes)
        is_bad = values < 1
        range_ = "at least 1"
    else:
        values = arrays.reals(op, "recall", recall)
        if isinstance(recall, bool):
            raise DtypeError(f"{op}: recall is {recall}, should be a number")
        is_bad = ~((values > 0) & (values <= 1))
        range_ = "above 0 and at most 1"
    name = "recall" if n_probes is None else "n_probes"
    if is_bad.any():
        raise InputError(f"{op}: {name} is {values[is_bad][0]}, should be {range_}")
    if values.ndim and values.shape != shape:
        raise ShapeError(f"{op}: {name} has shape {values.shape}, should be {shape}")
    flat = values.reshape(-1) if values.ndim else values.item()
    return (flat, None) if n_probes is not None else (None, flat)

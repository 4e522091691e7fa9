"""Add, update and delete: what each call's arguments mean, and one native write."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays
from memcore.bank import shapes
from memcore.bank.store import Store
from memcore.errors import ShapeError

Ints = NDArray[np.int64]


def add(
    store: Store,
    banks: Any,
    vectors: Any,
    ids: Any,
    fields: Mapping[str, Any] | None,
    payloads: Any,
) -> Any:
    """`Arena.add`."""
    handles = shapes.handles("add", banks)
    rows, shape = store.rows("add", vectors)
    if rows is None:
        shape = _bare_shape(handles, ids, fields, payloads)
    flat = shapes.fit("add", handles, shape, "vectors" if vectors is not None else "rows")
    named = None if ids is None else shapes.per_row("add", "ids", ids, shape)
    if rows is None:
        flat = np.broadcast_to(flat, math.prod(shape))
    given = store.cells("add", fields, payloads, shape)
    if given is None:
        added = store.pages.add(flat, named, rows, store.no_cells)
    else:
        added = store.tables.write(given, lambda c: store.pages.add(flat, named, rows, c))
    return arrays.like(banks if vectors is None else vectors, added.reshape(shape))


def update(
    store: Store,
    banks: Any,
    ids: Any,
    vectors: Any,
    fields: Mapping[str, Any] | None,
    payloads: Any,
    missing: str,
) -> Any:
    """`Arena.update`."""
    named, shape = shapes.ids("update", ids)
    flat = shapes.fit("update", shapes.handles("update", banks), shape, "ids")
    rows = None
    if vectors is not None:
        rows, lead = store.rows("update", vectors)
        if lead != shape:
            raise ShapeError(f"update: vectors has {lead} rows, should have {shape} as ids has")
    skip = shapes.is_skip("update", missing)
    given = store.cells("update", fields, payloads, shape)
    if given is None:
        found = store.pages.update(flat, named, rows, store.no_cells, skip)
    else:
        found = store.tables.write(given, lambda c: store.pages.update(flat, named, rows, c, skip))
    return arrays.like(ids, found.reshape(shape))


def delete(store: Store, banks: Any, ids: Any, missing: str) -> Any:
    """`Arena.delete`."""
    named, shape = shapes.ids("delete", ids)
    flat = shapes.fit("delete", shapes.handles("delete", banks), shape, "ids")
    found = store.pages.delete(flat, named, shapes.is_skip("delete", missing))
    store.tables.let_go()
    return arrays.like(ids, found.reshape(shape))


def _bare_shape(handles: Ints, ids: Any, fields: Any, payloads: Any) -> tuple[int, ...]:
    """The shape of rows without vectors: as many as there are ids, payloads or values."""
    if handles.size != 1:
        return handles.shape
    if ids is not None:
        return np.shape(ids) or (1,)
    for values in (payloads, *(fields or {}).values()):
        if values is not None and hasattr(values, "__len__"):
            return (len(values),)
    return (1,)

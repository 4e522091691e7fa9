"""Rows by their ids: vectors, fields and payloads, copied out."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, tensors
from memcore.bank import device_reads, shapes
from memcore.bank import fields as fields_
from memcore.bank.store import Store
from memcore.errors import DtypeError, in_name_of, in_room
from memcore.hits import Hits

Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """What `get` gives back, each in the shape of the ids.

    Attributes:
        vectors: (…, dim) in the bank's dtype (bfloat16 as uint16 where the library has no such
            type), 0 where a row is missing; None where rows have no vectors.
        fields: by name, nested lists of values; None for null and for a missing row.
        payloads: nested lists; None where there is none.
        found: (…,) bool.
    """

    vectors: Any
    fields: dict[str, list[Any]]
    payloads: list[Any]
    found: Any


def get(store: Store, banks: Any, ids: Any, missing: str) -> Rows:
    """`Arena.get`."""
    named, shape = shapes.ids("get", ids)
    flat = shapes.fit("get", shapes.handles("get", banks), shape, "ids")
    skip = shapes.is_skip("get", missing)
    is_there = store.mirror is not None and store.mirror.has(ids)
    vectors = None if is_there else store.room(named.size)

    def read() -> Any:
        return store.tables.hold(lambda: _read(store, flat, named, skip, vectors))

    if is_there:
        # Vectors and fields of one moment: those that are on the device do not leave it.
        mirror: Any = store.mirror
        with in_room("get"), store.tables.held(), mirror.section():
            found, values, payloads = read()
            wanted = tensors.ints("get", "ids", ids).reshape(-1, 1)
            rows = device_reads.read(store, "get", flat, wanted, store.dtype)[0]
        shaped = tensors.like(ids, rows.reshape(*shape, rows.shape[-1]))
    else:
        found, values, payloads = read()
        shaped = None
        if vectors is not None:
            shaped = vectors.reshape(*shape, vectors.shape[1])
            shaped = arrays.like(ids, shaped, is_bfloat16=store.dtype == "bfloat16")
    return Rows(
        shaped,
        {name: fields_.nest(column, shape) for name, column in values.items()},
        fields_.nest(payloads, shape),
        arrays.like(ids, found.reshape(shape)),
    )


def payloads_of(store: Store, banks: Any, hits: Hits) -> list[Any]:
    """`Arena.rows`."""
    if not hasattr(hits, "ids"):
        raise DtypeError(f"rows: hits is a {type(hits).__name__}, should be what `search` gave")
    ids = arrays.ints("rows", "hits", arrays.near(hits.ids))
    flat = shapes.fit("rows", shapes.handles("rows", banks), ids.shape[:-1], "hits")
    wanted = ids.reshape(-1)
    valid = wanted >= 0
    owners = flat if flat.size == 1 else np.repeat(flat, ids.shape[-1])[valid]
    with in_name_of("rows"):
        got = store.tables.hold(lambda: _read(store, owners, wanted[valid], False, None))[2]
    rest = iter(got)
    return fields_.nest([next(rest) if there else None for there in valid.tolist()], ids.shape)


def _read(
    store: Store, handles: Ints, ids: Ints, skip: bool, vectors: NDArray[Any] | None
) -> tuple[NDArray[np.bool_], dict[str, list[Any]], list[Any]]:
    """Rows (n,) into vectors; which were found, their fields and payloads, flat."""
    columns = [fields_.nulls(kind, ids.size) for kind in store.schema.columns]
    found = store.pages.get(handles, ids, skip, vectors, columns)
    tables = store.tables.by_column
    values = {
        name: fields_.decode(field.kind, columns[field.column], tables.get(field.column))
        for name, field in store.schema.fields.items()
    }
    column = store.schema.payloads
    return found, values, fields_.decode("payload", columns[column], tables[column])

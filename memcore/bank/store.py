"""What an arena is made of, and its arguments as native code reads them.

The verbs are elsewhere: writes, reads, searches. Banks, one by one, are known to native code alone.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars
from memcore import index as index_
from memcore.bank import coded, shapes
from memcore.bank import device as device_
from memcore.bank import fields as fields_
from memcore.bank.fields import Schema
from memcore.bank.mirror import Mirror
from memcore.bank.payloads import Tables
from memcore.codebook import Codebook
from memcore.errors import DtypeError, InputError, ShapeError, in_name_of
from memcore.ops.search import METRICS

Ints = NDArray[np.int64]

_FLOAT32 = np.dtype(np.float32)
_STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


class Store:
    """The rows of all banks of an arena, and what is known of them.

    Attributes:
        dim: components of a vector, or None.
        metric: "cosine", "dot" or "l2".
        dtype: what rows are stored as.
        schema: the fields.
        index: what narrows searches, as its options.
        pages: the rows.
        mirror: their copy on a device, or None.
        tables: the objects that rows name by number.
        no_cells: the columns of a write that gives neither fields nor payloads.
        number: under which it is among STORES.
    """

    __slots__ = (
        "__weakref__", "dim", "dtype", "index", "metric", "mirror", "no_cells", "number", "pages",
        "schema", "tables",
    )  # fmt: skip

    def __init__(
        self,
        dim: int | None,
        metric: str,
        dtype: str,
        device: Any,
        fields: Mapping[str, Any] | None,
        codebook: Codebook | None,
        index: Any,
        device_bytes: int | None = None,
    ) -> None:
        """Make a store without banks; the arguments are those of `Arena`."""
        place = device_.place(device, device_bytes)
        self.dim = None if dim is None else scalars.whole("Arena", "dim", dim, 1)
        scalars.word("Arena", "metric", metric, METRICS)
        scalars.word("Arena", "dtype", dtype, [*_STORED])
        self.metric = metric
        self.dtype = dtype
        self.schema = Schema("Arena", fields)
        self.no_cells: list[Ints | None] = [None] * len(self.schema.columns)
        self.index = index_.options("Arena", index)
        if index is not None and codebook is not None:
            raise InputError("Arena: index is given with a codebook, should be one of the two")
        kinds = self.schema.columns
        self.mirror: Mirror | None = None
        self.pages: Any
        if codebook is not None:
            self.pages = coded.pages(codebook, self.dim, dtype, metric, kinds)
            if place is not None:
                self.pages = device_.code_pages(place, device_bytes, self.pages, metric)
                self.mirror = self.pages.mirror
        elif place is not None:
            rows = device_.pages(place, device_bytes, self.dim, dtype, metric, kinds)
            self.mirror = rows.mirror
            self.pages = index_.pages(self.index, self.dim, dtype, metric, kinds, rows)
        else:
            self.pages = index_.pages(self.index, self.dim, dtype, metric, kinds)
        self.tables = Tables(self.pages, self.schema.interned)
        self.number = next(_NUMBERS)
        STORES[self.number] = self

    def __reduce__(self) -> Any:
        # The words of pickle are about the first part that it stumbles over.
        raise DtypeError(
            "pickle: a bank or an arena is memory of this process, should be forked, or made anew "
            "from what get gives"
        )

    def drop(self, banks: Ints) -> None:
        """Give up banks (n,), their rows and what only those held."""
        self.pages.drop(banks)
        self.tables.let_go()

    @contextmanager
    def frozen(self, op: str, handles: Ints) -> Iterator[Ints]:
        """Handles of the same shape that name these banks as they are now.

        Costs page-table entries; whoever asks must only read.
        """
        unique, places = np.unique(handles, return_inverse=True)
        with in_name_of(op):
            forks: Ints = self.pages.fork(unique, 1).reshape(-1)
        try:
            yield forks[places].reshape(handles.shape)
        finally:
            self.drop(forks)

    def room(self, n: int) -> NDArray[Any] | None:
        """Zeroed vectors (n, dim) of the stored dtype; None where rows have none."""
        return None if self.dim is None else np.zeros((n, self.dim), _STORED[self.dtype])

    def rows(self, op: str, vectors: Any) -> tuple[NDArray[Any] | None, tuple[int, ...]]:
        """Vectors as (n, dim) for native code, and the shape of the rows."""
        if vectors is None or self.dim is None:
            if vectors is not None:
                raise ShapeError(
                    f"{op}: vectors is given, should be None: the rows have no vectors"
                )
            if self.dim is not None:
                raise ShapeError(f"{op}: vectors is None, should be (…, {self.dim})")
            return None, ()
        near = vectors if self.mirror is None else arrays.near(vectors)
        rows, shape = shapes.lead(op, "vectors", arrays.rows(op, "vectors", near, self.dtype))
        if self.mirror is not None:
            self.mirror.given.note(rows, vectors)
        return rows, shape

    def queries(self, op: str, queries: Any) -> tuple[NDArray[Any], tuple[int, ...]]:
        """Queries as (n, dim) for native code, and their shape."""
        if self.dim is None:
            raise InputError(f"{op}: the rows have no vectors, should be an Arena with a dim")
        if self.mirror is not None:
            queries = arrays.near(queries)
        # What `get` gave back from a bfloat16 bank is bfloat16.
        if self.dtype == "bfloat16" and getattr(queries, "dtype", None) == np.uint16:
            return shapes.lead(op, "queries", np.asarray(queries))
        view = arrays.vectors(op, "queries", queries)[0]
        return shapes.lead(op, "queries", view.astype(_FLOAT32) if view.dtype == np.int8 else view)

    def cells(
        self, op: str, fields: Mapping[str, Any] | None, payloads: Any, shape: tuple[int, ...]
    ) -> list[Ints | list[Any] | None] | None:
        """The cells of each column, as numbers or as objects; None if nothing is given."""
        if fields is not None and not isinstance(fields, Mapping):
            raise DtypeError(f"{op}: fields is {scalars.shown(fields)}, should be a dict")
        if not fields and payloads is None:
            return None
        given: list[Ints | list[Any] | None] = list(self.no_cells)
        for name, values in (fields or {}).items():
            field = self.schema.field(op, "fields", name)
            given[field.column] = fields_.encode(op, field, values, shape)
        if payloads is not None:
            given[self.schema.payloads] = fields_.flatten(op, "payloads", payloads, shape)
        return given


# All stores there are, by a number that stands for one where only numbers can.
STORES: WeakValueDictionary[int, Store] = WeakValueDictionary()
_NUMBERS = count()

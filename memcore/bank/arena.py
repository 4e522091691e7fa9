"""Arena: many banks in one place, and each verb one call over any number of them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays
from memcore import index as index_
from memcore.bank import coded, reads, shapes
from memcore.bank import fields as fields_
from memcore.bank.fields import Schema
from memcore.bank.mark import Mark, Rows
from memcore.bank.payloads import Tables
from memcore.bank.where import Program, compile_all
from memcore.codebook import Codebook
from memcore.errors import BackendError, DtypeError, InputError, ShapeError
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops.search import METRICS

Ints = NDArray[np.int64]

_FLOAT32 = np.dtype(np.float32)
_INF = float("inf")
_MAX_TRIES = 3

_STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


class Arena:
    """Many banks of vectors that share one store: thousands are made, searched, forked in one call.

    A bank is named by its handle, an int64. Wherever handles are taken, an array of any shape is,
    and results have that shape first; one handle stands for all rows or queries of a call. A row
    is named by its bank and its id, counted per bank from 0.

    A call that raises has changed nothing. Threads may call at any time: searches run side by side,
    writes wait for them.

    Example:
        >>> import memcore, numpy as np
        >>> arena = memcore.Arena(dim=2)
        >>> banks = arena.new(3)
        >>> arena.add(banks, np.eye(3, 2, dtype=np.float32))
        array([0, 0, 0])
        >>> group = arena.fork(banks, 4)
        >>> hits = arena.search(group, np.ones((3, 4, 2), np.float32), k=1)
        >>> hits.scores.shape, hits.ids[0, 0]
        ((3, 4, 1), array([0]))
    """

    def __init__(
        self,
        dim: int | None = None,
        *,
        metric: str = "cosine",
        dtype: str = "float32",
        device: str = "cpu",
        fields: Mapping[str, Any] | None = None,
        codebook: Codebook | None = None,
        index: Any = None,
    ) -> None:
        """Make an arena without banks.

        Args:
            dim: components of a vector; None for rows without vectors.
            metric: "cosine", "dot" or "l2" (minus the squared distance).
            dtype: what rows are stored as: "float32", "float16" or "bfloat16".
            device: "cpu".
            fields: the kind of each field by name: "int64", "float64", "bool", "str" or "tags" (a
                list of str); int, float, bool, str and list mean the same.
            codebook: keep codes of this book, as it is now, in the place of vectors; `get` gives,
                and `search` scores, what they stand for.
            index: what narrows searches: None, "ivf", "lsh", an `LSH`, or an index's options.
        """
        if device != "cpu":
            raise BackendError(f"Arena: device is {device!r}, should be 'cpu'")
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, (int, np.integer))):
            raise DtypeError(f"Arena: dim is {dim!r}, should be an int, or None")
        if dim is not None and dim < 1:
            raise InputError(f"Arena: dim is {dim}, should be at least 1")
        if metric not in METRICS:
            raise InputError(f"Arena: metric is {metric!r}, should be one of {', '.join(METRICS)}")
        if dtype not in _STORED:
            raise InputError(f"Arena: dtype is {dtype!r}, should be one of {', '.join(_STORED)}")
        self.dim = None if dim is None else int(dim)
        self.metric = metric
        self.dtype = dtype
        self._schema = Schema("Arena", fields)
        self._no_cells: list[Ints | None] = [None] * len(self._schema.columns)
        self._index = index_.options("Arena", index)
        if index is not None and codebook is not None:
            raise InputError("Arena: index is given with a codebook, should be one of the two")
        kinds = self._schema.columns
        self._pages = (
            coded.pages(codebook, self.dim, dtype, metric, kinds)
            if codebook is not None
            else index_.pages(self._index, self.dim, dtype, metric, kinds)
        )
        self._tables = Tables(self._pages, self._schema.interned)

    @property
    def fields(self) -> dict[str, str]:
        """The kind of each field by name."""
        return {field.name: field.kind for field in self._schema.fields.values()}

    @property
    def nbytes(self) -> int:
        """Bytes of all pages in use and their tables, without Python's objects."""
        return int(self._pages.nbytes)

    def new(self, n: int = 1) -> Ints:
        """Make n empty banks: (n,) handles."""
        handles: Ints = self._pages.new(shapes.size("new", n))
        return handles

    def drop(self, banks: Any) -> None:
        """Give up banks and their rows. Their handles name nothing from then on.

        Raises:
            NotFoundError: a handle names no bank.
            InputError: a handle is repeated.
        """
        self._pages.drop(shapes.handles("drop", banks).reshape(-1))
        self._tables.let_go()

    def add(
        self,
        banks: Any,
        vectors: Any = None,
        *,
        ids: Any = None,
        fields: Mapping[str, Any] | None = None,
        payloads: Any = None,
    ) -> Any:
        """Add rows to banks.

        Args:
            banks: (…,) handles, one per row; may repeat. Or one for all rows.
            vectors: (…, dim) numbers, or (dim,) for one row; finite, with norms up to 1e18. Rounded
                once to the arena's dtype. None where rows have no vectors.
            ids: (…,) ids of your choice, from 0, never used in the bank; without them it counts on.
            fields: values by field name, nested sequences or arrays of the rows' shape. None is
                null, as is a field not given.
            payloads: any objects, as a sequence of the rows' shape. They are held by reference, for
                as long as a row has them, in whatever fork or snapshot.

        Returns:
            (…,) int64 ids, in the library of vectors.

        Raises:
            ShapeError: shapes that do not fit each other, or dim.
            DtypeError: vectors that are no numbers, values that are not of their field's kind.
            InputError: a vector with NaN, Inf or a norm above 1e18 (the first such row is named);
                an id that was used before, repeated or negative; an unknown field.
            NotFoundError: a handle that names no bank.
        """
        handles = shapes.handles("add", banks)
        rows, shape = self._rows("add", vectors)
        if rows is None:
            shape = _bare_shape(handles, ids, fields, payloads)
        flat = shapes.fit("add", handles, shape, "vectors" if vectors is not None else "rows")
        named = None if ids is None else shapes.per_row("add", "ids", ids, shape)
        if rows is None:
            flat = np.broadcast_to(flat, math.prod(shape))
        given = self._cells("add", fields, payloads, shape)
        if given is None:
            added = self._pages.add(flat, named, rows, self._no_cells)
        else:
            added = self._tables.write(given, lambda c: self._pages.add(flat, named, rows, c))
        return arrays.like(banks if vectors is None else vectors, added.reshape(shape))

    def update(
        self,
        banks: Any,
        ids: Any,
        vectors: Any = None,
        *,
        fields: Mapping[str, Any] | None = None,
        payloads: Any = None,
        missing: str = "raise",
    ) -> Any:
        """Change rows; what is not given stays.

        Args:
            banks: (…,) handles, one per id, or one for all.
            ids: (…,) ids; a row may be named once.
            vectors: (…, dim), as for `add`.
            fields: values by field name; None sets null.
            payloads: a sequence of the shape of ids; None takes a row's payload away.
            missing: "raise", or "skip" to leave out ids that are not there.

        Returns:
            (…,) bool: which rows were found.

        Raises:
            NotFoundError: an id that is not in its bank, unless skipped; the first is named.
            InputError: a row that is named twice. All else as `add` does.
        """
        named, shape = shapes.ids("update", ids)
        flat = shapes.fit("update", shapes.handles("update", banks), shape, "ids")
        rows = None
        if vectors is not None:
            rows, lead = self._rows("update", vectors)
            if lead != shape:
                raise ShapeError(f"update: vectors has {lead} rows, should have {shape} as ids has")
        skip = shapes.is_skip("update", missing)
        given = self._cells("update", fields, payloads, shape)
        if given is None:
            found = self._pages.update(flat, named, rows, self._no_cells, skip)
        else:
            found = self._tables.write(
                given, lambda c: self._pages.update(flat, named, rows, c, skip)
            )
        return arrays.like(ids, found.reshape(shape))

    def delete(self, banks: Any, ids: Any, *, missing: str = "raise") -> Any:
        """Delete rows.

        Args:
            banks: (…,) handles, one per id, or one for all.
            ids: (…,) ids; a row may be named once.
            missing: "raise", or "skip" to leave out ids that are not there.

        Returns:
            (…,) bool: which rows were found.

        Raises:
            NotFoundError: an id that is not in its bank, unless skipped; the first is named.
            InputError: a row that is named twice.
        """
        named, shape = shapes.ids("delete", ids)
        flat = shapes.fit("delete", shapes.handles("delete", banks), shape, "ids")
        found = self._pages.delete(flat, named, shapes.is_skip("delete", missing))
        self._tables.let_go()
        return arrays.like(ids, found.reshape(shape))

    def get(self, banks: Any, ids: Any, *, missing: str = "raise") -> Rows:
        """Read rows.

        Args:
            banks: (…,) handles, one per id, or one for all.
            ids: (…,) ids; may repeat.
            missing: "raise", or "skip" for zeros and None in the place of ids that are not there.

        Returns:
            Rows: vectors, fields and payloads, copied, and which rows were found.

        Raises:
            NotFoundError: an id that is not in its bank, unless skipped; the first is named.
        """
        named, shape = shapes.ids("get", ids)
        flat = shapes.fit("get", shapes.handles("get", banks), shape, "ids")
        skip = shapes.is_skip("get", missing)
        vectors = None
        if self.dim is not None:
            vectors = np.zeros((named.size, self.dim), _STORED[self.dtype])
        found, values, payloads = self._tables.hold(lambda: self._read(flat, named, skip, vectors))
        if vectors is not None:
            vectors = vectors.reshape(*shape, vectors.shape[1])
            vectors = arrays.like(ids, vectors, is_bfloat16=self.dtype == "bfloat16")
        return Rows(
            vectors,
            {name: fields_.nest(column, shape) for name, column in values.items()},
            fields_.nest(payloads, shape),
            arrays.like(ids, found.reshape(shape)),
        )

    def rows(self, banks: Any, hits: Hits) -> list[Any]:
        """The payloads of hits, None where padded.

        Args:
            banks: the handles that were searched, (…,), or one.
            hits: (…, k), as `search` gave them.

        Returns:
            Nested lists of the shape of hits.

        Raises:
            NotFoundError: a row that has gone since.
        """
        ids = arrays.ints("rows", "hits", hits.ids)
        flat = shapes.fit("rows", shapes.handles("rows", banks), ids.shape[:-1], "hits")
        named = ids.reshape(-1)
        valid = named >= 0
        owners = flat if flat.size == 1 else np.repeat(flat, ids.shape[-1])[valid]
        got = self._tables.hold(lambda: self._read(owners, named[valid], False, None))[2]
        rest = iter(got)
        return fields_.nest([next(rest) if there else None for there in valid.tolist()], ids.shape)

    def contains(self, banks: Any, ids: Any) -> Any:
        """Which ids are in their banks: (…,) bool. Handles as for `get`."""
        named, shape = shapes.ids("contains", ids)
        flat = shapes.fit("contains", shapes.handles("contains", banks), shape, "ids")
        return arrays.like(ids, self._pages.contains(flat, named).reshape(shape))

    def count(self, banks: Any) -> Any:
        """The number of rows of each bank: (…,) int64."""
        handles = shapes.handles("count", banks)
        counts = self._pages.count(handles.reshape(-1))
        return arrays.like(banks, counts.reshape(handles.shape))

    def ids(self, bank: Any) -> Any:
        """The ids of one bank, ascending: (n,) int64."""
        handles = shapes.handles("ids", bank)
        if handles.size != 1:
            raise ShapeError(f"ids: bank has shape {handles.shape}, should be one handle")
        return arrays.like(bank, self._pages.ids(int(handles.reshape(()))))

    def search(
        self,
        banks: Any,
        queries: Any,
        k: Any = 10,
        *,
        where: Any = None,
        candidates: Any = None,
        scale: str | None = None,
        bias: str | None = None,
        min_score: float | None = None,
        max_score: float | None = None,
        n_probes: Any = None,
        recall: Any = None,
        backend: str | None = None,
    ) -> Hits:
        """Find the k best rows of each query in its bank: exactly, unless there is an index.

        Args:
            banks: (…,) handles, one per query; may repeat. Or one for all queries.
            queries: (…, dim) numbers, or (dim,) for one query; finite, with norms up to 1e18.
            k: an int, or ints of the queries' shape (the width is the largest).
            where: a condition that rows must meet, or a sequence of the queries' shape of one for
                each (None = all rows): {"speaker": "ana"}, {"time": {"gte": 5, "lt": 9}}, operators
                eq ne in nin gt gte lt lte contains, joined by {"and": […]}, {"or": […]} and
                {"not": …}. Null meets {"eq": None} alone.
            candidates: (…, m) ids that a query may find; -1 pads.
            scale: the name of a numeric field; with bias, the final score is
                fl32(fl32(scale * score) + bias). Null counts as 1.
            bias: the name of a numeric field. Null counts as 0.
            min_score: lowest final score to return, rounded to float32.
            max_score: highest final score to return, rounded to float32.
            n_probes: with an index of lists, how many lists a query visits, or ints of the queries'
                shape; all lists give what an exact search does.
            recall: with an index of lists, the share of the k best rows to find, above 0 and at
                most 1 (exact), or numbers of the queries' shape. See `memcore.index.IVF`.
            backend: "cpu": pages are searched by the compiled engine alone.

        Returns:
            Hits of shape (…, k), in the library of queries: best first, equal scores by the smaller
            id; then -inf and -1 where fewer were found.

        Raises:
            ShapeError: shapes that do not fit each other, or dim.
            InputError: a query with NaN, Inf or a norm above 1e18; a negative k; an unknown field
                or operator.
            DtypeError: a value that its field's kind is not compared with.
            NotFoundError: a handle that names no bank.

        Cost:
            The pages of the banks that are named, once for all queries that share them.
        """
        if (
            where is None
            and candidates is None
            and scale is None
            and bias is None
            and min_score is None
            and max_score is None
            and n_probes is None
            and recall is None
            and backend is None
        ):
            hits: Hits | None = self._pages.search_plain(banks, queries, k)
            if hits is not None:
                return hits
        if backend not in (None, "cpu"):
            raise BackendError(f"search: backend is {backend!r}, should be 'cpu' for a store")
        limits = (candidates, scale, bias, min_score, max_score, n_probes, recall)
        return self._search(shapes.handles("search", banks), queries, k, where, limits)

    def attend(self, banks: Any, queries: Any, k: int = 10, *, beta: Any, **options: Any) -> Any:
        """A softmax read of the k best rows of each query's bank: see `memcore.bank.reads.attend`.

        Args:
            banks: (…,) handles, one per query, or one for all.
            queries: (…, dim), as for `search`.
            k: how many rows.
            beta: what scores are multiplied by, above 0.
            options: values, steps, where, return_lse, return_weights.
        """
        return reads.attend(self, banks, queries, k, beta=beta, **options)

    def score(self, banks: Any, queries: Any, ids: Any) -> Any:
        """The canonical scores of named rows.

        Args:
            banks: (…,) handles, one per query, or one for all.
            queries: (…, dim), as for `search`.
            ids: (…, m) ids; -1 pads.

        Returns:
            (…, m) float32, -inf where padded; without scale and bias, and NaN where a score is NaN.

        Raises:
            NotFoundError: an id that is not in its bank; the first is named.
        """
        asked, shape = self._queries("score", queries)
        flat = shapes.fit("score", shapes.handles("score", banks), shape, "queries")
        named = shapes.candidates("score", "ids", ids, shape)
        scores = np.empty(named.shape, np.float32)
        self._pages.score(flat, asked, named, scores)
        return arrays.like(queries, scores.reshape(*shape, named.shape[1]))

    def fork(self, banks: Any, n: int = 1) -> Any:
        """Make n banks like each of these: (…, n) handles.

        A fork has the rows, ids, fields, payloads and counter of its parent; from then on neither
        sees what the other does. Pages are shared until written.

        Cost:
            Page-table entries, one for each 16 rows; no rows.
        """
        handles = shapes.handles("fork", banks)
        forks = self._pages.fork(handles.reshape(-1), shapes.size("fork", n))
        return arrays.like(banks, forks.reshape(*handles.shape, n))

    def snapshot(self, banks: Any) -> Mark:
        """Remember banks as they are, for `rollback`. Costs what `fork` does."""
        handles = np.unique(shapes.handles("snapshot", banks))
        return Mark(self, handles, self._pages.fork(handles, 1).reshape(-1))

    def rollback(self, banks: Any, mark: Mark) -> None:
        """Put banks back to what they were at a mark: rows, fields, payloads and counter.

        Args:
            banks: (…,) handles, all or some of the mark's; none repeated.
            mark: what `snapshot` gave; it stays, and may be used again.

        Raises:
            NotFoundError: a bank that was dropped since: it stays dropped.
            InputError: a bank that is repeated or not the mark's; a mark that was released.
        """
        handles = shapes.handles("rollback", banks).reshape(-1)
        if not isinstance(mark, Mark):
            raise DtypeError(f"rollback: mark is a {type(mark).__name__}, should be a Mark")
        self._pages.copy_from(handles, mark.copies_of(self, handles))
        self._tables.let_go()

    def compact(self) -> None:
        """Give the memory of free pages back to the system."""
        self._pages.compact()

    def __repr__(self) -> str:
        return f"Arena(dim={self.dim}, metric={self.metric!r}, dtype={self.dtype!r})"

    def _rows(self, op: str, vectors: Any) -> tuple[NDArray[Any] | None, tuple[int, ...]]:
        """Vectors as (n, dim) for native code, and the shape of the rows."""
        if vectors is None or self.dim is None:
            if vectors is not None:
                raise ShapeError(
                    f"{op}: vectors is given, should be None: the rows have no vectors"
                )
            if self.dim is not None:
                raise ShapeError(f"{op}: vectors is None, should be (…, {self.dim})")
            return None, ()
        return shapes.lead(op, "vectors", arrays.rows(op, "vectors", vectors, self.dtype))

    def _queries(self, op: str, queries: Any) -> tuple[NDArray[Any], tuple[int, ...]]:
        """Queries as (n, dim) for native code, and their shape."""
        if self.dim is None:
            raise InputError(f"{op}: the rows have no vectors, should be an Arena with a dim")
        # What `get` gave back from a bfloat16 bank is bfloat16.
        if self.dtype == "bfloat16" and getattr(queries, "dtype", None) == np.uint16:
            return shapes.lead(op, "queries", np.asarray(queries))
        view = arrays.vectors(op, "queries", queries)[0]
        return shapes.lead(op, "queries", view.astype(_FLOAT32) if view.dtype == np.int8 else view)

    def _cells(
        self, op: str, fields: Mapping[str, Any] | None, payloads: Any, shape: tuple[int, ...]
    ) -> list[Ints | list[Any] | None] | None:
        """The cells of each column, as numbers or as objects; None if nothing is given."""
        if not fields and payloads is None:
            return None
        given: list[Ints | list[Any] | None] = list(self._no_cells)
        if fields is not None and not isinstance(fields, Mapping):
            raise DtypeError(f"{op}: fields is a {type(fields).__name__}, should be a dict")
        for name, values in (fields or {}).items():
            field = self._schema.field(op, "fields", name)
            given[field.column] = fields_.encode(op, field, values, shape)
        if payloads is not None:
            given[self._schema.payloads] = fields_.flatten(op, "payloads", payloads, shape)
        return given

    def _read(
        self, handles: Ints, ids: Ints, skip: bool, vectors: NDArray[Any] | None
    ) -> tuple[NDArray[np.bool_], dict[str, list[Any]], list[Any]]:
        """Rows (n,) into vectors; which were found, their fields and payloads, flat."""
        columns = [fields_.nulls(kind, ids.size) for kind in self._schema.columns]
        found = self._pages.get(handles, ids, skip, vectors, columns)
        tables = self._tables.by_column
        values = {
            name: fields_.decode(field.kind, columns[field.column], tables.get(field.column))
            for name, field in self._schema.fields.items()
        }
        column = self._schema.payloads
        return found, values, fields_.decode("payload", columns[column], tables[column])

    def _search(
        self, banks: Ints, queries: Any, k: Any, where: Any, limits: tuple[Any, ...]
    ) -> Hits:
        candidates, scale, bias, min_score, max_score, n_probes, recall = limits
        asked, shape = self._queries("search", queries)
        flat = shapes.fit("search", banks, shape, "queries")
        n_queries = len(asked)
        if np.ndim(k) > 1 and np.shape(k) == shape:
            k = arrays.ints("search", "k", k).reshape(-1)
        each, width = arguments.widths("search", k, n_queries)
        if candidates is not None:
            candidates = shapes.candidates("search", "candidates", candidates, shape)
        scale = self._weight("scale", scale)
        bias = self._weight("bias", bias)
        low = -_INF if min_score is None else arguments.bound("search", "min_score", min_score)
        high = _INF if max_score is None else arguments.bound("search", "max_score", max_score)
        effort = index_.effort("search", self._index, n_probes, recall, shape)
        scores, ids = arguments.outputs("search", n_queries, width)
        rest = (candidates, scale, bias, low, high, None, scores, ids, *effort)
        if where is None:
            self._pages.search(flat, asked, each, None, None, *rest)
        else:
            conditions = where if isinstance(where, Mapping) else _each("where", where, shape)
            self._filtered(flat, asked, each, conditions, rest)
        shape = (*shape, width)
        return Hits(
            arrays.like(queries, scores.reshape(shape)), arrays.like(queries, ids.reshape(shape))
        )

    def _filtered(
        self, flat: Ints, asked: NDArray[Any], k: Any, conditions: Any, rest: tuple[Any, ...]
    ) -> None:
        """Search where conditions hold, with programs that know every word in the rows."""
        tables = self._tables
        n_queries = len(asked)

        def compiled() -> tuple[list[Program], Ints, set[int], int]:
            if isinstance(conditions, Mapping):
                programs, _, words = compile_all([conditions], self._schema, tables)
                index = np.zeros(n_queries, np.int64)
            else:
                programs, index, words = compile_all(conditions, self._schema, tables)
            return programs, index, words, tables.version(words)

        for _ in range(_MAX_TRIES):
            programs, index, words, version = tables.hold(compiled)
            self._pages.search(flat, asked, k, programs, index, *rest)
            # A word that came since may be in a row that the search has seen.
            if tables.version(words) == version:
                return
        tables.hold(lambda: self._pages.search(flat, asked, k, *compiled()[:2], *rest))

    def _weight(self, name: str, field: str | None) -> int | None:
        """The column of a numeric field."""
        if field is None:
            return None
        if not isinstance(field, str):
            raise DtypeError(
                f"search: {name} is a {type(field).__name__}, should be a field's name"
            )
        named = self._schema.field("search", name, field)
        if named.kind not in ("int64", "float64"):
            raise InputError(f"search: {name} is {field!r}, a {named.kind}, should be a number")
        return named.column


def _each(name: str, given: Any, shape: tuple[int, ...]) -> list[Any]:
    return fields_.flatten("search", name, given, shape)


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

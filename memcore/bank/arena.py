"""Arena: many banks in one place, and each verb one call over any number of them.

The public face, and the lives of banks; what a verb does stands in writes, reads, searches, attend.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars
from memcore.bank import gradients, reads, searches, shapes, writes
from memcore.bank.attend import attend
from memcore.bank.mark import Mark
from memcore.bank.reads import Rows
from memcore.bank.store import Store
from memcore.codebook import Codebook
from memcore.errors import BackendError, DtypeError, ShapeError, in_name_of
from memcore.hits import Hits

Ints = NDArray[np.int64]


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
        device: Any = "cpu",
        fields: Mapping[str, Any] | None = None,
        codebook: Codebook | None = None,
        index: Any = None,
        device_bytes: int | None = None,
    ) -> None:
        """Make an arena without banks.

        Args:
            dim: components of a vector; None for rows without vectors.
            metric: "cosine", "dot" or "l2" (minus the squared distance).
            dtype: what rows are stored as: "float32", "float16" or "bfloat16".
            device: "cpu", or "cuda" (and "cuda:1", …, and torch's devices): then rows are kept on
                the host and, for searches, on that GPU too. Arrays are taken from either, and
                results are where the queries are.
            fields: the kind of each field by name: "int64", "float64", "bool", "str" or "tags" (a
                list of str); int, float, bool, str and list mean the same.
            codebook: keep codes of this book, as it is now, in the place of vectors; `get` gives,
                and `search` scores, what they stand for.
            index: what narrows searches: None, "ivf", "lsh", an `LSH`, or an index's options.
            device_bytes: what rows may take on the GPU; None for all that there is. Banks beyond it
                are fetched when they are searched, in the place of those that were not searched for
                longest; with 0 the CPU does everything. Once some do not fit, the host's copy of
                all rows is page-locked, so that the GPU reads it.

        Raises:
            BackendError: a device that is not there, or without torch and Triton.
        """
        self._store = Store(dim, metric, dtype, device, fields, codebook, index, device_bytes)

    @property
    def dim(self) -> int | None:
        """Components of a vector; None where rows have none."""
        return self._store.dim

    @property
    def metric(self) -> str:
        """The metric given at construction."""
        return self._store.metric

    @property
    def dtype(self) -> str:
        """What rows are stored as."""
        return self._store.dtype

    @property
    def fields(self) -> dict[str, str]:
        """The kind of each field by name."""
        return {field.name: field.kind for field in self._store.schema.fields.values()}

    @property
    def nbytes(self) -> int:
        """Bytes of all pages in use and their tables, without Python's objects."""
        return int(self._store.pages.nbytes)

    @property
    def device(self) -> str:
        """Where searches of banks run: "cpu", or the GPU."""
        mirror = self._store.mirror
        return "cpu" if mirror is None else str(mirror.device)

    @property
    def device_nbytes(self) -> int:
        """Bytes of the GPU's memory that are held; 0 on the cpu."""
        return 0 if self._store.mirror is None else int(self._store.pages.device_nbytes)

    def new(self, n: int = 1) -> Ints:
        """Make n empty banks: (n,) handles."""
        handles: Ints = self._store.pages.new(shapes.size("new", n))
        return handles

    def drop(self, banks: Any) -> None:
        """Give up banks and their rows. Their handles name nothing from then on.

        Raises:
            NotFoundError: a handle names no bank.
            InputError: a handle is repeated.
        """
        self._store.drop(shapes.handles("drop", banks).reshape(-1))

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
        return writes.add(self._store, banks, vectors, ids, fields, payloads)

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
        return writes.update(self._store, banks, ids, vectors, fields, payloads, missing)

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
        return writes.delete(self._store, banks, ids, missing)

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
        return reads.get(self._store, banks, ids, missing)

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
        return reads.payloads_of(self._store, banks, hits)

    def contains(self, banks: Any, ids: Any) -> Any:
        """Which ids are in their banks: (…,) bool. Handles as for `get`."""
        named, shape = shapes.ids("contains", ids)
        flat = shapes.fit("contains", shapes.handles("contains", banks), shape, "ids")
        return arrays.like(ids, self._store.pages.contains(flat, named).reshape(shape))

    def count(self, banks: Any) -> Any:
        """The number of rows of each bank: (…,) int64."""
        handles = shapes.handles("count", banks)
        counts = self._store.pages.count(handles.reshape(-1))
        return arrays.like(banks, counts.reshape(handles.shape))

    def ids(self, bank: Any) -> Any:
        """The ids of one bank, ascending: (n,) int64."""
        handles = shapes.handles("ids", bank)
        if handles.size != 1:
            raise ShapeError(f"ids: bank has shape {handles.shape}, should be one handle")
        return arrays.like(bank, self._store.pages.ids(int(handles.reshape(()))))

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
            backend: "cpu", or "triton" on a GPU: pages are searched by one engine alone.

        Returns:
            Hits of shape (…, k), in the library of queries: best first, equal scores by the smaller
            id; then -inf and -1 where fewer were found. Where a tensor of queries needs a gradient,
            the scores give it; rows are data.

        Raises:
            ShapeError: shapes that do not fit each other, or dim.
            InputError: a query with NaN, Inf or a norm above 1e18; a negative k; an unknown field
                or operator.
            DtypeError: a value that its field's kind is not compared with.
            NotFoundError: a handle that names no bank.

        Cost:
            The pages of the banks that are named, once for all queries that share them.
        """
        is_traced = queries.__class__ is not np.ndarray and arrays.is_traced(queries)
        if (
            where is None
            and candidates is None
            and scale is None
            and bias is None
            and min_score is None
            and max_score is None
            and backend is None
            and not is_traced
        ):
            hits: Hits | None = None
            if n_probes is None and recall is None:
                hits = self._store.pages.search_plain(banks, queries, k)
            elif self._store.index is not None:
                hits = self._store.pages.search_plain(banks, queries, k, n_probes, recall)
            if hits is not None:
                return hits
        engine = "cpu" if self._store.mirror is None else "triton"
        if backend is not None and not scalars.is_word(backend, engine):
            given = scalars.shown(backend)
            raise BackendError(f"search: backend is {given}, should be {engine!r} for a store")
        limits = searches.Limits(candidates, scale, bias, min_score, max_score, n_probes, recall)
        library: Any = gradients if arrays.differentiates(queries) else searches
        if is_traced:
            from memcore.bank import traced

            library = traced
        found: Hits = library.search(self._store, banks, queries, k, where, limits)
        return found

    def attend(self, banks: Any, queries: Any, k: int = 10, *, beta: Any, **options: Any) -> Any:
        """A softmax read of the k best rows of each query's bank: see `memcore.bank.attend.attend`.

        Args:
            banks: (…,) handles, one per query, or one for all.
            queries: (…, dim), as for `search`.
            k: how many rows.
            beta: what scores are multiplied by, above 0.
            options: values, steps, where, return_lse, return_weights.
        """
        return attend(self._store, banks, queries, k, beta=beta, **options)

    def score(self, banks: Any, queries: Any, ids: Any) -> Any:
        """The canonical scores of named rows.

        Args:
            banks: (…,) handles, one per query, or one for all.
            queries: (…, dim), as for `search`.
            ids: (…, m) ids; -1 pads.

        Returns:
            (…, m) float32, -inf where padded; without scale and bias, and NaN where a score is NaN.

        Raises:
            NotFoundError: an id that is not in its bank; the first is named. With queries on a GPU,
                where nothing waits to see, its score is -inf.
        """
        return searches.score(self._store, banks, queries, ids)

    def fork(self, banks: Any, n: int = 1) -> Any:
        """Make n banks like each of these: (…, n) handles.

        A fork has the rows, ids, fields, payloads and counter of its parent; from then on neither
        sees what the other does. Pages are shared until written.

        Cost:
            Page-table entries, one for each 16 rows; no rows.
        """
        handles = shapes.handles("fork", banks)
        n = shapes.size("fork", n, handles.size)
        forks = self._store.pages.fork(handles.reshape(-1), n)
        return arrays.like(banks, forks.reshape(*handles.shape, n))

    def snapshot(self, banks: Any) -> Mark:
        """Remember banks as they are, for `rollback`. Costs what `fork` does."""
        handles = np.unique(shapes.handles("snapshot", banks))
        with in_name_of("snapshot"):
            copies = self._store.pages.fork(handles, 1).reshape(-1)
        return Mark(self._store, handles, copies)

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
        self._store.pages.copy_from(handles, mark.copies_of(self._store, handles))
        self._store.tables.let_go()

    def prefetch(self, banks: Any) -> None:
        """Fetch banks to the GPU, as far as they fit there, before they are searched.

        Those that were not searched for longest make room. On the cpu there is nothing to do.

        Raises:
            NotFoundError: a handle that names no bank.
        """
        handles = shapes.handles("prefetch", banks).reshape(-1)
        if self._store.mirror is not None:
            self._store.pages.prefetch(handles)

    def compact(self) -> None:
        """Give the memory of free pages back to the system."""
        self._store.pages.compact()

    def __repr__(self) -> str:
        return f"Arena(dim={self.dim}, metric={self.metric!r}, dtype={self.dtype!r})"

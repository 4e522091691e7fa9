"""Bank: an arena of one, with the same verbs less the handles, and text through an embedder."""

import weakref
from collections.abc import Iterator, Mapping
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays
from memcore import index as index_
from memcore.bank import coded
from memcore.bank import device as device_
from memcore.bank import texts as texts_
from memcore.bank.arena import Arena
from memcore.bank.attend import attend_all
from memcore.bank.fields import infer
from memcore.bank.mark import Mark
from memcore.bank.reads import Rows
from memcore.bank.texts import Embed
from memcore.codebook import Codebook
from memcore.errors import InputError, in_name_of
from memcore.hits import Hits

_FLOAT32 = np.dtype(np.float32)

Ints = NDArray[np.int64]


class Bank:
    """Rows of vectors with payloads and fields, searched exactly.

    What is not given at construction, `dim` or `fields`, is fixed by the first add of at least one
    row; a search before it finds nothing. Forks share pages, payloads and the embedder; each is
    a Bank of its own, and gives its rows up when it is collected.

    A call that raises has changed nothing. Threads may call at any time.

    Example:
        >>> import memcore, numpy as np
        >>> bank = memcore.Bank()
        >>> bank.add(np.eye(3, dtype=np.float32), payloads=["x", "y", "z"], fields={"t": [1, 2, 3]})
        array([0, 1, 2])
        >>> hits = bank.search([0.9, 0.4, 0.1], k=2, where={"t": {"gte": 2}})
        >>> hits.ids, bank.rows(hits)
        (array([[1, 2]]), [['y', 'z']])
        >>> other = bank.fork()
        >>> other.delete([1])
        array([ True])
        >>> len(bank), len(other), 1 in other
        (3, 2, False)
    """

    def __init__(
        self,
        dim: int | None = None,
        *,
        metric: str = "cosine",
        dtype: str = "float32",
        device: Any = "cpu",
        fields: Mapping[str, Any] | None = None,
        embed: Embed | None = None,
        codebook: Codebook | None = None,
        index: Any = None,
        device_bytes: int | None = None,
    ) -> None:
        """Make an empty bank.

        Args:
            dim: components of a vector. Without it the first add tells; rows added without vectors
                make it a bank without vectors.
            metric: "cosine", "dot" or "l2" (minus the squared distance).
            dtype: what rows are stored as: "float32", "float16" or "bfloat16".
            device: "cpu" or "cuda", as for `Arena`; so is device_bytes.
            fields: the kind of each field by name, as for `Arena`; {} for none. Without it the
                first add tells.
            embed: turns a list of n str into n vectors, (n, dim); then texts are taken by `add`,
                `update` and `search`.
            codebook: keep codes of this book in the place of vectors, as for `Arena`.
            index: what narrows searches: None (they are exact), "ivf", "lsh", an `LSH`, or an
                index's options.
            device_bytes: what rows may take on the GPU.
        """
        if dim is None and isinstance(codebook, Codebook):
            dim = codebook.dim
        self.embed = embed
        self._dim = dim
        self._fields = fields
        self._is_open = dim is None or fields is None
        self._first_add = Lock()
        # While the bank is open, this arena only stands for an empty bank.
        self._index = index_.options("Bank", index)
        placed = None if self._is_open and codebook is None else self._index
        self._device: dict[str, Any] = {"device": device, "device_bytes": device_bytes}
        with in_name_of("Bank"):
            self._on = str(device_.place(device, device_bytes) or "cpu")
        there = {} if dim is None else self._device
        options: dict[str, Any] = {"metric": metric, "dtype": dtype, "fields": fields}
        with in_name_of("Bank"):
            arena = Arena(dim, codebook=codebook, index=placed, **options, **there)
        self._adopt(arena, arena.new(1))
        self._opening: tuple[Arena, Ints] | None = self._place

    @property
    def dim(self) -> int | None:
        """Components of a vector; None while not known, or where rows have no vectors."""
        return self._place[0].dim

    @property
    def metric(self) -> str:
        """The metric given at construction."""
        return self._place[0].metric

    @property
    def dtype(self) -> str:
        """What rows are stored as."""
        return self._place[0].dtype

    @property
    def fields(self) -> dict[str, str]:
        """The kind of each field by name."""
        return self._place[0].fields

    @property
    def codebook(self) -> Codebook | None:
        """The book whose codes the bank keeps, as it was then; its version tells. None without."""
        arena, handle = self._place
        return coded.book(arena._store.pages, handle)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages in use, those of forks and snapshots too."""
        return self._place[0].nbytes

    @property
    def device(self) -> str:
        """Where searches run: "cpu", or the GPU."""
        return self._on

    @property
    def device_nbytes(self) -> int:
        """Bytes of the GPU's memory that are held, for forks and snapshots too; 0 on the cpu."""
        return self._place[0].device_nbytes

    def add(
        self,
        vectors: Any = None,
        *,
        texts: Any = None,
        ids: Any = None,
        fields: Mapping[str, Any] | None = None,
        payloads: Any = None,
    ) -> Any:
        """Add rows.

        Args:
            vectors: (n, dim) numbers, or (dim,) for one row; finite, with norms up to 1e18.
            texts: n str, or one, to embed in the place of vectors. They are the payloads too, if no
                others are given.
            ids: (n,) ids of your choice, from 0, never used; without them the bank counts on.
            fields: n values by field name. None is null, as is a field not given.
            payloads: n objects of any kind, held by reference for as long as a row has them.

        Returns:
            (n,) int64 ids, in the library of vectors.

        Raises:
            ShapeError: shapes that do not fit each other, or dim.
            DtypeError: vectors that are no numbers, values that are not of their field's kind.
            InputError: a vector with NaN, Inf or a norm above 1e18 (the first such row is named);
                an id that was used before, repeated or negative; an unknown field.
        """
        # The plain call pays for nothing that it does not use.
        if (
            vectors.__class__ is np.ndarray
            and vectors.dtype is _FLOAT32
            and texts is None
            and ids is None
            and fields is None
            and payloads is None
            and not self._is_open
            and vectors.ndim <= 2
            and self._has_vectors
        ):
            rows = vectors if vectors.ndim == 2 else vectors[None]
            return self._pages.add(self._handle, None, rows, self._no_cells)
        if texts is not None:
            vectors, payloads = self._embedded("add", texts, vectors, payloads)
        given = {"ids": ids, "fields": fields, "payloads": payloads}
        if self._is_open:
            return self._add_first(vectors, given)
        arena, handle = self._place
        return arena.add(handle, vectors, **given)

    def update(
        self,
        ids: Any,
        vectors: Any = None,
        *,
        texts: Any = None,
        fields: Mapping[str, Any] | None = None,
        payloads: Any = None,
        missing: str = "raise",
    ) -> Any:
        """Change rows; what is not given stays.

        Args:
            ids: (n,) ids, or one; a row may be named once.
            vectors: (n, dim), as for `add`.
            texts: n str, or one, to embed in the place of vectors; the payloads too, if no others
                are given.
            fields: n values by field name; None sets null.
            payloads: n objects; None takes a row's payload away.
            missing: "raise", or "skip" to leave out ids that are not there.

        Returns:
            (n,) bool: which rows were found.

        Raises:
            NotFoundError: an id that is not in the bank, unless skipped; the first is named.
            InputError: a row that is named twice. All else as `add` does.
        """
        if texts is not None:
            vectors, payloads = self._embedded("update", texts, vectors, payloads)
        arena, handle = self._place
        return arena.update(handle, ids, vectors, fields=fields, payloads=payloads, missing=missing)

    def delete(self, ids: Any, *, missing: str = "raise") -> Any:
        """Delete rows; as `Arena.delete`, (n,) bool."""
        arena, handle = self._place
        return arena.delete(handle, ids, missing=missing)

    def get(self, ids: Any, *, missing: str = "raise") -> Rows:
        """Read rows; as `Arena.get`."""
        arena, handle = self._place
        return arena.get(handle, ids, missing=missing)

    def rows(self, hits: Hits) -> list[Any]:
        """The payloads of hits (n_queries, k), as lists of lists; None where padded.

        Raises:
            NotFoundError: a row that has gone since.
        """
        arena, handle = self._place
        return arena.rows(handle, hits)

    def contains(self, ids: Any) -> Any:
        """Which ids are in the bank: (n,) bool."""
        arena, handle = self._place
        return arena.contains(handle, ids)

    def count(self) -> int:
        """The number of rows."""
        arena, handle = self._place
        return int(arena.count(handle)[0])

    def ids(self) -> Any:
        """All ids, ascending: (n,) int64."""
        arena, handle = self._place
        return arena.ids(handle)

    def search(
        self,
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
        """Find the k best rows of each query: exactly, unless the bank has an index.

        Args:
            queries: (n_queries, dim) numbers, or (dim,) for one query; or, with an embedder, one
                str or a list of them.
            k: an int, or (n_queries,) ints (the width is the largest).
            where: a condition that rows must meet, or a list of one per query, as for
                `Arena.search`.
            candidates: (n_queries, m) ids that a query may find; -1 pads.
            scale: the name of a numeric field, as for `Arena.search`.
            bias: likewise.
            min_score: lowest final score to return, rounded to float32.
            max_score: highest final score to return, rounded to float32.
            n_probes: with an index of lists, how many lists a query visits, or (n_queries,) ints.
            recall: with an index of lists, the share of the k best rows to find, as for
                `Arena.search`.
            backend: "cpu", or "triton" on a GPU: pages are searched by one engine alone.

        Returns:
            Hits of shape (n_queries, k), in the library of queries: best first, equal scores by the
            smaller id; then -inf and -1 where fewer were found. `rows` gives their payloads.

        Raises:
            ShapeError: shapes that do not fit each other, or dim.
            InputError: a query with NaN, Inf or a norm above 1e18; a negative k; an unknown field
                or operator.
            DtypeError: a value that its field's kind is not compared with; text without an
                embedder.
        """
        if (
            where is None
            and candidates is None
            and scale is None
            and bias is None
            and min_score is None
            and max_score is None
            and backend is None
            and not self._is_open
            and (queries.__class__ is np.ndarray or not arrays.is_traced(queries))
        ):
            hits: Hits | None = None
            if n_probes is None and recall is None:
                hits = self._pages.search_plain(self._handle, queries, k)
            elif self._index is not None:
                hits = self._pages.search_plain(self._handle, queries, k, n_probes, recall)
            if hits is not None:
                return hits
        if texts_.are_texts(queries):
            queries = self._embedded("search", queries)[0]
        options = {
            "where": where,
            "candidates": candidates,
            "scale": scale,
            "bias": bias,
            "min_score": min_score,
            "max_score": max_score,
            "n_probes": n_probes,
            "recall": recall,
            "backend": backend,
        }
        if self._is_open:
            return self._search_nothing(queries, k, options)
        arena, handle = self._place
        return arena.search(handle, queries, k, **options)

    def attend(self, queries: Any, k: Any = 10, *, beta: Any, **options: Any) -> Any:
        """A softmax read of the k best rows of each query; as `Arena.attend`.

        With k=None, a bank of codes with metric "dot" is read whole, through its counts; options
        are then those of `memcore.attend`.
        """
        if texts_.are_texts(queries):
            queries = self._embedded("attend", queries)[0]
        arena, handle = self._place
        if k is None and self.codebook is not None:
            return attend_all(arena._store, handle, queries, beta, options)
        return arena.attend(handle, queries, k, beta=beta, **options)

    def score(self, queries: Any, ids: Any) -> Any:
        """The canonical scores of named rows; as `Arena.score`, (n_queries, m) float32."""
        if texts_.are_texts(queries):
            queries = self._embedded("score", queries)[0]
        arena, handle = self._place
        return arena.score(handle, queries, ids)

    def fork(self) -> "Bank":
        """A bank with the same rows, ids, fields, payloads and counter, independent from then on.

        Cost:
            Page-table entries, one for each 16 rows; no rows.
        """
        fork = object.__new__(Bank)
        fork.embed, fork._index, fork._device = self.embed, self._index, self._device
        fork._on = self._on
        fork._dim, fork._fields, fork._is_open = self._dim, self._fields, self._is_open
        fork._first_add = Lock()
        arena, handle = self._place
        fork._adopt(arena, arena.fork(handle, 1).reshape(-1))
        fork._opening = fork._place if fork._is_open else None
        return fork

    __copy__ = fork

    def __reduce__(self) -> Any:
        # Neither pickled nor copied deep: its payloads are whose they are.
        return self._place[0]._store.__reduce__()

    def snapshot(self) -> Mark:
        """Remember the bank as it is, for `rollback`. Costs what `fork` does."""
        arena, handle = self._place
        return arena.snapshot(handle)

    def rollback(self, mark: Mark) -> None:
        """Put the bank back to what it was at a mark of its own; the mark stays.

        Raises:
            InputError: a mark of another bank, or one that was released.
        """
        arena, handle = self._place
        if self._opening not in (None, self._place) and mark.is_of(self._opening[0]._store):
            # Marked before the first add: the bank was empty then.
            opening, empty = self._opening
            mark.copies_of(opening._store, empty)
            mark = Mark(arena._store, handle, arena.new(1))
        arena.rollback(handle, mark)

    def recode(self, book: Codebook) -> None:
        """Code all rows, and those to come, by another book or by what it has learned since.

        Vectors are decoded and coded again. Forks and snapshots keep what they have. Nothing else
        may write to the bank meanwhile.

        Args:
            book: with the dim of the first, and codes that fit into the room of its codes.

        Raises:
            InputError: a bank without a codebook, a book that is empty or too large.
            ShapeError: another dim.
        """
        arena, handle = self._place
        coded.recode(arena._store.pages, handle, book)

    def counted(self) -> tuple[NDArray[np.float32], Ints]:
        """The distinct vectors of a bank of codes, (m, dim), and how many rows have each, (m,).

        Attention over them with the bias log(counts) is attention over all rows.

        Raises:
            InputError: a bank without a codebook.
        """
        arena, handle = self._place
        return coded.counted(arena._store.pages, handle)

    def drop(self) -> None:
        """Give up the rows now; the bank can be used no more. Twice is harmless."""
        self._finalizer()

    def prefetch(self) -> None:
        """Fetch the rows to the GPU, as `Arena.prefetch`."""
        arena, handle = self._place
        arena.prefetch(handle)

    def compact(self) -> None:
        """Give the memory of free pages back to the system."""
        self._place[0].compact()

    def __len__(self) -> int:
        return self.count()

    def __iter__(self) -> Iterator[int]:
        """The ids, ascending."""
        return iter(self.ids().tolist())

    def __contains__(self, row_id: Any) -> bool:
        return bool(self.contains(row_id).all())

    def _adopt(self, arena: Arena, handle: Ints) -> None:
        """Make a bank of an arena ours, to be dropped when we are collected."""
        self._pages, self._no_cells, self._handle = (
            arena._store.pages,
            arena._store.no_cells,
            handle,
        )
        self._has_vectors = arena.dim is not None
        self._place = arena, handle
        self._finalizer = weakref.finalize(self, arena.drop, handle)
        self._finalizer.atexit = False

    def _add_first(self, vectors: Any, given: dict[str, Any]) -> Any:
        """Add to a bank whose dim or fields are not known yet."""
        dim, fields = self._dim, self._fields
        if dim is None and vectors is not None:
            shape = arrays.vectors("add", "vectors", arrays.near(vectors))[0].shape
            dim = shape[-1] if shape else None
        if fields is None:
            fields = {} if given["fields"] is None else infer("add", given["fields"])
        options = {"codebook": self.codebook, "index": self._index, **self._device}
        arena = Arena(dim, metric=self.metric, dtype=self.dtype, fields=fields, **options)
        handle = arena.new(1)
        ids = arena.add(handle, vectors, **given)
        if not ids.shape[0]:
            return ids
        with self._first_add:
            if self._is_open:
                # Readers of the empty bank may still be under way: it stays as long as we do.
                self._adopt(arena, handle)
                self._is_open = False
                return ids
        # Another thread was first.
        arena, handle = self._place
        return arena.add(handle, vectors, **given)

    def _search_nothing(self, queries: Any, k: Any, options: dict[str, Any]) -> Hits:
        """Search a bank whose fields are not known yet: whatever they are, no row has them."""
        options = {**options, "where": None, "scale": None, "bias": None}
        shape = arrays.vectors("search", "queries", arrays.near(queries))[0].shape
        index_.effort("search", self._index, options["n_probes"], options["recall"], shape[:-1])
        options = {**options, "n_probes": None, "recall": None}
        arena, handle = self._place
        if arena.dim is None:
            arena = Arena(shape[-1] if shape else 1, **self._device)
            handle = arena.new(1)
        return arena.search(handle, queries, k, **options)

    def _embedded(
        self, op: str, texts: Any, vectors: Any = None, payloads: Any = None
    ) -> tuple[Any, Any]:
        """What texts stand for: vectors (n, dim), and payloads if there are no others."""
        if vectors is not None:
            raise InputError(f"{op}: vectors and texts are given, should be one of them")
        texts = texts_.listed(op, texts)
        payloads = texts if payloads is None else payloads
        return texts_.embed(op, self.embed, texts, self.dim), payloads

    def __repr__(self) -> str:
        return f"Bank(dim={self.dim}, metric={self.metric!r}, dtype={self.dtype!r})"

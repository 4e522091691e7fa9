"""A store of rows that keeps codes in the place of vectors: what stands behind Bank(codebook=…)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import _core
from memcore.codebook.book import Codebook
from memcore.errors import InputError, ShapeError
from memcore.ops.codebook import decode, widened

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Components that are decoded at a time while a bank is searched.
_DECODED = 1 << 22
_INF = float("inf")
# What the native store keeps in the place of a vector.
_BARE = 1, "float16"


class CodePages:
    """The methods of the page store, over rows of codes.

    The codes of a row, and the number of the book that they are codes of, are hidden fields of it.
    So forks, snapshots, rollbacks and deletes carry them, and what a book learns later changes no
    row. Conditions and weights are read by a search over a single component, which is 1 in every
    row; the rows that it names are decoded and searched as an array.
    """

    def __init__(self, book: Codebook, metric: str, kinds: Sequence[str]) -> None:
        """Make an empty store; `kinds` are those of the fields, as for the page store."""
        if not book.is_seeded:
            raise InputError("Arena: codebook is empty, should be fitted or updated first")
        self._books = [book.to("cpu")]
        self._metric = metric
        self._n_fields = len(kinds)
        self._n_cells = _n_cells(book)
        self._kinds = [*kinds, *["int64"] * (1 + self._n_cells)]
        self._rows = _core.Pages(*_BARE, "dot", self._kinds)
        # Of each bank, the book of rows to come.
        self._current: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        # What has nothing to do with vectors.
        return getattr(self._rows, name)

    @property
    def native(self) -> tuple[Any, int, str, list[str]]:
        """The store of the codes, and what it keeps: dim, dtype and the kinds of all columns."""
        return self._rows, *_BARE, self._kinds

    @property
    def books(self) -> Sequence[Codebook]:
        """All books that rows may have, by their numbers; more may follow."""
        return self._books

    @property
    def first_column(self) -> int:
        """The column of the number of a row's book; its codes are in those behind."""
        return self._n_fields

    @property
    def nbytes(self) -> int:
        """Bytes of the pages and of the books."""
        return self._rows.nbytes + sum(book.nbytes for book in self._books)

    def book(self, handle: int) -> Codebook:
        """The book that rows to come are coded by."""
        return self._books[self._current.get(handle, 0)]

    def drop(self, handles: Ints) -> None:
        """As the page store."""
        self._rows.drop(handles)
        for handle in handles.tolist():
            self._current.pop(handle, None)

    def fork(self, handles: Ints, n: int) -> Ints:
        """As the page store."""
        forks = self._rows.fork(handles, n)
        for fork, handle in zip(forks.reshape(-1).tolist(), np.repeat(handles, n), strict=True):
            self._current[fork] = self._current.get(int(handle), 0)
        return forks

    def copy_from(self, handles: Ints, sources: Ints) -> None:
        """As the page store."""
        self._rows.copy_from(handles, sources)
        for handle, source in zip(handles.tolist(), sources.tolist(), strict=True):
            self._current[handle] = self._current.get(source, 0)

    def add(
        self, handles: Ints, ids: Ints | None, vectors: NDArray[Any], columns: Sequence[Any]
    ) -> Ints:
        """As the page store, but the codes of the vectors are kept."""
        cells = self._coded("add", handles, vectors)
        ones = np.ones((len(vectors), 1), np.float16)
        return self._rows.add(handles, ids, ones, [*columns, *cells])

    def update(
        self,
        handles: Ints,
        ids: Ints,
        vectors: NDArray[Any] | None,
        columns: Sequence[Any],
        skip: bool,
    ) -> NDArray[np.bool_]:
        """As the page store."""
        cells: list[Ints | None] = [None] * (1 + self._n_cells)
        if vectors is not None:
            cells = [*self._coded("update", handles, vectors)]
        return self._rows.update(handles, ids, None, [*columns, *cells], skip)

    def get(
        self,
        handles: Ints,
        ids: Ints,
        skip: bool,
        vectors: NDArray[Any] | None,
        columns: Sequence[Any],
    ) -> NDArray[np.bool_]:
        """As the page store; vectors are what the codes stand for."""
        cells = np.zeros((1 + self._n_cells, ids.size), np.int64)
        found = self._rows.get(handles, ids, skip, None, [*columns, *cells])
        if vectors is not None:
            vectors[found] = self._decoded(cells[:, found])
        return found

    def search(
        self,
        handles: Ints,
        queries: NDArray[Any],
        k: int | Ints,
        where: Any,
        where_index: Ints | None,
        candidates: Ints | None,
        scale: int | None,
        bias: int | None,
        min_score: float,
        max_score: float,
        first_pass: bool | None,
        scores: Floats,
        ids: Ints,
    ) -> None:
        """As the page store. A row's score is that of the vector which its codes stand for."""
        self._check_queries("search", queries)
        scores[...], ids[...] = -np.inf, -1
        widths = np.broadcast_to(np.asarray(k, np.int64), len(queries))
        for group in _groups(handles, where_index, candidates, len(queries)):
            first = slice(group[0], group[0] + 1)
            handle = handles[first] if handles.size > 1 else handles
            of_one = (
                where,
                None if where_index is None else where_index[first],
                None if candidates is None else candidates[first],
            )
            named, scales, biases = self._named(handle, of_one, scale, bias)
            asked = np.ascontiguousarray(queries[group])
            for chunk in self._chunks(len(named)):
                found, cells = self._cells(handle, named[chunk])
                some = named[chunk][found]
                limits = (
                    None if scales is None else scales[chunk][found],
                    None if biases is None else biases[chunk][found],
                    min_score,
                    max_score,
                    first_pass,
                )
                best = np.empty((len(group), scores.shape[1]), np.float32)
                places = np.empty((len(group), scores.shape[1]), np.int64)
                _core.search(
                    asked, self._decoded(cells), None, None, widths[group].copy(), self._metric,
                    None, None, *limits, best, places,
                )  # fmt: skip
                hits = np.append(some, -1)[places]
                scores[group], ids[group] = _merged(scores[group], ids[group], best, hits)

    def search_plain(self, handles: Any, queries: Any, k: Any) -> None:
        """As the page store: there is no shorter way here."""

    def score(self, handles: Ints, queries: NDArray[Any], ids: Ints, scores: Floats) -> None:
        """As the page store."""
        self._check_queries("score", queries)
        scores[...] = -np.inf
        for q in range(len(queries)):
            valid = np.flatnonzero(ids[q] >= 0)
            handle = handles[q : q + 1] if handles.size > 1 else handles
            _, cells = self._cells(handle, ids[q, valid], skip=False)
            best = np.empty((1, valid.size), np.float32)
            places = np.empty((1, valid.size), np.int64)
            _core.search(
                queries[q : q + 1], self._decoded(cells), None, None, valid.size, self._metric,
                None, None, None, None, -_INF, _INF, None, best, places,
            )  # fmt: skip
            scores[q, valid] = np.nan
            scored = places[0] >= 0
            scores[q, valid[places[0, scored]]] = best[0, scored]

    def recode(self, handle: Ints, book: Codebook) -> None:
        """Code the rows of a bank, and those to come, by another book; one step, or none."""
        if not book.is_seeded:
            raise InputError("recode: book is empty, should be fitted or updated first")
        if book.dim != self._books[0].dim:
            raise ShapeError(f"recode: book has dim {book.dim}, should be {self._books[0].dim}")
        if _n_cells(book) > self._n_cells:
            raise InputError(
                f"recode: book has {book.n_parts} codes of {book.n_bits} bits, "
                f"should fit into {64 * self._n_cells} bits"
            )
        book = book.to("cpu")
        ids = self._rows.ids(int(handle[0]))
        written = np.zeros((1 + self._n_cells, ids.size), np.int64)
        written[0] = len(self._books)
        for chunk in self._chunks(len(ids)):
            _, cells = self._cells(handle, ids[chunk], skip=False)
            codes = book.quantize(self._decoded(cells))
            packed = _to_cells(book, codes)
            written[1 : 1 + len(packed), chunk] = packed
        self._books.append(book)
        self._rows.update(handle, ids, None, [None] * self._n_fields + list(written), False)
        self._current[int(handle[0])] = len(self._books) - 1

    def counted(self, handle: Ints) -> tuple[Floats, Ints]:
        """The distinct vectors of a bank, (m, dim), and how many rows have each, (m,)."""
        _, cells, counts = self._distinct(handle)
        return self._decoded(cells), counts

    def distinct(self, handle: Ints) -> tuple[Ints, Ints]:
        """The ids of rows that have the distinct vectors, (m,), and how many rows have each."""
        ids, _, counts = self._distinct(handle)
        return ids, counts

    def _distinct(self, handle: Ints) -> tuple[Ints, Ints, Ints]:
        ids = self._rows.ids(int(handle[0]))
        found, cells = self._cells(handle, ids)
        distinct, first, counts = np.unique(cells, True, axis=1, return_counts=True)
        return ids[found][first], distinct, counts

    def _coded(self, op: str, handles: Ints, vectors: NDArray[Any]) -> Ints:
        """The cells (1 + n_cells, n) of vectors, each by the book of its bank."""
        rows = widened(vectors)
        dim = self._books[0].dim
        if rows.shape[1] != dim:
            raise ShapeError(f"{op}: vectors has dim {rows.shape[1]}, should be {dim}")
        numbers = np.array([self._current.get(h, 0) for h in handles.tolist()], np.int64)
        numbers = np.broadcast_to(numbers, len(rows)) if handles.size == 1 else numbers
        cells = np.zeros((1 + self._n_cells, len(rows)), np.int64)
        cells[0] = numbers
        for number in np.unique(numbers):
            book, own = self._books[number], numbers == number
            # All rows, so that an error counts them as the caller does.
            packed = _to_cells(book, book.codes(op, rows))
            cells[1 : 1 + len(packed), own] = packed[:, own]
        return cells

    def _decoded(self, cells: Ints) -> Floats:
        """The vectors of cells (1 + n_cells, n)."""
        vectors = np.empty((cells.shape[1], self._books[0].dim), np.float32)
        for number in np.unique(cells[0]):
            book, own = self._books[number], cells[0] == number
            vectors[own] = decode(_from_cells(book, cells[1:, own]), book.codewords)
        return vectors

    def _cells(self, handle: Ints, ids: Ints, skip: bool = True) -> tuple[NDArray[np.bool_], Ints]:
        """Which rows of a bank are there, and the cells of those."""
        columns = np.zeros((self._n_fields + 1 + self._n_cells, ids.size), np.int64)
        found = self._rows.get(handle, ids, skip, None, list(columns))
        return found, columns[self._n_fields :, found]

    def _named(
        self, handle: Ints, of_one: tuple[Any, ...], scale: int | None, bias: int | None
    ) -> tuple[Ints, Floats | None, Floats | None]:
        """The rows that one query may find, ascending by id, and their weights."""
        if scale is None and bias is None and all(given is None for given in of_one):
            return self._rows.ids(int(handle[0])), None, None
        ids, scales = self._weights(handle, of_one, 1.0, scale, None)
        if bias is None:
            return ids, None if scale is None else scales, None
        others, biases = self._weights(handle, of_one, 0.0, None, bias)
        both, here, there = np.intersect1d(ids, others, return_indices=True)
        return both, None if scale is None else scales[here], biases[there]

    def _weights(
        self, handle: Ints, of_one: tuple[Any, ...], query: float, scale: Any, bias: Any
    ) -> tuple[Ints, Floats]:
        """Ids, ascending, and final scores of a query against rows that all are 1."""
        where, where_index, candidates = of_one
        n = int(self._rows.count(handle)[0])
        scores, ids = np.empty((1, n), np.float32), np.empty((1, n), np.int64)
        asked = np.array([[query]], np.float32)
        self._rows.search(
            handle, asked, n, where, where_index, candidates, scale, bias, -_INF, _INF, None,
            scores, ids,
        )  # fmt: skip
        found = ids[0] >= 0
        order = np.argsort(ids[0, found])
        return ids[0, found][order], scores[0, found][order]

    def _chunks(self, n: int) -> Iterator[slice]:
        step = max(1, _DECODED // self._books[0].dim)
        return (slice(begin, begin + step) for begin in range(0, n, step))

    def _check_queries(self, op: str, queries: NDArray[Any]) -> None:
        dim = self._books[0].dim
        if queries.shape[1] != dim:
            raise ShapeError(f"{op}: queries has dim {queries.shape[1]}, should be {dim}")
        none = np.empty((0, dim), np.float32)
        scores, ids = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        try:
            _core.search(
                queries, none, None, None, 0, self._metric, None, None, None, None, -_INF, _INF,
                None, scores, ids,
            )  # fmt: skip
        except InputError as error:
            raise InputError(str(error).replace("search:", f"{op}:")) from None


def _n_cells(book: Codebook) -> int:
    return -(-book.n_parts // (63 // book.n_bits))


def _to_cells(book: Codebook, codes: Ints) -> Ints:
    """Codes (n, n_parts) as (n_cells, n); a cell is never negative."""
    in_cell = 63 // book.n_bits
    cells = np.zeros((_n_cells(book), len(codes)), np.int64)
    for part, of_part in enumerate(codes.T):
        cells[part // in_cell] |= of_part << (part % in_cell * book.n_bits)
    return cells


def _from_cells(book: Codebook, cells: Ints) -> Ints:
    in_cell, mask = 63 // book.n_bits, (1 << book.n_bits) - 1
    parts = np.arange(book.n_parts)
    codes: Ints = (cells[parts // in_cell].T >> (parts % in_cell * book.n_bits)) & mask
    return codes


def _groups(
    handles: Ints, where_index: Ints | None, candidates: Ints | None, n: int
) -> Iterator[Ints]:
    """The numbers of the queries, those together that may find the same rows."""
    if candidates is not None:
        return (np.array([q]) for q in range(n))
    of_query = np.zeros((2, n), np.int64)
    of_query[0] = handles
    if where_index is not None:
        of_query[1] = where_index
    _, group = np.unique(of_query, axis=1, return_inverse=True)
    group = group.reshape(-1)
    return (np.flatnonzero(group == g) for g in range(int(group.max(initial=-1)) + 1))


def _merged(scores: Floats, ids: Ints, more: Floats, more_ids: Ints) -> tuple[Floats, Ints]:
    """The best of two lists of hits, in order, and as many as the first has."""
    width = scores.shape[1]
    scores, ids = np.concatenate([scores, more], 1), np.concatenate([ids, more_ids], 1)
    order = np.lexsort((ids, -scores, ids < 0))[:, :width]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)

"""The books of a store of codes on a device, where kernels find their words."""

from dataclasses import replace
from itertools import accumulate
from typing import Any

from memcore.codebook import CodePages

# Numbers that the tables of all queries may have.
_MOST_SCORES = 1 << 24


class Books:
    """Copies of a store's books; who calls has the turn to write.

    Attributes:
        given: what kernels take; it stays the same however many books there are.
    """

    def __init__(self, torch: Any, kernels: Any, device: Any, store: CodePages) -> None:
        """Know of no book yet.

        Args:
            torch: the module.
            kernels: the module of kernels.
            device: a torch device.
            store: the codes, and the books.
        """
        self._torch = torch
        self._kernels = kernels.coded
        self._device = device
        self._store = store
        self._books: list[Any] = []
        self._table: Any = None
        self._n_known = 0
        root = torch.zeros(2, dtype=torch.int64, device=device)
        self.given = kernels.pages.Books(root, store.books[0].dim, store.first_column)

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory."""
        return sum(book.nbytes for book in self._books)

    def tables(self, queries: Any, metric: str, n_rows: int) -> tuple[Any, Any] | None:
        """Queries (n, dim) as tables, and what kernels take then; None where these cost too much.

        Args:
            queries: on the device.
            metric: "dot", "cosine" or "l2".
            n_rows: rows that are scored, for all queries together.
        """
        n_words = self._kernels.n_words(self._books)
        if n_words is None or not self._books:
            return None
        n_scores = len(queries) * n_words
        if 2 * n_scores > n_rows or n_scores > _MOST_SCORES:
            return None
        tables = self._kernels.tables(self._books, queries, metric)
        return tables, replace(self.given, are_tables=True)

    def follow(self) -> None:
        """Copy the books that are new."""
        books, root, tensor = self._store.books, self.given.root, self._torch.tensor
        if len(books) == self._n_known:
            return
        for book in books[len(self._books) :]:
            words = tensor(book.codewords, device=self._device)
            self._books.append(self._kernels.Book.of(words, book.n_bits))
        n_before = [0, *accumulate(len(book.words) for book in self._books)]
        table = [book.entry(root, n) for book, n in zip(self._books, n_before, strict=False)]
        self._table = tensor(table, dtype=self._torch.int64, device=self._device)
        root.copy_(tensor([self._table.data_ptr(), len(table)]))
        self._n_known = len(table)

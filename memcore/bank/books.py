"""The books of a store of codes on a device, where kernels find their words."""

from typing import Any

from memcore.codebook import CodePages


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

    def follow(self) -> None:
        """Copy the books that are new."""
        books, root, tensor = self._store.books, self.given.root, self._torch.tensor
        if len(books) == self._n_known:
            return
        for book in books[len(self._books) :]:
            words = tensor(book.codewords, device=self._device)
            self._books.append(self._kernels.Book.of(words, book.n_bits))
        table = [book.entry(root) for book in self._books]
        self._table = tensor(table, dtype=self._torch.int64, device=self._device)
        root.copy_(tensor([self._table.data_ptr(), len(table)]))
        self._n_known = len(table)

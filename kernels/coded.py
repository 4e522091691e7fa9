"""Rows that are codes: what their books say they stand for, looked up where it is needed.

Codes are cells of a page (`pages.Books` says how), so that a scan reads a few bytes of a row, and
the words of its book from the caches. Which words make up 16 components is the same for all rows of
a book, and is laid out beside it. All rows of a bank are of one book, as a rule: a tile is gone
through once for each book in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from . import layout, lookup
from .canonical import fold
from .pages import LANES, Layout, cells_of, ids_of, norms_of

_HIGHEST: tl.constexpr = tl.constexpr(2**63 - 1)
# The bits of -0.0, which changes nothing that it is added to.
_NOTHING: tl.constexpr = tl.constexpr(-(2**31))


@dataclass(frozen=True)
class Book:
    """A codebook as kernels read it: steps that add words up, 16 components after 16.

    Attributes:
        words: (n_words, 16 * n_blocks) float32, level after level and subspace after subspace, each
            word where its components are in blocks of 16; -0.0 stands around it.
        steps: (n_steps, 3) int32: the cell with a code, the code's first bit, and where its words
            begin, in blocks; those of a block of components are in the order of levels.
        begins: (ceil(dim / 16) + 1,) int32, the steps of each block.
        n_bits: of a code.
        n_parts: codes of a row.
        dim: components of a word.
    """

    words: torch.Tensor
    steps: torch.Tensor
    begins: torch.Tensor
    n_bits: int
    n_parts: int
    dim: int

    @classmethod
    def of(cls, codewords: torch.Tensor, n_bits: int) -> "Book":
        """Lay out codewords (n_levels, n_subspaces, n_codes, sub_dim), on their device."""
        n_levels, n_subspaces, n_codes, sub_dim = codewords.shape
        firsts = [s * sub_dim for s in range(n_subspaces)]
        n_blocks = max(triton.cdiv(first % 16 + sub_dim, 16) for first in firsts)
        shape = (n_levels, n_subspaces, n_codes, 16 * n_blocks)
        words = torch.full(shape, -0.0, device=codewords.device)
        for s, first in enumerate(firsts):
            words[:, s, :, first % 16 : first % 16 + sub_dim] = codewords[:, s]
        steps, begins, in_cell = [], [0], 63 // n_bits
        for block in range(triton.cdiv(n_subspaces * sub_dim, 16)):
            last = min(16 * block + 15, n_subspaces * sub_dim - 1) // sub_dim
            for level in range(n_levels):
                for s in range(16 * block // sub_dim, last + 1):
                    part = level * n_subspaces + s
                    at = part * n_codes * n_blocks + block - firsts[s] // 16
                    steps.append((part // in_cell, part % in_cell * n_bits, at))
            begins.append(len(steps))
        numbers = {"dtype": torch.int32, "device": codewords.device}
        shape = (-1, 16 * n_blocks)
        given = torch.tensor(steps, **numbers), torch.tensor(begins, **numbers)
        return cls(words.reshape(shape), *given, n_bits, n_levels * n_subspaces, sub_dim)

    @property
    def n_padding(self) -> int:
        """Numbers of a word's blocks that are none of its components."""
        return self.words.shape[1] - self.dim

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory."""
        return int(self.words.nbytes + self.steps.nbytes + self.begins.nbytes)

    def entry(self, root: torch.Tensor, n_before: int) -> tuple[int, ...]:
        """Its row of a table, given the words of the books before it.

        Where words are, in units of 16 bytes from the root; steps; begins; blocks of a word; the
        bits of a code; n_before.
        """
        at = (self.words.data_ptr() - root.data_ptr()) // 16
        steps = self.steps.data_ptr(), self.begins.data_ptr()
        return at, *steps, self.words.shape[1] // 16, (1 << self.n_bits) - 1, n_before


@triton.jit
def next_book(numbers, is_left):
    """One of the books of rows (N,) that are left, and which of them are of it."""
    number = tl.min(tl.where(is_left, numbers, _HIGHEST), 0)
    return number, is_left & (numbers == number)


@triton.jit
def book_of(books_ptr, number):
    """Where words, steps and begins of a book are; blocks of a word, and the bits of a code."""
    table = tl.load(books_ptr).to(tl.pointer_type(tl.int64))
    book = table + number * 6
    words = books_ptr.to(tl.pointer_type(tl.float32), bitcast=True) + tl.load(book) * 4
    steps = tl.load(book + 1).to(tl.pointer_type(tl.int32))
    begins = tl.load(book + 2).to(tl.pointer_type(tl.int32))
    return words, steps, begins, tl.load(book + 3).to(tl.int32), tl.load(book + 4).to(tl.int32)


@triton.jit
def components(cells, is_row, words, steps, begins, n_blocks, low_bits, block, N: tl.constexpr):
    """The 16 components of a block of rows of one book, (N, 16), levels added in their order.

    cells are N pointers to the first cells of codes.
    """
    total = tl.full((N, 16), _NOTHING, tl.int32).to(tl.float32, bitcast=True)
    for i in range(tl.load(begins + block), tl.load(begins + block + 1)):
        cell = tl.load(cells + tl.load(steps + i * 3) * LANES, mask=is_row, other=0)
        code = (cell >> tl.load(steps + i * 3 + 1)).to(tl.int32) & low_bits
        word = tl.load(steps + i * 3 + 2) + code * n_blocks
        at = words + word.to(tl.int64)[:, None] * 16 + tl.arange(0, 16)[None, :]
        total = total + tl.load(at, mask=is_row[:, None], other=0)
    return total


@triton.jit
def code_sums(
    queries,
    is_query,
    query_stride,
    pages,
    page,
    lane,
    is_row,
    dim,
    IS_L2: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
):
    """As `canonical.sums`, of queries (Q,) and what the codes of rows (N,) stand for.

    Without queries, of each row and itself: (1, N). Without a query_stride queries are tables, and
    rows have one code.
    """
    cells = cells_of(pages.root, page, lane, pages.book_column, pages.ids_at)
    numbers = tl.load(cells, mask=is_row, other=-1)
    if query_stride is None:
        first = tl.load(pages.books).to(tl.pointer_type(tl.int64)) + numbers * 6 + 5
        word = tl.load(first, mask=is_row, other=0) + tl.load(cells + LANES, mask=is_row, other=0)
        at = queries[:, None] + word[None, :]
        total = tl.load(at, mask=is_query[:, None] & is_row[None, :], other=0)
        if IS_L2:
            total = -total
    else:
        lanes = tl.zeros((Q, N, 16), tl.float32)
        is_left = is_row
        while tl.max(is_left.to(tl.int32), 0) > 0:
            number, is_its = next_book(numbers, is_left)
            words, steps, begins, n_blocks, low_bits = book_of(pages.books, number)
            for block in range(0, tl.cdiv(dim, 16)):
                k = components(
                    cells + LANES, is_its, words, steps, begins, n_blocks, low_bits, block, N
                )
                if queries is None:
                    lanes = lanes + (k * k)[None, :, :]
                else:
                    column = block * 16 + tl.arange(0, 16)
                    q = tl.load(
                        queries[:, None] + column[None, :] * query_stride,
                        mask=is_query[:, None] & (column < dim)[None, :],
                        other=0,
                    ).to(tl.float32)  # (Q, 16)
                    if IS_L2:
                        # Rows of other books wait for their turn.
                        apart = tl.where(is_its[None, :, None], q[:, None, :] - k[None, :, :], 0.0)
                        lanes = lanes + apart * apart
                    else:
                        lanes = lanes + q[:, None, :] * k[None, :, :]
            is_left = is_left & (numbers != number)
        total = tl.reshape(fold(tl.reshape(lanes, (Q * N, 16)), Q * N), (Q, N))
    return total


@triton.jit
def norms_kernel(pages, places_ptr, n_rows, dim, N: tl.constexpr):
    """Write the norms of what the codes at places (n_rows,) stand for to their pages."""
    i = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    place = tl.load(places_ptr + i, mask=i < n_rows, other=0)
    page, lane = place >> 4, place & 15
    # A lane that holds no row has no codes.
    ids = ids_of(pages.root, page, lane, pages.ids_at)
    is_row = tl.load(ids, mask=i < n_rows, other=-1) >= 0
    square = code_sums(None, is_row, 1, pages, page, lane, is_row, dim, False, 1, N)
    norm = tl.sqrt_rn(tl.reshape(square, (N,)))
    tl.store(norms_of(pages.root, page, lane, pages.ids_at), norm, mask=is_row)


def n_words(books: Sequence[Book]) -> int | None:
    """The words of all books, where each row is one of them; None where some have several parts."""
    is_one_each = all(book.n_parts == 1 and not book.n_padding for book in books)
    return sum(len(book.words) for book in books) if is_one_each else None


def tables(books: Sequence[Book], queries: torch.Tensor, metric: str) -> torch.Tensor:
    """The canonical scores of queries (n, dim) and all words, (n, `n_words`) float32.

    By "l2", or by the dot product; what rows score is looked up in them (Jégou et al. 2011).
    """
    queries = layout.near(queries)
    n, dim = queries.shape
    found = []
    for book in books:
        table = queries.new_empty((n, len(book.words)), dtype=torch.float32)
        lookup.table_kernel[(n, 1, triton.cdiv(len(book.words), 64))](
            queries,
            *queries.stride(),
            book.words,
            table,
            1,
            1,
            len(book.words),
            dim,
            IS_L2=metric == "l2",
            P=64,
            enable_fp_fusion=False,
        )
        found.append(table)
    return found[0] if len(found) == 1 else torch.cat(found, 1)


def write_norms(layout: Layout, origin: torch.Tensor, places: torch.Tensor) -> None:
    """Write the norms of what codes stand for, after the codes were written.

    Args:
        layout: of the pages.
        origin: what addresses count from.
        places: int64, the address of a page times 16, plus a lane.
    """
    n = places.numel()
    if n:
        norms_kernel[(triton.cdiv(n, 16),)](
            layout.view(origin),
            places.contiguous(),
            n,
            layout.vector_dim,
            N=16,
            enable_fp_fusion=False,
            # As in `search_pages`.
            maxnreg=64,
        )

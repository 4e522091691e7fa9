"""Pages of 16 rows in a device's memory: where their parts lie, and what writes them.

A page is one record: rows (16, dim), then ids (16,), norms (16,) and cells (n_columns, 16). A
directory holds the address of each page, so that pages may lie anywhere and never move. An address
counts units of 16 bytes from a fixed word, the origin: a compiler that sees that can load as much
at once.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from .arguments import Matrix, PagesView
from .canonical import fold

LANES: tl.constexpr = tl.constexpr(16)
_TYPES = {"float32": tl.float32, "float16": tl.float16, "bfloat16": tl.bfloat16}
_ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Books:
    """The codebooks that the codes of rows are of.

    Attributes:
        root: (2,) int64 at a fixed address: where their table is, and how many there are; see
            `coded.Book`.
        dim: components of a vector.
        column: the column of the number of a row's book; those of its codes follow, 63 // bits
            in a cell, the first in the lowest bits.
        are_tables: queries are tables of their scores, see `coded.tables`.
    """

    root: torch.Tensor
    dim: int
    column: int
    are_tables: bool = False


@dataclass(frozen=True)
class Layout:
    """The parts of a page, in bytes from its begin.

    Attributes:
        dim: components that a page holds of a row.
        dtype: "float32", "float16" or "bfloat16".
        kinds: the kind of each column: 0 int64, 1 float64, 2 bool, 3 a number of an object.
        books: where rows are codes, their books; then a norm is that of what the codes stand for.
    """

    dim: int
    dtype: str
    kinds: tuple[int, ...]
    books: Books | None = None

    @property
    def vector_dim(self) -> int:
        """Components of a vector, in pages or as codes."""
        return self.dim if self.books is None else self.books.dim

    def view(self, root: torch.Tensor, kinds: torch.Tensor | None = None) -> PagesView:
        """Pages of this layout as kernels take them; kinds where they read columns."""
        books = (None, None) if self.books is None else (self.books.root, self.books.column)
        return PagesView(root, self.ids_at, kinds, *books)

    def asked(self, queries: torch.Tensor) -> Matrix:
        """Queries as kernels take them; tables have one stride alone."""
        are_tables = self.books is not None and self.books.are_tables
        return Matrix(queries, queries.stride(0), None if are_tables else queries.stride(1))

    @property
    def item(self) -> tl.dtype:
        """The type of a component."""
        return _TYPES[self.dtype]

    @property
    def row_bytes(self) -> int:
        """From one row to the next."""
        return self.dim * _ITEM_BYTES[self.dtype]

    @property
    def ids_at(self) -> int:
        """Where ids begin; norms and cells follow."""
        return -(-16 * self.row_bytes // 64) * 64

    @property
    def page_bytes(self) -> int:
        """A whole page."""
        return self.ids_at + 16 * 12 + 16 * 8 * len(self.kinds)


@triton.jit
def rows_of(origin_ptr, page, lane, dim, ITEM: tl.constexpr):
    """The place of the first components of lanes, in pages at these addresses."""
    first = origin_ptr.to(tl.pointer_type(ITEM), bitcast=True)
    return first + page * (128 // ITEM.primitive_bitwidth) + lane * dim


@triton.jit
def ids_of(origin_ptr, page, lane, ids_at):
    """The place of the ids of lanes."""
    return origin_ptr + page * 2 + ids_at // 8 + lane


@triton.jit
def norms_of(origin_ptr, page, lane, ids_at):
    """The place of the norms of lanes."""
    first = origin_ptr.to(tl.pointer_type(tl.float32), bitcast=True)
    return first + page * 4 + ids_at // 4 + 32 + lane


@triton.jit
def cells_of(origin_ptr, page, lane, column, ids_at):
    """The place of the cells of lanes in a column."""
    return origin_ptr + page * 2 + ids_at // 8 + 24 + column * 16 + lane


@triton.jit
def write_kernel(
    origin_ptr,
    directory_ptr,
    slots_ptr,
    rows_ptr,
    ids_ptr,
    cells_ptr,
    n_rows,
    n_slots,
    n_columns,
    dim,
    ids_at,
    ITEM: tl.constexpr,
    N: tl.constexpr,
):
    """Write n_rows rows with their ids, cells and norms to the first slots; wipe the others.

    Args beside sizes:
        origin_ptr: int64, what addresses count from.
        directory_ptr: (n_pages,) int64, the address of each page.
        slots_ptr: (n_slots,) int64, page * 16 + lane.
        rows_ptr: (n_rows, dim); ids_ptr: (n_rows,); cells_ptr: (n_columns, n_rows).
    """
    i = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    is_slot = i < n_slots
    is_row = i < n_rows
    slot = tl.load(slots_ptr + i, mask=is_slot, other=0)
    lane = slot % LANES
    page = tl.load(directory_ptr + slot // LANES, mask=is_slot, other=0)
    row = rows_of(origin_ptr, page, lane, dim, ITEM)
    lanes = tl.zeros((N, 16), tl.float32)
    for begin in range(0, dim, 16):
        column = begin + tl.arange(0, 16)
        inside = (column < dim)[None, :]
        x = tl.load(
            rows_ptr + i[:, None] * dim + column[None, :], mask=is_row[:, None] & inside, other=0
        )
        tl.store(row[:, None] + column[None, :], x, mask=is_slot[:, None] & inside)
        wide = x.to(tl.float32)
        lanes = lanes + wide * wide
    tl.store(norms_of(origin_ptr, page, lane, ids_at), tl.sqrt_rn(fold(lanes, N)), mask=is_slot)
    id = tl.load(ids_ptr + i, mask=is_row, other=-1)
    tl.store(ids_of(origin_ptr, page, lane, ids_at), id, mask=is_slot)
    for column in range(0, n_columns):
        cell = tl.load(cells_ptr + i + (i * 0 + column) * n_rows, mask=is_row, other=0)
        tl.store(cells_of(origin_ptr, page, lane, column, ids_at), cell, mask=is_slot)


@triton.jit
def copy_kernel(origin_ptr, directory_ptr, copies_ptr, n_words, N: tl.constexpr):
    """Copy whole pages, of n_words int64: copies_ptr (n, 2) says from which to which."""
    copy = tl.program_id(0).to(tl.int64)
    source = tl.load(directory_ptr + tl.load(copies_ptr + 2 * copy))
    target = tl.load(directory_ptr + tl.load(copies_ptr + 2 * copy + 1))
    word = tl.program_id(1) * N + tl.arange(0, N)
    x = tl.load(origin_ptr + source * 2 + word, mask=word < n_words, other=0)
    tl.store(origin_ptr + target * 2 + word, x, mask=word < n_words)


@triton.jit
def move_kernel(
    origin_ptr,
    directory_ptr,
    moves_ptr,
    n_moves,
    n_columns,
    dim,
    ids_at,
    ITEM: tl.constexpr,
    N: tl.constexpr,
):
    """Copy rows with their ids, norms and cells from slot to slot: moves_ptr (n_moves, 2) int64."""
    i = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    is_move = i < n_moves
    source = tl.load(moves_ptr + 2 * i, mask=is_move, other=0)
    target = tl.load(moves_ptr + 2 * i + 1, mask=is_move, other=0)
    from_lane, to_lane = source % LANES, target % LANES
    from_page = tl.load(directory_ptr + source // LANES, mask=is_move, other=0)
    to_page = tl.load(directory_ptr + target // LANES, mask=is_move, other=0)
    from_row = rows_of(origin_ptr, from_page, from_lane, dim, ITEM)
    to_row = rows_of(origin_ptr, to_page, to_lane, dim, ITEM)
    for begin in range(0, dim, 64):
        column = begin + tl.arange(0, 64)[None, :]
        inside = is_move[:, None] & (column < dim)
        x = tl.load(from_row[:, None] + column, mask=inside, other=0)
        tl.store(to_row[:, None] + column, x, mask=inside)
    id = tl.load(ids_of(origin_ptr, from_page, from_lane, ids_at), mask=is_move, other=0)
    tl.store(ids_of(origin_ptr, to_page, to_lane, ids_at), id, mask=is_move)
    norm = tl.load(norms_of(origin_ptr, from_page, from_lane, ids_at), mask=is_move, other=0)
    tl.store(norms_of(origin_ptr, to_page, to_lane, ids_at), norm, mask=is_move)
    for column in range(0, n_columns):
        from_cell = cells_of(origin_ptr, from_page, from_lane, column, ids_at)
        cell = tl.load(from_cell, mask=is_move, other=0)
        tl.store(cells_of(origin_ptr, to_page, to_lane, column, ids_at), cell, mask=is_move)


def write_pages(
    layout: Layout,
    origin: torch.Tensor,
    directory: torch.Tensor,
    slots: torch.Tensor,
    ids: torch.Tensor,
    cells: torch.Tensor,
    rows: torch.Tensor,
) -> None:
    """Write n rows to the first n slots, and wipe the rest of slots.

    Args:
        layout: of the pages.
        origin: what addresses count from.
        directory: (n_pages,) int64, the address of each page.
        slots: (n_slots,) int64, page * 16 + lane.
        ids: (n,) int64.
        cells: (n_columns, n) int64.
        rows: (n, row_bytes) uint8.
    """
    if len(slots):
        # A view of no rows has no type to start with.
        item = getattr(torch, layout.dtype)
        rows = rows.view(item) if len(ids) else ids.new_zeros(1, dtype=item)
        write_kernel[(triton.cdiv(len(slots), 16),)](
            origin,
            directory,
            slots,
            rows,
            ids,
            cells,
            len(ids),
            len(slots),
            len(layout.kinds),
            layout.dim,
            layout.ids_at,
            ITEM=layout.item,
            N=16,
            enable_fp_fusion=False,
        )


def copy_pages(
    layout: Layout, origin: torch.Tensor, directory: torch.Tensor, copies: torch.Tensor
) -> None:
    """Copy pages: copies (n, 2) int64, from which to which; none is both."""
    n_words = layout.page_bytes // 8
    if len(copies):
        grid = (len(copies), triton.cdiv(n_words, 1024))
        copy_kernel[grid](origin, directory, copies, n_words, N=1024)


def move_rows(
    layout: Layout, origin: torch.Tensor, directory: torch.Tensor, moves: torch.Tensor
) -> None:
    """Copy rows: moves (n, 2) int64, from which slot to which; none is both."""
    if len(moves):
        move_kernel[(triton.cdiv(len(moves), 16),)](
            origin,
            directory,
            moves,
            len(moves),
            len(layout.kinds),
            layout.dim,
            layout.ids_at,
            ITEM=layout.item,
            N=16,
        )

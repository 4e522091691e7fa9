"""What goes together as one argument of a kernel: tuples of tensors, strides and numbers.

Kernels name the parts (`queries.stride`). Triton specialises each of them as if it stood alone, and
None, or an integer that is 1, is no argument at all.
"""

from typing import NamedTuple

import torch


class Matrix(NamedTuple):
    """Rows (n, dim), where they lie.

    Attributes:
        ptr: the first of them.
        row_stride: from row to row.
        stride: from component to component; None where rows are tables of scores, see
            `coded.tables`.
    """

    ptr: torch.Tensor
    row_stride: int
    stride: int | None

    @classmethod
    def of(cls, rows: torch.Tensor) -> "Matrix":
        """A tensor's."""
        return cls(rows, *rows.stride())


class PagesView(NamedTuple):
    """Pages of rows, where they lie and what is in one.

    Attributes:
        root: (4,) int64: the address of heads (n_banks, 3), n_banks, the addresses of the tables
            and of the directory. Addresses of pages count from it.
        ids_at: where the ids of a page begin, in bytes.
        kinds: (n_columns,) int64, or None where no column is read.
        books: (2,) int64, the root of the books of codes; None for plain rows.
        book_column: the column of the number of a row's book, or None.
    """

    root: torch.Tensor
    ids_at: int
    kinds: torch.Tensor | None
    books: torch.Tensor | None
    book_column: int | None


class ProgramsView(NamedTuple):
    """Programs of conditions, see `limits.Conditions`."""

    steps: torch.Tensor
    constants: torch.Tensor
    ends: torch.Tensor
    index: torch.Tensor


class LimitsView(NamedTuple):
    """What narrows or weighs a search of pages, see `limits.Limits`."""

    programs: ProgramsView | None
    candidates: torch.Tensor | None
    n_candidates: int
    scale: int | None
    bias: int | None
    low: float
    high: float

"""How launchers hand rows with leading axes to kernels."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton.language as tl

# Programs on the second or the third axis of a grid.
_MOST_ON_AXIS = 65_535


class Batches(NamedTuple):
    """Rows (…, n, dim) of batches over two axes, outer and inner, components side by side.

    Attributes:
        ptr: the first of them.
        outer: from batch to batch along the outer axis; inner: along the inner.
        stride: from row to row.
    """

    ptr: torch.Tensor
    outer: int
    inner: int
    stride: int


class AttentionView(NamedTuple):
    """What attention is over.

    Attributes:
        queries: (n_queries, dim) of each batch, as what follows.
        keys: (n_keys, dim).
        contents: (n_keys, value_dim), the values; or None. (A tuple of Triton has `values`.)
        beta: (n_batches,).
        bias: (1, n_keys), or None.
        mask: (n_queries, n_keys) bool, True for keys that count; or None.
        exclude: (n_batches, n_queries) int64, one key that does not count; or None.
        inner: the size of the inner axis of batches; sizes follow.
    """

    queries: Batches
    keys: Batches
    contents: Batches | None
    beta: torch.Tensor
    bias: Batches | None
    mask: Batches | None
    exclude: torch.Tensor | None
    inner: int
    n_batches: int
    n_queries: int
    n_keys: int
    dim: int
    value_dim: int


@dataclass(frozen=True)
class Rows:
    """Rows (…, n, dim), components side by side, as a pointer and the strides of two leading axes.

    Attributes:
        tensor: (outer, inner, n, dim), a view wherever the leading axes are at most two.
    """

    tensor: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> "Rows":
        """The rows as they lie; a copy only where components or more than two axes demand it."""
        rows = rows if rows.stride(-1) == 1 or rows.shape[-1] == 1 else rows.contiguous()
        lead = rows.shape[:-2]
        outer = 1
        for size in lead[:-1]:
            outer *= size
        inner = lead[-1] if lead else 1
        return cls(rows.reshape(outer, inner, *rows.shape[-2:]))

    @property
    def given(self) -> Batches:
        """What a kernel takes: the tensor, its strides from batch to batch and from row to row."""
        return Batches(self.tensor, *self.tensor.stride()[:3])

    @property
    def inner(self) -> int:
        """The size of the last leading axis."""
        return int(self.tensor.shape[1])

    @property
    def n_batches(self) -> int:
        """Of both leading axes."""
        return int(self.tensor.shape[0] * self.tensor.shape[1])

    @property
    def n(self) -> int:
        """Rows of a batch."""
        return int(self.tensor.shape[2])

    @property
    def dim(self) -> int:
        """Components of a row."""
        return int(self.tensor.shape[3])


def near(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, dim) whose components lie within 2^31 of each other, as kernels count; else a copy.

    So far apart are those of a large array that is transposed.
    """
    return rows.contiguous() if rows.shape[1] * rows.stride(1) >= 1 << 31 else rows


def grid_of(n_rows: int, n_tiles: int) -> tuple[int, int, int]:
    """A grid of a program for each row and tile, of which there may be more than an axis takes.

    A kernel's tile is the place on the second axis, plus that on the third times the second's
    length; the last tiles may be beyond n_tiles.
    """
    turns = max(1, -(-n_tiles // _MOST_ON_AXIS))
    return n_rows, -(-n_tiles // turns), turns


def over(
    queries: Rows,
    keys: Rows,
    values: Rows | None,
    beta: torch.Tensor,
    bias: Rows | None,
    mask: Rows | None,
    exclude: torch.Tensor | None,
) -> AttentionView:
    """What attention is over, as kernels take it."""
    return AttentionView(
        queries.given,
        keys.given,
        None if values is None else values.given,
        beta.contiguous(),
        None if bias is None else bias.given,
        None if mask is None else mask.given,
        None if exclude is None else exclude.contiguous(),
        queries.inner,
        queries.n_batches,
        queries.n,
        keys.n,
        queries.dim,
        0 if values is None else values.dim,
    )


def of_two(array: torch.Tensor) -> tl.dtype:
    """In which of the two widths products with this result are made."""
    return tl.float64 if array.dtype is torch.float64 else tl.float32

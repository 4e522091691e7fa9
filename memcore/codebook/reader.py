"""How a book reads the vectors and codes of a caller, and in which library it answers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, tensors
from memcore.errors import ShapeError
from memcore.ops import codebook as ops
from memcore.ops.codebook_device import takes

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reader:
    """Arrays in and out of a book, checked, and brought to where the book lies.

    Attributes:
        dim: components of a vector.
        n_parts: codes of a vector.
        n_codes: codewords in each part.
        is_residual: whether a level quantises what another leaves, which is float32.
        place: the torch device of the book; None for the host.
    """

    dim: int
    n_parts: int
    n_codes: int
    is_residual: bool
    place: Any = None

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """The smallest dtype that holds a code: uint8, uint16 or uint32."""
        return np.dtype(np.min_scalar_type(self.n_codes - 1))

    def rows(self, op: str, vectors: Any) -> Any:
        """Vectors as rows (n, dim) of an engine's dtype, where they lie; errors name op."""
        if self.place is not None and not tensors.lies_on(self.place, vectors):
            given = self._host_rows(op, vectors)
            return tensors.library(op).as_tensor(given, device=self.place)
        if self.place is not None or takes(vectors):
            given = tensors.vectors(op, "vectors", vectors)
            given = given[None] if given.ndim == 1 else given
            self._check_rows(op, given)
            return given.float() if self.is_residual else given
        return self._host_rows(op, vectors)

    def codes(self, op: str, codes: Any) -> Ints:
        """Codes (n, n_parts) on the host, each one of the book's; errors name op."""
        named: Ints = self.shaped(op, arrays.ints(op, "codes", codes))
        ops.check_codes(op, named, self.n_codes)
        return named

    def shaped(self, op: str, codes: Any) -> Any:
        """Codes on either side, if they are (n, n_parts)."""
        shape = tuple(codes.shape)
        if len(shape) != 2 or shape[1] != self.n_parts:
            raise ShapeError(f"{op}: codes has shape {shape}, should be (n, {self.n_parts})")
        return codes

    def codes_there(self, op: str, codes: Any) -> Any:
        """Codes where the book lies: those of the host checked, those of a device as they are."""
        if self.place is not None:
            return self._there(codes, lambda: self.codes(op, codes))
        return codes if takes(codes) else self.codes(op, codes)

    def compact(self, op: str, codes: Any) -> Any:
        """As `codes_there`, in the smallest dtype."""
        if self.place is not None or takes(codes):
            return tensors.codes(op, "codes", self.codes_there(op, codes), self.code_dtype.name)
        if isinstance(codes, np.ndarray) and codes.dtype == self.code_dtype and codes.ndim == 2:
            return codes
        return self.codes(op, codes).astype(self.code_dtype)

    def like(self, given: Any, result: Any) -> Any:
        """A result in the library of what was given, where that lies."""
        if isinstance(result, np.ndarray):
            return arrays.like(given, result)
        if self.place is None or tensors.lies_on(self.place, given):
            return tensors.like(given, result)
        return arrays.like(given, result.cpu().numpy())

    def _host_rows(self, op: str, vectors: Any) -> NDArray[Any]:
        rows, dtype = arrays.vectors(op, "vectors", vectors)
        if rows.ndim == 1:
            rows = rows[None]
        self._check_rows(op, rows)
        # Residuals are float32, and NumPy has no bfloat16; all else is read where it lies.
        if dtype == "bfloat16" or (dtype != "float32" and self.is_residual):
            rows = arrays.floats(op, "vectors", vectors).reshape(rows.shape)
        return rows

    def _check_rows(self, op: str, rows: Any) -> None:
        shape = tuple(rows.shape)
        if len(shape) != 2 or shape[1] != self.dim:
            raise ShapeError(f"{op}: vectors has shape {shape}, should be (n, {self.dim})")

    def _there(self, given: Any, checked: Callable[[], NDArray[Any]]) -> Any:
        if tensors.lies_on(self.place, given):
            return given
        return tensors.library("to").as_tensor(checked(), device=self.place)

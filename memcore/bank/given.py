"""Vectors of a write that lie on the device already: the mirror takes them from there.

The host reads them all the same, since its store is the truth: what may not be stored is refused by
then. They are rounded to the stored dtype on the device, to the same bits as on the host.
"""

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]


class Given:
    """The vectors of one write at a time. For who holds the mirror's section, but for `note`."""

    def __init__(self, torch: Any, device: Any, dim: int) -> None:
        """Know of none.

        Args:
            torch: the module.
            device: the mirror's.
            dim: components of a vector.
        """
        self._torch = torch
        self._device = device
        self._dim = dim
        # What the host reads, and the tensor that it is a copy of; nobody is kept alive.
        self._noted: tuple[Any, Any] | None = None
        self.forget()

    def note(self, rows: Array, vectors: Any) -> None:
        """Remember that rows (n, dim), as native code is to read them, are a copy of vectors."""
        torch = self._torch
        floats = (torch.float32, torch.float16, torch.bfloat16)
        self._noted = None
        if not isinstance(vectors, torch.Tensor) or vectors.device != self._device:
            return
        # Others are rounded twice on their way by torch, and once by the host.
        if vectors.dtype in floats and vectors.ndim and vectors.shape[-1] == self._dim:
            self._noted = (weakref.ref(rows), weakref.ref(vectors))

    def forget(self) -> None:
        """Offer nothing: what was offered may be written again."""
        self._vectors: Any = None
        self._slots = self._rows = np.zeros(0, np.int64)

    def noted(self, rows: Any) -> Any:
        """The matrix on the device that these very rows are a copy of, or None."""
        noted = self._noted
        if noted is None or rows is None or noted[0]() is not rows:
            return None
        vectors = noted[1]()
        try:
            return None if vectors is None else vectors.detach().view(-1, self._dim)
        except RuntimeError:
            # Only a copy of it is a matrix.
            return None

    def offer(self, vectors: Any, slots: Ints) -> None:
        """The rows of a matrix are in slots (n,) now, -1 for those that are in none."""
        rows = np.argsort(slots)
        rows = rows[slots[rows] >= 0]
        self._vectors, self._slots, self._rows = vectors, slots[rows], rows

    def take(self, slots: Ints) -> tuple[Ints, Any]:
        """The rows of the vectors that were written to slots (n,), -1 for others; the vectors."""
        vectors, held, rows = self._vectors, self._slots, self._rows
        self.forget()
        if vectors is None or not len(held):
            return np.full(len(slots), -1), None
        place = np.minimum(np.searchsorted(held, slots), len(held) - 1)
        return np.where(held[place] == slots, rows[place], -1), vectors

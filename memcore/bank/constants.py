"""Small arrays of the host that searches repeat, kept on a device: handles, programs of conditions.

What is repeated is sent once; and a CUDA graph, which reads the same memory at each replay, can be
captured with it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# What is kept at most: so many arrays, of so many bytes each.
_MOST = 1024
_MOST_BYTES = 1 << 13


class Constants:
    """Tensors by what is in them."""

    def __init__(self, torch: Any, device: Any, turns: Any) -> None:
        """Know of none.

        Args:
            torch: the module.
            device: a torch device.
            turns: the order of what reads and what writes there.
        """
        self._torch = torch
        self._device = device
        self._turns = turns
        self._seen: set[Any] = set()
        self._known: dict[Any, Any] = {}
        # Replays read these for as long as there are graphs, and nobody tells when those end.
        self._captured: dict[Any, Any] = {}

    def of(self, array: NDArray[Any]) -> Any:
        """The array on the device, or None where it is not worth keeping, or not known yet.

        A single number is kept at its first sight, an array at its second: keeping one waits.
        """
        if array.nbytes > _MOST_BYTES:
            return None
        key = (array.dtype.char, array.shape, array.tobytes())
        known = self._captured.get(key)
        if known is None:
            known = self._known.get(key)
        if self._turns.is_capturing:
            if known is not None:
                self._captured[key] = known
            return known
        if known is None and (array.size == 1 or key in self._seen):
            known = self._keep(key, array)
        elif known is None:
            if len(self._seen) >= _MOST:
                self._seen.clear()
            self._seen.add(key)
        return known

    def forget(self) -> None:
        """Let go of all that no graph reads, when nothing is under way."""
        self._known, self._seen = {}, set()

    def _keep(self, key: Any, array: NDArray[Any]) -> Any:
        # It is read on any stream, and the memory of what is let go is used again.
        with self._turns.writing():
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = self._torch.tensor(np.ascontiguousarray(array), device=self._device)
        return self._known[key]

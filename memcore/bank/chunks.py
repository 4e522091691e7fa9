"""Memory for pages on a device: chunks that never move, and the address of each page in them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]

# Bytes of the first chunks, and of those that follow many.
_FIRST_CHUNK, _LAST_CHUNK = 1 << 18, 1 << 26


class Chunks:
    """Chunks, and which page has which place in them.

    Attributes:
        addresses: (n_pages,) int64, by page: its address, in units of 16 bytes from the root; 0 for
            a page that has none.
        n_most: pages that there may be.
    """

    def __init__(self, torch: Any, device: Any, root: Any, page_bytes: int) -> None:
        """Hold nothing.

        Args:
            torch: the module.
            device: a torch device.
            root: a tensor there, what addresses count from.
            page_bytes: of a page.
        """
        self._torch = torch
        self._device = device
        self._origin = root.data_ptr()
        self._page_bytes = page_bytes
        self.clear(0)

    def clear(self, n_most: int) -> None:
        """Give all memory back, and hold at most so many pages from now on."""
        self.n_most = n_most
        self.addresses = np.zeros(64, np.int64)
        self._chunks: list[Any] = []
        self._free: list[int] = []
        self._n_made = 0
        self._moved: list[Ints] = []

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory."""
        return sum(map(len, self._chunks))

    @property
    def have_moved(self) -> bool:
        """Whether `take_moved` has something to give."""
        return bool(self._moved)

    def know(self, n_pages: int) -> None:
        """Have addresses of so many pages."""
        self.addresses = grown(self.addresses, n_pages)

    def place(self, pages: Ints) -> int:
        """Give pages an address, from the first on; how many got one."""
        while len(self._free) < len(pages) and self._n_made < self.n_most:
            self._add_chunk(len(pages) - len(self._free))
        n = min(len(self._free), len(pages))
        if n:
            self.addresses[pages[:n]] = self._free[-n:]
            del self._free[-n:]
            self._moved.append(pages[:n])
        return n

    def keep(self, pages: Ints) -> None:
        """Take their addresses from all other pages."""
        gone = self.addresses != 0
        gone[pages] = False
        self._free += self.addresses[gone].tolist()
        self.addresses[gone] = 0
        self._moved.append(np.flatnonzero(gone))

    def take_moved(self) -> Ints:
        """The pages whose addresses have changed since this was called."""
        moved = np.unique(np.concatenate([np.zeros(0, np.int64), *self._moved]))
        self._moved = []
        return moved

    def _add_chunk(self, n_wanted: int) -> None:
        """Make room for more pages, twice as many each time; or see that there is no memory."""
        page_bytes = self._page_bytes
        n_left = self.n_most - self._n_made
        ample = max(_FIRST_CHUNK // page_bytes, min(self._n_made, _LAST_CHUNK // page_bytes))
        for n in (min(max(n_wanted, ample), n_left), min(n_wanted, n_left)):
            try:
                chunk = self._torch.zeros(
                    n * page_bytes, dtype=self._torch.uint8, device=self._device
                )
            except self._torch.OutOfMemoryError:
                continue
            self._chunks.append(chunk)
            begin, size = (chunk.data_ptr() - self._origin) // 16, page_bytes // 16
            self._free += range(begin + (n - 1) * size, begin - size, -size)
            self._n_made += n
            return
        self.n_most = self._n_made


def grown(array: Array, n: int) -> Array:
    """An array with room for n entries, zero where they are new."""
    if len(array) >= n:
        return array
    longer = np.zeros((max(n, 2 * len(array)), *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer

"""Arrays on a device that grow, where the driver offers it, without being copied.

A large one lies in a range of addresses of its own, and memory is put behind more of them as it
grows: what was launched before sees what it saw, where it saw it. Small ones, and all where the
driver refuses, are tensors of torch that are copied into longer ones.
"""

import math
import weakref
from contextlib import suppress
from typing import Any

import numpy as np

from memcore.bank.driver import Driver, DriverError
from memcore.bank.turns import Turns

# Addresses of one array; a longer one is copied.
_MOST_BYTES = 1 << 31


class Range:
    """Addresses of a device's memory, with memory behind the first of them.

    When it is collected, what is under way ends first.
    """

    def __init__(self, driver: Driver, turns: Turns) -> None:
        """Reserve addresses.

        Raises:
            DriverError: the driver refuses.
        """
        self._driver = driver
        # (address, bytes) of each piece of memory.
        self._backed: list[tuple[int, int]] = []
        self.n_bytes = 0
        self._n_most = _MOST_BYTES // driver.granule * driver.granule
        self.address = driver.reserve(self._n_most)
        given = (driver, turns, self.address, self._n_most, self._backed)
        weakref.finalize(self, _free, *given).atexit = False

    def reach(self, n_bytes: int) -> None:
        """Have memory behind so many bytes, or some more. The new holds anything.

        Raises:
            DriverError: there are no more addresses, or there is no memory.
        """
        granule = self._driver.granule
        n_more = -(-(n_bytes - self.n_bytes) // granule) * granule
        if self.n_bytes + n_more > self._n_most:
            raise DriverError("the range is too short")
        if n_more > 0:
            piece = (self.address + self.n_bytes, n_more)
            self._driver.back(*piece)
            self._backed.append(piece)
            self.n_bytes += n_more


class Growing:
    """An array (n, ...) on a device, zero where nobody has written.

    Attributes:
        data: the tensor, as long as it is by now.
    """

    def __init__(
        self, data: Any, device: Any, torch: Any, driver: Driver | None, turns: Turns
    ) -> None:
        """Begin with a tensor of zeros.

        Args:
            data: the tensor.
            device: where it lies.
            torch: the module.
            driver: of the device; without one, growing copies.
            turns: what the device does in that memory.
        """
        self.data = data
        self._device = device
        self._torch = torch
        self._driver = driver if driver is not None and driver.granule else None
        self._turns = turns
        self._range: Range | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory."""
        return int(self.data.numel() * self.data.element_size())

    def reserve(self, n: int) -> None:
        """Have room for n entries, by the current stream; what is there stays.

        Raises:
            torch.OutOfMemoryError: there is no room; nothing has changed.
        """
        n_before = len(self.data)
        if n <= n_before:
            return
        longer = self._in_range(max(n, n_before + n_before // 4))
        if longer is None:
            longer = self.data.new_zeros((max(n, 2 * n_before), *self.data.shape[1:]))
            self._range = None
        if longer.data_ptr() != self.data.data_ptr():
            longer[:n_before] = self.data
        self.data = longer

    def _in_range(self, n: int) -> Any:
        """As the first n entries of a range, or some more, zero where they are new; None if not."""
        entry_bytes = math.prod(self.data.shape[1:]) * self.data.element_size()
        if self._driver is None or n * entry_bytes < self._driver.granule:
            return None
        try:
            if self._range is None:
                self._range = Range(self._driver, self._turns)
            self._range.reach(n * entry_bytes)
            longer = self._seen(self._range, self._range.n_bytes // entry_bytes)
        except (DriverError, RuntimeError):
            # From now on it is copied.
            self._driver = None
            return None
        longer[len(self.data) :].zero_()
        return longer

    def _seen(self, held: Range, n: int) -> Any:
        """The first n entries of a range as a tensor, which keeps the range."""
        shape = (n, *self.data.shape[1:])
        memory = _Memory(held, shape, f"<i{self.data.element_size()}", self._device.type)
        if self._device.type == "cuda":
            return self._torch.as_tensor(memory, device=self._device)
        return self._torch.from_numpy(np.asarray(memory))


class _Memory:
    """What torch (on CUDA) and NumPy (where kernels are interpreted) see memory of a range by."""

    def __init__(self, held: Range, shape: tuple[int, ...], typestr: str, kind: str) -> None:
        self.held = held
        prefix = "cuda_" if kind == "cuda" else ""
        seen = {"data": (held.address, False), "shape": shape, "typestr": typestr, "version": 3}
        setattr(self, f"__{prefix}array_interface__", seen)


def _free(
    driver: Driver, turns: Turns, address: int, n_bytes: int, backed: list[tuple[int, int]]
) -> None:
    """Give a range back when nothing is under way; in a forked child, keep it."""
    with suppress(DriverError):
        with driver.context():
            turns.finish()
        driver.free(address, n_bytes, backed)

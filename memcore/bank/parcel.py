"""Arrays that travel to a device together: written into one pinned buffer, sent by one copy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LINE = 16


class Sender:
    """The buffer that parcels to one device share; one parcel is under way at a time."""

    def __init__(self, torch: Any, device: Any) -> None:
        """Make an empty buffer for a torch device."""
        self._torch = torch
        self._device = device
        self._buffer: Any = None

    def parcel(self, *wanted: tuple[tuple[int, ...], Any]) -> "Parcel":
        """Room for arrays of these shapes and dtypes. Its predecessor must have arrived."""
        sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in wanted]
        begins = np.cumsum([0, *(-(-size // _LINE) * _LINE for size in sizes)]).tolist()
        if self._buffer is None or len(self._buffer) < begins[-1]:
            self._buffer = self._torch.empty(
                max(1 << 12, begins[-1] + begins[-1] // 2),
                dtype=self._torch.uint8,
                pin_memory=self._device.type == "cuda",
            )
        raw = self._buffer.numpy()
        rooms = [
            raw[begin : begin + size].view(dtype).reshape(shape)
            for begin, size, (shape, dtype) in zip(begins, sizes, wanted, strict=False)
        ]
        return Parcel(self._buffer[: begins[-1]], begins, rooms, self._device)


class Parcel:
    """Some arrays in the buffer of a sender.

    Attributes:
        rooms: the arrays, to be filled.
    """

    def __init__(self, buffer: Any, begins: list[int], rooms: list[Array], device: Any) -> None:
        """Lay arrays out in a buffer; made by `Sender.parcel`."""
        self.rooms = rooms
        self._buffer = buffer
        self._begins = begins
        self._device = device

    def send(self) -> list[Any]:
        """The arrays as tensors on the device, int64 or bytes; the copy may still be under way."""
        import torch

        there = self._buffer.to(self._device, non_blocking=True)
        tensors = []
        for begin, room in zip(self._begins, self.rooms, strict=False):
            flat = there[begin : begin + room.nbytes]
            kind = torch.int64 if room.dtype == np.int64 else torch.uint8
            tensors.append(flat.view(kind).reshape(room.shape))
        return tensors

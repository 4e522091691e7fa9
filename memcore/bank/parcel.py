"""Arrays that travel to a device together: written into a pinned buffer, sent by one copy.

Two buffers take turns, so that one is filled while the other is on its way.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_LINE = 16
_LEAST = 1 << 12


class Sender:
    """The buffers that parcels to one device share. They grow to the largest parcel there was."""

    def __init__(self, torch: Any, device: Any) -> None:
        """Make empty buffers for a torch device."""
        self._torch = torch
        self._device = device
        self._buffers: list[Any] = [None, None]
        # When what was last written into each has been sent; None where nothing is under way.
        self._sent: list[Any] = [None, None]
        self._turn = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the host's memory that are pinned."""
        return sum(0 if buffer is None else len(buffer) for buffer in self._buffers)

    def parcel(self, *wanted: tuple[tuple[int, ...], Any]) -> "Parcel":
        """Room for arrays of these shapes and dtypes, once the last parcel but one has arrived."""
        self._turn = turn = 1 - self._turn
        sizes = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in wanted]
        begins = np.cumsum([0, *(-(-size // _LINE) * _LINE for size in sizes)]).tolist()
        if self._sent[turn] is not None:
            self._sent[turn].synchronize()
            self._sent[turn] = None
        buffer = self._buffers[turn]
        if buffer is None or len(buffer) < begins[-1]:
            self._buffers[turn] = buffer = self._torch.empty(
                max(_LEAST, begins[-1] + begins[-1] // 2),
                dtype=self._torch.uint8,
                pin_memory=self._device.type == "cuda",
            )
        raw = buffer.numpy()
        rooms = [
            raw[begin : begin + size].view(dtype).reshape(shape)
            for begin, size, (shape, dtype) in zip(begins, sizes, wanted, strict=False)
        ]
        return Parcel(self, buffer[: begins[-1]], begins, rooms)

    def send(self, buffer: Any) -> Any:
        """A buffer on the device, by the current stream; the copy may still be under way."""
        there = buffer.to(self._device, non_blocking=True, copy=True)
        if self._device.type == "cuda":
            self._sent[self._turn] = self._torch.cuda.Event()
            self._sent[self._turn].record()
        return there

    def forget(self) -> None:
        """Let the buffers go, when nothing is under way."""
        self._buffers, self._sent = [None, None], [None, None]


class Parcel:
    """Some arrays in a buffer of a sender.

    Attributes:
        rooms: the arrays, to be filled.
    """

    def __init__(self, sender: Sender, buffer: Any, begins: list[int], rooms: list[Array]) -> None:
        """Lay arrays out in a buffer; made by `Sender.parcel`."""
        self.rooms = rooms
        self._sender = sender
        self._buffer = buffer
        self._begins = begins

    def send(self) -> list[Any]:
        """The arrays as tensors on the device, int64 or bytes; the copy may still be under way."""
        import torch

        there = self._sender.send(self._buffer)
        tensors = []
        for begin, room in zip(self._begins, self.rooms, strict=False):
            flat = there[begin : begin + room.nbytes]
            kind = torch.int64 if room.dtype == np.int64 else torch.uint8
            tensors.append(flat.view(kind).reshape(room.shape))
        return tensors

"""Who goes first on a device: reads on the streams of their callers, writes on a stream apart.

A read leaves an event on its stream, and the next write waits for those events on the device, so
that the host waits once for a write: until what it sent is there. What reads launch is never waited
for. A graph that was captured may be replayed unseen, on any stream: from then on a write waits for
the whole device first.
"""

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from memcore.errors import BackendError


class Turns:
    """The order of reads and writes of what one mirror holds; for who holds its section.

    Without a GPU every launch is done when it returns, and there is nothing to order.

    Attributes:
        has_graph: a read was captured.
    """

    def __init__(self, torch: Any, device: Any, owner: Any) -> None:
        """Order what happens on a torch device.

        Args:
            torch: the module.
            device: a torch device.
            owner: holds the memory that is written; once it is collected, what is written by others
                in that memory still comes after the reads that are under way.
        """
        self._cuda = torch.cuda if device.type == "cuda" else None
        self._device = device
        self._own: Any = None
        self._reads: dict[int, Any] = {}
        # The end of a write that the host has not waited for.
        self._end: Any = None
        self.has_graph = False
        if self._cuda is not None:
            self._own = self._cuda.Stream(device)
            end = weakref.finalize(owner, _follow_here, os.getpid(), self._own, self._reads)
            end.atexit = False

    @property
    def is_capturing(self) -> bool:
        """Whether the current stream captures a CUDA graph."""
        return self._cuda is not None and bool(self._cuda.is_current_stream_capturing())

    def place(self) -> Any:
        """A context in which launches go to the device."""
        return nullcontext() if self._cuda is None else self._cuda.device(self._device)

    @contextmanager
    def reading(self, op: str) -> Iterator[None]:
        """Launch, on the current stream, what reads.

        Raises:
            BackendError: a graph is captured while banks that were prefetched are on their way.
        """
        if self._cuda is None:
            yield
            return
        if self.is_capturing:
            if self._end is not None:
                raise BackendError(
                    f"{op}: banks are on their way, should be searched before a graph is captured"
                )
            self.has_graph = True
            yield
            return
        stream = self._cuda.current_stream(self._device)
        if self._end is not None and self._end.query():
            self._end = None
        if self._end is not None:
            stream.wait_event(self._end)
        try:
            yield
        finally:
            if stream.cuda_stream not in self._reads:
                self._reads[stream.cuda_stream] = self._cuda.Event()
            self._reads[stream.cuda_stream].record(stream)

    @contextmanager
    def writing(self, waits: bool = True) -> Iterator[None]:
        """Launch what writes, after all reads that are under way.

        Args:
            waits: the host waits, at the end, until all of it is done. Otherwise the next read
                comes after it, on the device.
        """
        if self._cuda is None:
            yield
            return
        if self.has_graph:
            self.settle()
        _follow(self._own, self._reads)
        with self._cuda.stream(self._own):
            yield
        end = self._cuda.Event()
        end.record(self._own)
        self._end = end
        if waits or self.has_graph:
            end.synchronize()
            self._end = None

    def arrive(self) -> None:
        """Wait until what was written without a wait is there: until then it reads the host."""
        if self._end is not None:
            self._end.synchronize()
            self._end = None

    def finish(self) -> None:
        """Wait until the reads and writes that are under way are done, replays of graphs too."""
        if self.has_graph:
            self.settle()
        elif self._cuda is not None:
            _follow(self._own, self._reads)
            self._own.synchronize()

    def settle(self) -> None:
        """Wait until the device is idle."""
        if self._cuda is not None:
            self._cuda.synchronize(self._device)
            self._end = None


def _follow(stream: Any, reads: dict[int, Any]) -> None:
    """Have what a stream is given from now on come after these reads."""
    for event in reads.values():
        stream.wait_event(event)


def _follow_here(process: int, stream: Any, reads: dict[int, Any]) -> None:
    """As `_follow`, but in a forked child, where CUDA is not to be called, nothing."""
    if os.getpid() == process:
        _follow(stream, reads)

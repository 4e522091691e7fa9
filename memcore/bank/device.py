"""The page store of an arena on a device: written on the host, mirrored and searched there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import _core, scalars, tensors
from memcore.bank import device_search
from memcore.bank.mirror import Mirror
from memcore.codebook import CodePages
from memcore.errors import BackendError, InputError, ShapeError, in_name_of, in_room

Array = NDArray[Any]
Ints = NDArray[np.int64]

# The writes of the page store that a mirror has to follow, and the ops that they are called by.
_WRITES = {name: name for name in ("new", "add", "update", "delete", "fork")}
_WRITES |= {"copy_from": "rollback", "recode": "recode"}


def place(device: Any, budget: Any) -> Any:
    """The torch device that an arena asks for, None for the cpu.

    Args:
        device: "cpu", "cuda", or "cuda:1" and so on, or torch's own device.
        budget: bytes of the device's memory for pages, or None for all that there is.

    Raises:
        BackendError: there is no such device, or what runs kernels there is not installed.
        InputError, DtypeError: a budget that is none, or that is given on the cpu.
    """
    device = str(device)
    if device == "cpu":
        if budget is not None:
            raise InputError("Arena: device_bytes is given, should be None on the cpu")
        return None
    if not re.fullmatch("cuda(:[0-9]+)?", device):
        raise BackendError(f"Arena: device is {device!r}, should be 'cpu' or 'cuda'")
    if budget is not None:
        scalars.whole("Arena", "device_bytes", budget, 0)
    return tensors.place_for("Arena", device)


def pages(
    place: Any, budget: int | None, dim: int | None, dtype: str, metric: str, kinds: list[str]
) -> "DevicePages":
    """The store of an arena's rows on a torch device; the rest as `index.pages` takes it."""
    if dim is None:
        raise InputError("Arena: dim is None, should be an int on a device")
    store = _core.Pages(dim, dtype, metric, kinds)
    return DevicePages(store, Mirror(store, dim, dtype, kinds, place, budget), metric)


def code_pages(place: Any, budget: int | None, store: CodePages, metric: str) -> "DevicePages":
    """A store of codes, with a mirror on a torch device of the cells that codes are."""
    return DevicePages(store, Mirror(*store.native, place, budget, store), metric)


class DevicePages:
    """The methods of the page store, with a mirror on a device that follows every write.

    What the device does not hold or cannot do, the host's engine does, with the same result: banks
    beyond the budget, conditions that are nested too deep, `get` and `score`.

    Attributes:
        host: the native store, or the store of codes over it.
        metric: "dot", "cosine" or "l2".
        mirror: the copy on the device.
    """

    def __init__(self, store: Any, mirror: Mirror, metric: str) -> None:
        """Stand for a store of the host and its mirror."""
        self.host = store
        self.metric = metric
        self.mirror = mirror
        self._n_together = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.host, name)
        return partial(self._write, _WRITES[name], method) if name in _WRITES else method

    def drop(self, handles: Ints) -> None:
        """As the page store; while a CUDA graph is captured too, since marks are collected then."""
        with self.together():
            # A capture may not wait, and nobody misses what a fetch may find here.
            if not self.mirror.is_capturing:
                self.mirror.turns.arrive()
            self.mirror.given.forget()
            self.host.drop(handles)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run alone, and have the mirror follow all writes of a block at its end."""
        with self.mirror.section():
            self._n_together += 1
            try:
                yield
            finally:
                self._n_together -= 1
                # Whatever was raised: what has changed on the host changes there.
                if not self._n_together:
                    self.mirror.follow()
                    self.mirror.given.forget()

    @property
    def device_nbytes(self) -> int:
        """Bytes of the device's memory that are held."""
        return self.mirror.nbytes

    def compact(self) -> None:
        """Give memory back, here and there: what is mirrored is copied anew."""
        with self.mirror.section():
            self.mirror.check_writable("compact")
            self.mirror.let_go()
            self.host.compact()
            self.mirror.rebuild()

    def prefetch(self, handles: Ints) -> None:
        """Have banks on the device, as far as they fit; nothing waits for them."""
        with in_room("prefetch"), self.mirror.section():
            self.mirror.check_writable("prefetch")
            with in_name_of("prefetch"):
                self.host.count(handles)
            self.mirror.bring(handles)

    def _write(self, op: str, method: Any, *given: Any, **named: Any) -> Any:
        with self.mirror.section():
            self.mirror.check_writable(op)
            # The device may be reading the host's rows.
            self.mirror.turns.arrive()
            self.mirror.given.forget()
            with self.together():
                result = method(*given, **named)
                if op in ("add", "update"):
                    self._offer(given[0], result if op == "add" else given[1], given[2])
                return result

    def _offer(self, handles: Ints, ids: Ints, rows: Any) -> None:
        """Have the mirror take rows that were written from the tensor that they were given as."""
        vectors = self.mirror.given.noted(rows)
        if vectors is None:
            return
        # They have been written: without memory they are sent.
        with suppress(MemoryError):
            owners = np.ascontiguousarray(np.broadcast_to(handles, ids.shape))
            slots = self.host.find_slots(owners, np.ascontiguousarray(ids))
            self.mirror.given.offer(vectors, slots)

    def search_plain(self, *_: Any) -> None:
        """No call is short enough to go a way of its own."""

    def search(
        self, handles: Any, queries: Any, k: Any, programs: Any, index: Any, candidates: Any,
        scale: Any, bias: Any, low: float, high: float, first_pass: Any, scores: Any, ids: Any,
    ) -> None:  # fmt: skip
        """As the page store, over arrays of NumPy, or over tensors on the device.

        Queries of NumPy wait for the device. Tensors do not, as long as all banks are there.
        """
        limits = (programs, index, candidates, scale, bias, low, high)
        given = (handles, queries, k, limits, first_pass, scores, ids)
        with in_room("search"):
            if not self.search_there(*given):
                self.search_here(self.host.search, self.host.alive, *given)

    def search_there(
        self, handles: Any, queries: Any, k: Any, limits: tuple[Any, ...], first_pass: Any,
        scores: Any, ids: Any,
    ) -> bool:  # fmt: skip
        """Search on the device, unless the host must; whether it has.

        Args:
            handles: one for each query, or one for all; or (n_queries, n_lists), the banks of each,
                no two of which share an id; -1 pads.
            queries: as `search` takes them, as the rest.
            k: likewise.
            limits: the conditions, their index, candidates, scale, bias, and both bounds.
            first_pass: as the page store takes it.
            scores: of NumPy, or on the device.
            ids: likewise.
        """
        mirror = self.mirror
        with mirror.section():
            dim = mirror.layout.vector_dim
            if queries.shape[1] != dim:
                raise ShapeError(f"search: queries has dim {queries.shape[1]}, should be {dim}")
            given = (handles, queries, k, limits, first_pass, scores, ids)
            is_there = self.are_there("search", handles)
            return is_there and device_search.search_there(mirror, self.metric, *given)

    search_here = staticmethod(device_search.search_here)

    def there(self, op: str, handles: Any) -> Any:
        """Handles on the device, or None if not all banks that are named are there.

        One for each row of a call or for all of them; or (n, n_lists) or (1, n_lists), of several
        banks each, among which the rows are divided.
        """
        if not self.are_there(op, handles):
            return None
        is_here = isinstance(handles, np.ndarray)
        return self.mirror.repeated(handles.reshape(-1)) if is_here else handles

    def are_there(self, op: str, handles: Any) -> bool:
        """Whether all banks that are named are on the device, fetched there if need be.

        Raises:
            NotFoundError: a handle that the host can see names no bank.
            BackendError: a graph is captured, and some are not there.
        """
        if self.mirror.is_behind:
            self.mirror.follow()
        is_there = self.mirror.bring(self._named(op, handles))
        if not is_there and self.mirror.is_capturing:
            raise BackendError(
                f"{op}: not all banks are on the device, should be before a graph is captured"
            )
        return is_there

    def _named(self, op: str, handles: Any) -> Ints:
        """The live banks that are named, as far as the host needs to know them."""
        if isinstance(handles, np.ndarray):
            with in_name_of(op):
                self.host.count(handles)
            return handles
        if not self.mirror.is_limited or self.mirror.is_capturing:
            return np.zeros(0, np.int64)
        named: Ints = handles.cpu().numpy().reshape(-1)
        alive: Ints = named[self.host.alive(named)]
        return alive

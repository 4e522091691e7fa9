"""The page store of an arena on a device: written on the host, mirrored and searched there."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import _core, arrays, tensors
from memcore.bank import device_conditions
from memcore.bank.mirror import Mirror
from memcore.codebook import CodePages
from memcore.errors import BackendError, InputError, ShapeError, in_name_of
from memcore.ops import arguments
from memcore.reference import MAX_SQUARE, squares, widen

Array = NDArray[Any]
Ints = NDArray[np.int64]

# The writes of the page store that a mirror has to follow, and the ops that they are called by.
_WRITES = {name: name for name in ("new", "add", "update", "delete", "fork")}
_WRITES |= {"copy_from": "rollback", "recode": "recode"}
# Above it all scores are sorted: in grids that depend on the length of banks, which a replay may
# find changed.
_MOST_KEPT = 256


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
        arguments.whole("Arena", "device_bytes", budget, 0)
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
        with self.mirror.section():
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
        with self.mirror.section():
            return self._search_there(handles, queries, k, limits, first_pass, scores, ids)

    def search_here(
        self, search: Callable[..., None], alive: Callable[[Ints], Any], handles: Any,
        queries: Any, k: Any, limits: tuple[Any, ...], first_pass: Any, scores: Any, ids: Any,
        *effort: Any,
    ) -> None:  # fmt: skip
        """Search by a store of the host; tensors get what the device would give them.

        Args:
            search: a method of that store, as of the page store.
            alive: likewise.
            handles: one for each query, or one for all.
            queries: as for `search_there`, as all that follows.
            k: likewise.
            limits: likewise.
            first_pass: likewise.
            scores: likewise.
            ids: likewise.
            effort: what else the store is told.
        """
        if isinstance(scores, np.ndarray):
            search(handles, queries, k, *limits, first_pass, scores, ids, *effort)
            return
        torch = tensors.library("search")
        programs, index, candidates, *rest = limits
        handles, queries, candidates = map(_near, (handles, queries, candidates))
        found = np.full(scores.shape, -np.inf, np.float32), np.full(ids.shape, -1)
        # What it refuses by its value finds nothing.
        sound = squares(widen(queries)) <= MAX_SQUARE
        sound &= np.broadcast_to(alive(handles), sound.shape)
        parts = (k, index, candidates, *effort)
        some = [each if np.ndim(each) == 0 else each[sound] for each in parts]
        hits = tuple(each[sound] for each in found)
        owners = handles if len(handles) == 1 else handles[sound]
        if sound.any():
            limits = (programs, *some[1:3], *rest)
            search(owners, queries[sound], some[0], *limits, first_pass, *hits, *some[3:])
        for out, each, hit in zip((scores, ids), found, hits, strict=True):
            each[sound] = hit
            out.copy_(torch.from_numpy(each))

    def _search_there(
        self, handles: Any, queries: Any, k: Any, limits: tuple[Any, ...], first_pass: Any,
        scores: Any, ids: Any,
    ) -> bool:  # fmt: skip
        mirror, torch = self.mirror, tensors.library("search")
        dim = mirror.layout.vector_dim
        if queries.shape[1] != dim:
            raise ShapeError(f"search: queries has dim {queries.shape[1]}, should be {dim}")
        programs, index, candidates, scale, bias, low, high = limits
        if not self.are_there("search", handles):
            return False
        if device_conditions.are_too_deep(programs or []):
            mirror.check_on_device()
            return False
        if mirror.is_capturing and scores.shape[1] > _MOST_KEPT:
            raise BackendError(
                f"search: k is {scores.shape[1]} while a CUDA graph is captured, "
                f"should be at most {_MOST_KEPT}"
            )
        kernels, hits = mirror.kernels, (scores, ids)
        on_host = isinstance(scores, np.ndarray)
        runs, order = self._runs(handles, len(queries), k, limits, first_pass)
        n_rows = self._n_rows(handles, len(queries))
        are_forks = mirror.are_forks
        if isinstance(handles, np.ndarray):
            are_forks = are_forks or _repeat(handles)
            handles = mirror.repeated(handles.reshape(-1))
        with mirror.turns.reading("search"):
            asked = mirror.sent(queries)
            widths: Any = k if isinstance(k, int) else mirror.repeated(k)
            conditions = device_conditions.sent(mirror, programs, index) if programs else None
            if candidates is not None:
                candidates = mirror.sent(candidates).sort(1).values
            if order is not None:
                there = mirror.repeated(order)
                handles, asked = handles[there], asked[there]
                widths = widths if isinstance(k, int) else widths[there]
            lengths = kernels.norms(asked)[0]
            if on_host or order is not None:
                hits = (
                    torch.empty(scores.shape, dtype=torch.float32, device=mirror.device),
                    torch.empty(ids.shape, dtype=torch.int64, device=mirror.device),
                )
            layout, books = mirror.layout, mirror.books
            tables = None if books is None else books.tables(asked, self.metric, n_rows)
            if tables is not None:
                asked, layout = tables[0], replace(layout, books=tables[1])
            kernels.search_pages(
                kernels.Pages(layout, mirror.root, mirror.kinds, mirror.longest),
                handles,
                asked,
                lengths,
                widths,
                self.metric,
                kernels.Limits(conditions, candidates, scale, bias, low, high),
                *hits,
                are_forks,
                runs,
            )
            if order is not None:
                placed = tuple(map(torch.empty_like, hits)) if on_host else (scores, ids)
                for each, found in zip(placed, hits, strict=True):
                    each[there] = found
                hits = placed
            if on_host:
                *found, is_sound = tensors.fetched(*hits, (lengths <= MAX_SQUARE).all())
        if on_host:
            # The host's engine words what is wrong with a query that it can look at.
            if not is_sound:
                return False
            scores[...], ids[...] = found
        return True

    def _runs(
        self, handles: Any, n_queries: int, k: Any, limits: tuple[Any, ...], first_pass: Any
    ) -> tuple[list[Any], Ints | None]:
        """The queries of long banks that a first pass serves; see `kernels.runs_of`."""
        programs, index, candidates, scale, *_ = limits
        is_bounded = candidates is None and (
            not programs or device_conditions.are_shared(programs, index)
        )
        is_bounded &= self.metric != "l2" or scale is None
        is_bounded &= int(np.max(k, initial=0)) <= _MOST_KEPT
        # It reads rows, not what codes stand for.
        is_bounded &= self.mirror.layout.books is None
        # Who names banks on the device may name others in a replay, or banks of another length.
        if not is_bounded or self.mirror.is_capturing or not isinstance(handles, np.ndarray):
            return [], None
        lengths = self.mirror.lengths(handles)
        found: tuple[list[Any], Ints | None] = self.mirror.kernels.runs_of(
            handles, lengths, n_queries, first_pass
        )
        return found

    def _n_rows(self, handles: Any, n_queries: int) -> int:
        """Rows that queries score, together; 0 where they are others in a replay."""
        if self.mirror.is_capturing or not isinstance(handles, np.ndarray):
            return 0
        n_rows = int(self.mirror.lengths(handles).sum())
        return n_rows * n_queries if handles.size == 1 else n_rows

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


def _repeat(handles: Ints) -> bool:
    """Whether most banks are asked by the query before as well: they share all pages."""
    return 2 * int(np.count_nonzero(handles[1:] == handles[:-1])) >= max(2, len(handles))


def _near(array: Any) -> Any:
    """An array as the host's engine reads it."""
    near = arrays.near(array)
    if near is None or isinstance(near, np.ndarray):
        return near
    if near.is_floating_point():
        return arrays.vectors("search", "queries", near)[0]
    return near.numpy()

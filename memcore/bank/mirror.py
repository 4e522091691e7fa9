"""The rows of an arena in a device's memory, following the page store of the host.

The host's store is the truth: whatever may fail has succeeded there before anything here changes,
and its journal says what to copy. Pages go to chunks that never move. Heads, tables and the
directory of pages grow, and are found through the root, four words at a fixed address, so that
launches that were recorded stay valid.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import tensors
from memcore.bank import driver
from memcore.bank.books import Books
from memcore.bank.chunks import Chunks
from memcore.bank.collection import no_collection
from memcore.bank.constants import Constants
from memcore.bank.given import Given
from memcore.bank.heads import Heads
from memcore.bank.pinned import Pinned
from memcore.bank.published import Published, Rows
from memcore.bank.turns import Turns
from memcore.codebook import CodePages
from memcore.errors import BackendError

Array = NDArray[Any]
Ints = NDArray[np.int64]

_KINDS = {"int64": 0, "float64": 1, "bool": 2, "ref": 3}
_MOST_PAGES = 2**31


class Mirror:
    """Copies of a store's pages on a device. All methods are for who holds `section`.

    A bank is there, whole, or it is cold: then some of its pages are on the host alone, and
    launches see it empty.

    Attributes:
        device: a torch device.
        layout: of a page.
        root: (4,) int64 on the device: what a search of pages starts from.
        kinds: (n_columns,) int64 on the device.
        turns: the order of what reads and what writes.
        is_behind: `follow` has something to do.
        is_limited: banks may be cold.
        given: the vectors of a write that lie on the device.
        kernels: the module of kernels.
        books: those of a store of codes, or None.
    """

    def __init__(
        self,
        pages: Any,
        dim: int,
        dtype: str,
        kinds: list[str],
        device: Any,
        budget: int | None,
        codes: CodePages | None = None,
    ) -> None:
        """Mirror a store from now on.

        Args:
            pages: the native store.
            dim: components of a row.
            dtype: what rows are stored as.
            kinds: the kind of each column.
            device: a torch device.
            budget: bytes that pages may take there; None for all that there is.
            codes: where rows are codes, what knows their books; pages are its native store.
        """
        self._torch = tensors.library("Arena")
        self.kernels: Any = importlib.import_module("memcore.kernels")
        self._pages = pages
        self._budget = budget
        self.device = device
        numbers = tuple(_KINDS[kind] for kind in kinds)
        self.turns = Turns(self._torch, device, self)
        self._constants = Constants(self._torch, device, self.turns)
        opened = driver.opened(device)
        self.books: Books | None = None
        with self.turns.place(), self.turns.writing():
            if codes is not None:
                self.books = Books(self._torch, self.kernels, device, codes)
            books = None if self.books is None else self.books.given
            self.layout = self.kernels.pages.Layout(dim, dtype, numbers, books)
            self.kinds = self._torch.tensor(numbers, dtype=self._torch.int64, device=device)
            self._published = Published(
                self._torch, self.kernels, self.layout, device, pages, opened, self.turns
            )
        self.root = self._published.root
        self._held = Chunks(self._torch, device, self.root, self.layout.page_bytes)
        self._banks = Heads(pages, self._held)
        self._pinned = Pinned(pages, opened, self.turns)
        self.given = Given(self._torch, device, dim)
        self._lock = RLock()
        self._follows = False
        self._begin(self._n_within_budget())

    def _begin(self, n_most: int) -> None:
        """Hold nothing of the store, and at most so many pages from now on."""
        # No launch may find what is given back here, and nothing may be under way.
        self.turns.settle()
        with self.turns.place(), self.turns.writing():
            self._published.clear()
            self._held.clear(n_most)
            self._constants.forget()
        self.is_limited = n_most == 0
        self.is_behind = True
        self._banks.clear()
        # Pages that have a place, and whose rows are on the host alone.
        self._coming: list[Ints] = []
        if n_most:
            self._pages.start_journal()

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory: chunks of pages, heads, tables, directory and books."""
        n_bytes = self._held.nbytes + self._published.nbytes
        return n_bytes + (0 if self.books is None else self.books.nbytes)

    @contextmanager
    def section(self) -> Iterator[None]:
        """Run alone. No garbage is collected meanwhile: its destructors may want other locks."""
        with no_collection(), self._lock, self.turns.place():
            yield

    @property
    def are_forks(self) -> bool:
        """Whether banks share pages, on average with more than one other."""
        n_used = int(self._pages.n_pages) - int(self._pages.n_free_pages)
        return self._banks.n_entries > 2 * n_used

    @property
    def longest(self) -> int:
        """Rows of the longest bank there ever was."""
        return self._banks.longest

    def lengths(self, handles: Ints) -> Ints:
        """The rows of live banks, as the device knows them."""
        return self._banks.lengths(handles)

    def check_writable(self, op: str) -> None:
        """Raise an error while a CUDA graph is captured: what is written could not be copied."""
        if self.is_capturing:
            raise BackendError(f"{op}: a CUDA graph is being captured, should be called outside")

    def has(self, array: Any) -> bool:
        """Whether an array lies on this device, so that it is searched from there."""
        return tensors.lies_on(self.device, array)

    def repeated(self, array: Array) -> Any:
        """As `sent`, for an array that may come again: then it is there already."""
        known = self._constants.of(array)
        return self.sent(array) if known is None else known

    def sent(self, array: Any) -> Any:
        """An array of the host as a tensor on the device, without a wait; a tensor as it is.

        Raises:
            BackendError: a graph is captured, whose replays could not have it sent anew.
        """
        if not isinstance(array, np.ndarray):
            return array
        self.check_on_device()
        return tensors.sent(array, self.device)

    def check_on_device(self) -> None:
        """Raise an error while a CUDA graph is captured, for what lies on the host."""
        if self.is_capturing:
            raise BackendError(
                "search: an array or a condition is on the host while a CUDA graph is captured, "
                "should be on the device, or that of two searches before"
            )

    def follow(self, waits: bool = True) -> None:
        """Copy what has changed, after the reads that are under way.

        While a CUDA graph is captured nothing is copied; the next call catches up.

        Args:
            waits: until it is there.
        """
        # A signal's handler may write in the middle of this: the loop sees to it.
        self.is_behind = True
        if self._follows or self._held.n_most == 0 or self.is_capturing:
            return
        self._follows = True
        try:
            while self._copy_changes(waits):
                pass
            if self.is_limited and self._held.n_most:
                self._pinned.follow()
            self.is_behind = False
        except self._torch.OutOfMemoryError:
            # Not even tables fit, so nothing is held: the host's engine answers all searches.
            self._begin(0)
        except BaseException:
            # What was taken from the journal may be lost: all is copied anew, by the next call.
            self._begin(self._held.n_most)
            raise
        finally:
            self._follows = False

    def bring(self, handles: Ints) -> bool:
        """Have live banks on the device, in the place of those that were not named for longest.

        Nothing waits for them: the next read comes after they are there.

        Returns:
            Whether all of them are there now.
        """
        if not self._is_cold(handles):
            return True
        if self._held.n_most == 0 or self.is_capturing:
            return False
        if self.is_behind:
            self.follow()
        try:
            self._make_room()
        except BaseException:
            self._begin(self._held.n_most)
            raise
        self.follow(waits=False)
        return not self._is_cold(handles)

    def let_go(self) -> None:
        """Have nothing read the host's memory, before the store gives some of it back."""
        self._pinned.release()

    def rebuild(self) -> None:
        """Give all memory back, and copy the store anew."""
        self._begin(self._n_within_budget())
        self.follow()

    def _make_room(self) -> None:
        """Choose the pages of the banks that were named last, and have those sent that are new."""
        ranked = self._banks.newest()
        tables, _ = self._pages.page_tables(ranked)
        # Each page in the place of its first bank.
        pages, first = np.unique(tables, return_index=True)
        kept = pages[np.argsort(first)][: self._held.n_most]
        self._held.keep(kept)
        missing = kept[self._held.addresses[kept] == 0]
        with self.turns.writing(waits=False):
            n_placed = self._held.place(missing)
        self._coming.append(missing[:n_placed])
        self._banks.judge(ranked)

    def _n_within_budget(self) -> int:
        return _MOST_PAGES if self._budget is None else self._budget // self.layout.page_bytes

    def _is_cold(self, handles: Ints) -> bool:
        if not self.is_limited:
            return False
        if self._held.n_most == 0:
            return True
        return self._banks.name(handles)

    @property
    def is_capturing(self) -> bool:
        """Whether the current stream captures a CUDA graph."""
        return self.turns.is_capturing

    def _copy_changes(self, waits: bool) -> bool:
        """Copy the changes that there are; whether there were any."""
        changes = self._pages.take_changes()
        slots, copies, banks = changes["slots"], changes["copies"], changes["banks"]
        moves = changes["moves"]
        is_told = self._held.have_moved or self._banks.have_changed
        if not (is_told or any(map(len, (slots, copies, moves, banks, self._coming)))):
            return False
        numbers = (slots // 16, copies, moves // 16, changes["entries"])
        last = max(int(each.max(initial=0)) for each in numbers)
        self._held.know(last + 1)
        with self.turns.writing(waits):
            if self.books is not None:
                self.books.follow()
            self._copy(changes, slots, copies, moves, banks)
        return True

    def _copy(
        self, changes: dict[str, Any], slots: Ints, copies: Ints, moves: Ints, banks: Ints
    ) -> None:
        # Pages that come to hold rows get an address; those that get none stay on the host.
        holding = np.unique(np.concatenate([slots[: changes["n_rows"]] // 16, copies[:, 1]]))
        missing = holding[self._held.addresses[holding] == 0]
        if self._held.place(missing) < len(missing):
            self.is_limited = True
        coming, fetched, nulls = self._fetched()
        is_there = self._held.addresses[copies] != 0
        is_row_there = self._held.addresses[moves // 16] != 0
        is_there[:, 0] &= ~np.isin(copies[:, 0], coming)
        is_row_there[:, 0] &= ~np.isin(moves[:, 0] // 16, coming)
        # What comes of a page that is not there is sent from the host, by the next turn.
        bare = copies[is_there[:, 1] & ~is_there[:, 0], 1]
        bare_rows = moves[is_row_there[:, 1] & ~is_row_there[:, 0], 1]
        self._pages.mark_changed(np.unique(np.concatenate([bare, bare_rows // 16])))
        self._note(banks)
        is_held = self._held.addresses[slots // 16] != 0
        n_rows = int(is_held[: changes["n_rows"]].sum())
        kept = (copies[is_there.all(1)], moves[is_row_there.all(1)], slots[is_held], n_rows)
        given, vectors = self.given.take(kept[2][:n_rows])
        rows = Rows(*kept, fetched, nulls, given, vectors)
        moved = self._held.take_moved()
        heads = self._banks.take(banks)
        self._published.reserve(len(self._held.addresses), changes["pool_size"], len(self._banks))
        entries = (changes["places"], changes["entries"])
        self._published.put(rows, (moved, self._held.addresses[moved]), entries, heads)

    def _fetched(self) -> tuple[Ints, Ints, Ints]:
        """Pages whose rows are to come; those that the device fetches, and nulls, as `Rows` says.

        The others are sent from the host, by the next turn.
        """
        coming = np.unique(np.concatenate([np.zeros(0, np.int64), *self._coming]))
        self._coming = []
        coming = coming[self._held.addresses[coming] != 0]
        is_seen, places = self._pinned.places(coming)
        self._pages.mark_changed(coming[~is_seen])
        there, stride = places[:, :3] - self.root.data_ptr(), places[:, 3:]
        to = self._held.addresses[coming[is_seen], None]
        fetched = np.concatenate([to, there // 16, stride // 16], 1)
        return coming, fetched, self._pages.column_nulls()

    def _note(self, banks: Ints) -> None:
        """Take over heads: banks (n, 4), index first."""
        if not len(banks):
            return
        self._banks.note(banks)
        if self.is_limited:
            alive = banks[banks[:, 1] > 0]
            self._banks.judge(alive[:, 1] << 32 | alive[:, 0])

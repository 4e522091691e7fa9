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
from memcore.bank.collection import no_collection
from memcore.bank.constants import Constants
from memcore.bank.given import Given
from memcore.bank.pinned import Pinned
from memcore.bank.published import Published, Rows
from memcore.bank.turns import Turns
from memcore.codebook import CodePages
from memcore.errors import BackendError

Array = NDArray[Any]
Ints = NDArray[np.int64]

_KINDS = {"int64": 0, "float64": 1, "bool": 2, "ref": 3}
_INDEX = 0xFFFFFFFF
_FIRST_CHUNK, _LAST_CHUNK = 1 << 18, 1 << 26
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
        longest: rows of the longest bank there ever was.
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
            self._chunks: list[Any] = []
            self._constants.forget()
        self._n_entries = 0
        self._n_most = n_most
        self.is_limited = n_most == 0
        self.is_behind = True
        self._free: list[int] = []
        self._n_made = 0
        # By page: its address, in units of 16 bytes from the root; 0 for none.
        self._addresses = np.zeros(64, np.int64)
        # By bank: generation, rows and begin of table; whether it is cold; when it was last named.
        self._heads = np.zeros((64, 3), np.int64)
        self._cold = np.zeros(64, np.bool_)
        self._named = np.zeros(64, np.int64)
        self._now = 0
        self.longest = 0
        # What the device must be told beside the journal's changes.
        self._moved: list[Ints] = []
        self._judged: list[Ints] = []
        # Pages that have a place, and whose rows are on the host alone.
        self._coming: list[Ints] = []
        if n_most:
            self._pages.start_journal()

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory: chunks of pages, heads, tables, directory and books."""
        n_bytes = sum(map(len, self._chunks)) + self._published.nbytes
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
        return self._n_entries > 2 * n_used

    def lengths(self, handles: Ints) -> Ints:
        """The rows of live banks, as the device knows them."""
        lengths: Ints = self._heads[handles & _INDEX, 1]
        return lengths

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
        if self._follows or self._n_most == 0 or self.is_capturing:
            return
        self._follows = True
        try:
            while self._copy_changes(waits):
                pass
            if self.is_limited and self._n_most:
                self._pinned.follow()
            self.is_behind = False
        except self._torch.OutOfMemoryError:
            # Not even tables fit, so nothing is held: the host's engine answers all searches.
            self._begin(0)
        except BaseException:
            # What was taken from the journal may be lost: all is copied anew, by the next call.
            self._begin(self._n_most)
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
        if self._n_most == 0 or self.is_capturing:
            return False
        if self.is_behind:
            self.follow()
        try:
            self._make_room()
        except BaseException:
            self._begin(self._n_most)
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
        alive = np.flatnonzero(self._heads[:, 0])
        alive = alive[np.argsort(-self._named[alive], kind="stable")]
        ranked = self._heads[alive, 0] << 32 | alive
        tables, _ = self._pages.page_tables(ranked)
        # Each page in the place of its first bank.
        pages, first = np.unique(tables, return_index=True)
        kept = pages[np.argsort(first)][: self._n_most]
        gone = self._addresses != 0
        gone[kept] = False
        self._free += self._addresses[gone].tolist()
        self._addresses[gone] = 0
        self._moved.append(np.flatnonzero(gone))
        missing = kept[self._addresses[kept] == 0]
        with self.turns.writing(waits=False):
            n_placed = self._place(missing)
        self._coming.append(missing[:n_placed])
        self._judge(ranked)

    def _n_within_budget(self) -> int:
        return _MOST_PAGES if self._budget is None else self._budget // self.layout.page_bytes

    def _is_cold(self, handles: Ints) -> bool:
        if not self.is_limited:
            return False
        if self._n_most == 0:
            return True
        index = handles & _INDEX
        self._now += 1
        self._named[index] = self._now
        return bool(self._cold[index].any())

    @property
    def is_capturing(self) -> bool:
        """Whether the current stream captures a CUDA graph."""
        return self.turns.is_capturing

    def _copy_changes(self, waits: bool) -> bool:
        """Copy the changes that there are; whether there were any."""
        changes = self._pages.take_changes()
        slots, copies, banks = changes["slots"], changes["copies"], changes["banks"]
        moves = changes["moves"]
        told = (self._moved, self._judged, self._coming)
        if not any(map(len, (slots, copies, moves, banks, *told))):
            return False
        numbers = (slots // 16, copies, moves // 16, changes["entries"])
        last = max(int(each.max(initial=0)) for each in numbers)
        self._addresses = _grown(self._addresses, last + 1)
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
        self._place(holding[self._addresses[holding] == 0])
        coming, fetched, nulls = self._fetched()
        is_there = self._addresses[copies] != 0
        is_row_there = self._addresses[moves // 16] != 0
        is_there[:, 0] &= ~np.isin(copies[:, 0], coming)
        is_row_there[:, 0] &= ~np.isin(moves[:, 0] // 16, coming)
        # What comes of a page that is not there is sent from the host, by the next turn.
        bare = copies[is_there[:, 1] & ~is_there[:, 0], 1]
        bare_rows = moves[is_row_there[:, 1] & ~is_row_there[:, 0], 1]
        self._pages.mark_changed(np.unique(np.concatenate([bare, bare_rows // 16])))
        self._note(banks)
        is_held = self._addresses[slots // 16] != 0
        n_rows = int(is_held[: changes["n_rows"]].sum())
        kept = (copies[is_there.all(1)], moves[is_row_there.all(1)], slots[is_held], n_rows)
        given, vectors = self.given.take(kept[2][:n_rows])
        rows = Rows(*kept, fetched, nulls, given, vectors)
        moved = np.unique(np.concatenate([np.zeros(0, np.int64), *self._moved]))
        index = np.unique(np.concatenate([banks[:, 0], *self._judged]))
        self._moved, self._judged = [], []
        heads = self._heads[index]
        heads[self._cold[index], 1] = 0
        self._published.reserve(len(self._addresses), changes["pool_size"], len(self._heads))
        entries = (changes["places"], changes["entries"])
        self._published.put(rows, (moved, self._addresses[moved]), entries, (index, heads))

    def _fetched(self) -> tuple[Ints, Ints, Ints]:
        """Pages whose rows are to come; those that the device fetches, and nulls, as `Rows` says.

        The others are sent from the host, by the next turn.
        """
        coming = np.unique(np.concatenate([np.zeros(0, np.int64), *self._coming]))
        self._coming = []
        coming = coming[self._addresses[coming] != 0]
        is_seen, places = self._pinned.places(coming)
        self._pages.mark_changed(coming[~is_seen])
        there, stride = places[:, :3] - self.root.data_ptr(), places[:, 3:]
        to = self._addresses[coming[is_seen], None]
        fetched = np.concatenate([to, there // 16, stride // 16], 1)
        return coming, fetched, self._pages.column_nulls()

    def _place(self, pages: Ints) -> int:
        """Give pages an address, from the first on; how many got one."""
        while len(self._free) < len(pages) and self._n_made < self._n_most:
            self._add_chunk(len(pages) - len(self._free))
        n = min(len(self._free), len(pages))
        if n:
            self._addresses[pages[:n]] = self._free[-n:]
            del self._free[-n:]
            self._moved.append(pages[:n])
        if n < len(pages):
            self.is_limited = True
        return n

    def _add_chunk(self, n_wanted: int) -> None:
        """Make room for more pages, twice as many each time; or see that there is no memory."""
        page_bytes = self.layout.page_bytes
        n_left = self._n_most - self._n_made
        ample = max(_FIRST_CHUNK // page_bytes, min(self._n_made, _LAST_CHUNK // page_bytes))
        for n in (min(max(n_wanted, ample), n_left), min(n_wanted, n_left)):
            try:
                chunk = self._torch.zeros(
                    n * page_bytes, dtype=self._torch.uint8, device=self.device
                )
            except self._torch.OutOfMemoryError:
                continue
            self._chunks.append(chunk)
            begin, size = (chunk.data_ptr() - self.root.data_ptr()) // 16, page_bytes // 16
            self._free += range(begin + (n - 1) * size, begin - size, -size)
            self._n_made += n
            return
        self._n_most = self._n_made

    def _note(self, banks: Ints) -> None:
        """Take over heads: banks (n, 4), index first."""
        if not len(banks):
            return
        index = banks[:, 0]
        n = int(index.max()) + 1
        self._heads, self._cold = _grown(self._heads, n), _grown(self._cold, n)
        self._named = _grown(self._named, n)
        n_before = self._n_pages_of(index)
        self._heads[index] = banks[:, 1:]
        self._n_entries += self._n_pages_of(index) - n_before
        self._cold[index] = False
        self.longest = max(self.longest, int(banks[:, 2].max()))
        if self.is_limited:
            alive = banks[banks[:, 1] > 0]
            self._judge(alive[:, 1] << 32 | alive[:, 0])

    def _n_pages_of(self, index: Ints) -> int:
        """Entries in the tables of banks."""
        return int((-(-self._heads[index, 1] // self._pages.page_rows)).sum())

    def _judge(self, handles: Ints) -> None:
        """See which of these live banks are cold, and have the device told."""
        tables, ends = self._pages.page_tables(handles)
        self._addresses = _grown(self._addresses, int(tables.max(initial=0)) + 1)
        n_absent = np.concatenate([[0], np.cumsum(self._addresses[tables] == 0)])[ends]
        index = handles & _INDEX
        self._cold[index] = np.diff(n_absent, prepend=0) > 0
        self._judged.append(index)


def _grown(array: Array, n: int) -> Array:
    """An array with room for n entries, zero where they are new."""
    if len(array) >= n:
        return array
    longer = np.zeros((max(n, 2 * len(array)), *array.shape[1:]), array.dtype)
    longer[: len(array)] = array
    return longer

"""What a mirror knows of banks: their heads, which are cold, and which were named last."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.bank.chunks import Chunks, grown

Ints = NDArray[np.int64]

_INDEX = 0xFFFFFFFF


class Heads:
    """The heads of banks, by the low word of their handles.

    A bank is cold where some of its pages have no place on the device: launches see it empty.

    Attributes:
        cold: (n,) bool.
        longest: rows of the longest bank there ever was.
        n_entries: in the tables of all banks.
    """

    def __init__(self, pages: Any, held: Chunks) -> None:
        """Know of no bank.

        Args:
            pages: the native store.
            held: which of its pages are on the device.
        """
        self._pages = pages
        self._held = held
        self.clear()

    def clear(self) -> None:
        """Forget all."""
        # By bank: generation, rows and begin of table; and when it was last named.
        self._heads = np.zeros((64, 3), np.int64)
        self._named = np.zeros(64, np.int64)
        self._now = 0
        self._judged: list[Ints] = []
        self.cold = np.zeros(64, np.bool_)
        self.longest = 0
        self.n_entries = 0

    def __len__(self) -> int:
        return len(self._heads)

    @property
    def have_changed(self) -> bool:
        """Whether banks were judged since `take` was called."""
        return bool(self._judged)

    def lengths(self, handles: Ints) -> Ints:
        """The rows of live banks."""
        lengths: Ints = self._heads[handles & _INDEX, 1]
        return lengths

    def note(self, banks: Ints) -> None:
        """Take over heads: banks (n, 4), index first; none of them is cold."""
        index = banks[:, 0]
        n = int(index.max()) + 1
        self._heads, self.cold = grown(self._heads, n), grown(self.cold, n)
        self._named = grown(self._named, n)
        n_before = self._n_pages_of(index)
        self._heads[index] = banks[:, 1:]
        self.n_entries += self._n_pages_of(index) - n_before
        self.cold[index] = False
        self.longest = max(self.longest, int(banks[:, 2].max()))

    def judge(self, handles: Ints) -> None:
        """See which of these live banks are cold, and have the device told."""
        tables, ends = self._pages.page_tables(handles)
        self._held.know(int(tables.max(initial=0)) + 1)
        n_absent = np.concatenate([[0], np.cumsum(self._held.addresses[tables] == 0)])[ends]
        index = handles & _INDEX
        self.cold[index] = np.diff(n_absent, prepend=0) > 0
        self._judged.append(index)

    def name(self, handles: Ints) -> bool:
        """Note that live banks are named now; whether any of them is cold."""
        index = handles & _INDEX
        self._now += 1
        self._named[index] = self._now
        return bool(self.cold[index].any())

    def newest(self) -> Ints:
        """The handles of all banks, those that were named last first."""
        alive = np.flatnonzero(self._heads[:, 0])
        alive = alive[np.argsort(-self._named[alive], kind="stable")]
        handles: Ints = self._heads[alive, 0] << 32 | alive
        return handles

    def take(self, banks: Ints) -> tuple[Ints, Ints]:
        """The banks that were judged and those of `note`, and what launches see of each, (n, 3)."""
        index = np.unique(np.concatenate([banks[:, 0], *self._judged]))
        self._judged = []
        heads = self._heads[index]
        heads[self.cold[index], 1] = 0
        return index, heads

    def _n_pages_of(self, index: Ints) -> int:
        """Entries in the tables of banks."""
        return int((-(-self._heads[index, 1] // self._pages.page_rows)).sum())

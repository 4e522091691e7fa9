"""What kernels start from: heads and tables of banks, the directory of pages, and the root.

Pages themselves are in chunks, which are the mirror's; their addresses are in the directory. All
of it is written by one parcel or more, in the order of the current stream.
"""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore.bank.driver import Driver
from memcore.bank.parcel import Sender
from memcore.bank.ranges import Growing
from memcore.bank.turns import Turns

Ints = NDArray[np.int64]
Pairs = tuple[Ints, Ints]

# Bytes of rows that travel at once.
_PARCEL = 1 << 24


class Rows(NamedTuple):
    """What happens to rows, all in pages that are on the device.

    Attributes:
        copies: (n, 2), from which page to which; first of all.
        moves: (n, 2), from which slot to which; then.
        slots: (n,) that are written, then those that are wiped.
        n_written: how many of slots hold rows.
        fetched: (n, 5), where whole pages go and where the device finds them in the host's memory,
            as `fetch_pages` takes it; last of all.
        nulls: (n_columns, 2), of the columns of those.
        given: (n_written,), which of vectors a row is; -1 for what the host sends.
        vectors: a matrix on the device, or None.
    """

    copies: Ints
    moves: Ints
    slots: Ints
    n_written: int
    fetched: Ints
    nulls: Ints
    given: Ints
    vectors: Any


class Published:
    """The tables of a store on a device.

    Attributes:
        root: (4,) int64 at a fixed address: where heads are and how many, tables, directory.
    """

    def __init__(
        self, torch: Any, kernels: Any, layout: Any, device: Any, pages: Any,
        driver: Driver | None, turns: Turns,
    ) -> None:  # fmt: skip
        """Make a root of nothing.

        Args:
            torch: the module.
            kernels: the module of kernels.
            layout: of a page.
            device: a torch device.
            pages: the native store, whose rows are sent.
            driver: of the device, which has tables grow in place.
            turns: what the device does with tables.
        """
        self._torch = torch
        self._kernels = kernels.pages
        self._fetch_pages = kernels.fetch.fetch_pages
        self._write_norms = kernels.coded.write_norms
        self._layout = layout
        self._pages = pages
        self._device = device
        self._sender = Sender(torch, device)
        self.root = torch.zeros(4, dtype=torch.int64, device=device)
        self._growing = partial(Growing, torch=torch, device=device, driver=driver, turns=turns)
        self._tables: dict[str, Growing] = {}
        self._n_at_once = max(16, _PARCEL // (layout.row_bytes + 8 * len(layout.kinds) + 8))

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory."""
        return sum(each.nbytes for each in self._tables.values())

    def clear(self) -> None:
        """Know of nothing, when nothing is under way."""
        self._sender.forget()
        self.root.zero_()
        empty = {"dtype": self._torch.int64, "device": self._device}
        tables = {
            "heads": self._torch.zeros((64, 3), **empty),
            "tables": self._torch.zeros(64, dtype=self._torch.int32, device=self._device),
            "addresses": self._torch.zeros(64, **empty),
        }
        self._tables = {name: self._growing(each) for name, each in tables.items()}

    def reserve(self, n_pages: int, n_entries: int, n_banks: int) -> None:
        """Have room for so many; what is there stays."""
        wanted = {"addresses": n_pages, "tables": n_entries, "heads": n_banks}
        for name, n in wanted.items():
            self._tables[name].reserve(n)

    def put(self, rows: Rows, addresses: Pairs, entries: Pairs, heads: Pairs) -> None:
        """Send everything, and have it put where it belongs: rows first, then what names them.

        Args:
            rows: what happens to rows.
            addresses: pages, and their addresses.
            entries: places in tables, and pages.
            heads: banks, and (n, 3) generation, rows and begin of table.
        """
        layout, slots = self._layout, rows.slots
        tables = {name: each.data for name, each in self._tables.items()}
        names = ("heads", "tables", "addresses")
        at, *others = (tables[name].data_ptr() for name in names)
        root = np.array([at, len(tables["heads"]), *others])
        is_given = rows.given >= 0
        sent_slots = slots[: rows.n_written][~is_given]
        n_first = min(len(sent_slots), self._n_at_once)
        first = np.concatenate([sent_slots[:n_first], slots[rows.n_written :]])
        pages = [rows.copies, rows.moves, rows.fetched, rows.nulls]
        named = [*addresses, *entries, *heads, root, *pages]
        written, sent = self._send(sent_slots[:n_first], [first, *named])
        directory = tables["addresses"]
        directory[sent[0]] = sent[1]
        self._kernels.copy_pages(layout, self.root, directory, sent[7])
        self._kernels.move_rows(layout, self.root, directory, sent[8])
        self._write(written)
        for begin in range(n_first, len(sent_slots), self._n_at_once):
            part = sent_slots[begin : begin + self._n_at_once]
            written, _ = self._send(part, [part])
            self._write(written)
        given_slots, given = slots[: rows.n_written][is_given], rows.given[is_given]
        for begin in range(0, len(given), self._n_at_once):
            end = begin + self._n_at_once
            part, which = given_slots[begin:end], given[begin:end]
            written, [chosen] = self._send(part, [part, which], has_rows=False)
            there = rows.vectors[chosen].to(getattr(self._torch, layout.dtype))
            written[-1] = there.view(self._torch.uint8)
            self._write(written)
        self._fetch_pages(layout, self.root, sent[9], sent[10])
        if layout.books is not None:
            lanes = self._torch.arange(16, device=self._device)
            self._write_norms(layout, self.root, sent[9][:, :1] * 16 + lanes)
        tables["tables"][sent[2]] = sent[3].to(self._torch.int32)
        tables["heads"][sent[4]] = sent[5]
        self.root.copy_(sent[6])

    def _write(self, written: list[Any]) -> None:
        """Write what `_send` gives to the slots that come first of it; wipe the others."""
        layout, directory = self._layout, self._tables["addresses"].data
        self._kernels.write_pages(layout, self.root, directory, *written)
        if layout.books is not None:
            slots = written[0][: len(written[1])]
            self._write_norms(layout, self.root, directory[slots // 16] * 16 + slots % 16)

    def _send(
        self, slots: Ints, arrays: list[Ints], has_rows: bool = True
    ) -> tuple[list[Any], list[Any]]:
        """The rows in slots (n,), as the first of arrays and their ids, cells, bytes; the rest.

        All travels as one parcel. Without rows, of the bytes there are none.
        """
        layout, n = self._layout, len(slots)
        parcel = self._sender.parcel(
            *((each.shape, np.int64) for each in arrays),
            ((n,), np.int64),
            ((len(layout.kinds), n), np.int64),
            ((n * has_rows, layout.row_bytes), np.uint8),
        )
        for room, each in zip(parcel.rooms, arrays, strict=False):
            room[...] = each
        ids, cells, rows = parcel.rooms[len(arrays) :]
        self._pages.read_slots(np.ascontiguousarray(slots), rows if has_rows else None, ids, cells)
        sent = parcel.send()
        return [sent[0], *sent[len(arrays) :]], sent[1 : len(arrays)]

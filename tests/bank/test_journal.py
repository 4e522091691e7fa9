"""The journal of the page store: a mirror that follows it in NumPy holds what the store holds."""

import numpy as np
import pytest

from memcore import _core
from pages_oracle import KINDS, STORED, draw_cells, draw_vectors
from pages_walk import Walk

LANES = 16


class Mirror:
    """The rows, tables and banks that the journal tells of."""

    def __init__(self, pages, dim, dtype, kinds=KINDS):
        self.pages, self.n_columns = pages, len(kinds)
        self.row_bytes = (dim or 0) * np.dtype(STORED[dtype]).itemsize
        # By slot: bytes of the vector, id, cells.
        self.rows = {}
        self.banks = {}
        self.pool = np.full(0, -1)
        pages.start_journal()

    def follow(self):
        """Take what has changed; gives back how many rows were read."""
        changes = self.pages.take_changes()
        copied = [(to, self._page(of)) for of, to in changes["copies"].tolist()]
        for to, lanes in copied:
            for lane, held in enumerate(lanes):
                self._write(to * LANES + lane, held)
        moves = changes["moves"]
        # All at once: several may read a lane, but one writes it, and nobody reads it then.
        assert np.unique(moves[:, 1]).size == len(moves)
        assert not np.isin(moves[:, 0], moves[:, 1]).any()
        for to, held in [(to, self.rows[of]) for of, to in moves.tolist()]:
            self._write(to, held)
        slots, n = changes["slots"], changes["n_rows"]
        rows, ids = np.empty((n, self.row_bytes), np.uint8), np.empty(n, np.int64)
        cells = np.empty((self.n_columns, n), np.int64)
        self.pages.read_slots(slots[:n], rows, ids, cells)
        assert (ids >= 0).all()
        for i, slot in enumerate(slots.tolist()):
            held = (rows[i].tobytes(), int(ids[i]), cells[:, i].tolist()) if i < n else None
            self._write(slot, held)
        pool = np.full(changes["pool_size"], -1)
        pool[: len(self.pool)] = self.pool
        pool[changes["places"]] = changes["entries"]
        self.pool = pool
        for index, generation, n_rows, begin in changes["banks"].tolist():
            self.banks[index] = (generation, n_rows, begin)
        return n

    def _page(self, page):
        return [self.rows.get(page * LANES + lane) for lane in range(LANES)]

    def _write(self, slot, held):
        if held is None:
            self.rows.pop(slot, None)
        else:
            self.rows[slot] = held

    def bank(self, handle):
        """Rows of one bank by id: (bytes of the vector, cells)."""
        generation, n_rows, begin = self.banks[handle & 0xFFFFFFFF]
        assert generation == handle >> 32
        table = self.pool[begin : begin + -(-n_rows // LANES)]
        held = [self.rows[int(table[row // LANES]) * LANES + row % LANES] for row in range(n_rows)]
        return {row: (vector, cells) for vector, row, cells in held}

    def check(self, banks):
        """Compare with the oracle's banks, and see that nothing else is left."""
        alive = {index for index, (generation, _, _) in self.banks.items() if generation}
        assert alive == {handle & 0xFFFFFFFF for handle in banks}
        seen = set()
        for handle, bank in banks.items():
            assert self.bank(handle) == bank.rows
            _, n_rows, begin = self.banks[handle & 0xFFFFFFFF]
            for row in range(n_rows):
                seen.add(int(self.pool[begin + row // LANES]) * LANES + row % LANES)
        assert set(self.rows) == seen, "a lane without a row was not wiped"


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize(("dim", "dtype"), [(None, "float32"), (3, "float32"), (8, "bfloat16")])
def test_a_mirror_holds_what_the_store_holds(dim, dtype, every, rng):
    walk = Walk(rng, dim, dtype, [0, 1, 2, 5, 17, 40])
    mirror = Mirror(walk.both.pages, dim, dtype)
    for step in range(200):
        walk.step()
        if step % every == 0:
            mirror.follow()
            mirror.check(walk.both.banks)


def test_a_journal_that_starts_late_tells_of_all_rows(rng):
    walk = Walk(rng, 4, "float32", [1, 5, 40])
    for _ in range(40):
        walk.step()
    mirror = Mirror(walk.both.pages, 4, "float32")
    mirror.follow()
    mirror.check(walk.both.banks)


def test_a_large_bank_whose_table_grows(rng):
    walk = Walk(rng, 2, "float32", [1, 300, 700])
    mirror = Mirror(walk.both.pages, 2, "float32")
    for _ in range(60):
        walk.step()
        mirror.follow()
        mirror.check(walk.both.banks)


def test_only_what_changed_is_read(rng):
    pages = _core.Pages(4, "float32", "dot", KINDS)
    mirror = Mirror(pages, 4, "float32")
    parents = pages.new(3)
    rows = draw_vectors(rng, 120, 4, "float32")
    pages.add(np.repeat(parents, 40), None, rows, draw_cells(rng, 120))
    assert mirror.follow() == 120
    forks = pages.fork(parents, 4).reshape(-1)
    assert mirror.follow() == 0
    # Forks copy their last page on the mirror, and only the new row travels.
    pages.add(forks, None, rows[:12], draw_cells(rng, 12))
    assert mirror.follow() == 12
    # The last row moves into the hole, there too, from a page that is shared and one that is not.
    for handle, row in zip(forks[[0, 0, 3, 4]], (3, 7, 20, 40), strict=True):
        pages.delete(np.array([handle]), np.array([row]), False)
        assert mirror.follow() == 0
    pages.update(forks[1:2], np.array([5]), rows[:1], [None] * len(KINDS), False)
    assert mirror.follow() == 1
    assert mirror.follow() == 0
    pages.drop(forks)
    assert mirror.follow() == 0
    pages.mark_changed(pages.page_table(int(parents[0])))
    assert mirror.follow() == 40


def test_tables_in_one_call():
    pages = _core.Pages(1, "float32", "dot", [])
    banks = pages.new(3)
    pages.add(np.repeat(banks[:2], [20, 40]), None, np.zeros((60, 1), np.float32), [])
    tables, ends = pages.page_tables(banks)
    assert ends.tolist() == [2, 5, 5]
    alone = np.concatenate([pages.page_table(int(bank)) for bank in banks])
    assert tables.tolist() == alone.tolist()


def test_what_a_mirror_may_not_ask():
    pages = _core.Pages(1, "float32", "dot", [])
    with pytest.raises(ValueError, match="take_changes: the store keeps no journal"):
        pages.take_changes()
    pages.start_journal()
    with pytest.raises(ValueError, match="mark_changed: page is 0, should be below 0"):
        pages.mark_changed(np.zeros(1, np.int64))
    rows, ids = np.zeros((1, 4), np.uint8), np.zeros(1, np.int64)
    with pytest.raises(ValueError, match="read_slots: slot is 16, should be below 0"):
        pages.read_slots(np.full(1, 16), rows, ids, np.zeros((0, 1), np.int64))

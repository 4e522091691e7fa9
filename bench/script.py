"""The script of the mutation cases: what each step appends, updates and deletes.

All banks have `n_rows` rows when a step begins. A step appends one row, updates a share and deletes
a share of each bank, then searches each; what it deleted too many is put back, untimed, before the
next. Rows are named in three ways, so that every engine is told in its own words: by id, by a fixed
slot, and by the position that swap-removal gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Change:
    """Rows of every bank: (n_banks, m) names, (n_banks, m, dim) vectors."""

    ids: Array
    slots: Array
    positions: Array
    vectors: Array


@dataclass(frozen=True)
class Round:
    """One step and the refill after it."""

    append: Change
    update: Change
    delete: Change
    refill: Change


class Script:
    """Makes the rounds one after another.

    Args:
        vectors: (n_banks, n_rows, dim) float32, the rows at the start, with ids and slots 0 to
            n_rows - 1.
        share: of the rows, updated and as many deleted in a step, rounded up.
        seed: of the choices.
    """

    def __init__(self, vectors: Array, share: float, seed: int) -> None:
        self.n_banks, self.n_rows, self.dim = vectors.shape
        self.n_changed = int(np.ceil(share * self.n_rows))
        self.pool = vectors.reshape(-1, self.dim)
        self.rng = np.random.default_rng([seed, 4])
        # Slots: ids, -1 where free. Positions: ids in the order that swap-removal leaves.
        self.slots = np.full((self.n_banks, self.n_rows + 1), -1, np.int64)
        self.slots[:, :-1] = np.arange(self.n_rows)
        self.order = self.slots.copy()
        self.next_id = self.n_rows

    def mutations(self) -> int:
        """Rows that a step appends, updates and deletes in all banks."""
        return int(self.n_banks * (1 + 2 * self.n_changed))

    def next(self) -> Round:
        """The next round; the script then stands at the end of it."""
        append = self._add(1, self.n_rows)
        update = self._named(self._choose())
        delete = self._named(self._choose())
        self._remove(delete)
        refill = self._add(self.n_changed - 1, self.n_rows + 1 - self.n_changed)
        return Round(append, update, delete, refill)

    def _choose(self) -> Array:
        """n_changed different positions of each bank, in falling order."""
        keys = self.rng.random((self.n_banks, self.n_rows + 1), np.float32)
        chosen = np.argpartition(keys, self.n_changed, axis=1)[:, : self.n_changed]
        falling: Array = -np.sort(-chosen, axis=1)
        return falling

    def _named(self, positions: Array) -> Change:
        ids = np.take_along_axis(self.order, positions, axis=1)
        # Slot of each id: where the table of slots holds it.
        slots = (self.slots[:, None, :] == ids[:, :, None]).argmax(axis=2)
        return Change(ids, slots, positions, self._vectors(positions.shape[1]))

    def _add(self, count: int, first: int) -> Change:
        ids = np.broadcast_to(np.arange(self.next_id, self.next_id + count), (self.n_banks, count))
        self.next_id += count
        free = np.argsort(self.slots >= 0, axis=1, kind="stable")[:, :count]
        np.put_along_axis(self.slots, free, ids, axis=1)
        self.order[:, first : first + count] = ids
        positions = np.broadcast_to(np.arange(first, first + count), (self.n_banks, count))
        return Change(ids, free, positions, self._vectors(count))

    def _remove(self, delete: Change) -> None:
        np.put_along_axis(self.slots, delete.slots, -1, axis=1)
        banks = np.arange(self.n_banks)
        last = self.n_rows
        for column in delete.positions.T:
            self.order[banks, column] = self.order[:, last]
            last -= 1

    def _vectors(self, count: int) -> Array:
        start = int(self.rng.integers(len(self.pool)))
        wanted = np.arange(start, start + self.n_banks * count) % len(self.pool)
        vectors: Array = self.pool[wanted].reshape(self.n_banks, count, self.dim)
        return vectors

"""A step of every bank: append one row, update and delete a few, then search each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import memcore

from .. import data, gate
from ..case import Case, Inputs, Prepare, speedup
from ..machine import Limits
from ..rivals import mutation as rivals
from ..rows import Figure
from ..script import Change, Script
from ..timing import Samples, Step

SHARE = 0.05
# Works only while all banks have the same number of rows: measured, but not the rival of the goal.
EQUAL_ONLY = "numpy[batched]"
FLOOR, GOAL = 2.0, 3.0
FLOOR_ROWS, GOAL_ROWS = 1.4, 2.4


@dataclass(frozen=True, kw_only=True)
class Mutation(Case):
    """`n_banks` banks of `n_rows` rows."""

    op: ClassVar[str] = "mutation"
    n_banks: int
    n_rows: int = 64
    dim: int = 384
    k: int = 5

    @property
    def name(self) -> str:
        """mutation/banks x rows x dim."""
        return f"mutation/{self.n_banks} x {self.n_rows} x {self.dim}"

    @property
    def shape(self) -> dict[str, int]:
        """n_banks, rows, dim."""
        return {"n_banks": self.n_banks, "rows": self.n_rows, "dim": self.dim}

    def inputs(self) -> Inputs:
        """Vectors (n_banks, n_rows, dim), queries (n_banks, dim), and the share that changes."""
        total = self.n_banks * self.n_rows
        return {
            "vectors": data.keys("mix", total, self.dim, self.seed).reshape(
                self.n_banks, self.n_rows, self.dim
            ),
            "queries": data.queries("mix", self.n_banks, total, self.dim, self.seed),
            "share": SHARE,
            "seed": self.seed,
        }

    def engines(self) -> dict[str, Prepare]:
        """The whole step, its writes alone, its search alone."""
        return {
            "memcore Arena": whole_step,
            "memcore Arena, writes": writes,
            "memcore Arena, search": search,
        }

    def rivals(self) -> dict[str, Prepare]:
        """Those that can change rows."""
        return rivals.all_of()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """The script's first step in plain arrays, then the float32 scan; writes give no answer."""
        if result is None:
            return np.zeros((1, 1), np.float32)
        hits, is_changed = result
        rows, ids = first_step(inputs) if is_changed else untouched(inputs)
        alive = ids >= 0
        offsets = np.concatenate([[0], np.cumsum(alive.sum(1))])
        # In the order of their ids, so that ties fall as the ids say.
        order = np.argsort(np.where(alive, ids, np.iinfo(np.int64).max), axis=1)
        banks = np.arange(len(ids))[:, None]
        kept = alive[banks, order]
        vectors, names = rows[banks, order][kept], ids[banks, order][kept]
        scores, found = gate.float32_scan(
            inputs["queries"], vectors, self.k, self.metric, offsets, np.arange(self.n_banks)
        )
        gate.expect_equal(
            "the float32 scan of the script's rows",
            np.arange(self.n_banks),
            hits,
            (scores, names[found]),
        )
        return np.asarray(hits.scores)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The whole step against the best rival's, and rows written a second."""
        figures: dict[str, list[Figure]] = {}
        equal: list[str] = []
        other: list[str] = []
        for name in samples:
            if "@" in name:
                (equal if name.startswith(EQUAL_ONLY) else other).append(name)
        if other and "memcore Arena" in samples:
            best = min(other, key=lambda name: samples[name].median())
            ratio = speedup(samples, "memcore Arena", best)
            figures["memcore Arena"] = [Figure("step", ratio, "x best rival", FLOOR, GOAL)]
            figures["memcore Arena"] += [
                Figure("step", speedup(samples, "memcore Arena", name), f"x {EQUAL_ONLY}")
                for name in equal
            ]
        if "memcore Arena, writes" in samples:
            changed = int(np.ceil(SHARE * self.n_rows))
            rows = self.n_banks * (1 + 2 * changed)
            rate = rows / samples["memcore Arena, writes"].median() / 1e6
            figures["memcore Arena, writes"] = [
                Figure("writes", rate, "M rows/s", FLOOR_ROWS, GOAL_ROWS)
            ]
        return figures


class ArenaBanks:
    """An Arena told in the words of the script."""

    def __init__(self, inputs: Inputs, case: Case) -> None:
        n_banks, n_rows, dim = inputs["vectors"].shape
        self.store = memcore.Arena(dim=dim, metric=case.metric)
        self.handles = self.store.new(n_banks)
        self.queries, self.k, self.dim = inputs["queries"], case.k, dim
        self.store.add(np.repeat(self.handles, n_rows), inputs["vectors"].reshape(-1, dim))

    def append(self, change: Change) -> None:
        """Add rows; the Arena counts the same ids as the script."""
        self.store.add(self._named(change), change.vectors.reshape(-1, self.dim))

    def update(self, change: Change) -> None:
        """Replace rows."""
        rows = change.vectors.reshape(-1, self.dim)
        self.store.update(self._named(change), change.ids.reshape(-1), rows)

    def delete(self, change: Change) -> None:
        """Remove rows."""
        self.store.delete(self._named(change), change.ids.reshape(-1))

    def search(self) -> memcore.Hits:
        """One query in each bank."""
        hits: memcore.Hits = self.store.search(self.handles, self.queries, self.k)
        return hits

    def _named(self, change: Change) -> np.ndarray:
        return np.repeat(self.handles, change.ids.shape[1])


def whole_step(case: Case, inputs: Inputs, threads: int) -> Step:
    """Append, update, delete, search: four calls."""
    turns = rivals.Turns(inputs, ArenaBanks(inputs, case))
    return Step(turns.run, turns.setup, lambda hits: (hits, True), repeatable=False)


def writes(case: Case, inputs: Inputs, threads: int) -> Step:
    """Append, update, delete. A search that completes what they left open runs before the next."""
    store = ArenaBanks(inputs, case)
    turns = rivals.Turns(inputs, store)

    def setup() -> None:
        turns.setup()
        store.search()

    return Step(turns.write, setup, repeatable=False)


def search(case: Case, inputs: Inputs, threads: int) -> Step:
    """The search alone, in banks that nobody writes to."""
    return Step(ArenaBanks(inputs, case).search, answer=lambda hits: (hits, False))


def untouched(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n_banks, n_slots, dim) and ids, -1 where no row is, before the script."""
    n_banks, n_rows, dim = inputs["vectors"].shape
    rows = np.zeros((n_banks, n_rows + 1, dim), np.float32)
    rows[:, :n_rows] = inputs["vectors"]
    ids = np.full((n_banks, n_rows + 1), -1, np.int64)
    ids[:, :n_rows] = np.arange(n_rows)
    return rows, ids


def first_step(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """The same after the first step."""
    rows, ids = untouched(inputs)
    step = Script(inputs["vectors"], inputs["share"], inputs["seed"]).next()
    banks = np.arange(len(ids))[:, None]
    for change in (step.append, step.update):
        rows[banks, change.slots] = change.vectors
        ids[banks, change.slots] = change.ids
    ids[banks, step.delete.slots] = -1
    return rows, ids


def sweep(level: str) -> list[Case]:
    """The two numbers of banks that goals are set for."""
    numbers = (256,) if level == "quick" else (1024, 8192)
    return [Mutation(n_banks=n) for n in numbers]

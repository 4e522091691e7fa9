"""Forks: searching many that share their pages, and making, keeping and undoing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import memcore

from .. import data, gate
from ..case import Case, Inputs, Prepare, expect
from ..machine import Limits
from ..rows import Figure
from ..timing import Samples, Step
from .banks import filled

N_FORKS = 8
# Time of one query per fork, in times of one query per parent.
FLOOR, GOAL = 3.0, 2.0
LARGEST_MS = 5.0
LARGEST_GROWTH = 2.0


@dataclass(frozen=True, kw_only=True)
class ForkSearch(Case):
    """Eight forks of each of `n_banks` banks; one query per fork, the handles shuffled."""

    op: ClassVar[str] = "forks"
    n_banks: int
    n_rows: int
    dim: int = 384
    k: int = 5

    @property
    def name(self) -> str:
        """forks/search/banks x rows x dim."""
        return f"forks/search/{self.n_banks} x {N_FORKS} forks x {self.n_rows} x {self.dim}"

    @property
    def shape(self) -> dict[str, int]:
        """n_banks, n_forks, rows, dim."""
        return {"n_banks": self.n_banks, "n_forks": N_FORKS, "rows": self.n_rows, "dim": self.dim}

    def inputs(self) -> Inputs:
        """Vectors of all banks, offsets; shuffled queries of all forks, and the bank of each."""
        n_rows, n_queries = self.n_banks * self.n_rows, self.n_banks * N_FORKS
        segments = np.repeat(np.arange(self.n_banks), N_FORKS)
        return {
            "offsets": np.arange(0, n_rows + 1, self.n_rows),
            "vectors": data.keys("mix", n_rows, self.dim, self.seed),
            "queries": data.queries("mix", n_queries, n_rows, self.dim, self.seed),
            "segments": np.random.default_rng([self.seed, 5]).permutation(segments),
        }

    def engines(self) -> dict[str, Prepare]:
        """All forks in one call; the parents alone; one fork of each parent in each of 8 calls."""
        return {
            "8 forks, shuffled": forks_together,
            "parents": parents,
            "8 forks, one by one": forks_apart,
        }

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Hits of queries whose bank is named beside them, against the float32 scan."""
        hits, asked = result
        segments = inputs["segments"][asked]
        scores, ids = gate.float32_scan(
            inputs["queries"][asked],
            inputs["vectors"],
            self.k,
            self.metric,
            inputs["offsets"],
            segments,
        )
        ids -= inputs["offsets"][segments][:, None]
        gate.expect_equal("the float32 scan", np.arange(len(ids)), hits, (scores, ids))
        return np.asarray(hits.scores)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The time in times of one query per parent."""
        if "parents" not in samples:
            return {}
        one = samples["parents"].median()
        figures = {}
        for name, taken in samples.items():
            floor, goal = (FLOOR, GOAL) if name == "8 forks, shuffled" else (None, None)
            ratio = taken.median() / one
            if name != "parents":
                figures[name] = [
                    Figure("time", ratio, "x one query per parent", floor, goal, False)
                ]
        return figures


@dataclass(frozen=True, kw_only=True)
class ForkCost(Case):
    """Fork `n_banks * n_forks` banks from `n_banks`; snapshot and roll back those."""

    op: ClassVar[str] = "forks"
    n_banks: int = 512
    n_rows: int = 256
    dim: int = 384

    @property
    def name(self) -> str:
        """forks/cost/forks of banks x rows x dim."""
        return (
            f"forks/cost/{self.n_banks * N_FORKS} from {self.n_banks} x {self.n_rows} x {self.dim}"
        )

    @property
    def shape(self) -> dict[str, int]:
        """n_banks, n_forks, rows, dim."""
        return {"n_banks": self.n_banks, "n_forks": N_FORKS, "rows": self.n_rows, "dim": self.dim}

    def inputs(self) -> Inputs:
        """Vectors of all banks, and offsets."""
        n_rows = self.n_banks * self.n_rows
        return {
            "offsets": np.arange(0, n_rows + 1, self.n_rows),
            "vectors": data.keys("mix", n_rows, self.dim, self.seed),
        }

    def engines(self) -> dict[str, Prepare]:
        """The three operations."""
        return {"fork": fork, "snapshot": snapshot, "rollback": rollback}

    def rivals(self) -> dict[str, Prepare]:
        """What one does without forks: copy."""
        return {"numpy[copy]": numpy_copy}

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Each handle holds its parent's rows: counts of all, rows of some."""
        store, handles = result
        expect(
            bool((store.count(handles) == self.n_rows).all()), "a bank has the wrong number of rows"
        )
        chosen = np.random.default_rng([self.seed, 9]).integers(handles.size, size=50)
        ids = np.arange(len(chosen)) % self.n_rows
        found = stored_vectors(store, handles.reshape(-1)[chosen], ids)
        rows = inputs["offsets"][chosen // N_FORKS] + ids
        expect(bool((found == inputs["vectors"][rows]).all()), "a row differs from its parent's")
        return np.zeros((1, 1), np.float32)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """Milliseconds."""
        return {
            name: [Figure("time", samples[name].median() * 1e3, "ms", LARGEST_MS, None, False)]
            for name in self.engines()
            if name in samples
        }

    def counts(self, inputs: Inputs, limits: Limits) -> list[Figure]:
        """Memory that forks and marks take before anything is written."""
        store, handles = filled(inputs, self.metric)
        before = store.nbytes
        group = store.fork(handles, N_FORKS)
        forked = store.nbytes
        mark = store.snapshot(group)
        marked = store.nbytes
        mark.release()
        return [
            Figure(
                "memory of forks",
                100 * (forked / before - 1),
                "% more",
                LARGEST_GROWTH,
                None,
                False,
            ),
            Figure(
                "memory of a mark",
                100 * (marked / forked - 1),
                "% more",
                LARGEST_GROWTH,
                None,
                False,
            ),
        ]


def stored_vectors(store: memcore.Arena, handles: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The vectors of (handle, id) pairs."""
    return np.asarray(store.get(handles, ids).vectors)


def parents(case: Case, inputs: Inputs, threads: int) -> Step:
    """One query per parent: the first of those asked of its forks."""
    store, handles = filled(inputs, case.metric)
    first = np.unique(inputs["segments"], return_index=True)[1]
    queries = inputs["queries"][first]
    return Step(lambda: store.search(handles, queries, case.k), answer=lambda hits: (hits, first))


def forks_together(case: Case, inputs: Inputs, threads: int) -> Step:
    """All forks in one call."""
    store, group = _group(case, inputs)
    queries = inputs["queries"]
    everyone = np.arange(len(queries))
    return Step(lambda: store.search(group, queries, case.k), answer=lambda hits: (hits, everyone))


def forks_apart(case: Case, inputs: Inputs, threads: int) -> Step:
    """A call for the first fork of each parent, then one for the second, and so on."""
    store, group = _group(case, inputs)
    parts = np.split(np.argsort(_turn(inputs["segments"]), kind="stable"), N_FORKS)
    asked = [(group[part], inputs["queries"][part]) for part in parts]

    def run() -> list[memcore.Hits]:
        return [store.search(handles, queries, case.k) for handles, queries in asked]

    def answer(found: list[memcore.Hits]) -> tuple[memcore.Hits, np.ndarray]:
        scores, ids = (np.concatenate(part) for part in zip(*found, strict=True))
        return memcore.Hits(scores, ids), np.concatenate(parts)

    return Step(run, answer=answer)


def fork(case: Case, inputs: Inputs, threads: int) -> Step:
    """Fork; the forks of the last run are dropped beforehand."""
    store, handles = filled(inputs, case.metric)
    made: list[np.ndarray] = []

    def setup() -> None:
        if made:
            store.drop(made.pop())

    def run() -> Any:
        made.append(store.fork(handles, N_FORKS))
        return store, made[-1]

    return Step(run, setup, repeatable=False)


def snapshot(case: Case, inputs: Inputs, threads: int) -> Step:
    """Mark all forks; the mark of the last run is released beforehand."""
    store, handles = filled(inputs, case.metric)
    group = store.fork(handles, N_FORKS)
    marks: list[Any] = []

    def setup() -> None:
        if marks:
            marks.pop().release()

    def run() -> Any:
        marks.append(store.snapshot(group))
        return store, group

    return Step(run, setup, repeatable=False)


def rollback(case: Case, inputs: Inputs, threads: int) -> Step:
    """Undo one row added to each fork, which is added beforehand."""
    store, handles = filled(inputs, case.metric)
    group = store.fork(handles, N_FORKS).reshape(-1)
    mark = store.snapshot(group)
    rows = inputs["vectors"][: group.size]

    def run() -> Any:
        store.rollback(group, mark)
        return store, group

    return Step(run, lambda: store.add(group, rows), repeatable=False)


def numpy_copy(case: Case, inputs: Inputs, threads: int) -> Step:
    """Every row of every fork copied into an array made beforehand."""
    out = np.zeros((N_FORKS, *inputs["vectors"].shape), np.float32)

    def run() -> None:
        out[...] = inputs["vectors"]

    return Step(run, answer=lambda _: np.zeros((1, 1), np.float32))


def _group(case: Case, inputs: Inputs) -> tuple[memcore.Arena, np.ndarray]:
    """An Arena, and the fork that each query asks."""
    store, handles = filled(inputs, case.metric)
    group = store.fork(handles, N_FORKS)
    segments = inputs["segments"]
    return store, group[segments, _turn(segments)]


def _turn(segments: np.ndarray) -> np.ndarray:
    """How often the same segment came before: 0 for the first, 1 for the second."""
    order = np.argsort(segments, kind="stable")
    turn = np.empty_like(order)
    turn[order] = np.arange(len(order)) % N_FORKS
    return turn


def sweep(level: str) -> list[Case]:
    """Small banks and larger ones; the cost of forks."""
    if level == "quick":
        return [ForkSearch(n_banks=256, n_rows=64), ForkCost(n_banks=128)]
    return [
        ForkSearch(n_banks=1024, n_rows=64),
        ForkSearch(n_banks=512, n_rows=256),
        ForkCost(),
    ]

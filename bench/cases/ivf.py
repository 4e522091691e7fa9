"""Inverted files: queries a second at a recall, bytes, and the same after many changes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np

import memcore

from .. import data
from ..case import Case, Inputs, Prepare, expect, speedup
from ..machine import Limits
from ..rivals import ivf as rivals
from ..rows import Figure
from ..timing import Samples, Step

# Bytes of a row over those of FAISS IVF-Flat; queries a second over the best index of FAISS; and
# after the changes over before.
LARGEST_BYTES = 1.3
FLOOR, CHANGED_FLOOR = 1.0, 0.8
# What a search that asks for a recall may fall short of it: it has not seen these queries.
SLACK = 0.02
# Queries that recall is taken of, and that one query at a time takes its turn from.
N_QUERIES = 1000
CHANGES_A_CALL = 1000
# New rows lie about this far from old ones.
NOISE = 0.05

OURS, ASKED = "Bank(index='ivf')", "Bank(index='ivf'), recall=0.95"
BEFORE = "Bank(index='ivf') before the changes"


@dataclass(frozen=True, kw_only=True)
class Ivf(Case):
    """`n_queries` at a time over `n` rows, of which `n_changes` were added and as many deleted."""

    op: ClassVar[str] = "ivf"
    n: int = 1_000_000
    dim: int = 128
    n_queries: int = N_QUERIES
    n_changes: int = 0
    metric: str = "l2"
    recall: float = 0.95

    @property
    def name(self) -> str:
        """ivf/rows x dim/Q, and the changes."""
        name = f"ivf/{self.n // 1000}k x {self.dim}/Q={self.n_queries}"
        return f"{name}/{self.n_changes // 1000}k changes" if self.n_changes else name

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_queries, n_changes."""
        return {
            "n": self.n, "dim": self.dim, "n_queries": self.n_queries, "n_changes": self.n_changes
        }  # fmt: skip

    def inputs(self) -> Inputs:
        """Keys, queries, the ids of the keys' rows, and the true ids of each query."""
        keys = data.keys("mix", self.n, self.dim, self.seed)
        queries = data.queries("mix", N_QUERIES, self.n, self.dim, self.seed)
        ids = np.arange(self.n)
        found: Inputs = {"queries": queries}
        if self.n_changes:
            found["new"], found["gone"] = changes(keys, self.n_changes, self.seed)
            found["keys"] = keys
            ids = np.setdiff1d(np.arange(self.n + self.n_changes), found["gone"])
            keys = np.concatenate([keys, found["new"]])[ids]
        hits = memcore.search(queries, keys, self.k, metric="l2")
        return {"keys": keys, **found, "truth": ids[hits.ids]}

    def engines(self) -> dict[str, Prepare]:
        """The effort that just reaches the recall, as rivals are tuned; the recall asked for."""
        if self.n_changes:
            return {OURS: ours, BEFORE: before}
        return {OURS: ours, ASKED: asked}

    def rivals(self) -> dict[str, Prepare]:
        """The inverted files of FAISS, tuned to just reach the recall; none after changes."""
        return {} if self.n_changes else rivals.indexes()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """The recall over all queries, against the exact search."""
        found, wanted = result
        expect(found >= wanted, f"recall is {found:.4f}, should be {wanted}")
        return np.array([[self.recall]], np.float32)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against FAISS, or against the bank before the changes."""
        if OURS not in samples:
            return {}
        if self.n_changes:
            ratio = speedup(samples, OURS, BEFORE) if BEFORE in samples else 0.0
            return {OURS: [Figure("speed", ratio, "x before", CHANGED_FLOOR)]}
        if not best_rival:
            return {}
        return {
            name: [Figure("speed", speedup(samples, name, best_rival), "x best rival", FLOOR)]
            for name in (OURS, ASKED)
            if name in samples
        }

    def counts(self, inputs: Inputs, limits: Limits) -> list[Figure]:
        """Seconds to build, bytes of a row, and how many times those of FAISS that is."""
        if self.n_queries == 1:
            return []
        bank, seconds = _built(self)
        if self.n_changes:
            # Its store holds the bank before the changes too, so bytes would say little.
            return [Figure("changes", _changed(self)[1], "s", larger_is_better=False)]
        n_bytes = bank.nbytes / len(bank)
        flat, refined = rivals.row_bytes(self)
        return [
            Figure("build", seconds, "s", larger_is_better=False),
            Figure("bytes of a row", n_bytes, "bytes", larger_is_better=False),
            Figure("bytes", n_bytes / flat, "x IVF-Flat", LARGEST_BYTES, None, False),
            Figure("bytes", n_bytes / refined, "x IVF-PQ and rows", LARGEST_BYTES, None, False),
        ]


def changes(keys: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """New rows (n, dim), and the ids of as many rows that go, some of them new."""
    rng = np.random.default_rng([seed, 4])
    near = keys[rng.integers(len(keys), size=n)]
    new = data.unit(near + NOISE * rng.standard_normal(near.shape, np.float32))
    return new.astype(np.float32), rng.permutation(len(keys))[:n]


def ours(case: Case, inputs: Inputs, threads: int) -> Step:
    """The least effort of a grid that reaches the recall, however it is asked for."""
    assert isinstance(case, Ivf)
    bank = _changed(case)[0] if case.n_changes else _built(case)[0]
    return _tuned(case, inputs, bank)


def before(case: Case, inputs: Inputs, threads: int) -> Step:
    """The bank before the changes, tuned on what was true then."""
    assert isinstance(case, Ivf)
    unchanged = Ivf(n=case.n, dim=case.dim, n_queries=case.n_queries, seed=case.seed, k=case.k)
    return _tuned(unchanged, unchanged.inputs(), _built(case)[0])


def asked(case: Case, inputs: Inputs, threads: int) -> Step:
    """The recall as an argument: what it takes is chosen by the bank."""
    assert isinstance(case, Ivf)
    bank, queries, recall = _built(case)[0], inputs["queries"], case.recall
    found = _recall(bank.search(queries, case.k, recall=recall), inputs)
    return Step(
        _calls(case, bank, queries, {"recall": recall}), answer=lambda _: (found, recall - SLACK)
    )


def _tuned(case: Ivf, inputs: Inputs, bank: memcore.Bank) -> Step:
    queries = inputs["queries"]
    efforts = [{"recall": round(r, 3)} for r in np.arange(case.recall - 0.03, 0.99, 0.005)]
    efforts += [{"n_probes": n} for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48)]
    best, found, least = efforts[-1], 0.0, np.inf
    for name in ("recall", "n_probes"):
        for effort in (one for one in efforts if name in one):
            reached = _recall(bank.search(queries, case.k, **effort), inputs)
            if reached < case.recall:
                continue
            seconds = rivals.seconds_of(_calls(case, bank, queries, effort))
            if seconds < least:
                best, found, least = effort, reached, seconds
            break
    return Step(_calls(case, bank, queries, best), answer=lambda _: (found, case.recall))


def _calls(case: Ivf, bank: memcore.Bank, queries: np.ndarray, effort: dict[str, Any]) -> Any:
    return rivals.calls(case, partial(bank.search, **effort), queries)


def _recall(hits: memcore.Hits, inputs: Inputs) -> float:
    return rivals.recall(np.asarray(hits.ids), inputs["truth"])


def _built(case: Ivf) -> tuple[memcore.Bank, float]:
    return _build(case.n, case.dim, case.seed)


def _changed(case: Ivf) -> tuple[memcore.Bank, float]:
    return _change(case.n, case.dim, case.seed, case.n_changes)


@lru_cache(maxsize=1)
def _build(n: int, dim: int, seed: int) -> tuple[memcore.Bank, float]:
    """The bank, filled in two calls, and the processor's seconds that took."""
    keys = data.keys("mix", n, dim, seed)
    bank = memcore.Bank(dim, metric="l2", index="ivf")
    start = time.process_time()
    for part in np.array_split(keys, 2):
        bank.add(part)
    return bank, time.process_time() - start


@lru_cache(maxsize=1)
def _change(n: int, dim: int, seed: int, n_changes: int) -> tuple[memcore.Bank, float]:
    """A fork of the bank after the changes, and the processor's seconds that they took."""
    bank = _build(n, dim, seed)[0].fork()
    new, gone = changes(data.keys("mix", n, dim, seed), n_changes, seed)
    start = time.process_time()
    for begin in range(0, n_changes, CHANGES_A_CALL):
        bank.add(new[begin : begin + CHANGES_A_CALL])
        bank.delete(gone[begin : begin + CHANGES_A_CALL])
    return bank, time.process_time() - start


def sweep(level: str) -> list[Case]:
    """Quick: 100k rows. Default and full: a million too."""
    sizes = [100_000] if level == "quick" else [100_000, 1_000_000]
    return [
        case
        for n in sizes
        for case in (Ivf(n=n), Ivf(n=n, n_queries=1), Ivf(n=n, n_changes=n // 10))
    ]

"""One search in each of many banks, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import memcore

from .. import data, gate
from ..case import Case, Inputs, Prepare, speedup
from ..machine import Limits
from ..rivals import banks as rivals
from ..rows import Figure
from ..timing import Samples, Step

# Floor and goal as multiples of the best rival, by number of banks and mean rows; and the goal with
# two threads or more.
FLOOR_AND_GOAL = {(8192, 64): (2.5, 4.0), (4096, 256): (3.0, None), (1024, 500): (2.0, 3.0)}
GOAL_OF_THREADS = {(8192, 64): 5.0}
GOAL_OF_SCATTERED = 75.0


@dataclass(frozen=True, kw_only=True)
class Banks(Case):
    """`n_banks` banks of `mean` rows on average, one query each."""

    op: ClassVar[str] = "banks"
    n_banks: int
    mean: int
    dim: int = 384
    sizes: str = "equal"
    largest: int = 512
    k: int = 5

    @property
    def name(self) -> str:
        """banks/number x mean rows x dim."""
        about = "~" if self.sizes == "lognormal" else ""
        return f"banks/{self.n_banks} x {about}{self.mean} x {self.dim}"

    @property
    def shape(self) -> dict[str, int]:
        """n_banks, mean rows, dim."""
        return {"n_banks": self.n_banks, "mean_rows": self.mean, "dim": self.dim}

    def inputs(self) -> Inputs:
        """Vectors (n_rows, dim), offsets (n_banks + 1,), queries (n_banks, dim)."""
        rows = data.bank_sizes(self.sizes, self.n_banks, self.mean, self.largest, self.seed)
        n_rows = int(rows.sum())
        return {
            "offsets": np.concatenate([[0], np.cumsum(rows)]),
            "vectors": data.keys("mix", n_rows, self.dim, self.seed),
            "queries": data.queries("mix", self.n_banks, n_rows, self.dim, self.seed),
        }

    def engines(self) -> dict[str, Prepare]:
        """An Arena, and memcore.search_ragged over the array."""
        return {"memcore Arena": arena, "memcore.search_ragged": ragged}

    def rivals(self) -> dict[str, Prepare]:
        """All that search slices."""
        return rivals.all_of()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Against the float32 scan, and the reference in sampled banks."""
        return gate.check_banks(
            result,
            inputs["queries"],
            inputs["vectors"],
            inputs["offsets"],
            self.k,
            self.metric,
            self.seed,
        )

    def bounds(self, limits: Limits) -> dict[str, float]:
        """The float32 roofline, and scattered reads of all int8 rows and of k float32 rows."""
        n_rows = float(
            data.bank_sizes(self.sizes, self.n_banks, self.mean, self.largest, self.seed).sum()
        )
        shadow = n_rows * (self.dim + 12)
        scored = 4.0 * self.n_banks * self.k * self.dim
        scattered = shadow / limits.gather_24k + scored / limits.gather_1k5
        return {
            "float32 roofline": limits.float32_s(4 * n_rows * self.dim, 2 * n_rows * self.dim),
            "scattered reads": scattered,
        }

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against the best rival, and the share of the rate of scattered reads."""
        ours = "memcore Arena"
        if not best_rival or ours not in samples:
            return {}
        floor, goal = FLOOR_AND_GOAL.get((self.n_banks, self.mean), (None, None))
        if limits.threads > 1:
            goal = GOAL_OF_THREADS.get((self.n_banks, self.mean), goal)
        share = self.bounds(limits)["scattered reads"] / samples[ours].median()
        return {
            ours: [
                Figure("speed", speedup(samples, ours, best_rival), "x best rival", floor, goal),
                Figure("scattered reads", 100 * share, "% of rate", None, GOAL_OF_SCATTERED),
            ]
        }


def filled(inputs: Inputs, metric: str) -> tuple[memcore.Arena, np.ndarray]:
    """An Arena with the rows of each bank, and the handles."""
    offsets = inputs["offsets"]
    store = memcore.Arena(dim=inputs["vectors"].shape[1], metric=metric)
    handles = store.new(len(offsets) - 1)
    store.add(np.repeat(handles, np.diff(offsets)), inputs["vectors"])
    return store, handles


def arena(case: Case, inputs: Inputs, threads: int) -> Step:
    """An Arena filled once."""
    store, handles = filled(inputs, case.metric)
    queries = inputs["queries"]
    return Step(lambda: store.search(handles, queries, case.k))


def ragged(case: Case, inputs: Inputs, threads: int) -> Step:
    """The rows as they lie, in segments; ids are made to count from 0 in each."""
    queries, vectors, offsets = inputs["queries"], inputs["vectors"], inputs["offsets"]

    def answer(hits: memcore.Hits) -> memcore.Hits:
        return memcore.Hits(hits.scores, np.where(hits.ids < 0, -1, hits.ids - offsets[:-1, None]))

    return Step(
        lambda: memcore.search_ragged(queries, vectors, offsets, case.k, metric=case.metric),
        answer=answer,
    )


def sweep(level: str) -> list[Case]:
    """The three shapes with goals; a small one for a quick look."""
    if level == "quick":
        return [Banks(n_banks=1024, mean=64, sizes="lognormal")]
    goals: list[Case] = [
        Banks(n_banks=8192, mean=64, sizes="lognormal"),
        Banks(n_banks=4096, mean=256),
        Banks(n_banks=1024, mean=500),
    ]
    if level == "default":
        return goals
    return [
        *goals,
        Banks(n_banks=1024, mean=64, sizes="lognormal"),
        Banks(n_banks=64, mean=64, sizes="lognormal"),
    ]

"""Exact top-k over one set of rows: a `Bank`, and plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np

import memcore

from .. import data, gate
from ..case import Case, Inputs, Prepare, speedup
from ..machine import Limits
from ..rivals import search as rivals
from ..rows import Figure
from ..timing import Samples, Step

# Floor and goal as multiples of the best exact float32 rival: by the number of queries, and warm or
# cold at one query.
FLOOR_AND_GOAL = {1: (7.0, 10.0), 16: (6.0, 10.0), 256: (3.5, 5.0), 4096: (3.5, 5.0)}
COLD_FLOOR_AND_GOAL = (3.5, 5.0)
GOAL_AT_384 = 4.0
# A hard set may take this many times as long as plain rows of the same shape, timed beside it.
LARGEST_OF_HARD = 1.6
PLAIN = "memcore Bank, plain rows"
# FAISS takes its matrix path from this many queries on by itself.
FAISS_THRESHOLD = 20
# Rivals that score pair by pair take minutes, and never win, past this many pairs.
LOOP_WORK = 10_000_000
# The sizes that the goals are set for.
GOAL_SIZES = ((100_000, 128), (100_000, 384), (1_000_000, 128))


@dataclass(frozen=True, kw_only=True)
class Search(Case):
    """`n_queries` queries over `n` rows."""

    op: ClassVar[str] = "search"
    n: int
    dim: int
    n_queries: int
    kind: str = "mix"

    @property
    def name(self) -> str:
        """search/rows x dim/Q=/metric, and k and the data where they are not the usual."""
        parts = [f"search/{size(self.n)} x {self.dim}", f"Q={self.n_queries}", self.metric]
        if self.k != 10:
            parts.append(f"k={self.k}")
        if self.kind != "mix":
            parts.append(self.kind)
        return "/".join(parts)

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_queries."""
        return {"n": self.n, "dim": self.dim, "n_queries": self.n_queries}

    def inputs(self) -> Inputs:
        """Keys (n, dim) and queries (n_queries, dim)."""
        return {
            "keys": data.keys(self.kind, self.n, self.dim, self.seed),
            "queries": data.queries(self.kind, self.n_queries, self.n, self.dim, self.seed),
        }

    def engines(self) -> dict[str, Prepare]:
        """A Bank, and memcore.search over the array, which has no int8 rows at hand."""
        if self.kind != "mix":
            return {"memcore Bank": bank, PLAIN: plain_bank}
        return {"memcore Bank": bank, "memcore.search": arrays}

    def rivals(self) -> dict[str, Prepare]:
        """All that search an array, less those without a chance at large batches."""
        found = rivals.all_of()
        if self.n_queries >= FAISS_THRESHOLD:
            # The default threshold takes the matrix path too.
            found.pop("faiss[default]")
        if self.n * self.n_queries > LOOP_WORK:
            for name in ("hnswlib", "usearch"):
                found.pop(name)
        return found

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Against the reference and the float32 scan."""
        if not isinstance(result, memcore.Hits):
            result, inputs = result
        return gate.check_search(
            result, inputs["queries"], inputs["keys"], self.k, self.metric, self.seed
        )

    def bounds(self, limits: Limits) -> dict[str, float]:
        """The float32 roofline, and the time of the int8 products alone."""
        operations = 2.0 * self.n_queries * self.n * self.dim
        return {
            "float32 roofline": limits.float32_s(4.0 * self.n * self.dim, operations),
            "int8 products": operations / limits.int8,
        }

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against the best rival, where a floor is set."""
        if self.kind != "mix" and "memcore Bank" in samples and PLAIN in samples:
            ratio = samples["memcore Bank"].median() / samples[PLAIN].median()
            figure = Figure("time", ratio, "x plain rows", LARGEST_OF_HARD, None, False)
            return {"memcore Bank": [figure]}
        with_goal = (self.n, self.dim) in GOAL_SIZES and self.kind == "mix" and self.k == 10
        if not (with_goal and best_rival and "memcore Bank" in samples):
            return {}
        floor, goal = FLOOR_AND_GOAL.get(self.n_queries, (None, None))
        if self.dim == 384 and self.n_queries >= 256:
            goal = GOAL_AT_384
        if self.n_queries == 1 and (self.n, self.dim) != (100_000, 128):
            # The floor of warm caches is for rows that fit them.
            floor, goal = COLD_FLOOR_AND_GOAL
        figures = [
            Figure(
                "speed",
                speedup(samples, "memcore Bank", best_rival),
                "x best rival",
                floor,
                goal,
            )
        ]
        if self.n_queries == 1:
            cold = speedup(samples, "memcore Bank", best_rival, "cold")
            figures.append(Figure("speed, cold", cold, "x best rival", *COLD_FLOOR_AND_GOAL))
        return {"memcore Bank": figures}


def bank(case: Case, inputs: Inputs, threads: int) -> Step:
    """A Bank filled once."""
    store = memcore.Bank(dim=inputs["keys"].shape[1], metric=case.metric)
    for begin in range(0, len(inputs["keys"]), 1 << 17):
        store.add(inputs["keys"][begin : begin + (1 << 17)])
    queries = inputs["queries"]
    return Step(lambda: store.search(queries, case.k))


def plain_bank(case: Case, inputs: Inputs, threads: int) -> Step:
    """The same search over plain rows, which come with their own queries."""
    if not isinstance(case, Search):
        raise TypeError(f"plain_bank: case is {case.name}, should be a Search")
    plain = replace(case, kind="mix").inputs()
    step = bank(case, plain, threads)
    return Step(step.run, answer=lambda hits: (hits, plain))


def arrays(case: Case, inputs: Inputs, threads: int) -> Step:
    """The keys as they lie."""
    queries, keys = inputs["queries"], inputs["keys"]
    return Step(lambda: memcore.search(queries, keys, case.k, metric=case.metric))


def size(n: int) -> str:
    """100000 as 100k, 1000000 as 1M."""
    for unit, letter in ((1_000_000, "M"), (1000, "k")):
        if n % unit == 0:
            return f"{n // unit}{letter}"
    return str(n)


def sweep(level: str) -> list[Case]:
    """Quick: one size. Default: those with goals, and two hard sets. Full: the grid."""
    if level == "quick":
        return [Search(n=100_000, dim=128, n_queries=q) for q in (1, 256)]
    if level == "default":
        plain = [
            Search(n=n, dim=dim, n_queries=q, metric=metric)
            for (n, dim), metric, q in product(
                GOAL_SIZES, ("dot", "cosine", "l2"), (1, 16, 256, 4096)
            )
        ]
        hard = [
            Search(n=100_000, dim=128, n_queries=q, kind=kind)
            for kind, q in product(("near-duplicates", "outliers"), (1, 256))
        ]
        return [*plain, *hard]
    return [
        Search(n=n, dim=dim, n_queries=q, metric=metric, k=k, kind=kind)
        for kind, n, dim, metric, k, q in product(
            data.KINDS,
            (10_000, 100_000, 1_000_000),
            (128, 384, 768),
            ("dot", "cosine", "l2"),
            (10, 100),
            (1, 16, 256, 4096),
        )
    ]

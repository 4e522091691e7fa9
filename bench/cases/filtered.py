"""Search where a condition on a field holds: from nearly all rows allowed to nearly none."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

import memcore

from .. import data, gate
from ..case import Case, Inputs, Prepare, speedup
from ..machine import Limits
from ..rivals import filtered as rivals
from ..rows import Figure
from ..timing import Samples, Step
from .search import size

SHARES = (0.5, 0.2, 0.1, 0.01, 0.001, 0.0001)


@dataclass(frozen=True, kw_only=True)
class Filtered(Case):
    """`n_queries` queries over the rows of `n` whose field is below a bound: a share of them."""

    op: ClassVar[str] = "filter"
    n: int
    dim: int
    n_queries: int
    share: float

    @property
    def name(self) -> str:
        """filter/rows x dim/share/Q=."""
        rows = f"{size(self.n)} x {self.dim}"
        return f"filter/{rows}/{self.share:.2%}/Q={self.n_queries}/{self.metric}"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_queries."""
        return {"n": self.n, "dim": self.dim, "n_queries": self.n_queries}

    def inputs(self) -> Inputs:
        """Keys (n, dim), queries (n_queries, dim), a field (n,), and the bound of the condition."""
        ranks = np.random.default_rng([self.seed, 4]).permutation(self.n)
        return {
            "keys": data.keys("mix", self.n, self.dim, self.seed),
            "queries": data.queries("mix", self.n_queries, self.n, self.dim, self.seed),
            "field": ranks,
            "bound": round(self.share * self.n),
        }

    def engines(self) -> dict[str, Prepare]:
        """A Bank with the field."""
        return {"memcore Bank": bank}

    def rivals(self) -> dict[str, Prepare]:
        """Those that can leave rows out; each finds them from the field."""
        return rivals.all_of()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """The same search over the allowed rows alone."""
        allowed = np.flatnonzero(inputs["field"] < inputs["bound"])
        rows = inputs["keys"][allowed]
        scores, found = gate.float32_scan(inputs["queries"], rows, self.k, self.metric)
        ids = np.where(found < 0, -1, allowed[found])
        gate.expect_equal(
            "the float32 scan of the allowed rows",
            np.arange(self.n_queries),
            result,
            (scores, ids),
        )
        return scores

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against the best rival."""
        if not best_rival or "memcore Bank" not in samples:
            return {}
        ratio = speedup(samples, "memcore Bank", best_rival)
        return {"memcore Bank": [Figure("speed", ratio, "x best rival")]}


def bank(case: Case, inputs: Inputs, threads: int) -> Step:
    """A Bank filled once, searched with `where`."""
    store = memcore.Bank(dim=inputs["keys"].shape[1], metric=case.metric, fields={"rank": "int64"})
    for begin in range(0, len(inputs["keys"]), 1 << 17):
        part = slice(begin, begin + (1 << 17))
        store.add(inputs["keys"][part], fields={"rank": inputs["field"][part]})
    where, queries = {"rank": {"lt": inputs["bound"]}}, inputs["queries"]
    return Step(lambda: store.search(queries, case.k, where=where))


def sweep(level: str) -> list[Case]:
    """Quick: two shares of a small bank. Else one query and a batch at every share."""
    if level == "quick":
        return [Filtered(n=100_000, dim=128, n_queries=1, share=share) for share in (0.2, 0.001)]
    return [
        Filtered(n=1_000_000, dim=128, n_queries=n_queries, share=share)
        for n_queries, share in product((1, 64), SHARES)
    ]

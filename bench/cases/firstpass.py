"""The int8 first pass alone: the engine's inner loop over blocks of which no row is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..case import Case, Inputs
from ..machine import Limits, first_pass_rate
from ..rows import Figure

FLOOR = 80.0
FLOOR_FROM_QUERIES = 256


@dataclass(frozen=True, kw_only=True)
class FirstPass(Case):
    """`n_queries` queries over `n` rows."""

    op: ClassVar[str] = "firstpass"
    n: int
    dim: int
    n_queries: int
    dtype: str = "int8"

    @property
    def name(self) -> str:
        """firstpass/rows x dim/Q=."""
        return f"firstpass/{self.n} x {self.dim}/Q={self.n_queries}"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_queries."""
        return {"n": self.n, "dim": self.dim, "n_queries": self.n_queries}

    def inputs(self) -> Inputs:
        """None: the loop's time does not depend on what the rows hold."""
        return {}

    def counts(self, inputs: Inputs, limits: Limits) -> list[Figure]:
        """The rate, and its share of the int8 rate of this machine."""
        rate = first_pass_rate(self.n, self.dim, self.n_queries, limits.threads)
        floor = FLOOR if self.n_queries >= FLOOR_FROM_QUERIES else None
        return [
            Figure("first pass alone", rate / 1e9, "Gop/s"),
            Figure("first pass alone", 100 * rate / limits.int8, "% of int8 rate", floor),
        ]


def sweep(level: str) -> list[Case]:
    """The shapes of the search cases with goals."""
    if level == "quick":
        return [FirstPass(n=100_000, dim=128, n_queries=256)]
    return [
        FirstPass(n=100_000, dim=dim, n_queries=q) for dim in (128, 384) for q in (1, 16, 256, 4096)
    ]

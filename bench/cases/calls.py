"""What one call costs: one query, a hundred rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..case import Case, speedup
from ..machine import Limits
from ..rivals import library
from ..rows import Figure
from ..timing import Samples
from .search import Search

LARGEST_US = 5.0


@dataclass(frozen=True, kw_only=True)
class Call(Search):
    """A search so small that the call itself is the cost."""

    op: ClassVar[str] = "calls"
    n: int = 100
    dim: int = 384
    n_queries: int = 1
    k: int = 5

    @property
    def name(self) -> str:
        """calls/rows x dim."""
        return f"calls/{self.n} x {self.dim}/k={self.k}/{self.metric}"

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """Microseconds a call, and the speed against FAISS in the same run."""
        faiss = [name for name in samples if library(name) == "faiss"]
        figures = {}
        for ours in self.engines():
            if ours in samples:
                us = samples[ours].median() * 1e6
                figures[ours] = [Figure("call", us, "us", LARGEST_US, None, False)]
                figures[ours] += [
                    Figure("speed", speedup(samples, ours, name), "x FAISS", 1.0) for name in faiss
                ]
        return figures


def sweep(level: str) -> list[Case]:
    """One case, at every level."""
    return [Call()]

"""The k best of each row of scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import memcore
from memcore import reference

from .. import gate
from ..case import Case, Inputs, Prepare
from ..machine import Limits
from ..rivals import topk as rivals
from ..timing import Step


@dataclass(frozen=True, kw_only=True)
class TopK(Case):
    """`n_rows` rows of `n` scores."""

    op: ClassVar[str] = "topk"
    n_rows: int = 256
    n: int = 100_000

    @property
    def name(self) -> str:
        """topk/rows x scores/k."""
        return f"topk/{self.n_rows} x {self.n}/k={self.k}"

    @property
    def shape(self) -> dict[str, int]:
        """n_rows, n."""
        return {"n_rows": self.n_rows, "n": self.n}

    def inputs(self) -> Inputs:
        """Scores (n_rows, n)."""
        rng = np.random.default_rng([self.seed, 6])
        return {"scores": rng.standard_normal((self.n_rows, self.n), np.float32)}

    def engines(self) -> dict[str, Prepare]:
        """memcore.topk."""
        return {"memcore.topk": topk}

    def rivals(self) -> dict[str, Prepare]:
        """NumPy and torch."""
        return rivals.all_of()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Against the reference, all rows."""
        truth = reference.topk(inputs["scores"], self.k)
        gate.expect_equal("the reference", np.arange(self.n_rows), result, truth)
        return np.asarray(result.scores)

    def bounds(self, limits: Limits) -> dict[str, float]:
        """Reading the scores once."""
        n_bytes = 4.0 * self.n_rows * self.n
        return {"reading": n_bytes / limits.read(n_bytes)}


def topk(case: Case, inputs: Inputs, threads: int) -> Step:
    """The op."""
    return Step(lambda: memcore.topk(inputs["scores"], case.k))


def sweep(level: str) -> list[Case]:
    """Small and large k."""
    return [TopK(n_rows=32)] if level == "quick" else [TopK(k=k) for k in (1, 10, 100, 1000)]

"""Attention over rows: top-k and dense, the read alone and with its gradients, time and memory."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import memcore
from memcore import reference

from .. import data
from ..case import Case, Inputs, Prepare, expect, speedup
from ..machine import Limits
from ..rivals import attend as rivals
from ..rows import Figure
from ..timing import Samples, Step

FORWARD_FLOOR = 3.0
GRADIENTS_FLOOR = 5.0
# Of the rival's memory beyond inputs and results.
LARGEST_SHARE = 10.0
CLOSE = 1e-5
# Pairs of a query and a key that the definition scores for the check.
CHECKED_PAIRS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Attend(Case):
    """`n_queries` reads over `n` rows; k = 0 is all of them."""

    op: ClassVar[str] = "attend"
    n: int = 100_000
    dim: int = 128
    n_queries: int = 4096
    k: int = 32
    with_gradients: bool = False

    @property
    def name(self) -> str:
        """attend/rows x dim/Q=/k, and gradients where they are taken too."""
        read = f"k={self.k}" if self.k else "all"
        more = "/gradients" if self.with_gradients else ""
        return f"attend/{self.n // 1000}k x {self.dim}/Q={self.n_queries}/{read}{more}"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_queries."""
        return {"n": self.n, "dim": self.dim, "n_queries": self.n_queries}

    def inputs(self) -> Inputs:
        """Keys and queries of unit length, values and the gradient of the read at random."""
        rng = np.random.default_rng([self.seed, 8])
        return {
            "keys": data.keys("mix", self.n, self.dim, self.seed),
            "queries": data.queries("mix", self.n_queries, self.n, self.dim, self.seed),
            "values": rng.standard_normal((self.n, self.dim), np.float32),
            "upstream": rng.standard_normal((self.n_queries, self.dim), np.float32),
            "beta": float(np.sqrt(self.dim)),
        }

    def engines(self) -> dict[str, Prepare]:
        """memcore.attend on arrays, or on tensors that need gradients."""
        return {"memcore.attend": gradients if self.with_gradients else forward}

    def rivals(self) -> dict[str, Prepare]:
        """FAISS and torch for top-k, torch's own attention for all rows."""
        if not self.k:
            return rivals.dense(self.with_gradients)
        return rivals.gradients() if self.with_gradients else rivals.forward()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """The first reads, or gradients of queries, against the definition."""
        n_checked = max(1, min(self.n_queries, CHECKED_PAIRS // self.n))
        queries = inputs["queries"][:n_checked].astype(np.float64)
        keys, values = inputs["keys"].astype(np.float64), inputs["values"].astype(np.float64)
        logits = inputs["beta"] * queries @ keys.T
        if self.k:
            ids = reference.search(inputs["queries"][:n_checked], inputs["keys"], self.k)[1]
            named = np.zeros(logits.shape, bool)
            np.put_along_axis(named, ids, True, 1)
            logits = np.where(named, logits, -np.inf)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        truth = weights @ values
        if self.with_gradients:
            slopes = inputs["upstream"][:n_checked] @ values.T
            slopes = weights * (slopes - (weights * slopes).sum(1, keepdims=True))
            truth = inputs["beta"] * slopes @ keys
        close = np.abs(result[:n_checked] - truth) <= 1e-4 * np.maximum(1, np.abs(truth))
        expect(bool(close.all()), "a read or a gradient is not that of the definition")
        passed = np.array(result)
        if self.k and self.k < self.n:
            # Where two keys all but tie for the last place, a rival may take the other.
            scores = memcore.search(inputs["queries"], inputs["keys"], self.k + 1).scores
            passed[scores[:, -2] - scores[:, -1] < CLOSE] = np.nan
        return passed

    def bounds(self, limits: Limits) -> dict[str, float]:
        """The int8 products of the search, or the float32 products of dense attention."""
        products = 2.0 * self.n_queries * self.n * self.dim
        if self.k:
            return {"int8 products": products / limits.int8}
        # Scores and read; and for the gradients the five products that any method needs.
        return {"float32 products": products * (7 if self.with_gradients else 2) / limits.float32}

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against the best rival."""
        if not best_rival or "memcore.attend" not in samples:
            return {}
        ratio = speedup(samples, "memcore.attend", best_rival)
        floor = GRADIENTS_FLOOR if self.with_gradients else FORWARD_FLOOR
        return {
            "memcore.attend": [Figure("speed", ratio, "x best rival", floor if self.k else None)]
        }

    def counts(self, inputs: Inputs, limits: Limits) -> list[Figure]:
        """How far the resident memory rises during a call, in a process each."""
        if not self.k:
            return []
        rival = "torch" if self.with_gradients else "faiss"
        try:
            ours, theirs = (_peak(self, name, limits.threads) for name in ("memcore", rival))
        except (OSError, subprocess.CalledProcessError):
            return []
        return [
            Figure("peak memory", ours / 2**20, "MB", None, None, False),
            Figure("peak memory", theirs / ours, f"x less than {rival}", LARGEST_SHARE),
        ]


def forward(case: Case, inputs: Inputs, threads: int) -> Step:
    """NumPy arrays as they lie."""
    queries, keys, values = inputs["queries"], inputs["keys"], inputs["values"]
    return Step(lambda: memcore.attend(queries, keys, values, case.k or None, beta=inputs["beta"]))


def gradients(case: Case, inputs: Inputs, threads: int) -> Step:
    """Tensors, with the gradients of queries, keys and values."""
    import torch

    leaves = [
        torch.from_numpy(np.array(inputs[name])).requires_grad_()
        for name in ("queries", "keys", "values")
    ]
    upstream = torch.from_numpy(inputs["upstream"])

    def run() -> Any:
        queries, keys, values = leaves
        out = memcore.attend(queries, keys, values, case.k or None, beta=inputs["beta"])
        return torch.autograd.grad(out, leaves, upstream)

    return Step(run, answer=lambda grads: grads[0].numpy())


def _peak(case: Attend, engine: str, threads: int) -> int:
    """Bytes by which a call lifts the peak of a fresh process's memory, beyond its results."""
    code = "from memcore.bench.cases import attend; attend.print_peak(*__import__('sys').argv[1:])"
    sizes = (case.n, case.dim, case.n_queries, case.k, int(case.with_gradients), threads)
    command = [sys.executable, "-I", "-c", code, engine, *map(str, sizes)]
    peak = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    results = 4 * case.n_queries * case.dim
    if case.with_gradients:
        results += 2 * 4 * case.n * case.dim
    return max(1, peak - results)


def print_peak(engine: str, *sizes: str) -> None:
    """What the process of `_peak` does. Threads and libraries that a small call wakes stay out."""
    n, dim, n_queries, k, with_gradients, threads = map(int, sizes)
    case = Attend(n=n, dim=dim, n_queries=n_queries, k=k, with_gradients=bool(with_gradients))
    small = Attend(n=1000, dim=dim, n_queries=64, k=k, with_gradients=bool(with_gradients))
    contestants = case.engines() if engine == "memcore" else case.rivals()
    make = contestants["memcore.attend" if engine == "memcore" else engine]
    memcore.set_threads(threads)
    warm, step = make(small, small.inputs(), threads), make(case, case.inputs(), threads)
    warm.setup()
    warm.run()
    # 5 makes the kernel forget the peak so far.
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
        file.write("5")
    before = _status("VmRSS")
    kept = step.run()
    print(_status("VmHWM") - before)
    del kept


def _status(name: str) -> int:
    with open("/proc/self/status") as file:  # noqa: PTH123
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) * 1024


def sweep(level: str) -> list[Case]:
    """Quick: a small read. Default: those with goals, and all rows. Full: more sizes."""
    if level == "quick":
        return [Attend(n=20_000, n_queries=512)]
    default: list[Case] = [
        Attend(),
        Attend(with_gradients=True),
        Attend(n_queries=512, k=0),
        Attend(n_queries=512, k=0, with_gradients=True),
    ]
    if level == "default":
        return default
    more = [
        Attend(n=n, dim=dim, n_queries=q, k=k, with_gradients=g)
        for n in (10_000, 100_000)
        for dim in (64, 768)
        for q in (1, 64, 4096)
        for k in (8, 128)
        for g in (False, True)
    ]
    return [*default, *more]

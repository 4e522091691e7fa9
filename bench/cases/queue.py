"""Queues: the losses against their rows, with and without gradients, and the write of a batch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import memcore
from memcore.ops import queue as ops
from memcore.reference import queue as reference

from .. import data
from ..case import Case, Inputs, Prepare, expect, speedup
from ..machine import Limits
from ..rivals import queue as rivals
from ..rows import Figure
from ..timing import Samples, Step

# Queries that the definition checks; it holds their distances, (queries, rows, dim), at once.
N_CHECKED = 4
# Of the logits, which a dense loss holds several times.
LARGEST_SHARE = 10.0


@dataclass(frozen=True, kw_only=True)
class Loss(Case):
    """`n_queries` queries against `n` negatives."""

    op: ClassVar[str] = "queue"
    loss: str = "nce"
    n: int = 65_536
    dim: int = 128
    n_queries: int = 256
    with_gradients: bool = False

    @property
    def name(self) -> str:
        """queue/loss/rows x dim/Q=, and gradients where they are taken too."""
        more = "/gradients" if self.with_gradients else ""
        return f"queue/{self.loss}/{self.n // 1024}Ki x {self.dim}/Q={self.n_queries}{more}"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_queries."""
        return {"n": self.n, "dim": self.dim, "n_queries": self.n_queries}

    @property
    def scale(self) -> float:
        """The temperature, or tau."""
        return 0.2 if self.loss == "nce" else 0.5

    def inputs(self) -> Inputs:
        """Rows of length 1."""
        rng = np.random.default_rng([self.seed, 9])
        sizes = {"queries": self.n_queries, "positives": self.n_queries, "negatives": self.n}
        return {
            name: data.unit(rng.standard_normal((n, self.dim), np.float32))
            for name, n in sizes.items()
        }

    def engines(self) -> dict[str, Prepare]:
        """memcore.nce or memcore.disperse on tensors."""
        return {"memcore": ours}

    def rivals(self) -> dict[str, Prepare]:
        """The dense logits in torch."""
        return rivals.losses(self.loss, self.with_gradients)

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """The first queries' losses, or gradients, against the definition."""
        queries, positives = inputs["queries"][:N_CHECKED], inputs["positives"][:N_CHECKED]
        if self.loss == "nce":
            truth = reference.nce(queries, positives, inputs["negatives"], self.scale)[:2]
        else:
            truth = reference.disperse(queries, inputs["negatives"], self.scale)[:2]
        wanted = truth[1] if self.with_gradients else truth[0][:, None]
        error = np.linalg.norm(result[:N_CHECKED] - wanted) / np.linalg.norm(wanted)
        expect(bool(error <= 1e-6), f"the error is {error:.1e}, should be at most 1e-6")
        return np.asarray(result)

    def bounds(self, limits: Limits) -> dict[str, float]:
        """The products with the negatives, and those of the softmax where gradients are taken."""
        products = 2.0 * self.n_queries * self.n * self.dim
        return {"float32 products": products * (1 + self.with_gradients) / limits.float32}

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against the best rival."""
        if not best_rival or "memcore" not in samples:
            return {}
        return {
            "memcore": [
                Figure("speed", speedup(samples, "memcore", best_rival), "x best rival", None)
            ]
        }

    def counts(self, inputs: Inputs, limits: Limits) -> list[Figure]:
        """How far the resident memory rises during a call, in a process each."""
        logits = 4 * self.n_queries * self.n
        try:
            held, theirs = (_peak(self, name) for name in ("memcore", "torch[eager]"))
        except (OSError, subprocess.CalledProcessError):
            return []
        return [
            Figure("peak memory", held / 2**20, "MB", None, None, False),
            Figure("peak memory", logits / max(held, 1), "x less than the logits", LARGEST_SHARE),
            Figure("peak memory", theirs / max(held, 1), "x less than torch", None),
        ]


def ours(case: Any, inputs: Inputs, threads: int) -> Step:
    """The streamed loss, and the gradient of the queries."""
    import torch

    queries, positives, negatives = (
        torch.from_numpy(np.array(inputs[name])) for name in ("queries", "positives", "negatives")
    )
    queries.requires_grad_(case.with_gradients)

    def run() -> Any:
        with torch.set_grad_enabled(case.with_gradients):
            if case.loss == "nce":
                options: dict[str, Any] = {"temperature": case.scale, "reduction": "none"}
                losses = ops.nce(queries, positives, negatives, **options)
            else:
                losses = ops.disperse(queries, negatives, tau=case.scale, reduction="none")
        if not case.with_gradients:
            return losses[:, None]
        return torch.autograd.grad(losses.sum(), queries)[0]

    return Step(run, answer=lambda found: found.detach().numpy())


def _peak(case: Loss, engine: str) -> int:
    """Bytes by which the peak of a fresh process's resident memory rises in its second call."""
    code = "from memcore.bench.cases import queue; queue.print_peak(*__import__('sys').argv[1:])"
    sizes = (case.n, case.dim, case.n_queries, int(case.with_gradients))
    command = [sys.executable, "-I", "-c", code, engine, case.loss, *map(str, sizes)]
    return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def print_peak(engine: str, loss: str, *sizes: str) -> None:
    """What the process of `_peak` does. The first call, against few rows, fills the pools."""
    n, dim, n_queries, with_gradients = map(int, sizes)

    def step(n_rows: int) -> Step:
        case = Loss(
            loss=loss, n=n_rows, dim=dim, n_queries=n_queries, with_gradients=bool(with_gradients)
        )
        return {**case.engines(), **case.rivals()}[engine](case, case.inputs(), 1)

    step(2048).run()
    whole = step(n)
    # 5 makes the kernel forget the peak so far.
    with open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123
        file.write("5")
    before = _status("VmRSS")
    kept = whole.run()
    print(_status("VmHWM") - before)
    del kept


def _status(name: str) -> int:
    with open("/proc/self/status") as file:  # noqa: PTH123
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) * 1024


@dataclass(frozen=True, kw_only=True)
class Write(Case):
    """`n_rows` rows into a full queue of `n`."""

    op: ClassVar[str] = "queue"
    n: int = 65_536
    dim: int = 128
    n_rows: int = 256
    evict: str = "fifo"

    @property
    def name(self) -> str:
        """queue/write/policy/rows x dim/n=."""
        return f"queue/write/{self.evict}/{self.n // 1024}Ki x {self.dim}/n={self.n_rows}"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_rows."""
        return {"n": self.n, "dim": self.dim, "n_rows": self.n_rows}

    def inputs(self) -> Inputs:
        """A bank, the rows that come, and their scores."""
        rng = np.random.default_rng([self.seed, 10])
        return {
            "bank": rng.standard_normal((self.n, self.dim), np.float32),
            "rows": rng.standard_normal((self.n_rows, self.dim), np.float32),
        }

    def engines(self) -> dict[str, Prepare]:
        """Queue.add on tensors."""
        return {"memcore.Queue": write}

    def rivals(self) -> dict[str, Prepare]:
        """torch, for a ring; nobody has the other policies."""
        return rivals.writes() if self.evict == "fifo" else {}

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """What was written is held."""
        expect(bool(np.array_equal(result, inputs["rows"])), "a row is not what was written")
        return np.asarray(result)

    def bounds(self, limits: Limits) -> dict[str, float]:
        """Reading the rows and writing them."""
        n_bytes = 8.0 * self.n_rows * self.dim
        return {"moving": n_bytes / limits.read(n_bytes)}


def write(case: Any, inputs: Inputs, threads: int) -> Step:
    """With ids, scores of a policy, and the check that rows are finite."""
    import torch

    queue = memcore.Queue(case.n, evict=case.evict)
    rng = np.random.default_rng(case.seed)
    scores = None if case.evict != "lowest" else rng.random(case.n)
    queue.add(torch.from_numpy(inputs["bank"].copy()), scores=scores)
    rows = torch.from_numpy(inputs["rows"].copy())
    # Better than all that is held: every row is written.
    best = None if scores is None else np.full(case.n_rows, 2.0)

    def run() -> Any:
        return queue.add(rows, scores=best)

    def held(ids: Any) -> np.ndarray:
        if case.evict == "fifo":
            return np.asarray(queue.get(ids))
        found = np.array(inputs["rows"])
        inside = queue.contains(ids)
        found[inside] = queue.get(ids[inside])
        return found

    return Step(run, answer=held)


def sweep(level: str) -> list[Case]:
    """Quick: small. Default: MoCo's queue. Full: more shapes and policies."""
    if level == "quick":
        return [Loss(n=8192, with_gradients=True), Write(n=8192)]
    default: list[Case] = [
        Loss(loss=loss, with_gradients=g) for loss in ("nce", "disperse") for g in (False, True)
    ]
    default.append(Write())
    if level == "default":
        return default
    more: list[Case] = [
        Loss(n=n, dim=dim, n_queries=q, with_gradients=True)
        for n in (4096, 65_536)
        for dim in (64, 512)
        for q in (32, 1024)
    ]
    return [*default, *more, *(Write(evict=e) for e in ("random", "reservoir", "lowest"))]

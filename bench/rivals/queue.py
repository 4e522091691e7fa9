"""Rivals at losses against a queue, and at writing to one: torch and NumPy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from ..case import Case, Inputs, Prepare
from ..timing import Step


def losses(loss: str, with_gradients: bool) -> dict[str, Prepare]:
    """The dense loss, by name."""
    return {"torch[eager]": dense, "torch[compiled]": compiled}


def writes() -> dict[str, Prepare]:
    """Ways to put new rows into a ring."""
    return {"torch[cat]": torch_cat, "torch[clone]": torch_clone, "torch[index]": torch_index}


def torch_nce(queries: Any, positives: Any, negatives: Any, tau: float) -> Any:
    """Cross entropy over the dense logits, the positive first, as MoCo takes it."""
    import torch

    own = (queries * positives).sum(1, keepdim=True)
    logits = torch.cat([own, queries @ negatives.T], 1) / tau
    zeros = torch.zeros(len(queries), dtype=torch.long)
    return torch.nn.functional.cross_entropy(logits, zeros, reduction="none")


def torch_disperse(queries: Any, positives: Any, negatives: Any, tau: float) -> Any:
    """Log mean exp of minus the squared distances, by a matrix product."""
    import math

    import torch

    squares = (queries**2).sum(1, keepdim=True) + (negatives**2).sum(1)
    apart = torch.addmm(squares, queries, negatives.T, alpha=-2)
    return torch.logsumexp(-apart / tau, 1) - math.log(len(negatives))


def dense(case: Any, inputs: Inputs, threads: int) -> Step:
    """The whole matrix of logits."""
    return _step(case, inputs, torch_nce if case.loss == "nce" else torch_disperse)


def compiled(case: Any, inputs: Inputs, threads: int) -> Step:
    """The same by torch.compile, which fuses what comes after the product."""
    import torch

    with warnings.catch_warnings():
        # torch's own compiler uses what torch calls deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        loss = torch.compile(torch_nce if case.loss == "nce" else torch_disperse)
        step = _step(case, inputs, loss)
        step.run()
    return step


def _step(case: Any, inputs: Inputs, loss: Any) -> Step:
    import torch

    queries, positives, negatives = (
        torch.from_numpy(np.array(inputs[name])) for name in ("queries", "positives", "negatives")
    )
    queries.requires_grad_(case.with_gradients)

    def run() -> Any:
        with torch.set_grad_enabled(case.with_gradients):
            losses = loss(queries, positives, negatives, case.scale)
        if not case.with_gradients:
            return losses[:, None]
        return torch.autograd.grad(losses.sum(), queries)[0]

    return Step(run, answer=lambda found: found.detach().numpy())


def torch_cat(case: Case, inputs: Inputs, threads: int) -> Step:
    """The whole bank is joined anew, without its oldest rows."""
    import torch

    bank, rows = torch.from_numpy(inputs["bank"].copy()), torch.from_numpy(inputs["rows"].copy())
    held = [bank]

    def run() -> Any:
        held[0] = torch.cat([held[0][len(rows) :], rows])
        return held[0]

    return Step(run, answer=lambda found: found[-len(rows) :].numpy())


def torch_clone(case: Case, inputs: Inputs, threads: int) -> Step:
    """A write in place, after the clone that a dense loss must take of the bank (MoCo)."""
    import torch

    bank, rows = torch.from_numpy(inputs["bank"].copy()), torch.from_numpy(inputs["rows"].copy())
    at = [0]

    def run() -> Any:
        kept = bank.clone()
        bank[at[0] : at[0] + len(rows)] = rows
        at[0] = (at[0] + len(rows)) % len(bank)
        return kept, bank[at[0] - len(rows) : at[0] or None]

    return Step(run, answer=lambda found: found[1].numpy())


def torch_index(case: Case, inputs: Inputs, threads: int) -> Step:
    """A bare slice assignment: no ids, no wrap, no checks, and no dense loss may hold the bank."""
    import torch

    bank, rows = torch.from_numpy(inputs["bank"].copy()), torch.from_numpy(inputs["rows"].copy())
    at = [0]

    def run() -> Any:
        bank[at[0] : at[0] + len(rows)] = rows
        at[0] = (at[0] + len(rows)) % len(bank)
        return bank[at[0] - len(rows) : at[0] or None]

    return Step(run, answer=lambda found: found.numpy())

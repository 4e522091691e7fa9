"""Rivals at the k best of each row of scores."""

from __future__ import annotations

import numpy as np

from ..case import Case, Inputs, Prepare
from ..timing import Step


def all_of() -> dict[str, Prepare]:
    """The rivals by name."""
    return {"numpy": numpy_partition, "torch": torch_topk}


def numpy_partition(case: Case, inputs: Inputs, threads: int) -> Step:
    """argpartition, then a sort of the k best."""
    scores, k = inputs["scores"], case.k

    def run() -> np.ndarray:
        best = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
        found = np.take_along_axis(scores, best, axis=1)
        return np.take_along_axis(found, np.argsort(-found, axis=1), axis=1)

    return Step(run)


def torch_topk(case: Case, inputs: Inputs, threads: int) -> Step:
    """`torch.topk`."""
    import torch

    scores, k = torch.from_numpy(inputs["scores"]), case.k
    return Step(lambda: torch.topk(scores, k).values, answer=lambda found: found.numpy())

"""Sums and gathers over the ranks of torch.distributed, for arrays."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


class Ranks:
    """The exchange of a codebook that several ranks train together. All get the same bits."""

    def __init__(self, group: Any = None) -> None:
        """Over a process group that reduces host tensors (gloo); None is the default group."""
        self._group = group

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sum of an array over all ranks."""
        total = torch.from_numpy(array.copy())
        dist.all_reduce(total, group=self._group)
        summed: NDArray[Any] = total.numpy()
        return summed

    def gather(self, array: NDArray[Any]) -> list[NDArray[Any]]:
        """The arrays of all ranks, in the order of the ranks; their lengths may differ."""
        n_ranks = dist.get_world_size(self._group)
        lengths = torch.zeros(n_ranks, dtype=torch.int64)
        lengths[dist.get_rank(self._group)] = len(array)
        dist.all_reduce(lengths, group=self._group)
        padded = np.zeros((int(lengths.max()), *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        parts = [torch.from_numpy(np.empty_like(padded)) for _ in range(n_ranks)]
        dist.all_gather(parts, torch.from_numpy(padded), group=self._group)
        return [part.numpy()[:n] for part, n in zip(parts, lengths.tolist(), strict=True)]

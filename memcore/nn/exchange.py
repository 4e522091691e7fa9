"""Sums and gathers over the ranks of torch.distributed, for arrays."""

from typing import Any

import torch
import torch.distributed as dist


class Ranks:
    """The exchange of a codebook that several ranks train together. All get the same bits."""

    def __init__(self, group: Any = None) -> None:
        """Over a process group; None is the default one.

        It reduces tensors of the host (gloo), or for a book on a device tensors there (nccl).
        """
        self._group = group

    def sum(self, array: Any) -> Any:
        """The sum of an array, or of a tensor where it lies, over all ranks."""
        total = _tensor(array).clone()
        dist.all_reduce(total, group=self._group)
        return _like(array, total)

    def gather(self, array: Any) -> list[Any]:
        """The arrays, or tensors, of all ranks in the order of the ranks; lengths may differ."""
        mine = _tensor(array)
        n_ranks = dist.get_world_size(self._group)
        lengths = torch.zeros(n_ranks, dtype=torch.int64, device=mine.device)
        lengths[dist.get_rank(self._group)] = len(mine)
        dist.all_reduce(lengths, group=self._group)
        padded = mine.new_zeros((int(lengths.max()), *mine.shape[1:]))
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in range(n_ranks)]
        dist.all_gather(parts, padded, group=self._group)
        return [_like(array, part[:n]) for part, n in zip(parts, lengths.tolist(), strict=True)]


def _tensor(array: Any) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array)


def _like(array: Any, result: torch.Tensor) -> Any:
    return result if isinstance(array, torch.Tensor) else result.numpy()

"""k-means of rows on a device: seeds from the host, iterations without waiting."""

from typing import Any

import numpy as np

from memcore import tensors
from memcore.ops.codebook import assign, check_sound, codebook_sums
from memcore.ops.kmeans import looked_at, seeds


def kmeans(
    rows: Any, n_codes: int, rng: "np.random.Generator", *, n_iterations: int = 10
) -> tuple[Any, Any, Any]:
    """As `ops.kmeans.kmeans`, the same bits, for a tensor of rows on a device.

    At most 4,096 rows, or four a code where that is more, go to the host, where seeds are drawn.
    After that nothing comes back: a call does all of its iterations, and those after the last
    change leave everything as it is.
    """
    torch = tensors.library("fit")
    nothing = torch.zeros((1, rows.shape[1]), device=rows.device)
    check_sound(assign(rows, nothing, backend="triton")[0][:, None])
    seen = looked_at(len(rows), n_codes, rng)
    few = rows if seen is None else rows[torch.from_numpy(seen).to(rows.device)]
    words = torch.from_numpy(seeds(tensors.host(few), n_codes, rng)).to(rows.device)
    before = is_done = None
    counts = sums = words
    for _ in range(max(1, n_iterations)):
        codes, scores = assign(rows, words, backend="triton")
        if before is not None:
            is_done = is_done | (codes == before).all()
        _fill_empty(codes, scores, n_codes)
        new_counts, new_sums = codebook_sums(rows, codes, n_codes, backend="triton")
        means = new_sums / new_counts.clamp(min=1)[:, None].float()
        means = torch.where(new_counts[:, None] > 0, means, words)
        if before is None:
            is_done = torch.zeros((), dtype=torch.bool, device=rows.device)
            words, counts, sums = means, new_counts, new_sums
        else:
            words = torch.where(is_done, words, means)
            counts = torch.where(is_done, counts, new_counts)
            sums = torch.where(is_done, sums, new_sums)
        before = codes
    return words, counts, sums


def _fill_empty(codes: Any, scores: Any, n_codes: int) -> None:
    """Give codes without rows the worst-quantised rows, in place."""
    torch = tensors.library("fit")
    counts = torch.zeros(n_codes, dtype=torch.int64, device=codes.device)
    counts.scatter_add_(0, codes, torch.ones_like(codes))
    # Empty ones first, then by number.
    empty = (counts > 0).to(torch.int8).sort(stable=True).indices[: len(codes)]
    worst = scores.sort(stable=True).indices[: len(empty)]
    is_filled = (counts[empty] == 0) & (scores[worst] < 0)
    codes[worst] = torch.where(is_filled, empty, codes[worst])

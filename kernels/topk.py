"""topk: the k best of rows of scores.

Each program takes a stretch of a row into registers, finds its k-th largest by 32 counts, and keeps
what reaches it. The stretches' survivors are the next, shorter row, until they can be ranked.
"""

import torch
import triton

from . import keep
from .layout import grid_of
from .order import NOTHING
from .search import merge, sorted_best

# Beyond, rows are sorted whole.
_MAX_KEPT = 512
# So few are ranked by comparing each with all.
_RANKED = 512
# Scores that are sorted at a time.
_SORTED = 1 << 24


def topk(
    rows: torch.Tensor, k: int | torch.Tensor, scores: torch.Tensor, ids: torch.Tensor
) -> None:
    """Write the hits of each row into scores and ids (n_rows, width).

    Args: as `_core.topk`, in tensors of one device.
    """
    n_rows, n = rows.shape
    width = scores.shape[1]
    widths = k if isinstance(k, torch.Tensor) else None
    if not scores.numel():
        return
    if not n or width > _MAX_KEPT:
        _topk_sorted(rows, widths, scores, ids)
        return
    n_kept = max(16, triton.next_power_of_2(width))
    n_read = max(1024, 4 * n_kept)
    parts = part_ids = None
    while True:
        n_splits = triton.cdiv(n, n_read)
        kept = scores.new_empty((n_rows, n_splits, n_kept), dtype=torch.int32)
        kept_ids = torch.empty_like(kept, dtype=torch.int64)
        is_first = parts is None
        keep.keep_kernel[grid_of(n_rows, n_splits)](
            rows if is_first else None,
            *rows.stride(),
            parts,
            part_ids,
            kept,
            kept_ids,
            n,
            n_splits,
            K=n_kept,
            N=n_read,
        )
        parts, part_ids, n = kept, kept_ids, n_splits * n_kept
        if n_splits == 1 or n <= _RANKED:
            break
    merge(parts, part_ids, None, widths, scores, ids)


def _topk_sorted(
    rows: torch.Tensor, widths: torch.Tensor | None, scores: torch.Tensor, ids: torch.Tensor
) -> None:
    scores.fill_(-torch.inf)
    ids.fill_(-1)
    n = rows.shape[1]
    turn = max(1, _SORTED // max(1, n))
    for begin in range(0, len(rows) if n else 0, turn):
        part = slice(begin, begin + turn)
        given = rows[part].to(torch.float32) + 0.0
        bits = given.view(torch.int32)
        keys = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
        keys = torch.where(given == given, keys, NOTHING.value)
        finals, places = sorted_best(
            keys, scores.shape[1], None if widths is None else widths[part]
        )
        scores[part, : finals.shape[1]] = finals
        ids[part, : finals.shape[1]] = places

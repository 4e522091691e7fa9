"""topk: the k best of rows of scores.

Each program takes a stretch of a row into registers, finds its k-th largest by 32 counts, and keeps
what reaches it. The stretches' survivors are the next, shorter row, until they can be ranked.
"""

import torch
import triton

from . import keep
from .layout import grid_of
from .order import NOTHING
from .search import PAIR, merge, pad, sorted_best
from .workspace import left, n_kept, parts

# Beyond, rows are sorted whole.
_MAX_KEPT = 512
# So few are ranked by comparing each with all.
_RANKED = 512
# Bytes of a score on its way to the integer that orders as it does.
_ORDERING = 20


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
    run = _topk_counted if is_counted(n, width) else _topk_sorted
    for part in parts(n_rows, row_bytes(n, width)):
        run(rows[part], None if widths is None else widths[part], scores[part], ids[part])


def is_counted(n: int, width: int) -> bool:
    """Whether what is kept of a row of n scores has room, so that it is found by counting."""
    return n > 0 and width <= _MAX_KEPT and _kept_bytes(n, width) <= left(0)


def row_bytes(n: int, width: int) -> int:
    """Bytes that a row of n scores takes on the way to its hits."""
    if is_counted(n, width):
        return _kept_bytes(n, width)
    return (PAIR + _ORDERING) * n + 32 * width


def _kept_bytes(n: int, width: int) -> int:
    # Of the first launch and the second, which has at most a quarter of its scores.
    return (15 * triton.cdiv(n, _n_read(width)) + 12) * n_kept(width)


def _n_read(width: int) -> int:
    """How many scores a program reads."""
    return max(1024, 4 * n_kept(width))


def _topk_counted(
    rows: torch.Tensor, widths: torch.Tensor | None, scores: torch.Tensor, ids: torch.Tensor
) -> None:
    n_rows, n = rows.shape
    most, n_read = n_kept(scores.shape[1]), _n_read(scores.shape[1])
    kept_before = kept_ids_before = None
    while True:
        n_splits = triton.cdiv(n, n_read)
        kept = scores.new_empty((n_rows, n_splits, most), dtype=torch.int32)
        kept_ids = torch.empty_like(kept, dtype=torch.int64)
        is_first = kept_before is None
        keep.keep_kernel[grid_of(n_rows, n_splits)](
            rows if is_first else None,
            *rows.stride(),
            kept_before,
            kept_ids_before,
            kept,
            kept_ids,
            n,
            n_splits,
            K=most,
            N=n_read,
        )
        kept_before, kept_ids_before, n = kept, kept_ids, n_splits * most
        if n_splits == 1 or n <= _RANKED:
            break
    merge(kept, kept_ids, None, widths, scores, ids)


def _topk_sorted(
    rows: torch.Tensor, widths: torch.Tensor | None, scores: torch.Tensor, ids: torch.Tensor
) -> None:
    n_rows, n = rows.shape

    def read(columns: slice) -> tuple[torch.Tensor, None]:
        given = rows[:, columns].to(torch.float32) + 0.0
        bits = given.view(torch.int32)
        keys = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
        return torch.where(given == given, keys, NOTHING.value), None

    pad(scores, ids, *sorted_best(read, n_rows, n, PAIR + _ORDERING, scores.shape[1], widths))

"""The scans over the banks of an arena: grids, workspace, and which options their kernels get."""

from typing import NamedTuple

import torch
import triton

from . import paged, search_lists
from .arguments import Matrix, PagesView
from .layout import grid_of
from .limits import Limits
from .pages import Layout
from .search import NAMED_PAIR, merge, pad, room, sorted_best
from .workspace import n_kept, splits

# Registers of a thread where codes are searched by bank, by forks, or for all pairs.
# Without a limit the compiler puts some of them into memory, to have more threads at once.
_CODED, _CODED_FORKS, _CODED_PAIRS = 128, 168, 64


class Pages(NamedTuple):
    """Where the rows of all banks are.

    Attributes:
        layout: of the pages.
        root: (4,) int64, see `arguments.PagesView`.
        kinds: (n_columns,) int64.
        longest: rows of the longest bank that matters; more are found only where width is small.
    """

    layout: Layout
    root: torch.Tensor
    kinds: torch.Tensor
    longest: int

    @property
    def view(self) -> PagesView:
        """As kernels take them."""
        return self.layout.view(self.root, self.kinds)


def scan_banks(
    pages: Pages,
    handles: torch.Tensor,
    queries: torch.Tensor,
    squares: torch.Tensor,
    widths: torch.Tensor | None,
    metric: str,
    limits: Limits,
    needed: torch.Tensor | None,
    are_forks: bool,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Score all rows of each query's bank; of all queries, or of those that are needed."""
    n_queries, width = scores.shape
    layout, longest = pages.layout, pages.longest
    is_one = len(handles) == 1 and n_queries > 1
    conditions = limits.conditions
    is_alike = limits.candidates is None and (conditions is None or conditions.is_shared)
    are_forks = are_forks and is_alike and not is_one and n_queries > 1
    n_at_once = 4 if are_forks or (is_one and is_alike) else 1
    kept = n_kept(width)
    n_tiles = triton.cdiv(n_queries, n_at_once)
    n_splits = splits(n_tiles, longest, kept, needed=needed)
    parts, part_ids = room(scores, n_queries, n_splits, kept)
    registers = None
    if layout.books is not None:
        registers = _CODED_FORKS if are_forks else _CODED
    paged.paged_kernel[(n_tiles, n_splits)](
        pages.view,
        handles,
        0 if is_one else 1,
        layout.asked(queries),
        squares,
        limits.view,
        needed,
        parts,
        part_ids,
        n_queries,
        layout.vector_dim,
        n_splits,
        METRIC=metric,
        ITEM=layout.item,
        Q=n_at_once,
        N=32 if n_at_once > 1 else 64,
        K=kept,
        ARE_FORKS=are_forks,
        enable_fp_fusion=False,
        maxnreg=registers,
    )
    merge(parts, part_ids, needed, widths, scores, ids)


def scan_lists(
    pages: Pages,
    handles: torch.Tensor,
    queries: torch.Tensor,
    squares: torch.Tensor,
    widths: torch.Tensor | None,
    metric: str,
    limits: Limits,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Score all rows of each query's banks."""
    n_queries, width = scores.shape
    layout, longest = pages.layout, pages.longest
    n_lists = handles.shape[1]
    kept = n_kept(width)
    n_segments, n_splits = search_lists.shares(n_queries, n_lists, longest, kept)
    parts, part_ids = room(scores, n_queries, n_splits, kept)
    search_lists.lists_kernel[(n_queries, n_splits)](
        pages.view,
        handles,
        *handles.stride(),
        Matrix.of(queries),
        squares,
        limits.view,
        parts,
        part_ids,
        n_lists,
        n_segments,
        layout.dim,
        n_splits,
        METRIC=metric,
        ITEM=layout.item,
        N=64,
        K=kept,
        enable_fp_fusion=False,
    )
    merge(parts, part_ids, None, widths, scores, ids)


def score_pairs(
    pages: Pages,
    handles: torch.Tensor,
    queries: torch.Tensor,
    squares: torch.Tensor,
    widths: torch.Tensor | None,
    metric: str,
    limits: Limits,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Write the scores of all rows of each query's banks, and sort them: for a large k."""
    n_queries, width = scores.shape
    layout, longest = pages.layout, pages.longest
    n_lists = handles.shape[1] if handles.ndim > 1 else 1
    if handles.ndim > 1:
        # A query and one of its banks stand where a query stands else.
        handles = handles.reshape(n_queries * n_lists)
        queries, squares = (each.repeat_interleave(n_lists, 0) for each in (queries, squares))
        limits = limits.spread(n_lists)
    pairs = scores.new_empty((n_queries, n_lists * longest), dtype=torch.int32)
    pair_ids = torch.empty_like(pairs, dtype=torch.int64)
    if longest:
        paged.paged_pairs_kernel[grid_of(n_queries * n_lists, triton.cdiv(longest, 32))](
            pages.view,
            handles,
            0 if len(handles) == 1 else 1,
            layout.asked(queries),
            squares,
            limits.view,
            pairs,
            pair_ids,
            longest,
            layout.vector_dim,
            METRIC=metric,
            ITEM=layout.item,
            N=32,
            enable_fp_fusion=False,
            maxnreg=None if layout.books is None else _CODED_PAIRS,
        )
    given = n_queries, pairs.shape[1], NAMED_PAIR, width, widths
    pad(scores, ids, *sorted_best(lambda part: (pairs[:, part], pair_ids[:, part]), *given))

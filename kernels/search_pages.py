"""search over the banks of an arena: which way each query goes."""

from collections.abc import Sequence

import torch

from . import groups, paged_groups
from .arguments import Matrix
from .first_pass import Chosen, Shadow, choose, finish
from .layout import near
from .limits import Limits
from .runs import Run
from .scan_pages import Pages, scan_banks, scan_lists, score_pairs
from .search import MAX_KEPT, NAMED_PAIR, merge
from .workspace import SORT_INT64, n_kept, parts


def search_pages(
    pages: Pages,
    handles: torch.Tensor,
    queries: torch.Tensor,
    squares: torch.Tensor,
    k: int | torch.Tensor,
    metric: str,
    limits: Limits,
    scores: torch.Tensor,
    ids: torch.Tensor,
    are_forks: bool = False,
    runs: Sequence[Run] = (),
) -> None:
    """Write the hits of each query in its bank into scores and ids (n_queries, width).

    Args:
        pages: where rows are.
        handles: one per query, or one for all; or (n_queries, n_lists), the banks of each, no two
            of which share an id.
        queries: (n_queries, dim).
        squares: (n_queries,), their canonical squares; one above 1e36, or NaN, finds nothing.
        k: the width, or (n_queries,) int64 up to it.
        metric: "dot", "cosine" or "l2".
        limits: what narrows or weighs the search.
        scores: float32.
        ids: int64.
        are_forks: banks of queries that follow each other share most of their pages.
        runs: the last queries, by banks that have a first pass. Then conditions are shared, there
            are no candidates, a width of at most MAX_KEPT, and no scale with l2.
    """
    n_queries, width = scores.shape
    if not scores.numel():
        return
    queries = near(queries)
    widths = k if isinstance(k, torch.Tensor) else None
    for run in runs:
        part = slice(run.begin, run.end)
        some = None if widths is None else widths[part]
        bank = handles if len(handles) == 1 else handles[run.begin : run.begin + 1]
        asked, hits = queries[part], (scores[part], ids[part])
        try:
            _search_groups(pages, run.n_rows, bank, asked, some, metric, limits, *hits)
        except torch.OutOfMemoryError:
            # Pages may have left no room for codes.
            weighs = (some, metric, limits.of(part), None, False)
            scan_banks(pages, bank, asked, squares[part], *weighs, *hits)
    rest = slice(0, min((run.begin for run in runs), default=n_queries))
    n_lists = handles.shape[1] if handles.ndim > 1 else 1
    each = 0 if limits.candidates is None else SORT_INT64 * limits.candidates.shape[1]
    if width > MAX_KEPT:
        each += NAMED_PAIR * pages.longest * n_lists + 32 * width
        each += n_lists * (queries.element_size() * queries.shape[1] + 4) if n_lists > 1 else 0
    else:
        each += 12 * n_kept(width)
    for part in parts(rest.stop, each):
        given = (
            handles if len(handles) == 1 else handles[part],
            queries[part],
            squares[part],
            None if widths is None else widths[part],
            metric,
            limits.of(part).ordered(),
        )
        if width > MAX_KEPT:
            score_pairs(pages, *given, scores[part], ids[part])
        elif handles.ndim > 1:
            scan_lists(pages, *given, scores[part], ids[part])
        else:
            scan_banks(pages, *given, None, are_forks, scores[part], ids[part])


def _search_groups(
    pages: Pages,
    n_rows: int,
    handle: torch.Tensor,
    queries: torch.Tensor,
    widths: torch.Tensor | None,
    metric: str,
    limits: Limits,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Bound every page of one bank, score the best ones, and scan for the queries in doubt."""
    layout = pages.layout
    room = Shadow.of(scores, n_rows, layout.dim)
    weights = (limits.scale, limits.bias, limits.conditions)
    is_weighed = metric == "l2" or any(each is not None for each in weights)
    paged_groups.paged_keys_kernel[(room.n_pages,)](
        pages.view,
        handle,
        limits.view,
        *room.out,
        layout.dim,
        room.codes.shape[1],
        METRIC=metric,
        ITEM=layout.item,
        IS_WEIGHED=is_weighed,
        enable_fp_fusion=False,
    )
    for part in parts(len(queries), room.of_query(scores.shape[1], 12)):
        some = None if widths is None else widths[part]
        given = (queries[part], room, some, metric, is_weighed, limits.of(part))
        _search_turn(pages._replace(longest=n_rows), handle, *given, scores[part], ids[part])


def _search_turn(
    pages: Pages,
    handle: torch.Tensor,
    queries: torch.Tensor,
    shadow: Shadow,
    widths: torch.Tensor | None,
    metric: str,
    is_weighed: bool,
    limits: Limits,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    width = scores.shape[1]
    chosen = choose(queries, shadow, width, metric, is_weighed, limits.is_open)
    finals = _rescore(pages, handle, queries, chosen, metric, limits)
    *best, needed = finish(chosen, *finals, width, limits.low)
    merge(*best, None, widths, scores, ids)
    given = (handle, queries, chosen.squares, widths, metric, limits)
    scan_banks(pages, *given, needed, False, scores, ids)


def _rescore(
    pages: Pages,
    handle: torch.Tensor,
    queries: torch.Tensor,
    chosen: Chosen,
    metric: str,
    limits: Limits,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The final scores of the rows of chosen pages, as keys, and their ids."""
    layout = pages.layout
    finals = chosen.finals()
    ids = torch.empty_like(finals, dtype=torch.int64)
    paged_groups.paged_rescore_kernel[chosen.grid](
        pages.view,
        handle,
        Matrix.of(queries),
        chosen.squares,
        limits.view,
        chosen.page_ids,
        finals,
        ids,
        chosen.page_ids.shape[1],
        layout.dim,
        METRIC=metric,
        ITEM=layout.item,
        PAGES=groups.TILE_PAGES,
        enable_fp_fusion=False,
    )
    return finals, ids

"""search over the banks of an arena: which kernels run, with what grid and workspace."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import triton

from . import groups, paged, paged_groups, search_lists
from .first_pass import Chosen, Shadow, choose, finish
from .pages import Layout
from .runs import Run
from .search import MAX_KEPT, merge, room, sorted_best, splits

# What the keys of all pairs of some queries may take, in rows.
_MAX_PAIRS = 1 << 24
# Registers of a thread where codes are searched by bank, by forks, or for all pairs.
# Without a limit the compiler puts some of them into memory, to have more threads at once.
_CODED, _CODED_FORKS, _CODED_PAIRS = 128, 168, 64


@dataclass(frozen=True)
class Conditions:
    """Programs of `where`, one after the other, on the device.

    Attributes:
        steps: (n, 4) int64; constants from where to where count from the first of all programs.
        constants: (n,) int64, floats as `where.ordered`.
        ends: (n_programs + 1,) int64, the steps of each program.
        index: (n_queries,) int64, the program of each query; -1 for all rows.
        is_shared: all queries have program 0.
    """

    steps: torch.Tensor
    constants: torch.Tensor
    ends: torch.Tensor
    index: torch.Tensor
    is_shared: bool

    @property
    def given(self) -> tuple[torch.Tensor, ...]:
        """As the kernels take them."""
        return self.steps, self.constants, self.ends, self.index


@dataclass(frozen=True)
class Limits:
    """What narrows or weighs a search; see `memcore.Arena.search`.

    Attributes:
        conditions: of each query, or None.
        candidates: (n_queries, m) int64 ids in rising order, or None.
        scale: a column of numbers, or None; so is bias.
        low: the least final score; high: the largest.
    """

    conditions: Conditions | None = None
    candidates: torch.Tensor | None = None
    scale: int | None = None
    bias: int | None = None
    low: float = -torch.inf
    high: float = torch.inf

    @property
    def narrowed(self) -> tuple[torch.Tensor | None, ...]:
        """The conditions, as the kernels take them."""
        return (None,) * 4 if self.conditions is None else self.conditions.given

    @property
    def given(self) -> tuple[object, ...]:
        """All of them, as the kernels take them."""
        named = self.candidates
        n_candidates = 0 if named is None else named.shape[1]
        return *self.narrowed, named, n_candidates, self.scale, self.bias, self.low, self.high

    @property
    def is_open(self) -> bool:
        """Whether every row that meets the conditions may be returned, at its score."""
        weighs = self.scale is not None or self.bias is not None
        return not weighs and self.low == -torch.inf and self.high == torch.inf

    def of(self, queries: slice) -> "Limits":
        """The limits of some of the queries."""
        conditions, named = self.conditions, self.candidates
        if conditions is not None:
            conditions = replace(conditions, index=conditions.index[queries])
        named = None if named is None else named[queries]
        return replace(self, conditions=conditions, candidates=named)

    def spread(self, n: int) -> "Limits":
        """The limits of each query n times."""
        conditions, named = self.conditions, self.candidates
        if conditions is not None:
            conditions = replace(conditions, index=conditions.index.repeat_interleave(n))
        named = None if named is None else named.repeat_interleave(n, 0)
        return replace(self, conditions=conditions, candidates=named)


class Pages(NamedTuple):
    """Where the rows of all banks are.

    Attributes:
        layout: of the pages.
        root: (4,) int64: the address of heads (n_banks, 3), n_banks, the addresses of the tables
            and of the directory.
        kinds: (n_columns,) int64.
        longest: rows of the longest bank that matters; more are found only where width is small.
    """

    layout: Layout
    root: torch.Tensor
    kinds: torch.Tensor
    longest: int


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
            _search_scan(pages, bank, asked, squares[part], *weighs, *hits)
    rest = slice(0, min((run.begin for run in runs), default=n_queries))
    turn, n_lists = n_queries, handles.shape[1] if handles.ndim > 1 else 1
    if width > MAX_KEPT:
        turn = max(1, _MAX_PAIRS // max(1, pages.longest * n_lists))
    for begin in range(0, rest.stop, turn):
        part = slice(begin, min(begin + turn, rest.stop))
        given = (
            handles if len(handles) == 1 else handles[part],
            queries[part],
            squares[part],
            None if widths is None else widths[part],
            metric,
            limits.of(part),
        )
        if width > MAX_KEPT:
            _search_pairs(pages, *given, scores[part], ids[part])
        elif handles.ndim > 1:
            _search_lists(pages, *given, scores[part], ids[part])
        else:
            _search_scan(pages, *given, None, are_forks, scores[part], ids[part])


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
    layout, root, kinds, _ = pages
    room = Shadow.of(scores, n_rows, layout.dim)
    weights = (limits.scale, limits.bias, limits.conditions)
    is_weighed = metric == "l2" or any(each is not None for each in weights)
    paged_groups.paged_keys_kernel[(room.n_pages,)](
        root,
        handle,
        kinds,
        *limits.narrowed[:3],
        limits.scale,
        limits.bias,
        *room.out,
        layout.dim,
        room.codes.shape[1],
        layout.ids_at,
        METRIC=metric,
        ITEM=layout.item,
        IS_WEIGHED=is_weighed,
        enable_fp_fusion=False,
    )
    for part in room.turns(len(queries)):
        asked, hits = queries[part], (scores[part], ids[part])
        chosen = choose(asked, room, scores.shape[1], metric, is_weighed, limits.is_open)
        finals = _rescore(pages, handle, asked, chosen, metric, limits)
        *best, needed = finish(chosen, *finals, scores.shape[1], limits.low)
        some = None if widths is None else widths[part]
        merge(*best, None, some, *hits)
        given = (handle, asked, chosen.squares, some, metric, limits.of(part))
        _search_scan(pages._replace(longest=n_rows), *given, needed, False, *hits)


def _rescore(
    pages: Pages,
    handle: torch.Tensor,
    queries: torch.Tensor,
    chosen: Chosen,
    metric: str,
    limits: Limits,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The final scores of the rows of chosen pages, as keys, and their ids."""
    layout, root, kinds, _ = pages
    finals = chosen.finals()
    ids = torch.empty_like(finals, dtype=torch.int64)
    paged_groups.paged_rescore_kernel[chosen.grid](
        root,
        handle,
        queries,
        *queries.stride(),
        chosen.squares,
        kinds,
        *limits.narrowed,
        limits.scale,
        limits.bias,
        limits.low,
        limits.high,
        chosen.page_ids,
        finals,
        ids,
        chosen.page_ids.shape[1],
        layout.dim,
        layout.ids_at,
        METRIC=metric,
        ITEM=layout.item,
        PAGES=groups.TILE_PAGES,
        enable_fp_fusion=False,
    )
    return finals, ids


def _search_scan(
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
    layout, root, kinds, longest = pages
    is_one = len(handles) == 1 and n_queries > 1
    conditions = limits.conditions
    is_alike = limits.candidates is None and (conditions is None or conditions.is_shared)
    are_forks = are_forks and is_alike and not is_one and n_queries > 1
    n_at_once = 4 if are_forks or (is_one and is_alike) else 1
    kept = max(16, triton.next_power_of_2(width))
    n_tiles = triton.cdiv(n_queries, n_at_once)
    n_splits = splits(n_tiles, longest, kept, needed=needed)
    parts, part_ids = room(scores, n_queries, n_splits, kept)
    registers = None
    if layout.books is not None:
        registers = _CODED_FORKS if are_forks else _CODED
    paged.paged_kernel[(n_tiles, n_splits)](
        root,
        handles,
        0 if is_one else 1,
        *layout.asked(queries),
        squares,
        kinds,
        *limits.given,
        needed,
        parts,
        part_ids,
        n_queries,
        layout.vector_dim,
        layout.ids_at,
        *layout.codes,
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


def _search_lists(
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
    layout, root, kinds, longest = pages
    n_lists = handles.shape[1]
    kept = max(16, triton.next_power_of_2(width))
    n_segments, n_splits = search_lists.shares(n_queries, n_lists, longest, kept)
    parts, part_ids = room(scores, n_queries, n_splits, kept)
    search_lists.lists_kernel[(n_queries, n_splits)](
        root,
        handles,
        *handles.stride(),
        queries,
        *queries.stride(),
        squares,
        kinds,
        *limits.given,
        parts,
        part_ids,
        n_lists,
        n_segments,
        layout.dim,
        layout.ids_at,
        n_splits,
        METRIC=metric,
        ITEM=layout.item,
        N=64,
        K=kept,
        enable_fp_fusion=False,
    )
    merge(parts, part_ids, None, widths, scores, ids)


def _search_pairs(
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
    n_queries, width = scores.shape
    layout, root, kinds, longest = pages
    n_lists = handles.shape[1] if handles.ndim > 1 else 1
    if handles.ndim > 1:
        # A query and one of its banks stand where a query stands else.
        handles = handles.reshape(n_queries * n_lists)
        queries, squares = (each.repeat_interleave(n_lists, 0) for each in (queries, squares))
        limits = limits.spread(n_lists)
    pairs = scores.new_empty((n_queries, n_lists * longest), dtype=torch.int32)
    pair_ids = torch.empty_like(pairs, dtype=torch.int64)
    if longest:
        paged.paged_pairs_kernel[(n_queries * n_lists, triton.cdiv(longest, 32))](
            root,
            handles,
            0 if len(handles) == 1 else 1,
            *layout.asked(queries),
            squares,
            kinds,
            *limits.given,
            pairs,
            pair_ids,
            longest,
            layout.vector_dim,
            layout.ids_at,
            *layout.codes,
            METRIC=metric,
            ITEM=layout.item,
            N=32,
            enable_fp_fusion=False,
            maxnreg=None if layout.books is None else _CODED_PAIRS,
        )
    # By id first: equal scores stay in that order.
    pair_ids, order = pair_ids.sort(dim=1)
    finals, places = sorted_best(pairs.gather(1, order), width, widths)
    scores.fill_(-torch.inf)
    ids.fill_(-1)
    scores[:, : finals.shape[1]] = finals
    named = pair_ids.gather(1, places.clamp(min=0))
    ids[:, : finals.shape[1]] = torch.where(places < 0, -1, named)

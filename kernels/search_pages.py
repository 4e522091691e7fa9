"""search over the banks of an arena: which kernels run, with what grid and workspace."""

from dataclasses import dataclass

import torch
import triton

from . import paged
from .pages import Layout
from .search import merge, sorted_best, splits

# The most that a program keeps in registers for one query.
_MAX_KEPT = 256
# What the keys of all pairs of some queries may take, in rows.
_MAX_PAIRS = 1 << 24


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


def search_pages(
    layout: Layout,
    root: torch.Tensor,
    kinds: torch.Tensor,
    longest: int,
    handles: torch.Tensor,
    queries: torch.Tensor,
    squares: torch.Tensor,
    k: int | torch.Tensor,
    metric: str,
    limits: Limits,
    scores: torch.Tensor,
    ids: torch.Tensor,
    are_forks: bool = False,
) -> None:
    """Write the hits of each query in its bank into scores and ids (n_queries, width).

    Args:
        layout: of the pages.
        root: (4,) int64: the address of heads (n_banks, 3), n_banks, the addresses of the tables
            and of the directory.
        kinds: (n_columns,) int64.
        longest: rows of the longest bank that matters; more are found only where width is small.
        handles: one per query, or one for all.
        queries: (n_queries, dim).
        squares: (n_queries,), their canonical squares; one above 1e36, or NaN, finds nothing.
        k: the width, or (n_queries,) int64 up to it.
        metric: "dot", "cosine" or "l2".
        limits: what narrows or weighs the search.
        scores: float32.
        ids: int64.
        are_forks: banks of queries that follow each other share most of their pages.
    """
    n_queries, width = scores.shape
    if not scores.numel():
        return
    widths = k if isinstance(k, torch.Tensor) else None
    if width > _MAX_KEPT:
        turn = max(1, _MAX_PAIRS // max(1, longest))
        for begin in range(0, n_queries, turn):
            part = slice(begin, begin + turn)
            _search_pairs(
                layout, root, kinds, longest, handles if len(handles) == 1 else handles[part],
                queries[part], squares[part], None if widths is None else widths[part], metric,
                _of(limits, part), scores[part], ids[part],
            )  # fmt: skip
        return
    is_one = len(handles) == 1 and n_queries > 1
    conditions = limits.conditions
    is_alike = limits.candidates is None and (conditions is None or conditions.is_shared)
    are_forks = are_forks and is_alike and not is_one and n_queries > 1
    n_at_once = 4 if are_forks or (is_one and is_alike) else 1
    kept = max(16, triton.next_power_of_2(width))
    n_tiles = triton.cdiv(n_queries, n_at_once)
    n_splits = splits(n_tiles, longest, kept)
    parts = scores.new_empty((n_queries, n_splits, kept), dtype=torch.int32)
    part_ids = torch.empty_like(parts, dtype=torch.int64)
    paged.paged_kernel[(n_tiles, n_splits)](
        root,
        handles,
        0 if is_one else 1,
        queries,
        *queries.stride(),
        squares,
        kinds,
        *_limits(limits),
        parts,
        part_ids,
        n_queries,
        layout.dim,
        layout.ids_at,
        n_splits,
        METRIC=metric,
        ITEM=layout.item,
        Q=n_at_once,
        N=32 if n_at_once > 1 else 64,
        K=kept,
        ARE_FORKS=are_forks,
        enable_fp_fusion=False,
    )
    merge(parts, part_ids, None, widths, scores, ids)


def _search_pairs(
    layout: Layout,
    root: torch.Tensor,
    kinds: torch.Tensor,
    longest: int,
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
    pairs = scores.new_empty((n_queries, longest), dtype=torch.int32)
    pair_ids = torch.empty_like(pairs, dtype=torch.int64)
    if longest:
        paged.paged_pairs_kernel[(n_queries, triton.cdiv(longest, 32))](
            root,
            handles,
            0 if len(handles) == 1 else 1,
            queries,
            *queries.stride(),
            squares,
            kinds,
            *_limits(limits),
            pairs,
            pair_ids,
            longest,
            layout.dim,
            layout.ids_at,
            METRIC=metric,
            ITEM=layout.item,
            N=32,
            enable_fp_fusion=False,
        )
    # By id first: equal scores stay in that order.
    pair_ids, order = pair_ids.sort(dim=1)
    finals, places = sorted_best(pairs.gather(1, order), width, widths)
    scores.fill_(-torch.inf)
    ids.fill_(-1)
    scores[:, : finals.shape[1]] = finals
    named = pair_ids.gather(1, places.clamp(min=0))
    ids[:, : finals.shape[1]] = torch.where(places < 0, -1, named)


def _limits(limits: Limits) -> tuple[object, ...]:
    """As the kernels take them."""
    c, named = limits.conditions, limits.candidates
    conditions = (None,) * 4 if c is None else (c.steps, c.constants, c.ends, c.index)
    n_candidates = 0 if named is None else named.shape[1]
    return *conditions, named, n_candidates, limits.scale, limits.bias, limits.low, limits.high


def _of(limits: Limits, queries: slice) -> Limits:
    """The limits of some of the queries."""
    c, named = limits.conditions, limits.candidates
    if c is not None:
        c = Conditions(c.steps, c.constants, c.ends, c.index[queries], c.is_shared)
    named = None if named is None else named[queries]
    return Limits(c, named, limits.scale, limits.bias, limits.low, limits.high)

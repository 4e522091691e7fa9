"""search, search_ragged: which kernels run, with what grid and workspace."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
import triton

from . import groups, scan, shadow
from .first_pass import MOST_KEYS, Shadow, choose, finish
from .layout import grid_of, near
from .order import NOTHING
from .workspace import SORT_INT32, SORT_INT64, left, n_kept, parts, splits

# The most that a program of the scan keeps in registers for one query.
MAX_KEPT = 256
# Fewer keys, or fewer queries, are scanned as they are: making the shadow reads every key once.
MIN_KEYS = 4096
MIN_QUERIES = 17
# Bytes of a score that is written and sorted, by itself or with an id.
PAIR, NAMED_PAIR = 4 + SORT_INT32, 12 + SORT_INT32 + 20


@dataclass(frozen=True)
class Filter:
    """What narrows or weighs a search, as tensors or None; see `memcore.search`."""

    metric: str
    begins: torch.Tensor | None
    ends: torch.Tensor | None
    named: torch.Tensor | None
    mask: torch.Tensor | None
    scale: torch.Tensor | None
    bias: torch.Tensor | None
    low: float
    high: float

    def of(self, queries: slice) -> "Filter":
        """The same for some of the queries."""
        has_own = self.mask is not None and self.mask.ndim == 2
        return replace(self, mask=self.mask[queries]) if has_own else self

    def within(self, keys: slice) -> "Filter":
        """The same for some of the keys."""
        mask, scale, bias = (
            None if each is None else each[..., keys] for each in (self.mask, self.scale, self.bias)
        )
        return replace(self, mask=mask, scale=scale, bias=bias)

    @property
    def limits(self) -> tuple[object, ...]:
        """The mask with its strides, the weights and the bounds, as the kernels take them."""
        return self.mask, *self.mask_strides, self.scale, self.bias, self.low, self.high

    @property
    def mask_strides(self) -> tuple[int, int]:
        """From query to query, which is 0 where they share a mask, and from key to key."""
        if self.mask is None:
            return 0, 0
        return (0, self.mask.stride(0)) if self.mask.ndim == 1 else self.mask.stride()

    @property
    def has_bounds(self) -> bool:
        """Whether the first pass can bound every pair of all keys: weighed by what is a key's."""
        return self.metric != "l2" or self.scale is None

    @property
    def is_weighed(self) -> bool:
        """Whether keys of one page differ by more than their product with the query."""
        given = (self.scale, self.bias, self.mask)
        return self.metric == "l2" or any(each is not None for each in given)

    @property
    def is_open(self) -> bool:
        """Whether every key with a sound bound may be returned, at its score."""
        weighs = self.scale is not None or self.bias is not None
        per_query = self.mask is not None and self.mask.ndim == 2
        return not (weighs or per_query) and self.low == -torch.inf and self.high == torch.inf


def search(
    queries: torch.Tensor,
    keys: torch.Tensor,
    offsets: torch.Tensor | None,
    segments: torch.Tensor | None,
    k: int | torch.Tensor,
    metric: str,
    mask: torch.Tensor | None,
    candidates: torch.Tensor | None,
    scale: torch.Tensor | None,
    bias: torch.Tensor | None,
    low: float,
    high: float,
    first_pass: bool | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Write the hits of each query into scores and ids (n_queries, width).

    Args: as `_core.search`, in tensors of one device; a query that may not be asked gets padding.
    """
    n_queries, width = scores.shape
    if not scores.numel():
        return
    queries, keys = near(queries), near(keys)
    filter = Filter(metric, None, None, None, mask, scale, bias, low, high)
    key_norms = norms(keys)[1] if metric == "cosine" else None
    widths = k if isinstance(k, torch.Tensor) else None
    pays = first_pass
    if first_pass is None:
        pays = len(keys) >= MIN_KEYS and n_queries >= MIN_QUERIES
    pays = pays and offsets is None and candidates is None
    if pays and filter.has_bounds and width <= MAX_KEPT and 0 < len(keys) <= MOST_KEYS:
        # Where there is no room for codes, the scan does it.
        with suppress(torch.OutOfMemoryError):
            _search_groups(queries, keys, key_norms, filter, widths, scores, ids)
            return
    n_named = 0 if candidates is None else candidates.shape[1]
    each = 32 + (SORT_INT64 + 16) * n_named
    if width > MAX_KEPT:
        each += PAIR * (len(keys) if candidates is None else n_named) + 32 * width
    else:
        each += 12 * n_kept(width)
    for part in parts(n_queries, each):
        asked, some = queries[part], filter.of(part)
        if offsets is not None and segments is not None:
            named = segments[part]
            some = replace(some, begins=offsets[named], ends=offsets[named + 1])
        if candidates is not None:
            some = replace(some, named=distinct(candidates[part]))
        own = None if widths is None else widths[part]
        given = (asked, norms(asked)[0], keys, key_norms, some)
        if width > MAX_KEPT:
            _search_split(*given, own, scores[part], ids[part])
        else:
            _search_scan(*given, None, own, scores[part], ids[part])


# Segments are ranges of keys: the same kernels, with a range for each query.
search_ragged = search


def norms(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The canonical squares and norms of rows (n, dim): both (n,)."""
    rows = near(rows)
    n, dim = rows.shape
    squares = rows.new_empty(n, dtype=torch.float32)
    roots = torch.empty_like(squares)
    if n:
        grid = (triton.cdiv(n, 64),)
        scan.norms_kernel[grid](
            rows, *rows.stride(), squares, roots, n, dim, ROWS=64, enable_fp_fusion=False
        )
    return squares, roots


def distinct(candidates: torch.Tensor) -> torch.Tensor:
    """Candidates (n_queries, m) in rising order, with -1 in the place of repeated ones."""
    named = candidates.sort(1).values
    if named.shape[1] > 1:
        repeats = named[:, 1:] == named[:, :-1]
        named[:, 1:].masked_fill_(repeats, -1)
    return named


def _search_scan(
    queries: torch.Tensor,
    squares: torch.Tensor,
    keys: torch.Tensor,
    key_norms: torch.Tensor | None,
    filter: Filter,
    needed: torch.Tensor | None,
    widths: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Score every pair that is allowed; of all queries, or of those that are needed."""
    n_queries, width = scores.shape
    n_keys, dim = keys.shape
    n_named = 0 if filter.named is None else filter.named.shape[1]
    shares_keys = filter.begins is None and filter.named is None
    n_at_once = 4 if shares_keys and n_queries > 1 else 1
    kept = n_kept(width)
    longest = n_keys if filter.named is None else n_named
    n_tiles = triton.cdiv(n_queries, n_at_once)
    n_splits = 1
    if filter.begins is None:
        n_splits = splits(n_tiles, longest, kept, needed=needed)
    parts, part_ids = room(scores, n_queries, n_splits, kept)
    scan.scan_kernel[(n_tiles, n_splits)](
        queries,
        *queries.stride(),
        squares,
        keys,
        *keys.stride(),
        key_norms,
        needed,
        filter.begins,
        filter.ends,
        filter.named,
        *filter.limits,
        parts,
        part_ids,
        n_queries,
        n_keys,
        n_named,
        dim,
        n_splits,
        METRIC=filter.metric,
        Q=n_at_once,
        N=32 if n_at_once > 1 else 128,
        K=kept,
        enable_fp_fusion=False,
    )
    merge(parts, part_ids, needed, widths, scores, ids)


def _search_split(
    queries: torch.Tensor,
    squares: torch.Tensor,
    keys: torch.Tensor,
    key_norms: torch.Tensor | None,
    filter: Filter,
    widths: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Write the scores of all pairs and sort them: for a large k."""
    n_columns = len(keys) if filter.named is None else filter.named.shape[1]

    def read(columns: slice) -> tuple[torch.Tensor, None]:
        some, rows, roots = filter, keys, key_norms
        if filter.named is not None:
            some = replace(filter, named=filter.named[:, columns].contiguous())
        elif filter.begins is not None:
            some = replace(filter, begins=filter.begins + columns.start)
        else:
            some, rows = filter.within(columns), keys[columns]
            roots = None if key_norms is None else key_norms[columns]
        n = columns.stop - columns.start
        return _pairs(queries, squares, rows, roots, some, n), None

    finals, places = sorted_best(read, len(queries), n_columns, PAIR, scores.shape[1], widths)
    if filter.named is not None:
        places = torch.where(places < 0, -1, filter.named.gather(1, places.clamp(min=0)))
    elif filter.begins is not None:
        places = torch.where(places < 0, -1, places + filter.begins[:, None])
    pad(scores, ids, finals, places)


def _pairs(
    queries: torch.Tensor,
    squares: torch.Tensor,
    keys: torch.Tensor,
    key_norms: torch.Tensor | None,
    filter: Filter,
    n: int,
) -> torch.Tensor:
    """The scores of n keys, or of n candidates or keys of a segment, as keys (n_queries, n)."""
    n_keys, dim = keys.shape
    pairs = squares.new_empty((len(queries), n), dtype=torch.int32)
    if not n:
        return pairs
    scan.pairs_kernel[grid_of(len(queries), triton.cdiv(n, 64))](
        queries,
        *queries.stride(),
        squares,
        keys,
        *keys.stride(),
        key_norms,
        filter.begins,
        filter.ends,
        filter.named,
        *filter.limits,
        pairs,
        n_keys,
        0 if filter.named is None else n,
        n,
        dim,
        METRIC=filter.metric,
        N=64,
        enable_fp_fusion=False,
    )
    return pairs


def sorted_best(
    read: Callable[[slice], tuple[torch.Tensor, torch.Tensor | None]],
    n_rows: int,
    n: int,
    each: int,
    width: int,
    widths: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and ids of the best of rows (n_rows, n), at most `width`; -inf and -1 pad.

    Args:
        read: what gives some columns: integers that order as scores do, and ids, or None where
            these are the columns. Equal scores stand in the order of ids.
        n_rows: of which there is room for all columns, or one.
        n: columns.
        each: bytes of a column, sorting included; where there are too many some go at a time.
        width: hits of a row.
        widths: (n_rows,), fewer hits of each row, or None.
    """
    step = max(1, width, left(0) // max(1, each * n_rows))
    best, named = _largest(*read(slice(0, min(step, n))), width)
    for begin in range(step, n, step):
        keys, ids = read(slice(begin, min(begin + step, n)))
        more, more_named = _largest(keys, ids, width)
        if ids is None:
            more_named += begin
        best, named = _largest(torch.cat([best, more], 1), torch.cat([named, more_named], 1), width)
    found = best > NOTHING.value
    if widths is not None:
        found &= torch.arange(best.shape[1], device=best.device) < widths[:, None]
    bits = torch.where(best >= 0, best, best ^ 0x7FFFFFFF)
    finals = torch.where(found, bits.view(torch.float32), -torch.inf)
    return finals, torch.where(found, named, -1)


def pad(scores: torch.Tensor, ids: torch.Tensor, finals: torch.Tensor, named: torch.Tensor) -> None:
    """Write hits, which may be fewer than there is room for, with -inf and -1 behind them."""
    n = finals.shape[1]
    scores[:, :n], ids[:, :n] = finals, named
    scores[:, n:], ids[:, n:] = -torch.inf, -1


def _largest(
    keys: torch.Tensor, ids: torch.Tensor | None, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of keys (n_rows, n), at most `width`, equal ones by id; with ids, or places."""
    order = None
    if ids is not None:
        ids, order = ids.sort(dim=1)
        keys = keys.gather(1, order)
    # Stable, so that equal scores stay in the order of their ids.
    best, places = (each[:, :width] for each in keys.sort(dim=1, descending=True, stable=True))
    named = places if ids is None else ids.gather(1, places)
    # What else was sorted is given back.
    return (best, named) if keys.shape[1] <= 2 * width else (best.clone(), named.clone())


def room(
    like: torch.Tensor, n_queries: int, n_splits: int, kept: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Room on a tensor's device for the best of each split, as keys and ids, for `merge`."""
    parts = like.new_empty((n_queries, n_splits, kept), dtype=torch.int32)
    return parts, torch.empty_like(parts, dtype=torch.int64)


def merge(
    parts: torch.Tensor,
    part_ids: torch.Tensor,
    needed: torch.Tensor | None,
    widths: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Write the best of parts (n_queries, …), the largest first; see `scan.merge_kernel`."""
    n_queries, width = scores.shape
    n_parts = parts[0].numel()
    scan.merge_kernel[(n_queries,)](
        parts,
        part_ids,
        needed,
        widths,
        scores,
        ids,
        n_parts,
        width,
        N=min(64, triton.next_power_of_2(n_parts)),
    )


def _search_groups(
    queries: torch.Tensor,
    keys: torch.Tensor,
    key_norms: torch.Tensor | None,
    filter: Filter,
    widths: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Bound every page, score the best ones, and scan for the queries left in doubt."""
    n_keys, dim = keys.shape
    room = Shadow.of(scores, n_keys, dim)
    mask = filter.mask if filter.mask is not None and filter.mask.ndim == 1 else None
    shadow.keys_kernel[(room.n_pages,)](
        keys,
        *keys.stride(),
        mask,
        0 if mask is None else mask.stride(0),
        filter.scale,
        filter.bias,
        *room.out,
        n_keys,
        dim,
        room.codes.shape[1],
        METRIC=filter.metric,
        IS_WEIGHED=filter.is_weighed,
        enable_fp_fusion=False,
    )
    for part in parts(len(queries), room.of_query(scores.shape[1], 4)):
        some = None if widths is None else widths[part]
        given = (queries[part], keys, key_norms, room, filter.of(part), some)
        _search_turn(*given, scores[part], ids[part])


def _search_turn(
    queries: torch.Tensor,
    keys: torch.Tensor,
    key_norms: torch.Tensor | None,
    shadow_of_keys: Shadow,
    filter: Filter,
    widths: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    width = scores.shape[1]
    weighs = (filter.metric, filter.is_weighed, filter.is_open)
    pages = choose(queries, shadow_of_keys, width, *weighs)
    finals = pages.finals()
    groups.rescore_kernel[pages.grid](
        queries,
        *queries.stride(),
        pages.squares,
        keys,
        *keys.stride(),
        key_norms,
        pages.page_ids,
        *filter.limits,
        finals,
        *keys.shape,
        pages.page_ids.shape[1],
        METRIC=filter.metric,
        PAGES=groups.TILE_PAGES,
        enable_fp_fusion=False,
    )
    parts, part_ids, needed = finish(pages, finals, None, width, filter.low)
    merge(parts, part_ids, None, widths, scores, ids)
    _search_scan(queries, pages.squares, keys, key_norms, filter, needed, widths, scores, ids)

"""search, search_ragged: which kernels run, with what grid and workspace."""

from dataclasses import dataclass, replace

import torch
import triton

from . import groups, scan, shadow
from .order import NOTHING

# The most that a program of the scan keeps in registers for one query.
MAX_KEPT = 256
# Fewer keys, or fewer queries, are scanned as they are: making the shadow reads every key once.
MIN_KEYS = 4096
MIN_QUERIES = 17
# What the bounds of all pages may take, in bytes; more queries go in turns.
_WORKSPACE = 1 << 28
_TILE_ROWS = groups.TILE_PAGES * 16
# Tiles of one query that a program looks at.
_MAX_TILES = 1 << 14


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
        per_query = ["begins", "ends", "named"]
        if self.mask is not None and self.mask.ndim == 2:
            per_query.append("mask")
        given = {name: getattr(self, name) for name in per_query}
        return replace(self, **{n: each[queries] for n, each in given.items() if each is not None})

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
        """Whether the first pass can bound every pair: all keys, weighed by what is a key's."""
        is_product = self.metric != "l2" or self.scale is None
        return self.begins is None and self.named is None and is_product

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
    begins = ends = None
    if offsets is not None and segments is not None:
        begins, ends = offsets[segments], offsets[segments + 1]
    named = None if candidates is None else distinct(candidates)
    filter = Filter(metric, begins, ends, named, mask, scale, bias, low, high)
    key_norms = norms(keys)[1] if metric == "cosine" else None
    widths = k if isinstance(k, torch.Tensor) else None
    pays = first_pass
    if first_pass is None:
        pays = len(keys) >= MIN_KEYS and n_queries >= MIN_QUERIES
    n_tiles = triton.cdiv(len(keys), _TILE_ROWS)
    if pays and filter.has_bounds and width <= MAX_KEPT and 0 < n_tiles <= _MAX_TILES:
        _search_groups(queries, keys, key_norms, filter, widths, scores, ids)
        return
    if width > MAX_KEPT:
        _search_split(queries, keys, key_norms, filter, widths, scores, ids)
        return
    squares = norms(queries)[0]
    _search_scan(queries, squares, keys, key_norms, filter, None, widths, scores, ids)


# Segments are ranges of keys: the same kernels, with a range for each query.
search_ragged = search


def norms(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The canonical squares and norms of rows (n, dim): both (n,)."""
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
    kept = max(16, triton.next_power_of_2(width))
    longest = n_keys if filter.named is None else n_named
    n_tiles = triton.cdiv(n_queries, n_at_once)
    n_splits = splits(n_tiles, longest, kept) if filter.begins is None else 1
    parts = scores.new_empty((n_queries, n_splits, kept), dtype=torch.int32)
    part_ids = torch.empty_like(parts, dtype=torch.int64)
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
    keys: torch.Tensor,
    key_norms: torch.Tensor | None,
    filter: Filter,
    widths: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Write the scores of all pairs and sort them, some queries at a time: for a large k."""
    n_keys, dim = keys.shape
    n_named = 0 if filter.named is None else filter.named.shape[1]
    n_columns = n_keys if filter.named is None else n_named
    width = scores.shape[1]
    scores.fill_(-torch.inf)
    ids.fill_(-1)
    turn = max(1, _WORKSPACE // 16 // max(1, n_columns))
    for begin in range(0, len(queries) if n_columns else 0, turn):
        part = slice(begin, begin + turn)
        asked, some = queries[part], filter.of(part)
        pairs = scores.new_empty((len(asked), n_columns), dtype=torch.int32)
        scan.pairs_kernel[(len(asked), triton.cdiv(n_columns, 64))](
            asked,
            *asked.stride(),
            norms(asked)[0],
            keys,
            *keys.stride(),
            key_norms,
            some.begins,
            some.ends,
            some.named,
            *some.limits,
            pairs,
            n_keys,
            n_named,
            n_columns,
            dim,
            METRIC=some.metric,
            N=64,
            enable_fp_fusion=False,
        )
        finals, places = sorted_best(pairs, width, None if widths is None else widths[part])
        if some.named is not None:
            places = torch.where(places < 0, -1, some.named.gather(1, places.clamp(min=0)))
        elif some.begins is not None:
            places = torch.where(places < 0, -1, places + some.begins[:, None])
        scores[part, : finals.shape[1]] = finals
        ids[part, : finals.shape[1]] = places


def sorted_best(
    keys: torch.Tensor, width: int, widths: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and places of the largest of keys (n_rows, n), at most `width`; -inf and -1 pad."""
    # Stable, so that equal scores stay in the order of their ids.
    best, places = keys.sort(dim=1, descending=True, stable=True)
    best, places = best[:, :width], places[:, :width]
    found = best > NOTHING.value
    if widths is not None:
        found &= torch.arange(best.shape[1], device=best.device) < widths[:, None]
    bits = torch.where(best >= 0, best, best ^ 0x7FFFFFFF)
    finals = torch.where(found, bits.view(torch.float32), -torch.inf)
    return finals, torch.where(found, places, -1)


def splits(n_programs: int, n_keys: int, kept: int, n_least: int = 256) -> int:
    """Into how many parts the keys go, so that the card is full and the merge stays small."""
    wanted = triton.cdiv(1024, n_programs)
    return max(1, min(wanted, 2048 // kept, triton.cdiv(n_keys, n_least)))


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
    n_tiles = triton.cdiv(n_keys, _TILE_ROWS)
    n_rows = n_tiles * _TILE_ROWS
    padded = triton.cdiv(dim, 64) * 64
    codes = keys.new_empty((n_rows, padded), dtype=torch.int8)
    terms = scores.new_empty((2, n_rows))
    page_terms = scores.new_empty((2, n_rows // 16))
    mask = filter.mask if filter.mask is not None and filter.mask.ndim == 1 else None
    shadow.keys_kernel[(n_rows // 16,)](
        keys,
        *keys.stride(),
        mask,
        0 if mask is None else mask.stride(0),
        filter.scale,
        filter.bias,
        codes,
        *terms,
        *page_terms,
        n_keys,
        dim,
        padded,
        METRIC=filter.metric,
        enable_fp_fusion=False,
    )
    turn = max(64, _WORKSPACE // (n_rows // 16 * 4))
    for begin in range(0, len(queries), turn):
        part = slice(begin, begin + turn)
        _search_turn(
            queries[part],
            keys,
            key_norms,
            (codes, terms, page_terms),
            filter.of(part),
            None if widths is None else widths[part],
            scores[part],
            ids[part],
        )


def _search_turn(
    queries: torch.Tensor,
    keys: torch.Tensor,
    key_norms: torch.Tensor | None,
    shadow_of_keys: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    filter: Filter,
    widths: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    codes, terms, page_terms = shadow_of_keys
    n_queries, width = scores.shape
    n_keys, dim = keys.shape
    n_rows, padded = codes.shape
    n_tiles = n_rows // _TILE_ROWS
    query_codes = codes.new_empty((n_queries, padded))
    bounds = scores.new_empty((5, n_queries))
    is_bounded = codes.new_empty(n_queries)
    shadow.queries_kernel[(triton.cdiv(n_queries, 16),)](
        queries,
        *queries.stride(),
        query_codes,
        *bounds,
        is_bounded,
        n_queries,
        dim,
        padded,
        METRIC=filter.metric,
        N=16,
        enable_fp_fusion=False,
    )
    slope, a, c, base, squares = bounds
    pages = scores.new_empty((n_queries, n_tiles * groups.TILE_PAGES), dtype=torch.int32)
    tiles = scores.new_empty((n_queries, n_tiles), dtype=torch.int32)
    n_at_once = 16 if n_queries <= 16 else 128
    has_beta = filter.metric == "l2" or filter.bias is not None or filter.mask is not None
    groups.maxima_kernel[(n_tiles, triton.cdiv(n_queries, n_at_once))](
        query_codes,
        slope,
        a,
        c,
        base,
        codes,
        *terms,
        *page_terms,
        pages,
        tiles,
        n_queries,
        n_keys,
        n_tiles,
        DIM=padded,
        HAS_BETA=has_beta,
        Q=n_at_once,
        PAGES=groups.TILE_PAGES,
        D=64,
        num_warps=8 if n_at_once > 16 else 4,
    )
    n_chosen = max(32, 4 * triton.next_power_of_2(width))
    shape = (n_queries, n_chosen)
    tile_ids, page_ids = (scores.new_empty(shape, dtype=torch.int32) for _ in range(2))
    rest = scores.new_empty(n_queries, dtype=torch.int32)
    groups.select_kernel[(n_queries,)](
        tiles,
        pages,
        a,
        c,
        base,
        *page_terms,
        tile_ids,
        page_ids,
        rest,
        n_tiles,
        width,
        dim,
        METRIC=filter.metric,
        IS_OPEN=filter.is_open,
        PAGES=groups.TILE_PAGES,
        TILES=triton.next_power_of_2(n_tiles),
        P=n_chosen,
        num_warps=8,
        enable_fp_fusion=False,
    )
    finals = scores.new_empty((n_queries, n_chosen * 16), dtype=torch.int32)
    groups.rescore_kernel[(n_queries, n_chosen // groups.TILE_PAGES)](
        queries,
        *queries.stride(),
        squares,
        keys,
        *keys.stride(),
        key_norms,
        page_ids,
        *filter.limits,
        finals,
        n_keys,
        dim,
        n_chosen,
        METRIC=filter.metric,
        PAGES=groups.TILE_PAGES,
        enable_fp_fusion=False,
    )
    kept = triton.next_power_of_2(width)
    parts = scores.new_empty((n_queries, kept), dtype=torch.int32)
    part_ids = scores.new_empty((n_queries, kept), dtype=torch.int64)
    needed = codes.new_empty(n_queries)
    groups.finish_kernel[(n_queries,)](
        finals,
        page_ids,
        rest,
        is_bounded,
        parts,
        part_ids,
        needed,
        width,
        P=n_chosen,
        K=kept,
        num_warps=8,
    )
    merge(parts, part_ids, None, widths, scores, ids)
    _search_scan(queries, squares, keys, key_norms, filter, needed, widths, scores, ids)

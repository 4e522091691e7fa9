"""The launches of the first pass, which keys of an array and rows of a long bank share.

Whoever has made a shadow asks for the pages that may hold the best of each query, scores their
rows, and is told which queries that leaves in doubt.
"""

import struct
from dataclasses import dataclass

import torch
import triton

from . import groups, shadow
from .order import LOWEST
from .workspace import n_kept

_TILE_ROWS = groups.TILE_PAGES * 16
# Of so many tiles, counted for each block of queries, a program takes several.
_PROGRAMS, _TILES = 1 << 13, 16
# Pages whose rows a program ranks.
_MOST_PAGES = 128
# A program looks at all tiles of a query: 2^14 of them.
MOST_KEYS = _TILE_ROWS << 14


@dataclass(frozen=True)
class Shadow:
    """Room for int8 copies of keys and for what bounds their scores, in whole tiles.

    Attributes:
        codes: (n_rows, dim_padded) int8.
        terms: (2, n_rows) float32, factor and beta; see `shadow.write_shadow`.
        page_terms: (2, n_rows // 16) float32, epsilon and nu of each page.
        n_keys: how many of the rows are keys.
        dim: of a key.
    """

    codes: torch.Tensor
    terms: torch.Tensor
    page_terms: torch.Tensor
    n_keys: int
    dim: int

    @classmethod
    def of(cls, scores: torch.Tensor, n_keys: int, dim: int) -> "Shadow":
        """Room where `scores` (float32) are."""
        n_rows = triton.cdiv(n_keys, _TILE_ROWS) * _TILE_ROWS
        padded = triton.cdiv(dim, 64) * 64
        codes = scores.new_empty((n_rows, padded), dtype=torch.int8)
        terms, pages = scores.new_empty((2, n_rows)), scores.new_empty((2, n_rows // 16))
        return cls(codes, terms, pages, n_keys, dim)

    @property
    def n_pages(self) -> int:
        """Pages of 16 rows."""
        return self.page_terms.shape[1]

    @property
    def out(self) -> tuple[torch.Tensor, ...]:
        """What the kernels of shadows write to."""
        return self.codes, *self.terms, *self.page_terms

    def of_query(self, width: int, of_row: int) -> int:
        """Bytes that a query takes on the way to its hits.

        Args:
            width: hits of a query.
            of_row: bytes of each row that is scored, with its id where that is not its place.
        """
        bounds = self.codes.shape[1] + 21 + 4 * (self.n_pages + self.n_pages // groups.TILE_PAGES)
        scored = n_chosen(width) * (8 + 16 * of_row)
        # The best of the rows of each part, what that is judged by, and the best of a scan.
        return bounds + scored + 12 * n_kept(width) * (n_parts(n_chosen(width)) + 3) + 48


@dataclass(frozen=True)
class Chosen:
    """The pages that may hold the best keys of each query.

    Attributes:
        page_ids: (n_queries, n_pages) int32; -1 pads.
        rest: (n_queries,) int32, the best bound of what is left out, as a key.
        squares: (n_queries,) float32, canonical, of the queries.
        is_bounded: (n_queries,) int8, where that proves anything.
    """

    page_ids: torch.Tensor
    rest: torch.Tensor
    squares: torch.Tensor
    is_bounded: torch.Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """Programs that score their rows, `groups.TILE_PAGES` pages each."""
        n_queries, n_pages = self.page_ids.shape
        return n_queries, n_pages // groups.TILE_PAGES

    def finals(self) -> torch.Tensor:
        """Room for the scores of their rows, as keys (n_queries, n_pages * 16) int32."""
        n_queries, n_pages = self.page_ids.shape
        return self.rest.new_empty((n_queries, n_pages * 16))


def n_chosen(width: int) -> int:
    """How many pages of a query are scored."""
    return max(32, 4 * triton.next_power_of_2(width))


def n_parts(n_pages: int) -> int:
    """Into how many parts go more pages than a program has registers for, each as if alone."""
    return max(1, n_pages // _MOST_PAGES)


def choose(
    queries: torch.Tensor,
    shadow_of_keys: Shadow,
    width: int,
    metric: str,
    is_weighed: bool,
    is_open: bool,
) -> Chosen:
    """Bound every page of keys for each query, and choose the best pages.

    Args:
        queries: (n_queries, dim).
        shadow_of_keys: written.
        width: hits of a query, 256 at most.
        metric: "dot", "cosine" or "l2".
        is_weighed: as the shadow was written.
        is_open: every key with a bound may be returned, at its score.
    """
    n_queries, dim = queries.shape
    codes, terms, page_terms = (
        shadow_of_keys.codes, shadow_of_keys.terms, shadow_of_keys.page_terms
    )  # fmt: skip
    n_rows, padded = codes.shape
    n_tiles = n_rows // _TILE_ROWS
    query_codes = codes.new_empty((n_queries, padded))
    bounds = terms.new_empty((5, n_queries))
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
        METRIC=metric,
        N=16,
        enable_fp_fusion=False,
    )
    slope, a, c, base, squares = bounds
    pages = terms.new_empty((n_queries, n_tiles * groups.TILE_PAGES), dtype=torch.int32)
    tiles = terms.new_empty((n_queries, n_tiles), dtype=torch.int32)
    n_at_once = 16 if n_queries <= 16 else 128
    n_blocks = triton.cdiv(n_queries, n_at_once)
    each = 1
    if not is_weighed and n_blocks * n_tiles >= _PROGRAMS and _has_wide_products(codes.device):
        each = _TILES
    groups.maxima_kernel[(n_blocks, triton.cdiv(n_tiles, each))](
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
        n_tiles,
        DIM=padded,
        IS_WEIGHED=is_weighed,
        Q=n_at_once,
        PAGES=groups.TILE_PAGES,
        D=padded if padded <= 128 else 64,
        TILES=each,
        num_warps=8 if n_at_once > 16 else 4,
    )
    shape = (n_queries, n_chosen(width))
    tile_ids, page_ids = (tiles.new_empty(shape) for _ in range(2))
    rest = tiles.new_empty(n_queries)
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
        shadow_of_keys.n_keys,
        n_tiles,
        width,
        dim,
        METRIC=metric,
        IS_OPEN=is_open,
        PAGES=groups.TILE_PAGES,
        TILES=triton.next_power_of_2(n_tiles),
        P=shape[1],
        num_warps=8,
        enable_fp_fusion=False,
    )
    return Chosen(page_ids, rest, squares, is_bounded)


def _has_wide_products(device: torch.device) -> bool:
    """Whether a product leaves room in the registers for the next tile: on Hopper alone.

    Elsewhere a loop over tiles would take twice the registers, and half the programs fit.
    """
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] == 9


def finish(
    pages: Chosen, finals: torch.Tensor, ids: torch.Tensor | None, width: int, low: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best of the rows that were scored.

    Args:
        pages: where those rows are.
        finals: their scores, as keys.
        ids: their ids, or None where they are their places.
        width: hits of a query.
        low: the least score of a hit.

    Returns:
        Parts (n_queries, n_parts, kept), as keys and ids, and (n_queries,) int8: who must be
        searched again.
    """
    n_queries, n_pages = pages.page_ids.shape
    kept = triton.next_power_of_2(width)
    many = n_parts(n_pages)
    rest, is_bounded = (
        each if many == 1 else each.repeat_interleave(many)
        for each in (pages.rest, pages.is_bounded)
    )
    parts = finals.new_empty((n_queries, many, kept))
    part_ids = torch.empty_like(parts, dtype=torch.int64)
    needed = torch.empty_like(is_bounded)
    groups.finish_kernel[(n_queries * many,)](
        finals,
        ids,
        pages.page_ids,
        rest,
        is_bounded,
        low,
        parts,
        part_ids,
        needed,
        width,
        P=n_pages // many,
        K=kept,
        num_warps=8,
    )
    if many > 1:
        least = parts.view(n_queries, -1).topk(width).values[:, -1].clamp(min=_key(low))
        is_certain = (pages.rest < least) | (pages.rest <= LOWEST.value)
        needed = (~(is_certain & (pages.is_bounded != 0))).to(torch.int8)
    return parts, part_ids, needed


def _key(score: float) -> int:
    """The integer that orders as a float32 score does; see `order`."""
    (bits,) = struct.unpack("i", struct.pack("f", score + 0.0))
    return int(bits if bits >= 0 else bits ^ 0x7FFFFFFF)

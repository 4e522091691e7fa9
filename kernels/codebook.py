"""assign, codebook_sums, codebook_ema, decode, search_codes: which kernels run, with what grid."""

import torch
import triton

from . import cards, lookup, nearest, segments
from .layout import grid_of, near
from .lsh import slack
from .products import STEP
from .search import merge, norms, room, sorted_best, splits

# Rows and codewords of a tile, and rows whose doubts one program settles.
_ROWS, _WORDS, _SETTLED = 128, 64, 512
# Components of rows that stay in a program while codewords pass by.
_RESIDENT = 128
_MOST_TILES = 1 << 15
# The most hits that a program keeps in registers.
_MAX_KEPT = 256
# What tables, or the keys of all pairs, may take, in numbers; more queries go in turns.
_WORKSPACE = 1 << 26


def assign(
    rows: torch.Tensor, codewords: torch.Tensor, codes: torch.Tensor, scores: torch.Tensor
) -> None:
    """Write the nearest codeword of each row: codes (n,) int64, scores (n,) float32.

    Args: as `_core.assign`; codewords float32 and contiguous. A row that is not finite or too large
    gets code -1, and so does every row where no codeword is finite.
    """
    rows = near(rows)
    n, dim = rows.shape
    if not n:
        return
    n_words = len(codewords)
    tile = min(_WORDS, max(16, triton.next_power_of_2(n_words)))
    n_padded = triton.cdiv(n_words, tile) * tile
    wide = codewords.new_zeros((n_padded, triton.cdiv(dim, STEP) * STEP))
    squares, roots = norms(codewords)
    is_finite = squares < torch.inf
    wide[:n_words, :dim] = torch.where(is_finite[:, None], codewords, 0)
    high = wide.to(torch.bfloat16)
    low = (wide - high.float()).to(torch.bfloat16)
    halves = codewords.new_full((n_padded,), torch.inf)
    halves[:n_words] = torch.where(is_finite, squares / 2, torch.inf)
    at_once = _ROWS if n >= _ROWS else 16
    is_exact = rows.dtype in (torch.bfloat16, torch.int8)
    doubts = codes.new_empty(n, dtype=torch.int32)
    # |x.w| sums to at most a quarter of (|x| + |w|)^2; the canonical score and the squares lose as
    # much as docs/score.md says of l2.
    lost = slack(dim, is_exact, False) / 4 + (dim / 16 + 40) * 2.0**-23 * (1 + 2.0**-8)
    given = (rows, *rows.stride(), codewords, high, low, halves, roots.max(), lost)
    results = (codes, scores, doubts, n)
    options = {"ROWS_ARE_EXACT": is_exact, "M": at_once, "N": tile, "enable_fp_fusion": False}
    grid, padded = (triton.cdiv(n, at_once),), wide.shape[1]
    stays = at_once > 16 and padded <= _RESIDENT and n_padded // tile <= _MOST_TILES
    if stays and cards.has_large_memory(rows.device):
        nearest.resident_nearest_kernel[grid](
            *given, *results, n_padded, dim, **options, DIM=padded, num_warps=8
        )
    else:
        nearest.nearest_kernel[grid](
            *given,
            *results,
            n_words,
            n_padded,
            dim,
            padded,
            **options,
            D=STEP if is_exact else STEP // 2,
            num_warps=8 if at_once > 16 else 4,
        )
    scratch = doubts.new_empty(triton.cdiv(n, _SETTLED) * _SETTLED)
    nearest.settle_kernel[(triton.cdiv(n, _SETTLED),)](
        rows,
        *rows.stride(),
        codewords,
        codes,
        scores,
        doubts,
        scratch,
        n,
        n_words,
        dim,
        N=_SETTLED,
        P=64,
        enable_fp_fusion=False,
    )


def codebook_sums(
    rows: torch.Tensor, codes: torch.Tensor, n_codes: int, counts: torch.Tensor, sums: torch.Tensor
) -> None:
    """Write counts (n_codes,) int64 and sums (n_codes, dim) of the rows of each code.

    Args: as `_core.codebook_sums`. Codes outside 0 to n_codes - 1 are left out.
    """
    rows = near(rows)
    dim = rows.shape[1]
    ordered, order = codes.sort(stable=True)
    begins = torch.searchsorted(ordered, torch.arange(n_codes + 1, device=codes.device))
    torch.sub(begins[1:], begins[:-1], out=counts)
    if not sums.numel():
        return
    columns = min(128, triton.next_power_of_2(dim))
    segments.sums_kernel[(n_codes, triton.cdiv(dim, columns))](
        rows, *rows.stride(), order, begins, sums, dim, D=columns, AHEAD=16, num_warps=1
    )


def codebook_ema(
    batch_sums: torch.Tensor,
    sums: torch.Tensor,
    decay: float,
    divisors: torch.Tensor,
    running: torch.Tensor,
    codewords: torch.Tensor,
) -> None:
    """Write the running sums and the codewords, as `_core.codebook_ema`; all contiguous."""
    n = sums.numel()
    if n:
        segments.ema_kernel[(triton.cdiv(n, 1024),)](
            batch_sums,
            sums,
            divisors,
            running,
            codewords,
            decay,
            1 - decay,
            n,
            sums.shape[1],
            N=1024,
            enable_fp_fusion=False,
        )


def decode(codes: torch.Tensor, codewords: torch.Tensor, rows: torch.Tensor) -> None:
    """Write the vectors (n, dim) of codes (n, n_levels, n_subspaces) int64, as `_core.decode`."""
    n, dim = rows.shape
    columns = min(128, triton.next_power_of_2(dim))
    if n:
        segments.decode_kernel[(triton.cdiv(n, 16), triton.cdiv(dim, columns))](
            codes, codewords, rows, n, *codewords.shape, R=16, D=columns
        )


def search_codes(
    queries: torch.Tensor,
    codes: torch.Tensor,
    codewords: torch.Tensor,
    k: int | torch.Tensor,
    metric: str,
    squares: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Write the k best rows of codes into scores and ids (n_queries, width).

    Args: as `_core.search_codes`; codes (n, n_parts) contiguous. A query that may not
    be asked finds nothing.
    """
    queries = near(queries)
    n_levels, n_subspaces, n_codes, _ = codewords.shape
    n_parts = n_levels * n_subspaces
    n_queries, width = scores.shape
    if not scores.numel():
        return
    each = n_parts * n_codes + (0 if width <= _MAX_KEPT else len(codes))
    turn = max(1, _WORKSPACE // max(1, each))
    for begin in range(0, n_queries, turn):
        part = slice(begin, begin + turn)
        _search_turn(
            queries[part],
            codes,
            codewords,
            k[part] if isinstance(k, torch.Tensor) else None,
            metric == "l2" and squares is None,
            squares if metric == "l2" else None,
            scores[part],
            ids[part],
        )


def _search_turn(
    queries: torch.Tensor,
    codes: torch.Tensor,
    codewords: torch.Tensor,
    widths: torch.Tensor | None,
    is_l2: bool,
    squares: torch.Tensor | None,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    n_levels, n_subspaces, n_codes, sub_dim = codewords.shape
    n_parts, (n_queries, width), n = n_levels * n_subspaces, scores.shape, len(codes)
    tables = scores.new_empty((n_queries, n_parts, n_codes))
    lookup.table_kernel[(n_queries, n_parts, triton.cdiv(n_codes, 64))](
        queries,
        *queries.stride(),
        codewords,
        tables,
        n_parts,
        n_subspaces,
        n_codes,
        sub_dim,
        IS_L2=is_l2,
        P=64,
        enable_fp_fusion=False,
    )
    given = (tables, norms(queries)[0], codes, squares)
    sizes = (n, n_parts, n_codes)
    if width > _MAX_KEPT:
        pairs = ids.new_empty((n_queries, n), dtype=torch.int32)
        if n:
            lookup.all_codes_kernel[grid_of(n_queries, triton.cdiv(n, 256))](
                *given, pairs, *sizes, N=256, enable_fp_fusion=False
            )
        found, places = sorted_best(pairs, width, widths)
        scores.fill_(-torch.inf)
        ids.fill_(-1)
        scores[:, : found.shape[1]], ids[:, : found.shape[1]] = found, places
        return
    kept = max(16, triton.next_power_of_2(width))
    n_splits = splits(n_queries, n, kept, 1024)
    parts, part_ids = room(ids, n_queries, n_splits, kept)
    lookup.scan_codes_kernel[(n_queries, n_splits)](
        *given, parts, part_ids, *sizes, n_splits, N=256, K=kept, enable_fp_fusion=False
    )
    merge(parts, part_ids, None, widths, scores, ids)

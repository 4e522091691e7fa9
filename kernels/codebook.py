"""assign, codebook_sums, codebook_ema, decode, search_codes: which kernels run, with what grid."""

import torch
import triton

from . import cards, lookup, nearest, segments
from .layout import grid_of, near
from .lsh import slack
from .products import STEP
from .search import PAIR, merge, norms, pad, room, sorted_best
from .workspace import n_kept, parts, splits

# Rows and codewords of a tile, and rows whose doubts one program settles.
_ROWS, _WORDS, _SETTLED = 128, 64, 512
# Components of rows that stay in a program while codewords pass by.
_RESIDENT = 128
_MOST_TILES = 1 << 15
# The most hits that a program keeps in registers.
_MAX_KEPT = 256
# Bytes of a component of codewords while it is rounded, and of a code while it is sorted.
_ROUNDING, _SORTING = 16, 56


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
    padded = triton.cdiv(dim, STEP) * STEP
    squares, roots = norms(codewords)
    is_finite = squares < torch.inf
    high, low = codewords.new_zeros((2, n_padded, padded), dtype=torch.bfloat16)
    for part in parts(n_words, _ROUNDING * dim):
        wide = torch.where(is_finite[part, None], codewords[part], 0)
        high[part, :dim] = wide
        low[part, :dim] = wide - high[part, :dim].float()
    halves = codewords.new_full((n_padded,), torch.inf)
    halves[:n_words] = torch.where(is_finite, squares / 2, torch.inf)
    words = codewords, high, low, halves, roots.max()
    # Doubts, and where they are.
    for part in parts(n, 8):
        _assign(rows[part], words, n_words, tile, codes[part], scores[part])


def _assign(
    rows: torch.Tensor,
    words: tuple[torch.Tensor, ...],
    n_words: int,
    tile: int,
    codes: torch.Tensor,
    scores: torch.Tensor,
) -> None:
    n, dim = rows.shape
    codewords, high, low, halves, largest = words
    n_padded, padded = high.shape
    at_once = _ROWS if n >= _ROWS else 16
    is_exact = rows.dtype in (torch.bfloat16, torch.int8)
    doubts = codes.new_empty(n, dtype=torch.int32)
    # |x.w| sums to at most a quarter of (|x| + |w|)^2; the canonical score and the squares lose as
    # much as docs/score.md says of l2.
    lost = slack(dim, is_exact, False) / 4 + (dim / 16 + 40) * 2.0**-23 * (1 + 2.0**-8)
    given = (rows, *rows.stride(), codewords, high, low, halves, largest, lost)
    results = (codes, scores, doubts, n)
    options = {"ROWS_ARE_EXACT": is_exact, "M": at_once, "N": tile, "enable_fp_fusion": False}
    grid = (triton.cdiv(n, at_once),)
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
    columns = min(128, triton.next_power_of_2(dim))
    counts.zero_()
    sums.zero_()
    for part in parts(len(rows), _SORTING):
        ordered, order = codes[part].sort(stable=True)
        begins = torch.searchsorted(ordered, torch.arange(n_codes + 1, device=codes.device))
        counts += begins[1:] - begins[:-1]
        if sums.numel():
            segments.sums_kernel[(n_codes, triton.cdiv(dim, columns))](
                rows[part], *rows.stride(), order, begins, sums, dim, D=columns, AHEAD=16,
                num_warps=1,
            )  # fmt: skip


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
    each = 8 + 4 * n_parts * n_codes
    each += 12 * n_kept(width) if width <= _MAX_KEPT else PAIR * len(codes) + 32 * width
    for part in parts(n_queries, each):
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
    lengths = norms(queries)[0]
    if width > _MAX_KEPT:

        def read(rows: slice) -> tuple[torch.Tensor, None]:
            some, own = codes[rows], None if squares is None else squares[rows]
            pairs = ids.new_empty((n_queries, len(some)), dtype=torch.int32)
            if len(some):
                lookup.all_codes_kernel[grid_of(n_queries, triton.cdiv(len(some), 256))](
                    tables, lengths, some, own, pairs, len(some), n_parts, n_codes,
                    N=256, enable_fp_fusion=False,
                )  # fmt: skip
            return pairs, None

        pad(scores, ids, *sorted_best(read, n_queries, n, PAIR, width, widths))
        return
    given, sizes = (tables, lengths, codes, squares), (n, n_parts, n_codes)
    kept = n_kept(width)
    n_splits = splits(n_queries, n, kept, 1024)
    parts, part_ids = room(ids, n_queries, n_splits, kept)
    lookup.scan_codes_kernel[(n_queries, n_splits)](
        *given, parts, part_ids, *sizes, n_splits, N=256, K=kept, enable_fp_fusion=False
    )
    merge(parts, part_ids, None, widths, scores, ids)

"""The first pass over many keys: an upper bound of every page of 16, and what follows from it.

The product of queries and keys is never written. Of each page only the largest upper bound leaves
the tile that computed it; the best pages of a query are then scored canonically, row by row, and
the hits are certain if no page that was left out could reach the k-th of them.
"""

import triton
import triton.language as tl

from .order import LOWEST, NOTHING, cutoff, to_key, to_score
from .scan import score_tile

# Pages of 16 rows in a tile of keys.
TILE_PAGES = 8


@triton.jit
def maxima_kernel(
    query_codes_ptr,
    slope_ptr,
    a_ptr,
    c_ptr,
    base_ptr,
    key_codes_ptr,
    factor_ptr,
    beta_ptr,
    epsilon_ptr,
    nu_ptr,
    pages_ptr,
    tiles_ptr,
    n_queries,
    n_tiles,
    DIM: tl.constexpr,
    IS_WEIGHED: tl.constexpr,
    Q: tl.constexpr,
    PAGES: tl.constexpr,
    D: tl.constexpr,
    TILES: tl.constexpr,
):
    """Upper bounds, as keys: pages (n_queries, n_tiles * PAGES) and tiles (n_queries, n_tiles).

    A program holds Q queries and takes TILES tiles; those that run side by side take the same ones.
    """
    N: tl.constexpr = PAGES * 16
    query = tl.program_id(0).to(tl.int64) * Q + tl.arange(0, Q)
    is_query = query < n_queries
    own = query_codes_ptr + query[:, None] * DIM
    if D == DIM:
        q = tl.load(own + tl.arange(0, D)[None, :], mask=is_query[:, None], other=0)  # (Q, D)
    begin = tl.program_id(1) * TILES
    for turn in range(0, 1 if TILES == 1 else tl.minimum(TILES, n_tiles - begin)):
        tile = begin + turn
        row = tile.to(tl.int64) * N + tl.arange(0, N)
        keys = key_codes_ptr + row[None, :] * DIM
        if D == DIM:
            k = tl.load(keys + tl.arange(0, D)[:, None])  # (D, N)
            products = tl.dot(q, k, out_dtype=tl.int32)
        else:
            products = tl.zeros((Q, N), tl.int32)
            for first in range(0, DIM, D):
                column = first + tl.arange(0, D)
                q = tl.load(own + column[None, :], mask=is_query[:, None], other=0)
                k = tl.load(keys + column[:, None])
                products = tl.dot(q, k, acc=products, out_dtype=tl.int32)
        slope = tl.load(slope_ptr + query, mask=is_query, other=0)
        page = tile * PAGES + tl.arange(0, PAGES)
        if IS_WEIGHED:
            estimates = products.to(tl.float32) * tl.load(factor_ptr + row)[None, :]
            estimates = estimates * slope[:, None] + tl.load(beta_ptr + row)[None, :]
            best = tl.max(tl.reshape(estimates, (Q, PAGES, 16)), 2)
        else:
            best = tl.max(tl.reshape(products, (Q, PAGES, 16)), 2).to(tl.float32)
            best = best * tl.load(factor_ptr + page)[None, :] * slope[:, None]
        a = tl.load(a_ptr + query, mask=is_query, other=0)
        c = tl.load(c_ptr + query, mask=is_query, other=0)
        base = tl.load(base_ptr + query, mask=is_query, other=0)
        hidden = a[:, None] * tl.load(epsilon_ptr + page)[None, :]
        hidden = hidden + c[:, None] * tl.load(nu_ptr + page)[None, :]
        upper = to_key(best + hidden + base[:, None] + 0.0)  # (Q, PAGES)
        place = query[:, None] * (n_tiles * PAGES) + page[None, :]
        tl.store(pages_ptr + place, upper, mask=is_query[:, None])
        tl.store(tiles_ptr + query * n_tiles + tile, tl.max(upper, 1), mask=is_query)


@triton.jit
def chosen(keys, k, N: tl.constexpr):
    """Which of keys (N,) are the k largest, equal ones from the left, and the largest other."""
    least = cutoff(keys, k)
    is_above = keys > least
    is_level = (keys == least) & (keys > NOTHING)
    room = k - tl.sum(is_above.to(tl.int32), 0)
    is_chosen = is_above | (is_level & (tl.cumsum(is_level.to(tl.int32), 0) <= room))
    return is_chosen, tl.max(tl.where(is_chosen, NOTHING, keys), 0)


@triton.jit
def chosen_by_id(keys, ids, k):
    """Which of keys (N,) are the k largest, equal ones by the smaller of their ids (N,)."""
    least = cutoff(keys, k)
    is_above = keys > least
    is_level = (keys == least) & (keys > NOTHING)
    room = k - tl.sum(is_above.to(tl.int32), 0)
    last = tl.full((), 0, tl.int64)
    if tl.sum(is_level.to(tl.int32), 0) > room:
        # The id at place `room`, from the highest bit down.
        bit = last + 2**62
        for _ in range(63):
            n_before = tl.sum((is_level & (ids < (last | bit))).to(tl.int32), 0)
            last = tl.where(n_before < room, last | bit, last)
            bit = bit >> 1
    else:
        last = last + (2**63 - 1)
    return is_above | (is_level & (ids <= last))


@triton.jit
def select_kernel(
    tiles_ptr,
    pages_ptr,
    a_ptr,
    c_ptr,
    base_ptr,
    epsilon_ptr,
    nu_ptr,
    tile_ids_ptr,
    page_ids_ptr,
    rest_ptr,
    n_keys,
    n_tiles,
    k,
    dim,
    METRIC: tl.constexpr,
    IS_OPEN: tl.constexpr,
    PAGES: tl.constexpr,
    TILES: tl.constexpr,
    P: tl.constexpr,
):
    """The P best pages of one query, in rising order, and the best bound of what is left out.

    Args beside arrays:
        tile_ids_ptr: (n_queries, P) int32, room for the tiles that hold them.
        page_ids_ptr: (n_queries, P) int32; -1 pads, and stands where the page is proven out.
        rest_ptr: (n_queries,) int32, a key.
        IS_OPEN: every row with a bound may be returned, so that bounds from below count.
    """
    query = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    best = tl.load(tiles_ptr + query * n_tiles + tile, mask=tile < n_tiles, other=NOTHING)
    is_chosen, rest = chosen(best, P, TILES)
    slot = tl.cumsum(is_chosen.to(tl.int32), 0) - 1
    n_chosen = tl.sum(is_chosen.to(tl.int32), 0)
    tl.store(tile_ids_ptr + query * P + slot, tile, mask=is_chosen)
    tl.debug_barrier()

    N: tl.constexpr = P * PAGES
    place = tl.arange(0, N)
    held = tl.load(
        tile_ids_ptr + query * P + place // PAGES, mask=place < n_chosen * PAGES, other=-1
    )
    page = held * PAGES + place % PAGES
    # The last tile may have pages without keys.
    is_page = (held >= 0) & (page * 16 < n_keys)
    upper = tl.load(pages_ptr + query * n_tiles * PAGES + page, mask=is_page, other=NOTHING)
    is_chosen, other = chosen(upper, P, N)
    is_kept = is_chosen
    if IS_OPEN:
        # Each page holds a row that scores at least its upper bound less twice what may be hidden.
        nu = tl.load(nu_ptr + page, mask=is_chosen, other=0)
        hidden = tl.load(a_ptr + query) * tl.load(epsilon_ptr + page, mask=is_chosen, other=0)
        hidden += tl.load(c_ptr + query) * nu
        score = to_score(upper)
        lower = score - (2 + 2.0**-10) * hidden - tl.abs(score) * 2.0**-20
        if METRIC == "l2":
            # What beta and base hold beyond the squares, twice.
            slack = (dim / 16 + 80) * 2.0**-21
            lower = lower - slack * (nu * nu + tl.abs(tl.load(base_ptr + query)))
        # NaN, where both are infinite, proves nothing.
        is_proof = is_chosen & (lower > float("-inf"))
        proven = cutoff(tl.where(is_proof, to_key(lower + 0.0), NOTHING), k)
        is_kept = is_chosen & (upper >= proven)
    slot = tl.cumsum(is_chosen.to(tl.int32), 0) - 1
    tl.store(page_ids_ptr + query * P + slot, tl.where(is_kept, page, -1), mask=is_chosen)
    n_chosen = tl.sum(is_chosen.to(tl.int32), 0)
    slots = tl.arange(0, P)
    tl.store(page_ids_ptr + query * P + slots, -1, mask=slots >= n_chosen)
    tl.store(rest_ptr + query, tl.maximum(rest, other))


@triton.jit
def rescore_kernel(
    queries_ptr,
    query_row_stride,
    query_stride,
    query_squares_ptr,
    keys_ptr,
    key_row_stride,
    key_stride,
    key_norms_ptr,
    page_ids_ptr,
    mask_ptr,
    mask_row_stride,
    mask_stride,
    scale_ptr,
    bias_ptr,
    low,
    high,
    finals_ptr,
    n_keys,
    dim,
    n_pages,
    METRIC: tl.constexpr,
    PAGES: tl.constexpr,
):
    """The final scores, as keys (n_queries, n_pages * 16), of the rows of the chosen pages."""
    N: tl.constexpr = PAGES * 16
    query = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)
    slot = tl.program_id(1) * N + tl.arange(0, N)
    page = tl.load(page_ids_ptr + tl.program_id(0).to(tl.int64) * n_pages + slot // 16)
    place = page.to(tl.int64) * 16 + slot % 16
    is_key = (page >= 0) & (place < n_keys)
    out = finals_ptr + query[:, None] * (n_pages * 16) + slot[None, :]
    if tl.max(is_key.to(tl.int32), 0) == 0:
        tl.store(out, NOTHING)
        return
    key = score_tile(
        queries_ptr,
        query_row_stride,
        query_stride,
        query,
        query >= 0,
        tl.sqrt_rn(tl.load(query_squares_ptr + query)),
        keys_ptr,
        key_row_stride,
        key_stride,
        key_norms_ptr,
        place,
        is_key,
        mask_ptr,
        mask_row_stride,
        mask_stride,
        scale_ptr,
        bias_ptr,
        low,
        high,
        dim,
        METRIC,
        1,
        N,
    )
    tl.store(out, key)


@triton.jit
def finish_kernel(
    finals_ptr,
    ids_ptr,
    page_ids_ptr,
    rest_ptr,
    is_bounded_ptr,
    low,
    parts_ptr,
    part_ids_ptr,
    needed_ptr,
    k,
    P: tl.constexpr,
    K: tl.constexpr,
):
    """The k best of one query as parts (n_queries, K), and whether it must be searched again.

    Args beside arrays:
        ids_ptr: (n_queries, P * 16) int64, the ids of what is in finals; None where they are the
            places of keys.
        low: the least score that may be returned.
    """
    query = tl.program_id(0).to(tl.int64)
    N: tl.constexpr = P * 16
    place = tl.arange(0, N)
    key = tl.load(finals_ptr + query * N + place)
    if ids_ptr is None:
        # Pages rise, so places order as ids do.
        page = tl.load(page_ids_ptr + query * P + place // 16)
        id = page.to(tl.int64) * 16 + place % 16
        is_chosen, _ = chosen(key, k, N)
    else:
        id = tl.load(ids_ptr + query * N + place, mask=key > NOTHING, other=-1)
        is_chosen = chosen_by_id(key, id, k)
    slot = tl.cumsum(is_chosen.to(tl.int32), 0) - 1
    out = query * K + slot
    tl.store(parts_ptr + out, key, mask=is_chosen)
    tl.store(part_ids_ptr + out, id, mask=is_chosen)
    n_chosen = tl.sum(is_chosen.to(tl.int32), 0)
    slots = tl.arange(0, K)
    tl.store(parts_ptr + query * K + slots, NOTHING, mask=slots >= n_chosen)
    rest = tl.load(rest_ptr + query)
    # With less than k found, whatever was left out and is not below `low` may be missing.
    least = tl.maximum(cutoff(key, k), to_key(tl.zeros((), tl.float32) + low))
    is_certain = (rest < least) | (rest <= LOWEST)
    is_certain = is_certain & (tl.load(is_bounded_ptr + query) != 0)
    tl.store(needed_ptr + query, (is_certain == 0).to(tl.int8))

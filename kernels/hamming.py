"""hamming_search: which keys go to which program, and what it may write."""

import torch
import triton

from . import distances
from .order import NOTHING
from .search import NAMED_PAIR, merge, sorted_best
from .workspace import parts

# Queries that a program looks at one after the other, keys of a tile, and words of a key at once.
_QUERIES, _KEYS, _WORDS = 8, 256, 8
# Programs that fill a card, and the most parts that keys are cut into.
_PROGRAMS, _SPLITS = 2048, 256
# More hits than these are sorted, not ranked.
_RANKED = 1024


def hamming_search(
    queries: torch.Tensor,
    keys: torch.Tensor,
    k: int | torch.Tensor,
    mask: torch.Tensor | None,
    max_distance: int,
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    """Write the nearest codes of each query into scores and ids (n_queries, width).

    Args: as `_core.hamming_search`, but that codes are (n, n_words) int32, contiguous.
    """
    if not scores.numel():
        return
    n_queries = len(queries)
    n_keys, n_words = keys.shape
    bins = triton.next_power_of_2(n_words * 32 + 2)
    at_once = min(triton.next_power_of_2(n_queries), _QUERIES)
    n_tiles = triton.cdiv(n_queries, at_once)
    n_splits = min(_SPLITS, triton.cdiv(_PROGRAMS, n_tiles), max(1, triton.cdiv(n_keys, 1024)))
    width = scores.shape[1]
    each = n_splits * (4 * bins + 12) + 12 * width + (0 if width <= _RANKED else NAMED_PAIR * width)
    for part in parts(n_queries, each):
        own = mask[part] if mask is not None and mask.ndim == 2 else mask
        widths = k[part] if isinstance(k, torch.Tensor) else None
        given = (queries[part], keys, own, *_strides(mask))
        _search_turn(
            given, widths, max_distance, (bins, at_once, n_splits), scores[part], ids[part]
        )


def _strides(mask: torch.Tensor | None) -> tuple[int, int]:
    """From query to query, which is 0 where they share a mask, and from key to key."""
    if mask is None:
        return 0, 0
    return (0, mask.stride(0)) if mask.ndim == 1 else mask.stride()


def _search_turn(
    given: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, int, int],
    widths: torch.Tensor | None,
    max_distance: int,
    sizes: tuple[int, int, int],
    scores: torch.Tensor,
    ids: torch.Tensor,
) -> None:
    bins, at_once, n_splits = sizes
    n_queries, width = scores.shape
    n_keys, n_words = given[1].shape
    words = min(_WORDS, triton.next_power_of_2(n_words))
    tile = {"Q": at_once, "N": _KEYS, "WORDS": words, "BINS": bins}
    grid = (triton.cdiv(n_queries, at_once), n_splits)
    counts = ids.new_empty((n_queries, n_splits, bins), dtype=torch.int32)
    distances.count_kernel[grid](*given, counts, n_queries, n_keys, n_words, n_splits, **tile)
    farthest = counts.new_empty(n_queries)
    begins, rooms, ends = counts.new_empty((3, n_queries, n_splits))
    distances.share_kernel[(n_queries,)](
        counts,
        widths,
        farthest,
        begins,
        rooms,
        ends,
        width,
        max_distance,
        n_splits,
        S=max(1, min(16, 8192 // bins, triton.next_power_of_2(n_splits))),
        BINS=bins,
        num_warps=8,
    )
    best = counts.new_full((n_queries, 1, width), NOTHING.value)
    best_ids = torch.empty_like(best, dtype=torch.int64)
    distances.keep_kernel[grid](
        *given,
        farthest,
        begins,
        rooms,
        ends,
        best,
        best_ids,
        n_queries,
        n_keys,
        n_words,
        n_splits,
        width,
        **tile,
    )
    if width <= _RANKED:
        merge(best, best_ids, None, None, scores, ids)
    else:
        given = n_queries, width, NAMED_PAIR, width, None
        scores[:], ids[:] = sorted_best(
            lambda part: (best[:, 0, part], best_ids[:, 0, part]), *given
        )

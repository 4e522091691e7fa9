"""Which lists of an inverted file queries visit, by the scores of the lists' centroids."""

import torch
import triton
import triton.language as tl


@triton.jit
def visits_kernel(
    scores_ptr,
    places_ptr,
    handles_ptr,
    norms_ptr,
    counts_ptr,
    gaps_ptr,
    count,
    widest_gap,
    least_norm,
    visits_ptr,
    n_chosen,
    N: tl.constexpr,
):
    """The handles of the lists that are near enough, (n_queries, n_chosen); -1 for the others.

    Args beside sizes:
        scores_ptr: (n_queries, n_chosen), of the best centroids, best first.
        places_ptr: which centroids these are, int64; -1 pads.
        handles_ptr: int64, of the list of each centroid.
        norms_ptr: (n_queries,), what gaps are divided by, at least least_norm; or None.
        counts_ptr: (n_queries,) int64, how many lists, or None: count for all.
        gaps_ptr: (n_queries,), how much less a score may be than the best, or None: widest_gap.
        visits_ptr: int64.
    """
    query = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * N + tl.arange(0, N)
    inside = column < n_chosen
    at = query * n_chosen + column
    gap = tl.load(scores_ptr + query * n_chosen) - tl.load(scores_ptr + at, mask=inside, other=0)
    if norms_ptr is not None:
        gap = tl.div_rn(gap, tl.maximum(tl.load(norms_ptr + query), least_norm))
    if counts_ptr is not None:
        count = tl.load(counts_ptr + query)
        widest_gap = tl.load(gaps_ptr + query)
    place = tl.load(places_ptr + at, mask=inside, other=-1)
    is_visited = (place >= 0) & (column < count) & ((gap <= widest_gap) | (column == 0))
    handle = tl.load(handles_ptr + place, mask=is_visited, other=-1)
    tl.store(visits_ptr + at, handle, mask=inside)


def visits(
    scores: torch.Tensor,
    places: torch.Tensor,
    handles: torch.Tensor,
    norms: torch.Tensor | None,
    least_norm: float,
    counts: torch.Tensor | int,
    gaps: torch.Tensor | float,
) -> torch.Tensor:
    """The handles of the lists that each query visits, likeliest first; -1 for what is too far.

    Args:
        scores: (n_queries, n) float32 of the best centroids, best first.
        places: int64, which centroids these are; -1 pads.
        handles: int64, of the list of each centroid.
        norms: (n_queries,) float32, what gaps are divided by; or None.
        least_norm: a smaller norm counts as this.
        counts: how many lists, one for all queries or (n_queries,) int64.
        gaps: by how much a score may fall short of the best, likewise, float32.

    Returns:
        (n_queries, n) int64.
    """
    n_queries, n = scores.shape
    out = torch.empty_like(places)
    are_many = isinstance(counts, torch.Tensor)
    visits_kernel[(n_queries, triton.cdiv(n, 128))](
        scores,
        places,
        handles,
        norms,
        counts if are_many else None,
        gaps if are_many else None,
        0 if are_many else counts,
        0.0 if are_many else gaps,
        least_norm,
        out,
        n,
        N=128,
        enable_fp_fusion=False,
    )
    return out

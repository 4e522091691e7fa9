"""dots, aggregate, scatter: products over named rows; which kernel runs, with what grid."""

import torch
import triton

from . import named
from .layout import Rows, of_two
from .workspace import SORT_INT64, blocks

# Rows that a program has under way: of a scatter fewer, since each comes with an address.
_UNROLLED, _UNROLLED_PAIRS = 8, 4
# Bytes of a pair on its way to the sum that it names.
_PAIR = 48 + SORT_INT64


def dots(
    queries: torch.Tensor, keys: torch.Tensor, ids: torch.Tensor, scores: torch.Tensor
) -> None:
    """Write the dot products with the keys that ids name into scores (…, n_queries, n_ids).

    Args: as `_core.dots`, in tensors of one device; an id that names no key gives 0.
    """
    if not ids.numel():
        return
    asked, rows = Rows.of(queries), Rows.of(keys)
    n_ids = ids.shape[-1]
    n_at_once = min(64, max(16, triton.next_power_of_2(n_ids)))
    named.dots_kernel[(ids[..., 0].numel(), triton.cdiv(n_ids, n_at_once))](
        *asked.given,
        *rows.given,
        ids.contiguous(),
        scores,
        asked.inner,
        asked.n,
        rows.n,
        n_ids,
        asked.dim,
        REAL=of_two(scores),
        N=n_at_once,
        enable_fp_fusion=False,
    )


def aggregate(
    weights: torch.Tensor, values: torch.Tensor, ids: torch.Tensor, out: torch.Tensor
) -> None:
    """Write the weighted sums of the values that ids name into out (…, n_queries, dim).

    Args: as `_core.aggregate`, in tensors of one device; an id that names no value adds nothing.
    """
    if not out.numel():
        return
    rows = Rows.of(values)
    n_columns = _columns(rows.dim)
    named.aggregate_kernel[(out[..., 0].numel(), triton.cdiv(rows.dim, n_columns))](
        weights.to(out.dtype).contiguous(),
        *rows.given,
        ids.contiguous(),
        out,
        rows.inner,
        ids.shape[-2],
        rows.n,
        ids.shape[-1],
        rows.dim,
        REAL=of_two(out),
        D=n_columns,
        J=_UNROLLED,
        enable_fp_fusion=False,
    )


def scatter(
    weights: torch.Tensor,
    rows: torch.Tensor,
    ids: torch.Tensor,
    n_sums: int,
    sums: torch.Tensor,
    *,
    atomic: bool = False,
) -> None:
    """Write the sums of rows (…, n_queries, dim) by weight and id into sums (…, n_sums, dim).

    Args: as `_core.scatter`, in tensors of one device. Beyond it, `atomic` adds without sorting the
        ids first: less work where few pairs share a sum, but not the same bits each time.
    """
    sums.zero_()
    if not (ids.numel() and sums.numel()):
        return
    for block in blocks(ids.shape[:-1], _PAIR * ids.shape[-1]):
        # Of a batch, sums go on where the queries before have left them.
        _scatter(weights[block], rows[block], ids[block], sums[block[:-1]], atomic)


def _scatter(
    weights: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor, sums: torch.Tensor, atomic: bool
) -> None:
    given, n_sums = Rows.of(rows), sums.shape[-2]
    n_columns = _columns(given.dim)
    n_blocks = triton.cdiv(given.dim, n_columns)
    shares = weights.to(sums.dtype).contiguous()
    sizes = (given.inner, given.n, ids.shape[-1])
    kind = {"REAL": of_two(sums), "D": n_columns, "enable_fp_fusion": False}
    if atomic:
        named.scatter_atomic_kernel[(ids[..., 0].numel(), n_blocks)](
            shares, *given.given, ids.contiguous(), sums, *sizes, n_sums, given.dim, **kind
        )
        return
    n_all = sums[..., 0].numel()
    names, pairs, begins = _reverse(ids, n_sums, n_all)
    named.scatter_kernel[(len(begins) - 1, n_blocks)](
        shares,
        *given.given,
        begins,
        names,
        pairs,
        sums,
        *sizes,
        len(pairs),
        n_all,
        given.dim,
        J=_UNROLLED_PAIRS,
        **kind,
    )


def _reverse(
    ids: torch.Tensor, n_sums: int, n_all: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The pairs in order of the sums that they name, and where each sum's begin."""
    n_pairs = ids.numel()
    per_batch = ids.reshape(-1, ids.shape[-2] * ids.shape[-1])
    batch = torch.arange(len(per_batch), device=ids.device)[:, None]
    is_named = (per_batch >= 0) & (per_batch < n_sums)
    all_names = torch.where(is_named, batch * n_sums + per_batch, n_all)
    # Stable, so that the pairs of a sum stay in their order.
    names, pairs = all_names.reshape(-1).sort(stable=True)
    is_head = torch.ones_like(names, dtype=torch.bool)
    is_head[1:] = names[1:] != names[:-1]
    # How many sums are named is known on the device alone: as many programs as there may be.
    programs = torch.arange(min(n_pairs, n_all + 1) + 1, device=ids.device)
    begins = torch.searchsorted(is_head.cumsum(0) - 1, programs)
    return names, pairs, begins


def _columns(dim: int) -> int:
    return min(1024, max(16, triton.next_power_of_2(dim)))

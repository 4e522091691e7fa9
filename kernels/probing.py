"""lsh_probes: the likeliest codes of each table, from the margins of vectors to planes.

Which sets of flipped bits may be among the n cheapest is known before any margin is: a set stands
behind all that it holds and all whose ranks are lower, so it needs fewer than n of those.
"""

import functools

import torch
import triton

from . import probes as kernels
from .layout import near
from .search import norms
from .topk import row_bytes, topk
from .workspace import SORT_INT32, SORT_INT64, parts

# Rows and planes, or codes and sets, of a program.
_ROWS, _PLANES, _CODES, _SETS = 16, 16, 4, 64
# Of a vector that may be hashed.
_MAX_SQUARE = 1e36


def lsh_probes(
    vectors: torch.Tensor,
    planes: torch.Tensor,
    n_bits: int,
    kind: str,
    n_probes: int,
    probes: torch.Tensor,
) -> None:
    """Write the likeliest codes of each table, likeliest first, as `_core.lsh_probes`.

    Args:
        vectors: (n, dim). One that may not be hashed gets zeros.
        planes: (n_planes, dim), contiguous.
        n_bits: bits of a code.
        kind: "sign" or "cross_polytope".
        n_probes: codes of each table.
        probes: (n, n_tables, n_probes) int64, whose bits are those of uint64.
    """
    if not probes.numel():
        return
    vectors = near(vectors)
    n_tables = probes.shape[1]
    for part in parts(len(vectors), n_tables * _code_bytes(n_bits, kind, n_probes)):
        rows, out = vectors[part], probes[part]
        margins = _margins(rows, planes).view(len(rows) * n_tables, -1)
        if kind == "sign":
            found = _flipped(margins, n_probes)
        else:
            both = torch.cat([margins, -margins], 1)
            scores = both.new_empty((len(both), n_probes))
            found = torch.empty_like(scores, dtype=torch.int64)
            topk(both, n_probes, scores, found)
        # False for NaN.
        is_sound = norms(rows)[0] <= _MAX_SQUARE
        out[:] = torch.where(is_sound[:, None, None], found.view(out.shape), 0)


def _code_bytes(n_bits: int, kind: str, n_probes: int) -> int:
    """Bytes that a vector takes on the way to its probes of one table."""
    if kind != "sign":
        n = 1 << n_bits
        return 8 * n + row_bytes(n, n_probes) + 20 * n_probes
    # Margins with their places and weights, and the cost of each set and which bits it flips.
    return (SORT_INT32 + 24) * n_bits + (16 + SORT_INT64) * len(_sets(n_bits, n_probes))


def _margins(rows: torch.Tensor, planes: torch.Tensor) -> torch.Tensor:
    margins = rows.new_empty((len(rows), len(planes)), dtype=torch.float32)
    grid = (triton.cdiv(len(rows), _ROWS), triton.cdiv(len(planes), _PLANES))
    kernels.margins_kernel[grid](
        rows,
        *rows.stride(),
        planes,
        margins,
        *margins.shape,
        rows.shape[1],
        M=_ROWS,
        P=_PLANES,
        enable_fp_fusion=False,
    )
    return margins


def _flipped(margins: torch.Tensor, n_probes: int) -> torch.Tensor:
    """The n_probes likeliest sign codes of margins (n, n_bits): (n, n_probes)."""
    n, n_bits = margins.shape
    sizes, bits = margins.abs().sort(dim=1, stable=True)
    members = _sets(n_bits, n_probes)
    costs = margins.new_empty((n, len(members)), dtype=torch.float64)
    flips = torch.empty_like(costs, dtype=torch.int64)
    kernels.costs_kernel[(triton.cdiv(n, _CODES), triton.cdiv(len(members), _SETS))](
        sizes,
        bits,
        _on_device(n_bits, n_probes, margins.device),
        costs,
        flips,
        n,
        n_bits,
        len(members),
        members[-1].bit_length(),
        R=_CODES,
        N=_SETS,
        enable_fp_fusion=False,
    )
    # Stable: equal costs stand by the set.
    cheapest = costs.sort(dim=1, stable=True).indices[:, :n_probes]
    weights = torch.ones_like(bits) << torch.arange(n_bits, device=bits.device)
    codes = torch.where(margins >= 0, weights, 0).sum(1)
    return codes[:, None] ^ flips.gather(1, cheapest)


@functools.lru_cache(64)
def _on_device(n_bits: int, n_probes: int, device: torch.device) -> torch.Tensor:
    signed = [each - (1 << 64) if each >> 63 else each for each in _sets(n_bits, n_probes)]
    return torch.tensor(signed, device=device)


@functools.lru_cache(64)
def _sets(n_bits: int, n_probes: int) -> list[int]:
    """All sets of ranks that may be among the n_probes cheapest, as masks, rising."""
    found, open_sets = [0], [1]
    while open_sets:
        members = open_sets.pop()
        if _n_before(members) >= n_probes:
            continue
        found.append(members)
        last = members.bit_length() - 1
        if last + 1 < n_bits:
            open_sets += [members ^ (3 << last), members | (2 << last)]
    return sorted(found)


def _n_before(members: int) -> int:
    """How many sets never cost more: no larger, and rank by rank from the top no higher."""
    ranks = [rank for rank in range(members.bit_length()) if members >> rank & 1]
    # Of the ranks looked at so far, how many choices stay below each rank.
    choices = [1] * (ranks[-1] + 2)
    for rank in ranks:
        fewer = choices
        choices = [1] * len(fewer)
        for below in range(1, len(fewer)):
            choices[below] = choices[below - 1] + (fewer[below - 1] if below - 1 <= rank else 0)
    return choices[-1] - 1

"""lsh_encode: planes laid out for tensor cores, the first pass, and what settles its doubts."""

from dataclasses import dataclass

import torch
import triton

from . import cards, encode
from .layout import grid_of, near
from .products import STEP
from .workspace import parts

# Rows and planes of a tile of the first pass.
_ROWS, _PLANES = 128, 128
# Components of planes that stay in a program's shared memory, beside two tiles of rows.
_RESIDENT = 128
# Words, or codes, whose doubts one program settles.
_SETTLED = 512
# Beyond these a product could underflow, or a sum overflow.
_SMALL, _LARGE = 2.0**-60, 2.0**57


@dataclass(frozen=True)
class Planes:
    """Planes as the kernels read them, for one n_bits and kind.

    Attributes:
        given: (n_planes, dim) int8 or float32, contiguous.
        high: (n_slots * slot, dim_padded) bfloat16, slot after slot, zeros where there is no plane.
        low: likewise what high leaves of float32 planes; None for int8.
        sizes: the largest component of each plane, of all int8 planes together, or, for places, of
            each table's.
        slot: planes that stand together.
    """

    given: torch.Tensor
    high: torch.Tensor
    low: torch.Tensor | None
    sizes: torch.Tensor
    slot: int


def lay_out(planes: torch.Tensor, n_bits: int, kind: str) -> Planes:
    """Planes (n_planes, dim), those of a table together, as `Planes`."""
    planes = planes.contiguous()
    n_planes, dim = planes.shape
    if kind == "sign":
        slot = min(32, max(8, triton.next_power_of_2(n_bits)))
        each = triton.cdiv(n_bits, slot) * slot
        n_tables = n_planes // n_bits
        n_padded = n_tables * each
    else:
        slot = 1 << (n_bits - 1)
        each = max(16, slot)
        n_tables = n_planes // slot
        n_padded = n_tables * each
    tiled = triton.cdiv(n_padded, _tile(n_padded)) * _tile(n_padded)
    wide = planes.new_zeros((tiled, triton.cdiv(dim, STEP) * STEP), dtype=torch.float32)
    tables = wide[:n_padded].view(n_tables, each, -1)
    tables[:, : n_planes // n_tables, :dim] = planes.view(n_tables, -1, dim).float()
    high = wide.to(torch.bfloat16)
    low = None if planes.dtype == torch.int8 else (wide - high.float()).to(torch.bfloat16)
    sizes = wide.abs().amax(1)
    if kind != "sign":
        sizes = sizes[:n_padded].view(n_tables, each).amax(1)
    elif low is None:
        # What is compared is a row's alone then.
        sizes = sizes.amax(0, keepdim=True)
    has_bound = (sizes == 0) | ((sizes >= _SMALL) & (sizes <= _LARGE))
    return Planes(planes, high, low, torch.where(has_bound, sizes, torch.inf), slot)


def _tile(n_planes: int) -> int:
    return min(_PLANES, max(16, triton.next_power_of_2(n_planes)))


def slack(dim: int, rows_are_exact: bool, words_are_exact: bool) -> float:
    """What an estimate may differ from the canonical sum, in sums of sizes; see docs/gpu.md."""
    halves = (not rows_are_exact) + 3 * (not words_are_exact)
    return (halves * 2.0**-16 + (dim + 64) * 2.0**-21 * 1.125) * (1 + 2.0**-8)


def lsh_encode(
    vectors: torch.Tensor,
    planes: torch.Tensor | None,
    packed: Planes | None,
    n_bits: int,
    kind: str,
    codes: torch.Tensor,
) -> None:
    """Write codes (n, n_tables) int64, whose bits are those of uint64.

    Args: as `_core.lsh_encode`; packed is what `lay_out` made of the planes. A vector that may not
    be hashed gets zeros.
    """
    if packed is None:
        if planes is None:
            raise ValueError("lsh_encode: planes is None, should be given without packed")
        packed = lay_out(planes, n_bits, kind)
    if not codes.numel():
        return
    vectors = near(vectors)
    run = _signs if kind == "sign" else _places
    # Doubts, and where they are.
    for part in parts(len(vectors), 8 * codes.shape[1] * max(1, triton.cdiv(n_bits, 32))):
        run(vectors[part], packed, n_bits, codes[part])


def _signs(vectors: torch.Tensor, planes: Planes, n_bits: int, codes: torch.Tensor) -> None:
    n, dim = vectors.shape
    n_tables = codes.shape[1]
    words = triton.cdiv(n_bits, 32)
    n_slots = n_tables * words
    padded, tile = planes.high.shape[1], _tile(len(planes.high))
    if words == 1:
        codes.zero_()
    halves = codes.view(torch.int32)
    doubts = vectors.new_empty((n, n_slots), dtype=torch.int32)
    rows = _rows_at_once(n)
    is_exact = vectors.dtype in (torch.bfloat16, torch.int8)
    rest = (
        planes.sizes,
        slack(dim, is_exact, planes.low is None),
        _most(dim),
        halves,
        doubts,
        n,
        n_slots,
        halves.shape[1],
        n_bits,
        dim,
    )
    options = {"WORDS": words, "SLOT": planes.slot, "M": rows, "P": tile}
    n_tiles = len(planes.high) // tile, triton.cdiv(n, rows)
    n_programs = _resident_programs(vectors.device) // n_tiles[0]
    if is_exact and planes.low is None and padded <= _RESIDENT and 0 < n_programs < n_tiles[1]:
        encode.resident_sign_kernel[(n_tiles[0], n_programs)](
            vectors, *vectors.stride(), planes.high, *rest, **options, DIM=padded, num_warps=8
        )
    else:
        encode.sign_kernel[grid_of(*n_tiles)](
            vectors,
            *vectors.stride(),
            planes.high,
            planes.low,
            *rest,
            padded,
            ROWS_ARE_EXACT=is_exact,
            **options,
            D=_columns(is_exact),
            num_warps=8 if rows > 16 else 4,
        )
    n_entries = doubts.numel()
    scratch = vectors.new_empty(triton.cdiv(n_entries, _SETTLED) * _SETTLED, dtype=torch.int32)
    encode.settle_signs_kernel[(triton.cdiv(n_entries, _SETTLED),)](
        vectors,
        *vectors.stride(),
        planes.given,
        halves,
        doubts,
        scratch,
        n_entries,
        n_slots,
        halves.shape[1],
        n_bits,
        dim,
        WORDS=words,
        SLOT=planes.slot,
        N=_SETTLED,
        R=16,
        enable_fp_fusion=False,
    )


def _places(vectors: torch.Tensor, planes: Planes, n_bits: int, codes: torch.Tensor) -> None:
    n, dim = vectors.shape
    n_tables = codes.shape[1]
    padded, half = planes.high.shape[1], planes.slot
    half_padded = max(16, half)
    doubts = vectors.new_empty((n, n_tables), dtype=torch.int32)
    rows = _rows_at_once(n)
    is_exact = vectors.dtype in (torch.bfloat16, torch.int8)
    encode.place_kernel[(triton.cdiv(n, rows), n_tables)](
        vectors,
        *vectors.stride(),
        planes.high,
        planes.low,
        planes.sizes,
        slack(dim, is_exact, planes.low is None),
        _most(dim),
        codes,
        doubts,
        n,
        n_tables,
        half,
        half_padded,
        dim,
        padded,
        ROWS_ARE_EXACT=is_exact,
        M=rows,
        P=min(_PLANES, half_padded),
        D=_columns(is_exact),
        num_warps=8 if rows > 16 else 4,
    )
    n_entries = doubts.numel()
    scratch = vectors.new_empty(triton.cdiv(n_entries, _SETTLED) * _SETTLED, dtype=torch.int32)
    encode.settle_places_kernel[(triton.cdiv(n_entries, _SETTLED),)](
        vectors,
        *vectors.stride(),
        planes.given,
        codes,
        doubts,
        scratch,
        n_entries,
        n_tables,
        half,
        dim,
        N=_SETTLED,
        P=64,
        enable_fp_fusion=False,
    )


def _rows_at_once(n: int) -> int:
    return _ROWS if n >= _ROWS else 16


def _resident_programs(device: torch.device) -> int:
    """How many programs with planes of their own fill a card; 0 where they are slower."""
    # Before sm_90 a product's tile stands in other registers than its words need.
    if not (cards.has_large_memory(device) and cards.is_at_least(device, 9)):
        return 0
    return 2 * cards.n_multiprocessors(device)


def _columns(is_exact: bool) -> int:
    """Columns at once: fewer where their halves are made in registers."""
    return STEP if is_exact else STEP // 2


def _most(dim: int) -> float:
    """No vector of a norm up to 1e18 has a larger sum of sizes."""
    return 1e18 * dim**0.5 * 1.01

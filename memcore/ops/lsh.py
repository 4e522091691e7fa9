"""Locality-sensitive hashing over arrays: planes, codes, probes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, reference, scalars
from memcore.backends import engine, is_triton, lsh_pack
from memcore.errors import InputError, ShapeError, in_room
from memcore.ops.lsh_device import lsh_encode_device, lsh_probes_device

HASHES = ("sign", "cross_polytope")
PLANES = ("signs", "gaussian")

MAX_BITS = 64
# A cross-polytope hash of b bits takes 2^(b - 1) planes a table.
MAX_PLACE_BITS = 20

# From this many vectors on it pays to pack the planes for one call.
_MANY_VECTORS = 64


def lsh_planes(
    n_planes: int, dim: int, *, seed: "int | np.random.Generator", kind: str = "signs"
) -> NDArray[Any]:
    """Draw random directions.

    Args:
        n_planes: how many.
        dim: components of each.
        seed: the same int gives the same planes; a NumPy Generator is drawn from once.
        kind: "signs": components of +-1, which hash fastest; or "gaussian".

    Returns:
        (n_planes, dim) int8 or float32.
    """
    scalars.word("lsh_planes", "kind", kind, PLANES)
    for name, value in (("n_planes", n_planes), ("dim", dim)):
        scalars.whole("lsh_planes", name, value, 1)
    scalars.check_memory("lsh_planes", n_planes * dim, n_planes=n_planes, dim=dim)
    return reference.lsh_planes(n_planes, dim, scalars.seed("lsh_planes", seed), kind)


def lsh_encode(
    vectors: Any,
    planes: Any,
    n_bits: int = 64,
    *,
    kind: str = "sign",
    packed: Any = None,
    backend: str | None = None,
) -> Any:
    """Hash vectors to codes of up to 64 bits, in as many tables as the planes fill.

    Args:
        vectors: (n, dim), or (dim,) for one; finite, with norms up to 1e18.
        planes: (n_planes, dim) int8 or float32; those of a table stand together.
        n_bits: bits of a code.
        kind: "sign": n_bits planes a table; bit i is set where the canonical score of the vector
            and plane i is at least 0. "cross_polytope": 2^(n_bits - 1) planes a table; the code is
            the place of the largest of [scores; -scores], the smaller one where two are equal.
        packed: what `memcore.backends.lsh_pack` made of the planes, or on a device
            `memcore.ops.lsh_device.planes_on`, to spare its making.
        backend: "cpu", "reference" or "triton".

    Returns:
        (n, n_tables) uint64, in the library of vectors and on their device. Codes of 4 tables x 64
        bits are codes of 256 bits to `search(metric="hamming")`.

    Raises:
        ShapeError: shapes that do not fit each other.
        InputError: a vector with NaN, Inf or a norm above 1e18 (the first such row is named; on a
            device such a vector gets zeros instead).
        BackendError: an engine that is not there, or a gradient asked for on a device.

    Cost:
        Planes of +-1: a quad of components is one look-up in a table made per vector, in integers;
        signs that the rounding leaves in doubt (about one in a thousand) are computed canonically.
        Other planes: one canonical score each.
    """
    if is_triton(backend) or arrays.place(vectors) != "cpu":
        each = table_planes(check_hash("lsh_encode", n_bits, kind), kind)
        with in_room("lsh_encode"):
            return lsh_encode_device(vectors, planes, n_bits, kind, each, packed, backend)
    rows, table = _checked("lsh_encode", vectors, planes, n_bits, kind)
    if packed is None and len(rows) >= _MANY_VECTORS and table.dtype == np.int8:
        packed = lsh_pack(table)
    codes = np.empty((len(rows), len(table) // table_planes(n_bits, kind)), np.uint64)
    engine("lsh_encode", backend)(rows, table, packed, n_bits, kind, codes)
    return arrays.like(vectors, codes)


def lsh_probes(
    vectors: Any,
    planes: Any,
    n_bits: int = 64,
    *,
    kind: str = "sign",
    n_probes: int = 1,
    backend: str | None = None,
) -> Any:
    """The codes that neighbours of each vector most likely have, likeliest first.

    Sign codes are flipped where the vector lies nearest to the planes: sets of bits in the order of
    the sum of their squared scores. Cross-polytope codes are the next-largest places.
    Lv, Josephson, Wang, Charikar, Li (2007), "Multi-Probe LSH: Efficient Indexing for
    High-Dimensional Similarity Search"; Andoni, Indyk, Laarhoven, Razenshteyn, Schmidt (2015),
    "Practical and Optimal LSH for Angular Distance", arXiv:1509.02897.

    Args:
        vectors: as for `lsh_encode`.
        planes: likewise.
        n_bits: bits of a code.
        kind: "sign" or "cross_polytope".
        n_probes: codes of each table, 1 to 2^n_bits; the first is the vector's own.
        backend: "cpu", "reference" or "triton".

    Returns:
        (n, n_tables, n_probes) uint64, in the library of vectors and on their device.

    Raises:
        ShapeError, InputError: as `lsh_encode`; and for n_probes.
    """
    each = table_planes(check_hash("lsh_probes", n_bits, kind), kind)
    n = scalars.whole("lsh_probes", "n_probes", n_probes, 1)
    if n > 1 << n_bits:
        raise InputError(f"lsh_probes: n_probes is {n}, should be at most 2^{n_bits}")
    scalars.check_memory("lsh_probes", 8 * n, n_probes=n)
    if is_triton(backend) or arrays.place(vectors) != "cpu":
        with in_room("lsh_probes"):
            return lsh_probes_device(vectors, planes, n_bits, kind, each, n, backend)
    rows, table = _checked("lsh_probes", vectors, planes, n_bits, kind)
    probes = np.empty((len(rows), len(table) // each, n), np.uint64)
    engine("lsh_probes", backend)(rows, table, n_bits, kind, n, probes)
    return arrays.like(vectors, probes)


def table_planes(n_bits: int, kind: str) -> int:
    """The planes of one table."""
    return n_bits if kind == "sign" else 1 << (n_bits - 1)


def check_hash(op: str, n_bits: Any, kind: str) -> int:
    """N_bits, if a hash of this kind can have so many."""
    scalars.word(op, "kind", kind, HASHES)
    bits = scalars.whole(op, "n_bits", n_bits, 1)
    most = MAX_BITS if kind == "sign" else MAX_PLACE_BITS
    if bits > most:
        raise InputError(f"{op}: n_bits is {bits}, should be at most {most} for {kind}")
    return bits


def _checked(
    op: str, vectors: Any, planes: Any, n_bits: Any, kind: str
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Vectors as (n, dim), and planes that fit them and fill whole tables."""
    bits = check_hash(op, n_bits, kind)
    rows = arrays.vectors(op, "vectors", vectors)[0]
    if rows.ndim == 1:
        rows = rows[None]
    table = arrays.vectors(op, "planes", planes)[0]
    if table.dtype != np.int8:
        table = arrays.floats(op, "planes", planes)
        if not np.isfinite(table).all():
            raise InputError(f"{op}: planes has NaN or Inf, should be finite")
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ShapeError(f"{op}: vectors has shape {rows.shape}, should be (n, dim)")
    if table.ndim != 2 or table.shape[1] != rows.shape[1]:
        raise ShapeError(
            f"{op}: planes has shape {table.shape}, should be (n_planes, {rows.shape[1]})"
        )
    each = table_planes(bits, kind)
    if not len(table) or len(table) % each:
        raise ShapeError(f"{op}: planes has {len(table)} rows, should have a multiple of {each}")
    return rows, np.require(table, requirements=["C", "A"])

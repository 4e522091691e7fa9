"""What is measured on a GPU of hashes: codes, probes, Hamming search, tables of buckets."""

from __future__ import annotations

from typing import Any

import numpy as np

import memcore
from memcore import reference
from memcore.backends import engine
from memcore.ops.lsh import lsh_planes

from .case import expect
from .gpu_case import N_CHECKED, GpuCase, normal, same, same_hits


def every(is_tiny: bool) -> list[GpuCase]:
    """All cases, at their full or at tiny shapes."""
    return [
        _encode("float32", is_tiny),
        _encode("bfloat16", is_tiny),
        *(_hamming(n, is_tiny) for n in (1, 64)),
        _probes(is_tiny),
        _add(is_tiny),
        _lookup(is_tiny),
        _sketch(is_tiny),
    ]


def _encode(dtype: str, is_tiny: bool) -> GpuCase:
    n, dim, n_bits = (20, 20, 64) if is_tiny else (1 << 20, 128, 256)
    planes = lsh_planes(n_bits, dim, seed=0)
    hashes = memcore.LSH(dim, 64, n_bits // 64, seed=0)

    def cast(vectors: Any) -> Any:
        return vectors.bfloat16() if dtype == "bfloat16" else vectors

    def check(given: dict[str, Any], codes: Any) -> None:
        rows = given["vectors"][:64]
        if dtype == "bfloat16":
            # Halves of whole numbers: exact in 8 bits, so that the definition sees the same.
            expect(bool((rows * 2 == np.rint(rows * 2)).all()), "vectors are not exact")
        same("codes", codes[:64], reference.lsh_encode(rows, planes, 64, "sign"))

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {"vectors": np.rint(normal(rng, n, dim) * 16) / 2}

    def signs(vectors: Any) -> Any:
        import torch

        words = torch.as_tensor(planes, device=vectors.device).to(cast(vectors).dtype)
        bits = (cast(vectors) @ words.T >= 0).view(len(vectors), -1, 8)
        return (bits * (1 << torch.arange(8, device=bits.device))).sum(2).to(torch.uint8)

    size = 2 if dtype == "bfloat16" else 4
    return GpuCase(
        f"lsh_encode/{n} x {dim} {dtype}, {n_bits} bits",
        make,
        lambda vectors: hashes.encode(cast(vectors), backend="triton"),
        check,
        float(n * dim * size + n * n_bits // 8),
        {"torch matmul + pack": signs},
        2.0 * n * dim * n_bits,
    )


def _hamming(n_queries: int, is_tiny: bool) -> GpuCase:
    n, words, k = (300, 2, 3) if is_tiny else (1 << 20, 4, 10)
    n_queries = min(n_queries, 3) if is_tiny else n_queries

    def codes(rng: np.random.Generator, n: int) -> np.ndarray:
        return rng.integers(-(1 << 63), (1 << 63) - 1, (n, words), dtype=np.int64)

    def check(given: dict[str, Any], hits: Any) -> None:
        few = given["queries"][:N_CHECKED].view(np.uint64)
        wanted = reference.hamming_search(few, given["keys"].view(np.uint64), k, None, 64 * words)
        same_hits(hits, wanted)

    return GpuCase(
        f"hamming/{n_queries} x {n}, {64 * words} bits, k={k}",
        lambda rng: {"queries": codes(rng, n_queries), "keys": codes(rng, n)},
        lambda queries, keys: memcore.search(queries, keys, k, metric="hamming", backend="triton"),
        check,
        8.0 * words * (n + n_queries),
    )


def _probes(is_tiny: bool) -> GpuCase:
    n, dim, n_bits, n_tables, n_probes = (5, 20, 6, 2, 3) if is_tiny else (1 << 16, 128, 12, 16, 16)
    hashes = memcore.LSH(dim, n_bits, n_tables, seed=0)

    def check(given: dict[str, Any], found: Any) -> None:
        few = given["vectors"][:N_CHECKED]
        wanted = reference.lsh_probes(few, hashes.planes, n_bits, "sign", n_probes)
        same("probes", found[:N_CHECKED], wanted)

    return GpuCase(
        f"lsh_probes/{n} x {dim}, {n_tables} tables x {n_bits} bits, {n_probes} probes",
        lambda rng: {"vectors": normal(rng, n, dim)},
        lambda vectors: hashes.probes(vectors, n_probes, backend="triton"),
        check,
        4.0 * n * dim + 8.0 * n * n_tables * n_probes,
        {},
        2.0 * n * dim * n_bits * n_tables,
    )


# n_tables, 2^n_bits buckets, n_slots.
_TABLE, _TINY_TABLE = (16, 1 << 12, 64), (3, 8, 4)


def _add(is_tiny: bool) -> GpuCase:
    n_tables, n_buckets, n_slots = _TINY_TABLE if is_tiny else _TABLE
    n = 60 if is_tiny else 1 << 16

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "slots": np.full((n_tables, n_buckets, n_slots), -1),
            # Full, so that every row draws its slot.
            "counts": np.full((n_tables, n_buckets), n_slots),
            "ids": rng.permutation(n),
            "codes": rng.integers(0, n_buckets, (n, n_tables)),
        }

    def add(slots: Any, counts: Any, ids: Any, codes: Any) -> Any:
        # Each call from the same table.
        slots, counts = slots.clone(), counts.clone()
        engine("bucket_add", "triton")(slots, counts, ids, codes, True, 5)
        return slots, counts

    def check(given: dict[str, Any], found: Any) -> None:
        slots, counts = given["slots"].copy(), given["counts"].copy()
        codes = given["codes"].view(np.uint64)
        engine("bucket_add", "cpu")(slots, counts, given["ids"], codes, True, 5)
        same("slots", found[0], slots)
        same("counts", found[1], counts)

    n_cells = n_tables * n_buckets
    return GpuCase(
        f"bucket_add/{n} rows, {n_tables} tables x {n_buckets} buckets x {n_slots} slots",
        make,
        add,
        check,
        16.0 * n_cells * (n_slots + 1) + 16.0 * n * n_tables,
    )


def _lookup(is_tiny: bool) -> GpuCase:
    n_tables, n_buckets, n_slots = _TINY_TABLE if is_tiny else _TABLE
    n, k, least = (4, 5, 2) if is_tiny else (4096, 64, 2)
    n_rows = n_buckets * n_slots

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "slots": rng.integers(0, n_rows, (n_tables, n_buckets, n_slots)),
            "probes": rng.integers(0, n_buckets, (n, n_tables, 1)),
        }

    def check(given: dict[str, Any], found: Any) -> None:
        few = given["probes"][:N_CHECKED].view(np.uint64)
        offsets, ids, tables = reference.bucket_search(given["slots"], few, least)
        for q in range(len(few)):
            part = slice(offsets[q], min(offsets[q + 1], offsets[q] + k))
            n_hits = part.stop - part.start
            same("ids", found[1][q], np.append(ids[part], np.full(k - n_hits, -1)))
            same("scores", found[0][q, :n_hits], tables[part].astype(np.float32))

    return GpuCase(
        f"bucket_search/{n} queries, {n_tables} tables x {n_buckets} buckets x {n_slots} slots",
        make,
        lambda slots, probes: engine("bucket_search", "triton")(slots, probes, least, k),
        check,
        8.0 * n * n_tables * n_slots + 12.0 * n * k,
    )


def _sketch(is_tiny: bool) -> GpuCase:
    n_tables, n_buckets, width = (3, 8, 3) if is_tiny else (64, 1 << 14, 3)
    n = 40 if is_tiny else 1 << 16

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {
            "sums": normal(rng, n_tables, n_buckets, width),
            "codes": rng.integers(0, n_buckets, (n, n_tables)),
            "values": normal(rng, n, width),
        }

    def add(sums: Any, codes: Any, values: Any) -> Any:
        sums = sums.clone()
        engine("sketch_add", "triton")(sums, codes, values)
        return sums

    def check(given: dict[str, Any], found: Any) -> None:
        sums = given["sums"].copy()
        engine("sketch_add", "cpu")(sums, given["codes"].view(np.uint64), given["values"])
        same("sums", found, sums)

    def added(sums: Any, codes: Any, values: Any) -> Any:
        flat = sums.clone().view(-1, width)
        for table in range(n_tables):
            flat.index_add_(0, codes[:, table] + table * n_buckets, values)
        return flat

    return GpuCase(
        f"sketch_add/{n} rows x {width}, {n_tables} tables x {n_buckets} buckets",
        make,
        add,
        check,
        16.0 * n_tables * n_buckets * width + 8.0 * n * n_tables + 4.0 * n * width,
        {"torch index_add": added},
    )

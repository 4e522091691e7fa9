"""What is measured on a GPU: one bank, hashes and codebooks. `gpu_banks`, `gpu_reads` have others.

Each case can be made tiny, so that its check runs in Triton's interpreter on CPU tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import memcore
from memcore import reference
from memcore.ops import codebook
from memcore.ops.lsh import lsh_planes

from . import gpu_banks, gpu_reads
from .case import expect
from .gpu_case import N_CHECKED, GpuCase, normal, same, same_hits


def every(*, is_tiny: bool = False) -> list[GpuCase]:
    """All cases, at their full or at tiny shapes."""
    return [
        *(_search(n, is_tiny) for n in (1, 16, 4096)),
        *gpu_banks.every(is_tiny),
        _encode("float32", is_tiny),
        _encode("bfloat16", is_tiny),
        *(_hamming(n, is_tiny) for n in (1, 64)),
        _assign(is_tiny),
        _sums(is_tiny),
        _codes(is_tiny),
        _topk(is_tiny),
        *gpu_reads.every(is_tiny),
    ]


def _search(n_queries: int, is_tiny: bool) -> GpuCase:
    n, dim, k = (300, 20, 3) if is_tiny else (1 << 20, 128, 32)
    n_queries = min(n_queries, 5) if is_tiny else n_queries

    def check(given: dict[str, Any], hits: Any) -> None:
        few = given["queries"][:N_CHECKED]
        same_hits(hits, reference.search(few, given["keys"], k))

    return GpuCase(
        f"search/{n_queries} x {n} x {dim}, k={k}",
        lambda rng: {"queries": normal(rng, n_queries, dim), "keys": normal(rng, n, dim)},
        lambda queries, keys: memcore.search(queries, keys, k, backend="triton"),
        check,
        4.0 * (n + n_queries) * dim + 12.0 * n_queries * k,
        {"torch matmul + topk": lambda queries, keys: (queries @ keys.T).topk(k, 1)},
        2.0 * n_queries * n * dim,
        "int8",
    )


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


def _assign(is_tiny: bool) -> GpuCase:
    n, dim, n_codes = (20, 20, 30) if is_tiny else (1 << 20, 128, 1024)

    def check(given: dict[str, Any], found: Any) -> None:
        wanted = reference.assign(given["rows"][:64], given["codewords"])
        same("codes", found[0][:64], wanted[0])
        same("scores", found[1][:64], wanted[1])

    def nearest(rows: Any, codewords: Any) -> Any:
        return (rows @ codewords.T - codewords.square().sum(1) / 2).argmax(1)

    return GpuCase(
        f"assign/{n} x {dim}, {n_codes} codes",
        lambda rng: {"rows": normal(rng, n, dim), "codewords": normal(rng, n_codes, dim)},
        lambda rows, codewords: codebook.assign(rows, codewords, backend="triton"),
        check,
        4.0 * (n + n_codes) * dim + 12.0 * n,
        {"torch matmul + argmax": nearest},
        2.0 * n * n_codes * dim,
    )


def _sums(is_tiny: bool) -> GpuCase:
    n, dim, n_codes = (50, 20, 7) if is_tiny else (1 << 20, 128, 1024)

    def check(given: dict[str, Any], found: Any) -> None:
        wanted = reference.codebook_sums(given["rows"], given["codes"], n_codes)
        same("counts", found[0], wanted[0])
        same("sums", found[1], wanted[1])

    def added(rows: Any, codes: Any) -> Any:
        return rows.new_zeros((n_codes, dim)).index_add_(0, codes, rows)

    return GpuCase(
        f"codebook_sums/{n} x {dim}, {n_codes} codes",
        lambda rng: {"rows": normal(rng, n, dim), "codes": rng.integers(0, n_codes, n)},
        lambda rows, codes: codebook.codebook_sums(rows, codes, n_codes, backend="triton"),
        check,
        4.0 * n * dim + 8.0 * n,
        {"torch index_add": added},
    )


def _codes(is_tiny: bool) -> GpuCase:
    n, parts, n_codes, dim, k = (90, 3, 9, 12, 3) if is_tiny else (1 << 20, 16, 256, 128, 10)
    n_queries = 2 if is_tiny else 16

    def check(given: dict[str, Any], hits: Any) -> None:
        few = given["queries"][:N_CHECKED]
        wanted = reference.search_codes(few, given["codes"], given["codewords"], k)
        same_hits(hits, wanted)

    return GpuCase(
        f"search_codes/{n_queries} x {n} x {parts} codes of {n_codes}, k={k}",
        lambda rng: {
            "queries": normal(rng, n_queries, dim),
            "codes": rng.integers(0, n_codes, (n, parts)).astype(np.uint8),
            "codewords": normal(rng, 1, parts, n_codes, dim // parts),
        },
        lambda queries, codes, codewords: codebook.search_codes(
            queries, codes, codewords, k, backend="triton"
        ),
        check,
        float(n * parts),
    )


def _topk(is_tiny: bool) -> GpuCase:
    n_queries, n, k = (3, 200, 5) if is_tiny else (64, 1 << 20, 32)

    def check(given: dict[str, Any], hits: Any) -> None:
        wanted = reference.topk(given["scores"][:N_CHECKED], k)
        same_hits(hits, wanted)

    return GpuCase(
        f"topk/{n_queries} x {n}, k={k}",
        lambda rng: {"scores": normal(rng, n_queries, n)},
        lambda scores: memcore.topk(scores, k, backend="triton"),
        check,
        4.0 * n_queries * n,
        {"torch.topk": lambda scores: scores.topk(k, 1)},
    )

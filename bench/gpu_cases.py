"""What is measured on a GPU: one bank and codebooks; the files beside it have the rest.

Each case can be made tiny, so that its check runs in Triton's interpreter on CPU tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import memcore
from memcore import reference
from memcore.ops import codebook

from . import gpu_banks, gpu_hashes, gpu_reads
from .gpu_case import N_CHECKED, GpuCase, normal, same, same_hits


def every(*, is_tiny: bool = False) -> list[GpuCase]:
    """All cases, at their full or at tiny shapes."""
    return [
        *(_search(n, is_tiny) for n in (1, 16, 4096)),
        *gpu_banks.every(is_tiny),
        *gpu_hashes.every(is_tiny),
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

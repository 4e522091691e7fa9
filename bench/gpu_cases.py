"""What is measured on a GPU: inputs, our call, what it is compared with, and the least it needs.

Each case can be made tiny, so that its check runs in Triton's interpreter on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import memcore
from memcore import reference
from memcore.ops import codebook
from memcore.ops.lsh import lsh_planes

from .case import expect

Run = Callable[..., Any]

# Queries, or rows, whose answer is compared with the definition.
_CHECKED = 4


@dataclass(frozen=True)
class GpuCase:
    """One call on a device.

    Attributes:
        name: family and shape.
        make: from a generator, the arrays of one call, on the host.
        ours: the call; takes the tensors.
        check: refuses a wrong answer of ours, given arrays and results on the host.
        rivals: other ways to do it in torch, by name; they take the tensors.
        n_bytes: the least that must be read and written.
        operations: of the products, a multiply-add counted as two; 0 where there are none.
        rate: "bf16" or "int8", the rate that the operations are held against.
    """

    name: str
    make: Callable[[np.random.Generator], dict[str, Any]]
    ours: Run
    check: Callable[[dict[str, Any], Any], None]
    n_bytes: float
    rivals: dict[str, Run] = field(default_factory=dict)
    operations: float = 0.0
    rate: str = "bf16"

    @property
    def op(self) -> str:
        """The family."""
        return self.name.split("/")[0]


def every(*, is_tiny: bool = False) -> list[GpuCase]:
    """All cases, at their full or at tiny shapes."""
    return [
        *(_search(n, is_tiny) for n in (1, 16, 4096)),
        _banks(is_tiny),
        _encode("float32", is_tiny),
        _encode("bfloat16", is_tiny),
        *(_hamming(n, is_tiny) for n in (1, 64)),
        _assign(is_tiny),
        _sums(is_tiny),
        _codes(is_tiny),
        _topk(is_tiny),
    ]


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _same(name: str, found: Any, wanted: Any) -> None:
    is_equal = np.array_equal(np.asarray(found), np.asarray(wanted), equal_nan=True)
    expect(is_equal, f"{name} is not the definition's")


def _search(n_queries: int, is_tiny: bool) -> GpuCase:
    n, dim, k = (300, 20, 3) if is_tiny else (1 << 20, 128, 32)
    n_queries = min(n_queries, 5) if is_tiny else n_queries

    def check(given: dict[str, Any], hits: Any) -> None:
        few = given["queries"][:_CHECKED]
        scores, ids = reference.search(few, given["keys"], k)
        _same("ids", hits[1][:_CHECKED], ids)
        _same("scores", hits[0][:_CHECKED], scores)

    return GpuCase(
        f"search/{n_queries} x {n} x {dim}, k={k}",
        lambda rng: {"queries": _normal(rng, n_queries, dim), "keys": _normal(rng, n, dim)},
        lambda queries, keys: memcore.search(queries, keys, k, backend="triton"),
        check,
        4.0 * (n + n_queries) * dim + 12.0 * n_queries * k,
        {"torch matmul + topk": lambda queries, keys: (queries @ keys.T).topk(k, 1)},
        2.0 * n_queries * n * dim,
        "int8",
    )


def _banks(is_tiny: bool) -> GpuCase:
    n_banks, n, dim, k = (6, 30, 20, 3) if is_tiny else (8192, 282, 128, 5)
    offsets = np.arange(n_banks + 1) * n

    def check(given: dict[str, Any], hits: Any) -> None:
        few, rows = given["queries"][:_CHECKED], given["keys"][: _CHECKED * n]
        segments = np.arange(_CHECKED)
        wanted = reference.search_ragged(few, rows, offsets[: _CHECKED + 1], segments, k)
        _same("ids", hits[1][:_CHECKED], wanted[1])
        _same("scores", hits[0][:_CHECKED], wanted[0])

    def padded(queries: Any, keys: Any, offsets: Any) -> Any:
        rows = keys.view(len(queries), -1, keys.shape[1])
        return (rows @ queries[:, :, None])[:, :, 0].topk(k, 1)

    return GpuCase(
        f"search_ragged/{n_banks} banks x {n} x {dim}, k={k}",
        lambda rng: {
            "queries": _normal(rng, n_banks, dim),
            "keys": _normal(rng, n_banks * n, dim),
            "offsets": offsets,
        },
        lambda queries, keys, offsets: memcore.search_ragged(
            queries, keys, offsets, k, backend="triton"
        ),
        check,
        4.0 * n_banks * (n + 1) * dim,
        {"torch padded bmm + topk": padded},
        2.0 * n_banks * n * dim,
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
        _same("codes", codes[:64], reference.lsh_encode(rows, planes, 64, "sign"))

    def make(rng: np.random.Generator) -> dict[str, Any]:
        return {"vectors": np.rint(_normal(rng, n, dim) * 16) / 2}

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
        few = given["queries"][:_CHECKED].view(np.uint64)
        wanted = reference.hamming_search(few, given["keys"].view(np.uint64), k, None, 64 * words)
        _same("ids", hits[1][:_CHECKED], wanted[1])
        _same("scores", hits[0][:_CHECKED], wanted[0])

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
        _same("codes", found[0][:64], wanted[0])
        _same("scores", found[1][:64], wanted[1])

    def nearest(rows: Any, codewords: Any) -> Any:
        return (rows @ codewords.T - codewords.square().sum(1) / 2).argmax(1)

    return GpuCase(
        f"assign/{n} x {dim}, {n_codes} codes",
        lambda rng: {"rows": _normal(rng, n, dim), "codewords": _normal(rng, n_codes, dim)},
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
        _same("counts", found[0], wanted[0])
        _same("sums", found[1], wanted[1])

    def added(rows: Any, codes: Any) -> Any:
        return rows.new_zeros((n_codes, dim)).index_add_(0, codes, rows)

    return GpuCase(
        f"codebook_sums/{n} x {dim}, {n_codes} codes",
        lambda rng: {"rows": _normal(rng, n, dim), "codes": rng.integers(0, n_codes, n)},
        lambda rows, codes: codebook.codebook_sums(rows, codes, n_codes, backend="triton"),
        check,
        4.0 * n * dim + 8.0 * n,
        {"torch index_add": added},
    )


def _codes(is_tiny: bool) -> GpuCase:
    n, parts, n_codes, dim, k = (90, 3, 9, 12, 3) if is_tiny else (1 << 20, 16, 256, 128, 10)
    n_queries = 2 if is_tiny else 16

    def check(given: dict[str, Any], hits: Any) -> None:
        few = given["queries"][:_CHECKED]
        wanted = reference.search_codes(few, given["codes"], given["codewords"], k)
        _same("ids", hits[1][:_CHECKED], wanted[1])
        _same("scores", hits[0][:_CHECKED], wanted[0])

    return GpuCase(
        f"search_codes/{n_queries} x {n} x {parts} codes of {n_codes}, k={k}",
        lambda rng: {
            "queries": _normal(rng, n_queries, dim),
            "codes": rng.integers(0, n_codes, (n, parts)).astype(np.uint8),
            "codewords": _normal(rng, 1, parts, n_codes, dim // parts),
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
        wanted = reference.topk(given["scores"][:_CHECKED], k)
        _same("ids", hits[1][:_CHECKED], wanted[1])
        _same("scores", hits[0][:_CHECKED], wanted[0])

    return GpuCase(
        f"topk/{n_queries} x {n}, k={k}",
        lambda rng: {"scores": _normal(rng, n_queries, n)},
        lambda scores: memcore.topk(scores, k, backend="triton"),
        check,
        4.0 * n_queries * n,
        {"torch.topk": lambda scores: scores.topk(k, 1)},
    )

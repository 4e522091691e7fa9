"""What is measured on a GPU: softmax reads, their gradients, and losses against a queue."""

from __future__ import annotations

from typing import Any

import numpy as np

import memcore

from .gpu_case import N_CHECKED, GpuCase, near, normal, same

# Softmaxes of float32, and of bfloat16 values with weights of that dtype.
_FLOAT32, _BFLOAT16 = 1e-4, 3e-2


def every(is_tiny: bool) -> list[GpuCase]:
    """All cases of this file."""
    return [
        *(_attend(has_gradients, is_tiny) for has_gradients in (False, True)),
        _attend_best(is_tiny),
        *(_aggregate(has_gradients, is_tiny) for has_gradients in (False, True)),
        _nce(is_tiny),
    ]


def _gradients(run: Any, *inputs: Any) -> Any:
    """A run over leaves, and the gradients of the sum of what comes out."""
    import torch

    leaves = [each.detach().requires_grad_() for each in inputs]
    out = run(*leaves)
    return (out.detach(), *torch.autograd.grad(out.float().sum(), leaves))


def _attend(has_gradients: bool, is_tiny: bool) -> GpuCase:
    """All keys, by heads, in bfloat16: what attention kernels are made for."""
    heads, n_queries, n, dim = (2, 5, 70, 16) if is_tiny else (16, 2048, 8192, 128)
    beta = dim**-0.5

    def read(queries: Any, keys: Any, values: Any) -> Any:
        return memcore.attend(queries, keys, values, beta=beta, backend="triton")

    def sdpa(queries: Any, keys: Any, values: Any) -> Any:
        import torch

        given = [each[None] for each in (queries, keys, values)]
        return torch.nn.functional.scaled_dot_product_attention(*given, scale=beta)[0]

    def over(run: Any) -> Any:
        if not has_gradients:
            return run
        return lambda queries, keys, values: _gradients(run, queries, keys, values)

    def prepare(**tensors: Any) -> dict[str, Any]:
        return {name: each.bfloat16() for name, each in tensors.items()}

    def check(given: dict[str, Any], found: Any) -> None:
        # Whole eighths are exact in bfloat16, so that the definition sees the same.
        few = given["queries"][:, :N_CHECKED]
        wanted = memcore.attend(few, given["keys"], given["values"], beta=beta)
        near("out", (found[0] if has_gradients else found)[:, :N_CHECKED], wanted, _BFLOAT16)

    def make(rng: np.random.Generator) -> dict[str, Any]:
        shapes = {"queries": n_queries, "keys": n, "values": n}
        return {
            name: np.rint(normal(rng, heads, rows, dim) * 8) / 8 for name, rows in shapes.items()
        }

    passes = 3.5 if has_gradients else 1.0
    return GpuCase(
        f"attend/{heads} x {n_queries} x {n} x {dim} bfloat16"
        + (", with gradients" if has_gradients else ""),
        make,
        over(read),
        check,
        2.0 * heads * dim * (2 * n_queries + 2 * n) * (2 if has_gradients else 1),
        {"torch SDPA": over(sdpa)},
        passes * 4.0 * heads * n_queries * n * dim,
        prepare=prepare,
    )


def _attend_best(is_tiny: bool) -> GpuCase:
    """The k best of many keys."""
    n_queries, n, dim, k = (5, 300, 20, 3) if is_tiny else (4096, 1 << 20, 128, 32)
    beta = dim**-0.5

    def check(given: dict[str, Any], out: Any) -> None:
        few = given["queries"][:N_CHECKED]
        wanted = memcore.attend(few, given["keys"], given["values"], k, beta=beta)
        near("out", out[:N_CHECKED], wanted, _FLOAT32)

    def gathered(queries: Any, keys: Any, values: Any) -> Any:
        scores, ids = (queries @ keys.T).topk(k, 1)
        return ((scores * beta).softmax(1)[:, :, None] * values[ids]).sum(1)

    return GpuCase(
        f"attend/{n_queries} x {n} x {dim}, k={k}",
        lambda rng: {
            "queries": normal(rng, n_queries, dim),
            "keys": normal(rng, n, dim),
            "values": normal(rng, n, dim),
        },
        lambda queries, keys, values: memcore.attend(
            queries, keys, values, k, beta=beta, backend="triton"
        ),
        check,
        4.0 * dim * (n + n_queries * (k + 2)),
        {"torch matmul + topk + gather": gathered},
        2.0 * n_queries * n * dim,
        "int8",
    )


def _aggregate(has_gradients: bool, is_tiny: bool) -> GpuCase:
    """Sums of named bfloat16 rows by weight."""
    n_queries, n, dim, k = (5, 40, 20, 3) if is_tiny else (65_536, 1 << 18, 1024, 32)

    def plain(weights: Any, values: Any, ids: Any) -> Any:
        return memcore.aggregate(weights, values, ids, backend="triton")

    def bags(weights: Any, values: Any, ids: Any) -> Any:
        import torch

        named = weights.to(values.dtype)
        return torch.nn.functional.embedding_bag(ids, values, per_sample_weights=named, mode="sum")

    def over(run: Any) -> Any:
        if not has_gradients:
            return run
        return lambda weights, values, ids: _gradients(
            lambda *leaves: run(*leaves, ids), weights, values
        )

    def prepare(weights: Any, values: Any, ids: Any) -> dict[str, Any]:
        return {"weights": weights, "values": values.bfloat16(), "ids": ids}

    def check(given: dict[str, Any], found: Any) -> None:
        few = (given["weights"][:N_CHECKED], given["values"], given["ids"][:N_CHECKED])
        wanted = memcore.aggregate(*few, backend="reference")
        same("out", (found[0] if has_gradients else found)[:N_CHECKED], wanted)
        if has_gradients:
            rows = given["values"][given["ids"][:N_CHECKED]]
            near("gradients", found[1][:N_CHECKED], rows.sum(2), _FLOAT32)

    moved = 2.0 * n_queries * k * dim + 4.0 * n_queries * dim
    return GpuCase(
        f"aggregate/{n_queries} x {k} of {n} x {dim} bfloat16"
        + (", with gradients" if has_gradients else ""),
        lambda rng: {
            "weights": normal(rng, n_queries, k),
            "values": np.rint(normal(rng, n, dim) * 8) / 8,
            "ids": rng.integers(0, n, (n_queries, k)),
        },
        over(plain),
        check,
        moved * (3 if has_gradients else 1),
        {"torch embedding_bag": over(bags)},
        prepare=prepare,
    )


def _nce(is_tiny: bool) -> GpuCase:
    """A contrastive loss against a queue of negatives, with the gradients of both encoders."""
    n, n_negatives, dim = (5, 70, 20) if is_tiny else (4096, 65_536, 128)

    def loss(queries: Any, positives: Any, negatives: Any) -> Any:
        return _gradients(
            lambda q, p: memcore.nce(q, p, negatives, temperature=1.0, backend="triton"),
            queries,
            positives,
        )

    def dense(queries: Any, positives: Any, negatives: Any) -> Any:
        import torch

        def entropy(q: Any, p: Any) -> Any:
            logits = torch.cat([(q * p).sum(1, keepdim=True), q @ negatives.T], 1)
            return torch.nn.functional.cross_entropy(logits, ids)

        ids = torch.zeros(n, dtype=torch.long, device=queries.device)
        return _gradients(entropy, queries, positives)

    def check(given: dict[str, Any], found: Any) -> None:
        near("loss", found[0], memcore.nce(*given.values(), temperature=1.0), _FLOAT32)

    return GpuCase(
        f"nce/{n} x {n_negatives} x {dim}, with gradients",
        lambda rng: {
            "queries": normal(rng, n, dim) / 8,
            "positives": normal(rng, n, dim) / 8,
            "negatives": normal(rng, n_negatives, dim) / 8,
        },
        loss,
        check,
        4.0 * (4 * n + n_negatives) * dim,
        {"torch dense logits": dense},
        4.0 * n * n_negatives * dim,
    )

"""Rivals at attention over rows: FAISS and NumPy, torch with and without its own attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..case import Case, Inputs, Prepare
from ..timing import Step

Array = np.ndarray

# Scores of a block of queries that are held at once, in components: 256 MB.
BLOCK = 1 << 26


def forward() -> dict[str, Prepare]:
    """Top-k reads, by name."""
    return {"faiss": faiss_read, "torch": torch_read}


def gradients() -> dict[str, Prepare]:
    """Top-k reads with the gradients of queries, keys and values."""
    return {"torch": torch_gradients}


def dense(with_gradients: bool) -> dict[str, Prepare]:
    """Reads of all values."""
    return {"torch": torch_dense_gradients if with_gradients else torch_dense}


def faiss_read(case: Case, inputs: Inputs, threads: int) -> Step:
    """`IndexFlatIP` on its matrix path, softmax and gather in NumPy, a block of queries at a time.

    All queries at once would gather 64 MB, and take longer.
    """
    import faiss

    queries, keys, values, beta = (inputs[n] for n in ("queries", "keys", "values", "beta"))
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)

    def setup() -> None:
        faiss.cvar.distance_compute_blas_threshold = 2

    def run() -> Array:
        scores, ids = index.search(queries, case.k)
        logits = beta * scores
        weights = np.exp(logits - logits[:, :1])
        weights /= weights.sum(1, keepdims=True)
        out = np.empty((len(queries), values.shape[1]), np.float32)
        for begin in range(0, len(queries), 256):
            rows = slice(begin, begin + 256)
            out[rows] = np.matmul(weights[rows, None], values[ids[rows]])[:, 0]
        return out

    return Step(run, setup)


def torch_read(case: Case, inputs: Inputs, threads: int) -> Step:
    """`mm`, `topk`, `softmax` and a gather."""
    import torch

    queries, keys, values = _tensors(inputs)
    beta = inputs["beta"]

    def run() -> Any:
        with torch.inference_mode():
            scores, ids = _topk(queries, keys, case.k)
            weights = torch.softmax(beta * scores, 1)
            return torch.einsum("qk,qkd->qd", weights, values[ids])

    return Step(run, answer=lambda out: out.numpy())


def torch_gradients(case: Case, inputs: Inputs, threads: int) -> Step:
    """The selection without gradients, then autograd through the gathered rows alone.

    Autograd through the scores would fill a gradient as large as their whole matrix.
    """
    import torch

    leaves = [tensor.requires_grad_() for tensor in _tensors(inputs)]
    beta, upstream = inputs["beta"], torch.from_numpy(inputs["upstream"])

    def run() -> Any:
        queries, keys, values = leaves
        with torch.no_grad():
            ids = _topk(queries, keys, case.k)[1]
        logits = beta * torch.einsum("qd,qkd->qk", queries, keys[ids])
        weights = torch.softmax(logits, 1)
        out = torch.einsum("qk,qkd->qd", weights, values[ids])
        return torch.autograd.grad(out, leaves, upstream)

    return Step(run, answer=lambda grads: grads[0].numpy())


def torch_dense(case: Case, inputs: Inputs, threads: int) -> Step:
    """`scaled_dot_product_attention`."""
    import torch

    queries, keys, values = (tensor[None, None] for tensor in _tensors(inputs))
    attention, beta = torch.nn.functional.scaled_dot_product_attention, inputs["beta"]

    def run() -> Any:
        with torch.inference_mode():
            return attention(queries, keys, values, scale=beta)

    return Step(run, answer=lambda out: out[0, 0].numpy())


def torch_dense_gradients(case: Case, inputs: Inputs, threads: int) -> Step:
    """`scaled_dot_product_attention` and its autograd."""
    import torch

    leaves = [tensor[None, None].requires_grad_() for tensor in _tensors(inputs)]
    attention, beta = torch.nn.functional.scaled_dot_product_attention, inputs["beta"]
    upstream = torch.from_numpy(inputs["upstream"])[None, None]

    def run() -> Any:
        return torch.autograd.grad(attention(*leaves, scale=beta), leaves, upstream)

    return Step(run, answer=lambda grads: grads[0][0, 0].numpy())


def _topk(queries: Any, keys: Any, k: int) -> tuple[Any, Any]:
    import torch

    parts = [
        torch.topk(queries[begin : begin + BLOCK // len(keys)] @ keys.T, k)
        for begin in range(0, len(queries), BLOCK // len(keys))
    ]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _tensors(inputs: Inputs) -> list[Any]:
    import torch

    return [torch.from_numpy(np.array(inputs[n])) for n in ("queries", "keys", "values")]

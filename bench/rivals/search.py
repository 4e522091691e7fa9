"""Rivals at exact top-k over one array of keys. Their answers are scores, larger is better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..case import Case, Inputs, Prepare
from ..data import unit
from ..timing import Step

Array = np.ndarray

# Scores of a block of queries that are held at once, in components: 256 MB.
BLOCK = 1 << 26


def all_of() -> dict[str, Prepare]:
    """The rivals by name."""
    return {
        "numpy": numpy_product,
        "torch": torch_product,
        "faiss[default]": faiss_default,
        "faiss[blas]": faiss_blas,
        "hnswlib": hnswlib_brute_force,
        "usearch": usearch_exact,
    }


def numpy_product(case: Case, inputs: Inputs, threads: int) -> Step:
    """Matrix product, argpartition, sort of the k best."""
    queries, keys = inputs["queries"], _keys_for(case, inputs)
    half_squares = _half_squares(case, keys)
    k, block = min(case.k, len(keys)), max(1, BLOCK // len(keys))

    def run() -> Array:
        asked = _queries_for(case, queries)
        out = np.empty((len(asked), k), np.float32)
        for begin in range(0, len(asked), block):
            scores = asked[begin : begin + block] @ keys.T
            if half_squares is not None:
                scores -= half_squares
            if k < scores.shape[1]:
                best = np.argpartition(scores, scores.shape[1] - k, axis=1)[:, -k:]
                scores = np.take_along_axis(scores, best, axis=1)
            order = np.argsort(-scores, axis=1)
            out[begin : begin + block] = np.take_along_axis(scores, order, axis=1)
        return out

    return Step(run, answer=_product_scores(case, queries))


def torch_product(case: Case, inputs: Inputs, threads: int) -> Step:
    """`mm` and `topk`."""
    import torch

    keys = torch.from_numpy(_keys_for(case, inputs).copy())
    queries = torch.from_numpy(inputs["queries"])
    squares = _half_squares(case, keys.numpy())
    half_squares = None if squares is None else torch.from_numpy(squares)
    k, block = min(case.k, len(keys)), max(1, BLOCK // len(keys))

    def run() -> Any:
        parts = []
        with torch.inference_mode():
            asked = torch.nn.functional.normalize(queries) if case.metric == "cosine" else queries
            for begin in range(0, len(asked), block):
                scores = asked[begin : begin + block] @ keys.T
                if half_squares is not None:
                    scores -= half_squares
                parts.append(torch.topk(scores, k).values)
        return torch.cat(parts)

    finish = _product_scores(case, inputs["queries"])
    return Step(run, answer=lambda result: finish(result.numpy()))


def faiss_default(case: Case, inputs: Inputs, threads: int) -> Step:
    """`IndexFlat` as it comes: a loop over queries for batches under 20."""
    return _faiss_flat(case, inputs, 20)


def faiss_blas(case: Case, inputs: Inputs, threads: int) -> Step:
    """`IndexFlat` that takes its matrix path from two queries on."""
    return _faiss_flat(case, inputs, 2)


def _faiss_flat(case: Case, inputs: Inputs, threshold: int) -> Step:
    import faiss

    keys, queries = _keys_for(case, inputs), inputs["queries"]
    index = (
        faiss.IndexFlatL2(keys.shape[1])
        if case.metric == "l2"
        else faiss.IndexFlatIP(keys.shape[1])
    )
    index.add(keys)

    def setup() -> None:
        faiss.cvar.distance_compute_blas_threshold = threshold

    def run() -> Array:
        scores: Array = index.search(_queries_for(case, queries), case.k)[0]
        return scores

    return Step(run, setup, lambda scores: -scores if case.metric == "l2" else scores)


def hnswlib_brute_force(case: Case, inputs: Inputs, threads: int) -> Step:
    """`BFIndex`."""
    import hnswlib

    keys, queries = _keys_for(case, inputs), inputs["queries"]
    index = hnswlib.BFIndex(space="l2" if case.metric == "l2" else "ip", dim=keys.shape[1])
    index.init_index(max_elements=len(keys))
    index.add_items(keys)
    index.set_num_threads(threads)
    k = min(case.k, len(keys))
    return Step(
        lambda: index.knn_query(_queries_for(case, queries), k, num_threads=threads)[1],
        answer=_similarity(case),
    )


def usearch_exact(case: Case, inputs: Inputs, threads: int) -> Step:
    """`usearch.index.search(..., exact=True)`."""
    import usearch.index

    keys, queries = _keys_for(case, inputs), inputs["queries"]
    metric = usearch.index.MetricKind.L2sq if case.metric == "l2" else usearch.index.MetricKind.IP
    k = min(case.k, len(keys))

    def run() -> Any:
        asked = _queries_for(case, queries)
        return usearch.index.search(keys, asked, k, metric, exact=True, threads=threads)

    def answer(found: Any) -> Array:
        return _similarity(case)(np.atleast_2d(found.distances))

    return Step(run, answer=answer)


def _keys_for(case: Case, inputs: Inputs) -> Array:
    # Cosine is the dot product of unit vectors: a rival's index holds those.
    return unit(inputs["keys"]) if case.metric == "cosine" else inputs["keys"]


def _queries_for(case: Case, queries: Array) -> Array:
    return unit(queries) if case.metric == "cosine" else queries


def _half_squares(case: Case, keys: Array) -> Array | None:
    # Nearest by l2 is largest by q.k - |k|^2 / 2: one product and one subtraction.
    return np.einsum("ij,ij->i", keys, keys) / 2 if case.metric == "l2" else None


def _product_scores(case: Case, queries: Array) -> Callable[[Array], Array]:
    if case.metric != "l2":
        return lambda scores: scores
    return lambda scores: 2 * scores - np.einsum("ij,ij->i", queries, queries)[:, None]


def _similarity(case: Case) -> Callable[[Array], Array]:
    """The scores of distances: hnswlib and usearch call 1 - q.k a distance."""
    if case.metric == "l2":
        return lambda distances: -distances
    return lambda distances: 1 - distances

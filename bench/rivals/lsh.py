"""Rivals at sign bits and Hamming distances: FAISS and NumPy, with the planes that we have."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..case import Case, Inputs, Prepare
from ..timing import Step

Array = np.ndarray

# Rows whose signs are compared with those of float64 sums.
CHECKED_ROWS = 2000


def encoders() -> dict[str, Prepare]:
    """Those that make sign bits."""
    return {"faiss[IndexLSH]": faiss_encode, "numpy": numpy_encode}


def scanners(n_queries: int) -> dict[str, Prepare]:
    """Those that search codes; NumPy takes minutes for a batch."""
    found: dict[str, Prepare] = {"faiss[IndexBinaryFlat]": faiss_binary}
    if n_queries == 1:
        found["numpy"] = numpy_popcount
    return found


def faiss_encode(case: Case, inputs: Inputs, threads: int) -> Step:
    """`IndexLSH.sa_encode`: a matrix product, then bits."""
    index, vectors = _index_lsh(inputs["planes"]), inputs["vectors"]
    return Step(lambda: index.sa_encode(vectors), answer=lambda codes: _share(codes, inputs))


def numpy_encode(case: Case, inputs: Inputs, threads: int) -> Step:
    """A matrix product, a comparison, `packbits`."""
    planes, vectors = np.ascontiguousarray(inputs["planes"].T.astype(np.float32)), inputs["vectors"]
    return Step(
        lambda: np.packbits(vectors @ planes >= 0, axis=1, bitorder="little"),
        answer=lambda codes: _share(codes, inputs),
    )


def faiss_binary(case: Case, inputs: Inputs, threads: int) -> Step:
    """`IndexBinaryFlat`."""
    import faiss

    keys, queries = inputs["keys"].view(np.uint8), inputs["queries"].view(np.uint8)
    index = faiss.IndexBinaryFlat(8 * keys.shape[1])
    index.add(keys)
    return Step(lambda: index.search(queries, case.k), answer=_scores)


def numpy_popcount(case: Case, inputs: Inputs, threads: int) -> Step:
    """`bitwise_count` of the differences, then a partial sort."""
    keys, queries, k = inputs["keys"], inputs["queries"], case.k

    def run() -> Array:
        distances = np.bitwise_count(keys ^ queries[0]).sum(1, dtype=np.int32)
        return -np.sort(np.partition(distances, k)[:k])[None].astype(np.float32)

    return Step(run)


def index_lsh(case: Case, inputs: Inputs, threads: int) -> Step:
    """`IndexLSH.search`: encodes the queries, then compares codes."""
    index, queries = _index_lsh(inputs["planes"]), inputs["queries"]
    index.add(inputs["vectors"])
    return Step(
        lambda: index.search(queries, case.k),
        answer=lambda found: np.array([[_scores(found).mean()]], np.float32),
    )


def _index_lsh(planes: Array) -> Any:
    """An IndexLSH whose rotation is our planes."""
    import faiss

    index = faiss.IndexLSH(planes.shape[1], len(planes))
    faiss.copy_array_to_vector(planes.astype(np.float32).ravel(), index.rrot.A)
    return index


def _scores(found: tuple[Array, Array]) -> Array:
    return -found[0].astype(np.float32)


def _share(codes: Array, inputs: Inputs) -> Array:
    """The share of signs that agree with those of float64 sums."""
    rows = inputs["vectors"][:CHECKED_ROWS].astype(np.float64)
    wanted = rows @ inputs["planes"].T.astype(np.float64) >= 0
    got = np.unpackbits(np.ascontiguousarray(codes[:CHECKED_ROWS]), axis=1, bitorder="little")
    return np.array([[np.mean(got == wanted)]], np.float32)

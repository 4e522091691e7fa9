"""Rivals at search among the rows whose field is below a bound, found within the timed call."""

from __future__ import annotations

import numpy as np

from ..case import Case, Inputs, Prepare
from ..timing import Step

Array = np.ndarray


def all_of() -> dict[str, Prepare]:
    """The rivals by name."""
    return {"numpy[gather]": numpy_gather, "faiss[bitmap]": faiss_bitmap}


def numpy_gather(case: Case, inputs: Inputs, threads: int) -> Step:
    """The allowed rows copied out, matrix product, argpartition, sort of the k best."""
    keys, queries, field, bound = (inputs[name] for name in ("keys", "queries", "field", "bound"))

    def run() -> Array:
        allowed = np.flatnonzero(field < bound)
        scores: Array = queries @ keys[allowed].T
        k = min(case.k, len(allowed))
        if k < len(allowed):
            best = np.argpartition(scores, len(allowed) - k, axis=1)[:, -k:]
            scores = np.take_along_axis(scores, best, axis=1)
        scores.sort(axis=1)
        return scores[:, ::-1]

    return Step(run)


def faiss_bitmap(case: Case, inputs: Inputs, threads: int) -> Step:
    """`IndexFlat` with `IDSelectorBitmap`."""
    import faiss

    keys, queries, field, bound = (inputs[name] for name in ("keys", "queries", "field", "bound"))
    index = faiss.IndexFlatIP(keys.shape[1])
    index.add(keys)

    def run() -> Array:
        bits = np.packbits(field < bound, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(field), faiss.swig_ptr(bits))
        options = faiss.SearchParameters(sel=selector)
        scores: Array = index.search(queries, case.k, params=options)[0]
        return scores

    return Step(run)

"""Rivals at many banks: bank i is rows [offsets[i], offsets[i + 1]) of one array, one query each.

All metrics but dot are left out: the rows are of unit length, where cosine and l2 give the same
order.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..case import Case, Inputs, Prepare
from ..timing import Step

Array = np.ndarray

# A bucket of torch holds banks whose sizes differ at most this much: more is padding, less is more
# calls.
BUCKET_RATIO = 1.25


def all_of() -> dict[str, Prepare]:
    """The rivals by name."""
    return {
        "faiss[selector]": faiss_selector,
        "faiss[knn]": faiss_knn,
        "hnswlib": hnswlib_brute_force,
        "numpy": numpy_loop,
        "torch[bucketed]": torch_bucketed,
        "usearch": usearch_loop,
    }


def numpy_loop(case: Case, inputs: Inputs, threads: int) -> Step:
    """One product, one argpartition and one sort a bank."""
    vectors, offsets, queries, k = _parts(case, inputs)

    def run() -> Array:
        out = np.full((len(queries), k), -np.inf, np.float32)
        for i in range(len(queries)):
            scores = vectors[offsets[i] : offsets[i + 1]] @ queries[i]
            if len(scores) > k:
                scores = scores[np.argpartition(scores, len(scores) - k)[-k:]]
            scores.sort()
            out[i, : len(scores)] = scores[::-1]
        return out

    return Step(run)


def faiss_selector(case: Case, inputs: Inputs, threads: int) -> Step:
    """One flat index, a range selector a bank; the selectors are made beforehand."""
    import faiss

    vectors, offsets, queries, k = _parts(case, inputs)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    ranges = [
        faiss.SearchParameters(sel=faiss.IDSelectorRange(begin, end))
        for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    asked = [queries[i : i + 1] for i in range(len(queries))]

    def run() -> Array:
        return np.concatenate(
            [
                index.search(one, k, params=params)[0]
                for one, params in zip(asked, ranges, strict=True)
            ]
        )

    return Step(run)


def faiss_knn(case: Case, inputs: Inputs, threads: int) -> Step:
    """`faiss.knn` on the slice of each bank."""
    import faiss

    vectors, offsets, queries, k = _parts(case, inputs)
    asked = [queries[i : i + 1] for i in range(len(queries))]
    slices = [vectors[begin:end] for begin, end in itertools.pairwise(offsets)]

    def run() -> Array:
        return np.concatenate(
            [
                faiss.knn(one, rows, k, metric=faiss.METRIC_INNER_PRODUCT)[0]
                for one, rows in zip(asked, slices, strict=True)
            ]
        )

    return Step(run)


def hnswlib_brute_force(case: Case, inputs: Inputs, threads: int) -> Step:
    """One `BFIndex` a bank."""
    import hnswlib

    vectors, offsets, queries, k = _parts(case, inputs)
    indexes = []
    for begin, end in itertools.pairwise(offsets):
        index = hnswlib.BFIndex(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=int(end - begin))
        index.add_items(vectors[begin:end])
        indexes.append((index, min(k, int(end - begin))))

    def run() -> list[Array]:
        return [
            index.knn_query(queries[i], width, num_threads=1)[1]
            for i, (index, width) in enumerate(indexes)
        ]

    return Step(run, answer=lambda found: _padded([1 - one[0] for one in found], k))


def usearch_loop(case: Case, inputs: Inputs, threads: int) -> Step:
    """`usearch.index.search(..., exact=True)` on the slice of each bank."""
    import usearch.index

    vectors, offsets, queries, k = _parts(case, inputs)
    slices = [vectors[begin:end] for begin, end in itertools.pairwise(offsets)]
    metric = usearch.index.MetricKind.IP

    def run() -> list[Any]:
        return [
            usearch.index.search(rows, query, min(k, len(rows)), metric, exact=True, threads=1)
            for rows, query in zip(slices, queries, strict=True)
        ]

    return Step(run, answer=lambda found: _padded([1 - one.distances for one in found], k))


def torch_bucketed(case: Case, inputs: Inputs, threads: int) -> Step:
    """Banks of about one size padded to a batch beforehand; `bmm` and `topk` a batch."""
    import torch

    vectors, offsets, queries, k = _parts(case, inputs)
    sizes = np.diff(offsets)
    order = np.argsort(sizes, kind="stable")
    buckets = []
    begin = 0
    while begin < len(order):
        limit = max(k, int(sizes[order[begin]] * BUCKET_RATIO))
        end = begin + int(np.searchsorted(sizes[order[begin:]], limit, side="right"))
        members = order[begin:end]
        width = max(k, int(sizes[members[-1]]))
        rows = torch.zeros(len(members), width, vectors.shape[1])
        missing = torch.zeros(len(members), width)
        for place, bank in enumerate(members):
            n = int(sizes[bank])
            rows[place, :n] = torch.from_numpy(vectors[offsets[bank] : offsets[bank] + n].copy())
            missing[place, n:] = -torch.inf
        buckets.append((torch.from_numpy(members), rows, missing))
        begin = end
    asked = torch.from_numpy(queries)

    def run() -> Any:
        out = torch.empty(len(asked), k)
        with torch.inference_mode():
            for members, rows, missing in buckets:
                scores = torch.baddbmm(missing[:, :, None], rows, asked[members, :, None])
                out[members] = torch.topk(scores[:, :, 0], k).values
        return out

    return Step(run, answer=lambda found: found.numpy())


def _parts(case: Case, inputs: Inputs) -> tuple[Array, Array, Array, int]:
    return inputs["vectors"], inputs["offsets"], inputs["queries"], case.k


def _padded(scores: list[Array], k: int) -> Array:
    out = np.full((len(scores), k), -np.inf, np.float32)
    for row, found in zip(out, scores, strict=True):
        row[: len(found)] = found
    return out

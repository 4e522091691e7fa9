"""Rivals at codebooks: assignment, the online step, k-means, search over product codes.

The answer of an assignment is minus the squared distances, (n, 1); of a step the mean one, (1, 1).
Of what cannot be compared row by row (other codebooks) the case checks nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..case import Case, Inputs, Prepare
from ..timing import Step

DECAY, SMOOTHING = 0.99, 1e-5


def of_assign() -> dict[str, Prepare]:
    """The rivals at assignment."""
    return {"faiss": faiss_assign, "sklearn": sklearn_assign, "torch": torch_assign}


def of_step() -> dict[str, Prepare]:
    """The rivals at the online step."""
    return {"torch": torch_step, "vqtorch": vqtorch_step}


def of_search() -> dict[str, Prepare]:
    """The rivals at search over product codes."""
    return {"faiss": faiss_search}


def of_kmeans() -> dict[str, Prepare]:
    """The rivals at k-means."""
    return {"faiss": faiss_kmeans, "sklearn": sklearn_kmeans}


def distances(rows: Any, words: Any, codes: Any) -> Any:
    """Minus the squared distance of each row to its codeword: (n, 1)."""
    out = np.empty((len(rows), 1), np.float32)
    for begin in range(0, len(rows), 4096):
        part = slice(begin, begin + 4096)
        gaps = rows[part] - words[codes[part]]
        out[part, 0] = -np.einsum("ij,ij->i", gaps, gaps)
    return out


def faiss_assign(case: Case, inputs: Inputs, threads: int) -> Step:
    """A flat index of the codewords."""
    import faiss

    rows, words = inputs["rows"], inputs["codewords"]
    index = faiss.IndexFlatL2(words.shape[1])
    index.add(words)
    return Step(lambda: index.search(rows, 1)[1], answer=lambda c: distances(rows, words, c[:, 0]))


def sklearn_assign(case: Case, inputs: Inputs, threads: int) -> Step:
    """`pairwise_distances_argmin`, which is what KMeans.predict does."""
    from sklearn.metrics import pairwise_distances_argmin

    rows, words = inputs["rows"], inputs["codewords"]
    return Step(
        lambda: pairwise_distances_argmin(rows, words),
        answer=lambda codes: distances(rows, words, codes),
    )


def torch_assign(case: Case, inputs: Inputs, threads: int) -> Step:
    """A product and argmax, a block of rows at a time."""
    import torch

    rows, words = _tensor(inputs["rows"]), _tensor(inputs["codewords"])
    halves = words.square().sum(1) / 2

    def run() -> Any:
        with torch.inference_mode():
            return torch.cat([(part @ words.T - halves).argmax(1) for part in rows.split(8192)])

    def answer(codes: Any) -> Any:
        return distances(inputs["rows"], inputs["codewords"], codes.numpy())

    return Step(run, answer=answer)


def torch_step(case: Case, inputs: Inputs, threads: int) -> Step:
    """The moving average written by hand: product, argmin, index_add, in place."""
    import torch

    rows, start = _tensor(inputs["rows"]), _tensor(inputs["codewords"])
    n_codes = len(start)
    share = len(rows) / n_codes
    words, sums = start.clone(), start * share
    counts = torch.full((n_codes,), share)

    def reset() -> None:
        words.copy_(start)
        sums.copy_(start * share)
        counts.fill_(share)

    def run() -> Any:
        with torch.inference_mode():
            codes = torch.addmm(words.square().sum(1), rows, words.T, alpha=-2).argmin(1)
            counts.mul_(DECAY).add_(torch.bincount(codes, minlength=n_codes), alpha=1 - DECAY)
            fresh = torch.zeros_like(sums).index_add_(0, codes, rows)
            sums.mul_(DECAY).add_(fresh, alpha=1 - DECAY)
            total = counts.sum()
            smoothed = (counts + SMOOTHING) / (total + n_codes * SMOOTHING) * total
            torch.div(sums, smoothed[:, None], out=words)
            return codes

    def answer(codes: Any) -> Any:
        return distances(inputs["rows"], words.numpy(), codes.numpy()).mean(0)[None]

    return Step(run, setup=reset, answer=answer, repeatable=False)


def vqtorch_step(case: Case, inputs: Inputs, threads: int) -> Step:
    """vector-quantize-pytorch in training mode, forward only, without its resets."""
    import torch
    from vector_quantize_pytorch import VectorQuantize

    rows, start = _tensor(inputs["rows"]), _tensor(inputs["codewords"])
    layer = VectorQuantize(start.shape[1], len(start), decay=DECAY, eps=SMOOTHING)
    layer.train()
    share = len(rows) / len(start)

    def reset() -> None:
        book = layer._codebook
        book.embed.data.copy_(start[None])
        book.embed_avg.data.copy_(start[None] * share)
        book.cluster_size.data.fill_(share)

    def run() -> Any:
        with torch.no_grad():
            return layer(rows[None])[1]

    def answer(codes: Any) -> Any:
        words = layer._codebook.embed[0].numpy()
        return distances(inputs["rows"], words, codes[0].numpy()).mean(0)[None]

    return Step(run, setup=reset, answer=answer, repeatable=False)


def faiss_search(case: Case, inputs: Inputs, threads: int) -> Step:
    """IndexPQ of the same shape, trained by itself."""
    import faiss

    n_subspaces, n_codes = inputs["shape"]
    rows, queries = inputs["rows"], inputs["queries"]
    index = faiss.IndexPQ(rows.shape[1], n_subspaces, int(n_codes).bit_length() - 1)
    index.train(rows[:20_000])
    index.add(rows)
    return Step(lambda: -index.search(queries, case.k)[0])


def faiss_kmeans(case: Case, inputs: Inputs, threads: int) -> Step:
    """faiss.Kmeans: random seeds, ten iterations, its own limit of 256 rows a code."""
    import faiss

    rows, n_codes, n_iterations = inputs["rows"], inputs["n_codes"], inputs["n_iterations"]

    def run() -> Any:
        kmeans = faiss.Kmeans(rows.shape[1], n_codes, niter=n_iterations, seed=1)
        kmeans.train(rows)
        return kmeans.centroids

    return Step(run, answer=lambda words: error(rows, words))


def sklearn_kmeans(case: Case, inputs: Inputs, threads: int) -> Step:
    """MiniBatchKMeans, three epochs."""
    from sklearn.cluster import MiniBatchKMeans

    rows, n_codes = inputs["rows"], inputs["n_codes"]

    def run() -> Any:
        kmeans = MiniBatchKMeans(
            n_codes, batch_size=4096, max_iter=3, n_init=1, random_state=0, max_no_improvement=None
        )
        return kmeans.fit(rows).cluster_centers_

    return Step(run, answer=lambda words: error(rows, words))


def error(rows: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Minus the mean squared distance of rows to their nearest codewords: (1, 1)."""
    from memcore.ops.codebook import assign

    _, scores = assign(rows, np.ascontiguousarray(words, np.float32))
    return np.full((1, 1), np.mean(scores))


def _tensor(array: np.ndarray) -> Any:
    """A copy: torch warns of arrays that may not be written to."""
    import torch

    return torch.from_numpy(array.copy())

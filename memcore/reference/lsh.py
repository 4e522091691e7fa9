"""Hashes of vectors: planes, codes and probes, as the compiled engine makes them bit for bit."""

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.reference.search import Floats, score, topk, widen

Codes = NDArray[np.uint64]

# The number of bits of each byte.
_BITS = np.array([i.bit_count() for i in range(256)], np.uint8)


def lsh_planes(n_planes: int, dim: int, seed: int, kind: str) -> NDArray[Any]:
    """Random directions: (n_planes, dim) int8 of +-1 ("signs"), or float32 ("gaussian").

    The signs are the bits, lowest first, of the raw 64-bit outputs of PCG64(seed), whose stream
    NumPy promises to keep. The Gaussian ones come from its `standard_normal`, for which it does
    not: keep such planes, not only their seed, if they must last.
    """
    source = np.random.PCG64(seed)
    if kind == "gaussian":
        return np.random.Generator(source).standard_normal((n_planes, dim)).astype(np.float32)
    words = np.asarray(source.random_raw(-(-n_planes * dim // 64)), "<u8").reshape(-1)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little")[: n_planes * dim]
    signs: NDArray[np.int8] = (2 * bits.reshape(n_planes, dim).astype(np.int8) - 1).astype(np.int8)
    return signs


def lsh_scores(vectors: NDArray[Any], planes: NDArray[Any]) -> Floats:
    """The canonical dots (n, n_planes) of vectors (n, dim) and planes (n_planes, dim)."""
    return score(widen(vectors), widen(planes), "dot")


def lsh_encode(vectors: NDArray[Any], planes: NDArray[Any], n_bits: int, kind: str) -> Codes:
    """The codes of vectors (n, dim): (n, n_tables) uint64 of n_bits each.

    Args:
        vectors: (n, dim), of any dtype that `widen` takes.
        planes: (n_planes, dim) int8 or float32; those of a table stand together.
        n_bits: bits of a code.
        kind: "sign": n_bits planes a table; bit i is set where the canonical dot with plane i is at
            least 0. "cross_polytope": 2^(n_bits - 1) planes a table; the code is the place of the
            largest of [dots; -dots], the smaller place where two are equal.
    """
    dots = lsh_scores(vectors, planes)
    if kind == "cross_polytope":
        largest: Codes = _both_ways(dots, n_bits).argmax(2).astype(np.uint64)
        return largest
    bits = (dots >= 0).reshape(len(dots), dots.shape[1] // n_bits, n_bits)
    weights = np.uint64(1) << np.arange(n_bits, dtype=np.uint64)
    codes: Codes = np.where(bits, weights, np.uint64(0)).sum(2, dtype=np.uint64)
    return codes


def lsh_probes(
    vectors: NDArray[Any], planes: NDArray[Any], n_bits: int, kind: str, n_probes: int
) -> Codes:
    """The n_probes likeliest codes of each table, likeliest first: (n, n_tables, n_probes) uint64.

    "sign": sets of flipped bits in the order of their cost, the sum of the squared dots of their
    planes (float64, added from the smallest dot up). Equal costs stand by the set's mask over the
    bits in that order. "cross_polytope": places of [dots; -dots], largest first.
    Lv, Josephson, Wang, Charikar, Li (2007), "Multi-Probe LSH"; Andoni, Indyk, Laarhoven,
    Razenshteyn, Schmidt (2015), "Practical and Optimal LSH for Angular Distance",
    arXiv:1509.02897.
    """
    dots = lsh_scores(vectors, planes)
    if kind == "cross_polytope":
        order = np.argsort(-_both_ways(dots, n_bits), axis=2, kind="stable")
        return order[:, :, :n_probes].astype(np.uint64)
    codes = lsh_encode(vectors, planes, n_bits, kind)
    margins = dots.reshape(*codes.shape, n_bits)
    probes = np.empty((*codes.shape, n_probes), np.uint64)
    for row, table in np.ndindex(*codes.shape):
        order = np.argsort(np.abs(margins[row, table]), kind="stable")
        costs = np.abs(margins[row, table][order]).astype(np.float64) ** 2
        for i, mask in enumerate(_cheapest_sets(costs.tolist(), n_probes)):
            flips = sum(1 << int(order[rank]) for rank in range(n_bits) if mask >> rank & 1)
            probes[row, table, i] = codes[row, table] ^ np.uint64(flips)
    return probes


def _both_ways(dots: Floats, n_bits: int) -> Floats:
    """Dots (n, n_planes) as [dots; -dots] of each table: (n, n_tables, 2^n_bits)."""
    each = dots.reshape(len(dots), dots.shape[1] >> (n_bits - 1), 1 << (n_bits - 1))
    return np.concatenate([each, -each], axis=2)


def _cheapest_sets(costs: list[float], n: int) -> list[int]:
    """The n cheapest sets of ranks as masks, the empty one first; costs rise with the rank."""
    found = [0]
    heap = [(costs[0], 1)] if costs else []
    while len(found) < n:
        _, mask = heapq.heappop(heap)
        found.append(mask)
        last = mask.bit_length() - 1
        if last + 1 == len(costs):
            continue
        # Each set comes from one other: its last rank moved on, or the next one added.
        for grown in (mask ^ (3 << last), mask | (2 << last)):
            ranks = [rank for rank in range(last + 2) if grown >> rank & 1]
            heapq.heappush(heap, (sum(costs[rank] for rank in ranks), grown))
    return found


def hamming_search(
    queries: Codes,
    keys: Codes,
    k: Any,
    mask: NDArray[np.bool_] | None,
    max_distance: int,
) -> tuple[Floats, NDArray[np.int64]]:
    """The k nearest codes of each query by Hamming distance.

    Args:
        queries: (n_queries, n_words) uint64.
        keys: (n_keys, n_words) uint64.
        k: one width for all, or (n_queries,).
        mask: (n_keys,) or (n_queries, n_keys); True = may be returned.
        max_distance: bits; farther codes are not returned.

    Returns:
        scores (n_queries, k) float32, minus the number of bits that differ, and ids: best first,
        equal scores by the smaller id, the rest -inf and -1.
    """
    scores = np.zeros((len(queries), len(keys)), np.float32)
    for i, query in enumerate(queries):
        different = np.ascontiguousarray(keys ^ query).view(np.uint8)
        scores[i] = -_BITS[different].sum(1, dtype=np.int64).astype(np.float32)
    scores[scores < -max_distance] = np.nan
    if mask is not None:
        scores[~np.broadcast_to(mask, scores.shape)] = np.nan
    return topk(scores, k)

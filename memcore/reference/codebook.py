"""Codebooks: assignment, sums per code, decoding, packed codes, search over codes.

A codebook has n_levels levels of n_subspaces parts, each of n_codes codewords of sub_dim = dim /
n_subspaces components: (n_levels, n_subspaces, n_codes, sub_dim). One of each is vector
quantisation, many subspaces are product quantisation (Jégou et al. 2011), many levels residual
quantisation: each level codes what the ones before leave.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memcore.reference.search import Floats, Ints, score, search, squares, topk, widen


def assign(rows: NDArray[np.generic], codewords: Floats) -> tuple[Ints, Floats]:
    """The nearest codeword of each row.

    Args:
        rows: (n, dim); float32, float16, bfloat16 as uint16 or int8.
        codewords: (n_codes, dim) float32, finite, n_codes at least 1.

    Returns:
        codes (n,) int64, equal distances to the smaller code, and the canonical l2 scores (n,)
        float32: minus the squared distances.
    """
    scores, codes = search(rows, codewords, 1, metric="l2")
    return codes[:, 0], scores[:, 0]


def codebook_sums(rows: NDArray[np.generic], codes: Ints, n_codes: int) -> tuple[Ints, Floats]:
    """How many rows each code has, and their sum.

    Args:
        rows: (n, dim).
        codes: (n,) int64 from 0 to n_codes - 1.
        n_codes: how many sums.

    Returns:
        counts (n_codes,) int64; sums (n_codes, dim) float32, each added up in the order of rows.
    """
    sums = np.zeros((n_codes, rows.shape[1]), np.float32)
    with np.errstate(all="ignore"):
        np.add.at(sums, codes, widen(rows))
    return np.bincount(codes, minlength=n_codes), sums


def codebook_ema(
    batch_sums: Floats, sums: Floats, decay: float, divisors: Floats
) -> tuple[Floats, Floats]:
    """One step of the exponential moving average of codewords (van den Oord et al. 2017, A.1).

    Args:
        batch_sums: (n_codes, dim) sums of this batch's rows by code.
        sums: (n_codes, dim) the running sums.
        decay: weight of the running sums; the batch has float32(1 - decay).
        divisors: (n_codes,) the running counts, smoothed.

    Returns:
        The running sums fl(fl(decay * sums) + fl((1 - decay) * batch_sums)), and the codewords:
        those divided by the divisors.
    """
    kept, new = np.float32(decay), np.float32(1 - decay)
    with np.errstate(all="ignore"):
        running = kept * sums + new * batch_sums
        return running, running / divisors[:, None]


def decode(codes: Ints, codewords: Floats) -> Floats:
    """The vectors that codes stand for.

    Args:
        codes: (n, n_levels, n_subspaces) int64.
        codewords: (n_levels, n_subspaces, n_codes, sub_dim).

    Returns:
        (n, n_subspaces * sub_dim) float32: the codewords of the subspaces side by side, levels
        added in their order.
    """
    n_levels, n_subspaces, _, sub_dim = codewords.shape
    parts = np.arange(n_subspaces)
    vectors: Floats = codewords[0, parts, codes[:, 0]]
    for level in range(1, n_levels):
        vectors = vectors + codewords[level, parts, codes[:, level]]
    return vectors.reshape(len(codes), n_subspaces * sub_dim)


def pack_codes(codes: Ints, n_bits: int) -> NDArray[np.uint8]:
    """Codes (n,) as a stream of n_bits each, lowest bit first: (ceil(n * n_bits / 8),) uint8."""
    bits = (codes[:, None] >> np.arange(n_bits)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little")


def unpack_codes(packed: NDArray[np.uint8], n: int, n_bits: int) -> Ints:
    """The n codes of a stream that `pack_codes` made: (n,) int64."""
    bits = np.unpackbits(packed, count=n * n_bits, bitorder="little").reshape(n, n_bits)
    codes: Ints = bits.astype(np.int64) @ (np.int64(1) << np.arange(n_bits))
    return codes


def search_codes(
    queries: NDArray[np.generic],
    codes: NDArray[Any],
    codewords: Floats,
    k: ArrayLike = 10,
    *,
    metric: str = "dot",
    squares: Floats | None = None,
) -> tuple[Floats, Ints]:
    """Find the k best rows that are known by their codes alone (Jégou et al. 2011, ADC).

    Args:
        queries: (n_queries, dim).
        codes: (n, n_levels * n_subspaces) uint8, uint16 or int32, level after level.
        codewords: (n_levels, n_subspaces, n_codes, sub_dim).
        k: as for `search`.
        metric: "dot" or "l2". With several levels l2 needs squares.
        squares: (n,) the canonical square of each decoded row; l2 is then
            fl(fl(2 * dot - square of the row) - square of the query).

    Returns:
        Scores and ids as from `search`. A row's score is the sum, in the order of its codes, of the
        canonical scores of the query's part and the codeword.
    """
    queries = widen(queries)
    n_levels, n_subspaces, _, sub_dim = codewords.shape
    table_metric = "dot" if squares is not None else metric
    total = np.zeros((len(queries), len(codes)), np.float32)
    with np.errstate(all="ignore"):
        for part in range(n_levels * n_subspaces):
            level, subspace = divmod(part, n_subspaces)
            own = queries[:, subspace * sub_dim : (subspace + 1) * sub_dim]
            table = score(own, codewords[level, subspace], table_metric)
            total = total + table[:, codes[:, part]]
        if squares is not None and metric == "l2":
            total = (np.float32(2) * total - squares) - _square(queries)
    return topk(total, k)


def _square(queries: Floats) -> Floats:
    return squares(queries)[:, None]

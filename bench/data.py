"""Inputs made from a shape and a seed, the same on every machine and in every process."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

Array = np.ndarray

# Clusters of about a hundred rows, as embedded text has; the noise puts about 0.7 between two rows
# of a cluster.
ROWS_PER_CLUSTER = 100
NOISE = 0.65
# The outlier set: this many dimensions are this many times larger.
N_OUTLIERS, OUTLIER = 4, 10.0
COPIES = 200

KINDS = ("mix", "near-duplicates", "outliers")


@lru_cache(maxsize=2)
def keys(kind: str, n: int, dim: int, seed: int) -> Array:
    """(n, dim) float32 rows of one of `KINDS`; do not write to them, they are cached."""
    rows = np.random.default_rng([seed, 1])
    out = _rows(kind, n, n, dim, seed, rows)
    out.flags.writeable = False
    return out


def queries(kind: str, n_queries: int, n: int, dim: int, seed: int) -> Array:
    """(n_queries, dim) float32 from the same places as `keys(kind, n, dim, seed)`."""
    return _rows(kind, n_queries, n, dim, seed, np.random.default_rng([seed, 2]))


def unit(rows: Array) -> Array:
    """The rows, each of length 1."""
    scaled: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def bank_sizes(kind: str, n_banks: int, mean: int, largest: int, seed: int) -> Array:
    """(n_banks,) rows of each bank: "equal", or "lognormal" (most banks small, a few large)."""
    if kind == "equal":
        return np.full(n_banks, mean, np.int64)
    rng = np.random.default_rng([seed, 3])
    spread = 0.8
    sizes = rng.lognormal(np.log(mean) - spread**2 / 2, spread, n_banks)
    return np.clip(np.rint(sizes), 1, largest).astype(np.int64)


def _rows(kind: str, count: int, n: int, dim: int, seed: int, rng: np.random.Generator) -> Array:
    per_centre = COPIES if kind == "near-duplicates" else ROWS_PER_CLUSTER
    centres = np.random.default_rng([seed, 0]).standard_normal(
        (max(1, n // per_centre), dim), np.float32
    )
    out = rng.standard_normal((count, dim), np.float32)
    out *= np.float32(0.02 if kind == "near-duplicates" else NOISE)
    # A block at a time: the gathered centres of a million rows would double the memory.
    chosen = rng.integers(len(centres), size=count)
    for begin in range(0, count, 65536):
        out[begin : begin + 65536] += centres[chosen[begin : begin + 65536]]
    if kind == "outliers":
        out[:, :N_OUTLIERS] *= np.float32(OUTLIER)
    out /= np.sqrt(np.einsum("ij,ij->i", out, out))[:, None]
    return out

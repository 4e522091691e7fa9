"""Searches drawn at random, of any kind and option, against the definition."""

import numpy as np
import pytest

import memcore
from cases import METRICS, near_ties, normal, unit
from compare import assert_hits
from memcore import reference

KINDS = {
    "normal": lambda rng, n, dim: normal(rng, n, dim),
    "unit": lambda rng, n, dim: unit(normal(rng, n, dim)),
    "offset": lambda rng, n, dim: normal(rng, n, dim) + np.float32(rng.uniform(-100, 100)),
    "positive": lambda rng, n, dim: np.abs(normal(rng, n, dim)),
    "coarse": lambda rng, n, dim: np.round(normal(rng, n, dim)),
    "sparse": lambda rng, n, dim: normal(rng, n, dim) * (rng.random((n, dim)) < 0.1),
    "spread_rows": lambda rng, n, dim: normal(rng, n, dim) * powers(rng, -15, 15, (n, 1)),
    "spread_columns": lambda rng, n, dim: normal(rng, n, dim) * powers(rng, -15, 15, dim),
    "spread": lambda rng, n, dim: normal(rng, n, dim) * powers(rng, -30, 15, (n, dim)),
    "tiny": lambda rng, n, dim: normal(rng, n, dim) * np.float32(1e-38),
    "near": lambda rng, n, dim: near_ties(normal(rng, dim), n, rng),
    "copies": lambda rng, n, dim: normal(rng, 3, dim)[rng.integers(0, 3, n)],
}


def powers(rng, low, high, shape):
    return (10.0 ** rng.uniform(low, high, shape)).astype(np.float32)


def random_options(rng, queries, keys, metric):
    n_queries, n_keys = len(queries), len(keys)
    options = {}
    if rng.random() < 0.3:
        shape = (n_queries, n_keys) if rng.random() < 0.5 else n_keys
        options["mask"] = rng.random(shape) < rng.random()
    if rng.random() < 0.2:
        shape = n_queries, int(rng.integers(0, 2 * n_keys))
        options["candidates"] = rng.integers(-1, n_keys, shape)
    if rng.random() < 0.2:
        options["scale"] = normal(rng, n_keys) * powers(rng, -5, 5, ())
    if rng.random() < 0.2:
        options["bias"] = normal(rng, n_keys) * powers(rng, -5, 5, ())
    if rng.random() < 0.3:
        # Bounds that are themselves scores.
        scores = np.sort(reference.score(queries[:1], keys, metric)[0])
        low, high = np.sort(rng.integers(0, n_keys, 2))
        options["min_score"] = float(scores[low])
        if rng.random() < 0.5:
            options["max_score"] = float(scores[high])
    return options


def check_some(rng, rounds):
    for i in range(rounds):
        kind = str(rng.choice(list(KINDS)))
        metric = str(rng.choice(METRICS))
        n_queries, dim = int(rng.integers(1, 40)), int(rng.integers(1, 200))
        n_keys = int(2 ** rng.uniform(0, 11))
        queries, keys = KINDS[kind](rng, n_queries, dim), KINDS[kind](rng, n_keys, dim)
        queries = queries.astype(np.float32)
        keys = keys.astype(np.float32)
        if rng.random() < 0.3:
            keys = np.concatenate([keys, queries])
        k = int(2 ** rng.uniform(0, 8))
        options = random_options(rng, queries, keys, metric)
        expected = reference.search(queries, keys, k, metric=metric, **options)
        what = f"round {i}: {kind}, {metric}, dim {dim}, {len(keys)} keys, k={k}, {list(options)}"
        assert_hits(memcore.search(queries, keys, k, metric=metric, **options), expected, what)


def test_random_searches(isa, rng):
    check_some(rng, 150)


@pytest.mark.slow
def test_many_random_searches(isa, rng):
    check_some(rng, 10000)

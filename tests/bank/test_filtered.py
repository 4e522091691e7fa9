"""Search under conditions that allow many rows, few or none: by the first pass, or row by row."""

import numpy as np
import pytest

import memcore
from cases import METRICS, normal
from compare import assert_hits
from memcore import reference

N_ROWS, DIM = 3000, 37
SHARES = (1.0, 0.5, 0.15, 0.09, 0.05, 0.01, 0.001, 0.0)


def filled(rng, metric):
    """A bank whose field `rank` is a permutation, its rows, the ranks, and the weights."""
    rows, ranks = normal(rng, N_ROWS, DIM), rng.permutation(N_ROWS)
    rows[1::7] = rows[::7][: len(rows[1::7])]
    weight = np.round(rng.random(N_ROWS) * 3, 1) - 1
    bank = memcore.Bank(DIM, metric=metric, fields={"rank": "int64", "weight": "float64"})
    bank.add(rows, fields={"rank": ranks, "weight": weight})
    return bank, rows, ranks, weight.astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_queries", [1, 2, 40])
def test_any_share_of_rows(metric, n_queries, isa, threads, rng):
    bank, rows, ranks, weight = filled(rng, metric)
    queries = np.concatenate([rows[:1], normal(rng, n_queries, DIM)])[:n_queries]
    for n_threads in (1, 3):
        threads(n_threads)
        for share in SHARES:
            bound = int(share * N_ROWS)
            where = {"rank": {"lt": bound}}
            for k in (0, 1, 10, 200):
                mask = ranks < bound
                expected = reference.search(queries, rows, k, metric=metric, mask=mask)
                assert_hits(bank.search(queries, k, where=where), expected, f"{share}, k={k}")
            options = {"scale": weight, "bias": weight, "min_score": -0.5, "max_score": 0.9}
            expected = reference.search(queries, rows, 9, metric=metric, mask=mask, **options)
            options.update(scale="weight", bias="weight")
            assert_hits(bank.search(queries, 9, where=where, **options), expected, f"{share}")


def test_each_query_its_condition_and_its_fork(threads, rng):
    threads(2)
    arena = memcore.Arena(DIM, fields={"rank": "int64"})
    parent = arena.new(1)
    rows, ranks = normal(rng, N_ROWS, DIM), rng.permutation(N_ROWS)
    ids = arena.add(parent, rows, fields={"rank": ranks})
    forks = arena.fork(parent, 12).reshape(-1)
    gone = ids[ranks < 3]
    arena.delete(np.repeat(forks[1::2], 3), np.tile(gone, 6))
    queries = normal(rng, 12, DIM)
    bounds = [int(share * N_ROWS) for share in (*SHARES, 0.02, 0.2, 0.003, 0.7)]
    hits = arena.search(forks, queries, 6, where=[{"rank": {"lt": bound}} for bound in bounds])
    mask = (ranks < np.array(bounds)[:, None]) & ~((np.arange(12) % 2 == 1)[:, None] & (ranks < 3))
    assert_hits(hits, reference.search(queries, rows, 6, metric="cosine", mask=mask))

"""Forks of large banks that have come apart: each search is as if its fork were alone."""

import numpy as np
import pytest

import memcore
from cases import METRICS, normal
from compare import assert_hits
from memcore import reference

N_ROWS, DIM, N_FORKS = 1900, 24, 13


@pytest.mark.parametrize("metric", METRICS)
def test_forks_that_share_some_pages(metric, isa, threads, rng):
    arena = memcore.Arena(DIM, metric=metric)
    parent = arena.new(1)
    rows = normal(rng, N_ROWS, DIM)
    arena.add(parent, rows)
    forks = arena.fork(parent, N_FORKS).reshape(-1)
    held = np.repeat(rows[None], N_FORKS, 0)
    mask = np.ones((N_FORKS, N_ROWS), bool)
    for i in range(1, N_FORKS):
        # Some forks differ in one page, some in many; some have lost rows of the last one.
        changed = rng.choice(N_ROWS - 20, rng.integers(1, 6), replace=False)
        held[i, changed] = normal(rng, len(changed), DIM)
        arena.update(forks[i], changed, held[i, changed])
        if i % 3 == 0:
            gone = np.arange(N_ROWS - rng.integers(1, 20), N_ROWS)
            arena.delete(forks[i], gone)
            mask[i, gone] = False
    queries = normal(rng, N_FORKS * 2, DIM)
    order = rng.permutation(np.repeat(np.arange(N_FORKS), 2))
    expected = [
        reference.search(queries[q : q + 1], held[i], 7, metric=metric, mask=mask[i])
        for q, i in enumerate(order)
    ]
    expected = tuple(np.concatenate(parts) for parts in zip(*expected, strict=True))
    for n_threads in (1, 2):
        threads(n_threads)
        assert_hits(arena.search(forks[order], queries, 7), expected, f"{n_threads} threads")

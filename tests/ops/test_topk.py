"""topk on every engine against the definition."""

import numpy as np
import pytest

import memcore
from cases import SIZES, rows_of_scores
from compare import assert_hits
from memcore import reference


@pytest.mark.parametrize("n", [0, *SIZES, 20000])
def test_every_width(backend, n, rng):
    scores = rows_of_scores(rng, 4, n)
    for k in (0, 1, 2, 10, 64, 100, n // 2, max(n - 1, 0), n, n + 5):
        hits = memcore.topk(scores, k, backend=backend)
        assert_hits(hits, reference.topk(scores, k), f"n={n}, k={k}")


def test_by_hand(backend):
    scores = np.array([1, np.nan, -0.0, 3, 0.0, -np.inf, 3], np.float32)
    hits = memcore.topk(scores, 8, backend=backend)
    assert hits.ids.tolist() == [[3, 6, 0, 2, 4, 5, -1, -1]]
    assert hits.scores.tolist() == [[3, 3, 1, 0, 0, -np.inf, -np.inf, -np.inf]]
    assert not np.signbit(hits.scores[0, 3:5]).any()


def test_k_per_query(backend, rng):
    scores, k = rows_of_scores(rng, 5, 50), np.array([0, 3, 50, 60, 1])
    assert_hits(memcore.topk(scores, k, backend=backend), reference.topk(scores, k))
    assert_hits(memcore.topk(scores, k.tolist(), backend=backend), reference.topk(scores, k))


def test_every_container(backend, container, rng):
    scores = rows_of_scores(rng, 6, 80)
    expected = reference.topk(container.numbers(scores), 33)
    hits = memcore.topk(container.wrap(scores), 33, backend=backend)
    assert (type(hits.scores).__module__ == "torch") == container.is_torch
    assert_hits(hits, expected)


def test_threads_change_nothing(isa, threads, rng):
    scores = rows_of_scores(rng, 200, 500)
    expected = reference.topk(scores, 20)
    for n_threads in (1, 2, 5):
        threads(n_threads)
        assert_hits(memcore.topk(scores, 20), expected)


def test_no_rows(backend):
    assert memcore.topk(np.empty((0, 5), np.float32), 3, backend=backend).ids.shape == (0, 3)


def test_a_cube_is_refused(backend):
    with pytest.raises(memcore.ShapeError, match=r"^topk: scores has shape \(2, 2, 2\), should be"):
        memcore.topk(np.zeros((2, 2, 2)), 3, backend=backend)


def test_words_are_refused(backend):
    with pytest.raises(memcore.DtypeError, match=r"^topk: scores has dtype <U1"):
        memcore.topk(["a", "b"], 1, backend=backend)

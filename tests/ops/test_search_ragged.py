"""search_ragged on every engine against the definition."""

import numpy as np
import pytest

import memcore
from cases import METRICS, normal
from compare import assert_hits
from memcore import reference


def segments_of(rng, n_segments, most):
    """Offsets of segments of 0 to `most` rows, some of them empty."""
    sizes = rng.integers(0, most + 1, n_segments)
    sizes[rng.random(n_segments) < 0.1] = 0
    return np.concatenate([[0], np.cumsum(sizes)])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("most", [3, 40, 300])
def test_one_query_per_segment(backend, most, metric, rng):
    offsets = segments_of(rng, 40, most)
    queries, keys = normal(rng, 40, 33), normal(rng, int(offsets[-1]), 33)
    expected = reference.search_ragged(queries, keys, offsets, np.arange(40), 7, metric=metric)
    hits = memcore.search_ragged(queries, keys, offsets, 7, metric=metric, backend=backend)
    assert_hits(hits, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_segments_in_any_order_and_repeated(backend, metric, rng):
    offsets = segments_of(rng, 20, 100)
    segments = rng.integers(0, 20, 90)
    queries, keys = normal(rng, 90, 20), normal(rng, int(offsets[-1]), 20)
    expected = reference.search_ragged(queries, keys, offsets, segments, 10, metric=metric)
    for form in (segments, segments.astype(np.int32), segments.tolist(), segments[::-1][::-1]):
        hits = memcore.search_ragged(
            queries, keys, offsets, segments=form, metric=metric, backend=backend
        )
        assert_hits(hits, expected)


def test_every_option(backend, rng):
    offsets = segments_of(rng, 12, 80)
    n, segments = int(offsets[-1]), rng.integers(0, 12, 30)
    queries, keys, k = normal(rng, 30, 17), normal(rng, n, 17), rng.integers(0, 30, 30)
    # Half of the candidates lie in the segment that is asked for.
    named = rng.integers(-1, n, (30, 60))
    inside = offsets[segments][:, None] + rng.integers(0, 20, (30, 60))
    named = np.where(rng.random((30, 60)) < 0.5, np.minimum(inside, n - 1), named)
    every = {
        "mask": rng.random((30, n)) < 0.7,
        "candidates": named,
        "scale": normal(rng, n),
        "bias": normal(rng, n),
        "min_score": -2.0,
        "max_score": 3.0,
    }
    choices = [{name: value} for name, value in every.items()]
    for options in ({}, *choices, {"mask": every["mask"][0]}, every):
        expected = reference.search_ragged(queries, keys, offsets, segments, k, **options)
        hits = memcore.search_ragged(
            queries, keys, offsets, k, segments=segments, backend=backend, **options
        )
        assert_hits(hits, expected, ", ".join(options))


def test_one_segment_is_a_search(backend, rng):
    queries, keys = normal(rng, 6, 20), normal(rng, 200, 20)
    hits = memcore.search_ragged(queries, keys, [0, 200], segments=[0] * 6, backend=backend)
    assert_hits(hits, memcore.search(queries, keys, backend=backend))


def test_rows_outside_all_segments_are_not_found(backend, rng):
    queries, keys = normal(rng, 2, 20), normal(rng, 100, 20)
    hits = memcore.search_ragged(queries, keys, [20, 50, 90], 100, backend=backend)
    found = [set(row[row >= 0].tolist()) for row in hits.ids]
    assert found == [set(range(20, 50)), set(range(50, 90))]


def test_every_container(backend, container, rng):
    offsets = segments_of(rng, 9, 50)
    queries, keys = normal(rng, 9, 20), normal(rng, int(offsets[-1]), 20)
    expected = reference.search_ragged(
        container.numbers(queries), container.numbers(keys), offsets, np.arange(9), 5
    )
    hits = memcore.search_ragged(
        container.wrap(queries), container.wrap(keys), offsets, 5, backend=backend
    )
    assert_hits(hits, expected)


def test_threads_change_nothing(isa, threads, rng):
    offsets = segments_of(rng, 300, 60)
    segments = rng.integers(0, 300, 700)
    queries, keys = normal(rng, 700, 24), normal(rng, int(offsets[-1]), 24)
    expected = reference.search_ragged(queries, keys, offsets, segments, 10)
    for n_threads in (1, 2, 5):
        threads(n_threads)
        hits = memcore.search_ragged(queries, keys, offsets, segments=segments)
        assert_hits(hits, expected, f"{n_threads} threads")


@pytest.mark.parametrize(
    ("offsets", "segments", "error", "sentence"),
    [
        ([[0, 5]], None, memcore.ShapeError, r"offsets has shape \(1, 2\), should be"),
        ([], None, memcore.ShapeError, r"offsets has shape \(0,\), should be"),
        ([0, 5], None, memcore.ShapeError, "queries has 2 rows, should have 1"),
        ([0, 7, 5], None, memcore.InputError, "offsets falls after position 1"),
        ([0, 5, 11], None, memcore.InputError, "offsets goes from 0 to 11, should stay in 0 to 10"),
        ([-1, 5, 10], None, memcore.InputError, "offsets goes from -1 to 10"),
        ([0.0, 5.0], [0, 0], memcore.DtypeError, "offsets has dtype float64, should be int64"),
        ([0, 5], [0], memcore.ShapeError, r"segments has shape \(1,\), should be \(2,\)"),
        ([0, 5], [0, 1], memcore.InputError, r"segments\[1\] is 1, should be from 0 to 0"),
        ([0, 5], [-1, 0], memcore.InputError, r"segments\[0\] is -1, should be from 0 to 0"),
        ([0, 5], [True, False], memcore.DtypeError, "segments has dtype bool, should be int64"),
    ],
)
def test_bad_segments_are_refused(offsets, segments, error, sentence, backend):
    queries, keys = np.ones((2, 4), np.float32), np.ones((10, 4), np.float32)
    with pytest.raises(error, match=f"^search_ragged: {sentence}"):
        memcore.search_ragged(queries, keys, offsets, segments=segments, backend=backend)


def test_a_bad_query_is_refused(backend):
    queries, keys = np.ones((2, 4), np.float32), np.ones((10, 4), np.float32)
    queries[1, 2] = np.nan
    with pytest.raises(memcore.InputError, match=r"^search_ragged: queries row 1 is not finite"):
        memcore.search_ragged(queries, keys, [0, 5, 10], backend=backend)

"""Hamming search on every engine against the definition, and by hand."""

import numpy as np
import pytest

import memcore
from compare import assert_hits
from memcore import reference


def codes_of(rng, n, n_words, flip=0.5):
    """Random codes around a few centres, so that distances and ties abound."""
    centres = rng.integers(0, 1 << 64, (3, n_words), dtype=np.uint64)
    bits = rng.random((n, n_words, 64)) < flip * rng.random((n, 1, 1))
    noise = np.packbits(bits, axis=-1, bitorder="little").view(np.uint64)[..., 0]
    return centres[rng.integers(3, size=n)] ^ noise


def search(queries, keys, k=10, **options):
    return memcore.search(queries, keys, k, metric="hamming", **options)


def expected(queries, keys, k, mask=None, max_distance=1 << 20):
    return reference.hamming_search(queries, keys, k, mask, max_distance)


@pytest.mark.parametrize("n_words", [1, 2, 3, 4, 5, 16, 17])
def test_every_width_and_size(backend, n_words, rng):
    for n_keys in (0, 1, 63, 64, 255, 256, 257, 2000):
        keys = codes_of(rng, n_keys, n_words)
        for n_queries in (1, 3, 16, 33):
            queries = codes_of(rng, n_queries, n_words)
            queries[: min(n_queries, n_keys) // 2] = keys[: min(n_queries, n_keys) // 2]
            for k in (0, 1, 10, n_keys, n_keys + 3):
                hits = search(queries, keys, k, backend=backend)
                assert_hits(hits, expected(queries, keys, k), f"{n_words} {n_keys} {n_queries} {k}")


def test_distances_of_all_bits(backend):
    # 256 bits that differ do not fit a byte.
    keys = np.array([[~np.uint64(0)] * 4, [0] * 4, [1, 0, 0, 0]], np.uint64)
    queries = np.zeros((20, 4), np.uint64)
    hits = search(queries, keys, 3, backend=backend)
    assert hits.scores[19].tolist() == [0, -1, -256]
    assert hits.ids[19].tolist() == [1, 2, 0]
    assert not np.signbit(hits.scores[0, 0])


def test_by_hand(backend):
    keys = np.array([[0b1111], [0b0001], [0b0111], [0b0010]], np.uint64)
    hits = search([0b0011], keys, 3, backend=backend)
    assert hits.ids.tolist() == [[1, 2, 3]]
    assert hits.scores.tolist() == [[-1, -1, -1]]
    assert search([0b0011], keys, 3, min_score=-0.5, backend=backend).ids.tolist() == [[-1, -1, -1]]
    assert search([0b1111], keys, 3, min_score=-1, backend=backend).ids.tolist() == [[0, 2, -1]]


def test_masks_bounds_and_counts(backend, rng):
    keys, queries = codes_of(rng, 700, 2), codes_of(rng, 20, 2)
    shared, own = rng.random(700) < 0.5, rng.random((20, 700)) < 0.1
    k = rng.integers(0, 30, 20)
    for mask in (None, shared, own, own[:, ::-1], np.zeros(700, bool)):
        for low in (None, -40, -40.5, 0, 1):
            hits = search(queries, keys, k, mask=mask, min_score=low, backend=backend)
            most = 128 if low is None else int(np.floor(-low))
            assert_hits(hits, expected(queries, keys, k, mask, most), f"{low}")
            one = search(
                queries[:1],
                keys,
                5,
                mask=None if mask is None else mask[..., :][:1] if mask.ndim == 2 else mask,
                min_score=low,
                backend=backend,
            )
            first = None if mask is None else mask[:1] if mask.ndim == 2 else mask
            assert_hits(one, expected(queries[:1], keys, 5, first, most))


def test_bytes_are_words(backend, rng):
    keys, queries = codes_of(rng, 50, 2), codes_of(rng, 4, 2)
    wanted = expected(queries, keys, 5)
    assert_hits(search(queries.view(np.uint8), keys.view(np.uint8), 5, backend=backend), wanted)
    assert_hits(search(queries.view(np.int64), keys, 5, backend=backend), wanted)
    assert_hits(search(queries, np.asfortranarray(keys), 5, backend=backend), wanted)


def test_threads_and_parts_change_nothing(isa, threads, rng):
    # More codes than one part, in few distances: ties across the parts.
    keys = rng.integers(0, 1 << 12, (300_000, 1), dtype=np.uint64)
    queries = rng.integers(0, 1 << 12, (18, 1), dtype=np.uint64)
    wanted = expected(queries, keys, 50)
    for n_threads in (1, 2, 5):
        threads(n_threads)
        assert_hits(search(queries, keys, 50), wanted)
        assert_hits(search(queries[:2], keys, 50), tuple(part[:2] for part in wanted))


def test_bad_arguments(backend):
    codes = np.zeros((3, 2), np.uint64)
    for queries, keys, error, words in (
        (codes, codes[:, :1], memcore.ShapeError, r"queries has shape \(3, 2\) and keys \(3, 1\)"),
        (codes, codes.astype(float), memcore.DtypeError, "keys has dtype float64"),
        (codes.astype(np.uint8), codes, memcore.DtypeError, "queries has dtype uint8"),
        (codes[:, :0], codes[:, :0], memcore.ShapeError, "queries has shape"),
    ):
        with pytest.raises(error, match=f"^search: {words}"):
            search(queries, keys, 3, backend=backend)
    with pytest.raises(memcore.InputError, match=r"^search: k is -1"):
        search(codes, codes, -1, backend=backend)
    with pytest.raises(memcore.InputError, match=r"^search: scale is given, should not be with"):
        search(codes, codes, 1, scale=np.ones(3), backend=backend)

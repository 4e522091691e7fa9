"""The kernels of Hamming search against the definition, by equality: interpreted, or on a GPU."""

import numpy as np
import pytest

import memcore
from compare import assert_hits
from memcore import reference

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from memcore import kernels  # noqa: E402
from on_device import DEVICE, tensor  # noqa: E402


def codes_of(rng, n, n_words, flip=0.5):
    """Random codes around a few centres, so that distances and ties abound."""
    centres = rng.integers(0, 1 << 64, (3, n_words), dtype=np.uint64)
    bits = rng.random((n, n_words, 64)) < flip * rng.random((n, 1, 1))
    noise = np.packbits(bits, axis=-1, bitorder="little").view(np.uint64)[..., 0]
    return centres[rng.integers(3, size=n)] ^ noise


def search(queries, keys, k, **options):
    given = {n: tensor(v) if isinstance(v, np.ndarray) else v for n, v in options.items()}
    hits = memcore.search(
        tensor(queries), tensor(keys), k, metric="hamming", backend="triton", **given
    )
    assert hits.ids.device.type == DEVICE
    return tuple(each.cpu().numpy() for each in hits)


def expected(queries, keys, k, mask=None, max_distance=1 << 20):
    return reference.hamming_search(queries, keys, k, mask, max_distance)


@pytest.mark.parametrize(
    ("n_words", "n_keys", "n_queries", "k"),
    [
        (1, 0, 2, 3),
        (1, 1, 1, 4),
        (1, 500, 3, 10),
        (2, 129, 9, 129),
        (3, 200, 1, 0),
        (4, 1100, 9, 10),
        (4, 3000, 1, 50),
        (5, 40, 2, 43),
        (16, 300, 4, 7),
    ],
)
def test_every_width_and_size(n_words, n_keys, n_queries, k, rng):
    keys, queries = codes_of(rng, n_keys, n_words), codes_of(rng, n_queries, n_words)
    queries[: min(n_queries, n_keys) // 2] = keys[: min(n_queries, n_keys) // 2]
    assert_hits(search(queries, keys, k), expected(queries, keys, k))


@pytest.mark.parametrize("n_queries", [1, 3])
def test_ties_across_all_parts_go_to_the_smaller_id(n_queries, rng):
    # Few distances, so that each part has many keys as far as the farthest.
    keys = rng.integers(0, 1 << 4, (2100, 1), dtype=np.uint64)
    queries = rng.integers(0, 1 << 4, (n_queries, 1), dtype=np.uint64)
    for k in (1, 150):
        assert_hits(search(queries, keys, k), expected(queries, keys, k))


def test_more_hits_than_are_ranked(monkeypatch, rng):
    monkeypatch.setattr(kernels.hamming, "_RANKED", 20)
    keys, queries = codes_of(rng, 400, 2), codes_of(rng, 3, 2)
    k = np.array([0, 31, 60])
    mask = rng.random((3, 400)) < 0.1
    assert_hits(search(queries, keys, k, mask=mask), expected(queries, keys, k, mask))


def test_queries_in_turns(monkeypatch, rng):
    monkeypatch.setattr(kernels.workspace, "WORKSPACE", 1)
    keys, queries = codes_of(rng, 60, 1), codes_of(rng, 11, 1)
    mask, k = rng.random((11, 60)) < 0.5, rng.integers(0, 9, 11)
    assert_hits(search(queries, keys, k, mask=mask), expected(queries, keys, k, mask))


def test_masks_bounds_and_counts(rng):
    keys, queries = codes_of(rng, 300, 2), codes_of(rng, 9, 2)
    shared, own = rng.random(300) < 0.5, rng.random((9, 300)) < 0.1
    k = rng.integers(0, 30, 9)
    for mask, low in (
        (None, -40),
        (shared, None),
        (own, -40.5),
        (own[:, ::-1], 0),
        (shared, 1),
        (np.zeros(300, bool), -128),
    ):
        most = 128 if low is None else int(np.floor(-low))
        hits = search(queries, keys, k, mask=mask, min_score=low)
        assert_hits(hits, expected(queries, keys, k, mask, most), f"{low}")


def test_bytes_are_words(rng):
    keys, queries = codes_of(rng, 50, 2), codes_of(rng, 4, 2)
    wanted = expected(queries, keys, 5)
    assert_hits(search(queries.view(np.uint8), keys.view(np.uint8), 5), wanted)
    assert_hits(search(queries.view(np.int64), keys, 5), wanted)
    one = memcore.search(
        tensor(queries[0]), tensor(keys)[:, :], 5, metric="hamming", backend="triton"
    )
    assert_hits(tuple(each.cpu().numpy() for each in one), tuple(each[:1] for each in wanted))


def test_what_it_refuses():
    codes = np.zeros((3, 2), np.uint64)
    for queries, keys, error, words in (
        (codes, codes[:, :1], memcore.ShapeError, r"queries has shape \(3, 2\) and keys \(3, 1\)"),
        (codes, codes.astype(float), memcore.DtypeError, "keys has dtype torch.float64"),
        (codes.astype(np.uint8), codes, memcore.DtypeError, "queries has dtype torch.uint8"),
        (codes[:, :0], codes[:, :0], memcore.ShapeError, "queries has shape"),
        (
            np.zeros((1, 256), np.uint64),
            np.zeros((1, 256), np.uint64),
            memcore.BackendError,
            "codes",
        ),
    ):
        with pytest.raises(error, match=f"^search: {words}"):
            search(queries, keys, 3)
    with pytest.raises(memcore.InputError, match=r"^search: k is -1"):
        search(codes, codes, -1)
    with pytest.raises(memcore.ShapeError, match=r"^search: mask has shape \(2,\)"):
        search(codes, codes, 1, mask=np.ones(2, bool))

"""Codebook ops on every engine against the definition, and the definition against NumPy."""

import copy

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore import DtypeError, InputError, ShapeError, reference
from memcore.ops import codebook as ops
from memcore.ops.kmeans import kmeans, seeds

SHAPES = [
    (200, 64, 3),
    (90, 100, 8),
    (0, 3, 4),
    (1, 1, 1),
    (7, 5, 3),
    (40, 33, 16),
    (300, 700, 17),
    (130, 1500, 64),
]


@pytest.mark.parametrize(("n", "n_codes", "dim"), SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_assign_is_the_definition(backend, n, n_codes, dim, dtype, rng):
    rows = (normal(rng, n, dim) * (20 if dtype == "int8" else 1)).astype(dtype)
    words = normal(rng, n_codes, dim)
    codes, scores = ops.assign(rows, words, backend=backend)
    expected = reference.assign(rows, words)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


def test_assign_gives_ties_to_the_smaller_code(backend, rng):
    words = np.repeat(normal(rng, 300, 32), 3, axis=0)
    rows = words[rng.integers(0, 900, 500)]
    codes, scores = ops.assign(rows, words, backend=backend)
    assert (codes % 3 == 0).all()
    assert (scores == 0).all()
    np.testing.assert_array_equal(words[codes], rows)


# Components of eight whose int8 products are added in one 16-bit lane, and signs that fill it.
FOURS = [(0, 1, 4, 5), (2, 3, 6, 7)]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n_same", [1, 2, 3, 4])
@pytest.mark.parametrize("n_codes", [300, 17])
def test_assign_where_the_sums_of_the_first_pass_are_largest(backend, sign, n_same, n_codes, rng):
    rows = 0.01 * normal(rng, 64, 24)
    for i, row in enumerate(rows):
        lane = list(FOURS[i % 2])
        rng.shuffle(lane)
        row[[8 * (i % 3) + at for at in lane[:n_same]]] = sign
    # Codes of 127, the largest there are, wherever a row is large, and rivals that are near.
    words = np.ones((n_codes, 24), np.float32) - 0.01 * rng.random((n_codes, 24), np.float32)
    words[1::3] *= -1
    words[2::3] *= np.sign(normal(rng, len(words[2::3]), 24))
    expected = reference.assign(rows, words)
    codes, scores = ops.assign(rows, words, backend=backend)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.parametrize("n_codes", [20, 400])
@pytest.mark.parametrize("kind", ["zero", "tiny", "small", "large", "copies", "mixed"])
def test_assign_at_the_edges_of_the_certificate(backend, n_codes, kind, rng):
    rows, words = normal(rng, 150, 40), normal(rng, n_codes, 40)
    rows[3], words[7] = 0, 0
    if kind == "tiny":
        rows, words = rows * np.float32(1e-38), words * np.float32(1e-38)
    if kind == "small":
        rows[::2] *= np.float32(1e-30)
        words[::3] *= np.float32(1e-12)
    if kind == "large":
        rows, words = rows * np.float32(1e17), words * np.float32(1e16)
        words[5] *= 10
    if kind == "copies":
        words = words[rng.integers(0, 4, n_codes)]
        rows[::2] = words[rng.integers(0, n_codes, 75)]
    if kind == "mixed":
        words *= (10.0 ** rng.uniform(-6, 6, (n_codes, 1))).astype(np.float32)
    expected = reference.assign(rows, words)
    codes, scores = ops.assign(rows, words, backend=backend)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


def test_assign_names_the_first_bad_row_of_many(backend, rng):
    rows, words = normal(rng, 5000, 8), normal(rng, 300, 8)
    rows[[4321, 4900]] = np.nan
    with pytest.raises(InputError, match="assign: rows row 4321 is not finite"):
        ops.assign(rows, words, backend=backend)


def test_assign_finds_the_nearest(backend, rng):
    rows, words = normal(rng, 50, 24), normal(rng, 60, 24)
    codes, scores = ops.assign(rows, words, backend=backend)
    distances = ((rows[:, None].astype(np.float64) - words) ** 2).sum(2)
    np.testing.assert_array_equal(codes, distances.argmin(1))
    np.testing.assert_allclose(-scores, distances.min(1), rtol=1e-5)


def test_assign_of_a_column_slice_and_a_transpose(backend, rng):
    rows, words = normal(rng, 200, 48), normal(rng, 300, 16)
    expected = reference.assign(rows[:, 16:32], words)
    for given in (rows[:, 16:32], np.asfortranarray(rows)[:, 16:32]):
        codes, scores = ops.assign(given, words, backend=backend)
        np.testing.assert_array_equal(codes, expected[0])
        np.testing.assert_array_equal(scores, expected[1])


def test_assign_refuses(backend):
    rows, words = np.ones((3, 4), np.float32), np.ones((2, 4), np.float32)
    with pytest.raises(ShapeError, match="assign: codewords has shape"):
        ops.assign(rows, words[:, :3], backend=backend)
    with pytest.raises(ShapeError, match="at least 1"):
        ops.assign(rows, words[:0], backend=backend)
    with pytest.raises(ShapeError, match="rows has shape"):
        ops.assign(rows[0], words, backend=backend)
    rows[1, 2] = np.nan
    with pytest.raises(InputError, match="assign: rows row 1 is not finite"):
        ops.assign(rows, words, backend=backend)
    with pytest.raises(InputError, match="codewords is not finite"):
        ops.assign(words, np.full((2, 4), np.nan, np.float32), backend=backend)


@pytest.mark.parametrize(("n", "n_codes", "dim"), SHAPES)
def test_codebook_sums_are_the_definition(backend, n, n_codes, dim, rng):
    rows = normal(rng, n, dim + 3)[:, 1 : dim + 1]
    codes = rng.integers(0, max(1, n_codes // 2), n)
    counts, sums = ops.codebook_sums(rows, codes, n_codes, backend=backend)
    expected = reference.codebook_sums(rows, codes, n_codes)
    np.testing.assert_array_equal(counts, expected[0])
    np.testing.assert_array_equal(sums, expected[1])
    of_one = rows[codes == 0].astype(np.float64).sum(0)
    np.testing.assert_allclose(sums[0], of_one, rtol=1e-4, atol=1e-4)
    assert counts.sum() == n


def test_sums_do_not_depend_on_the_threads(rng):
    rows, codes = normal(rng, 5000, 40), rng.integers(0, 60, 5000)
    expected = reference.codebook_sums(rows, codes, 64)
    before = memcore.threads()
    try:
        for n in (1, 2, 5):
            memcore.set_threads(n)
            np.testing.assert_array_equal(ops.codebook_sums(rows, codes, 64)[1], expected[1])
            assigned = ops.assign(rows, rows[:64])
            np.testing.assert_array_equal(assigned[0], reference.assign(rows, rows[:64])[0])
    finally:
        memcore.set_threads(before)


def test_codebook_sums_refuse(backend):
    rows = np.ones((3, 2), np.float32)
    with pytest.raises(InputError, match=r"codes\[1\] is 4, should be from 0 to 3"):
        ops.codebook_sums(rows, [0, 4, 5], 4, backend=backend)
    with pytest.raises(ShapeError, match="codes has shape"):
        ops.codebook_sums(rows, [0, 1], 4, backend=backend)


def test_codebook_ema_is_the_definition(backend, rng):
    batch, sums = normal(rng, 70, 19), normal(rng, 70, 19)
    divisors = rng.random(70).astype(np.float32) + 0.1
    found = ops.codebook_ema(batch, sums, 0.9, divisors, backend=backend)
    expected = reference.codebook_ema(batch, sums, 0.9, divisors)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    exact = (0.9 * sums.astype(np.float64) + 0.1 * batch) / divisors[:, None]
    np.testing.assert_allclose(found[1], exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_levels", "n_subspaces"), [(1, 1), (1, 4), (3, 1), (2, 3)])
def test_decode_is_the_definition(backend, n_levels, n_subspaces, rng):
    words = normal(rng, n_levels * n_subspaces * 9, 5).reshape(n_levels, n_subspaces, 9, 5)
    codes = rng.integers(0, 9, (31, n_levels * n_subspaces))
    found = ops.decode(codes, words, backend=backend)
    expected = np.zeros((31, n_subspaces * 5), np.float32)
    for row, of_row in zip(expected, codes, strict=True):
        for part, code in enumerate(of_row):
            level, s = divmod(part, n_subspaces)
            row[s * 5 : s * 5 + 5] += words[level, s, code]
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(InputError, match="decode: codes"):
        ops.decode(codes + 9, words, backend=backend)
    with pytest.raises(ShapeError, match="decode: codes"):
        ops.decode(codes[:, 1:], words, backend=backend)


@pytest.mark.parametrize("n_bits", [1, 3, 8, 9, 13, 31, 32])
@pytest.mark.parametrize("n", [0, 1, 7, 8, 1000])
def test_packed_codes_come_back(backend, n, n_bits, rng):
    codes = rng.integers(0, 1 << n_bits, n)
    packed = ops.pack_codes(codes, n_bits, backend=backend)
    assert packed.dtype == np.uint8
    assert len(packed) == -(-n * n_bits // 8)
    np.testing.assert_array_equal(packed, reference.pack_codes(codes, n_bits))
    np.testing.assert_array_equal(ops.unpack_codes(packed, n, n_bits, backend=backend), codes)


def test_packing_refuses(backend):
    with pytest.raises(InputError, match="from 0 to 7"):
        ops.pack_codes([8], 3, backend=backend)
    with pytest.raises(InputError, match="n_bits is 33"):
        ops.pack_codes([8], 33, backend=backend)
    with pytest.raises(ShapeError, match=r"should be \(3,\) for 8 codes"):
        ops.unpack_codes(np.zeros(2, np.uint8), 8, 3, backend=backend)
    with pytest.raises(DtypeError, match="should be uint8"):
        ops.unpack_codes(np.zeros(3), 8, 3, backend=backend)


@pytest.mark.parametrize(("n_codes", "dtype"), [(9, np.uint8), (300, np.uint16), (300, np.uint32)])
@pytest.mark.parametrize(("n_levels", "n_subspaces"), [(1, 1), (1, 4), (3, 1), (2, 3)])
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_search_codes_is_the_definition(
    backend, n_codes, dtype, n_levels, n_subspaces, metric, rng
):
    n_parts = n_levels * n_subspaces
    words = normal(rng, n_parts * n_codes, 5).reshape(n_levels, n_subspaces, n_codes, 5)
    codes = rng.integers(0, n_codes, (1003, n_parts)).astype(dtype)
    queries = normal(rng, 11, n_subspaces * 5)
    rows = reference.decode(codes.reshape(-1, n_levels, n_subspaces), words)
    squares = reference.squares(rows) if n_levels > 1 else None
    hits = ops.search_codes(
        queries, codes, words, 20, metric=metric, squares=squares, backend=backend
    )
    expected = reference.search_codes(queries, codes, words, 20, metric=metric, squares=squares)
    assert_hits(hits, expected)
    if metric == "dot" or n_levels == 1:
        scores, _ = reference.search(queries, rows, 20, metric=metric)
        np.testing.assert_allclose(hits.scores, scores, rtol=1e-4, atol=1e-4)


def test_search_codes_over_many_rows(isa, rng):
    words = normal(rng, 4 * 16, 4).reshape(1, 4, 16, 4)
    codes = rng.integers(0, 16, (40_000, 4)).astype(np.uint8)
    for n_queries in (1, 3):
        queries = normal(rng, n_queries, 16)
        assert_hits(
            ops.search_codes(queries, codes, words, 50),
            reference.search_codes(queries, codes, words, 50),
        )


def test_search_codes_refuses(backend):
    words, codes = np.ones((2, 1, 3, 4), np.float32), np.zeros((5, 2), np.uint8)
    query = np.ones(4, np.float32)
    with pytest.raises(InputError, match="squares is None"):
        ops.search_codes(query, codes, words, metric="l2", backend=backend)
    with pytest.raises(InputError, match="metric is 'cosine'"):
        ops.search_codes(query, codes, words, metric="cosine", backend=backend)
    with pytest.raises(InputError, match=r"codes\[0, 0\] is 3"):
        ops.search_codes(query, codes + 3, words, backend=backend)
    with pytest.raises(DtypeError, match="codes has dtype int64"):
        ops.search_codes(query, codes.astype(np.int64), words, backend=backend)
    with pytest.raises(ShapeError, match="queries has shape"):
        ops.search_codes(query[:3], codes, words, backend=backend)
    with pytest.raises(InputError, match="search_codes: queries row 0"):
        ops.search_codes(query * np.inf, codes, words, backend=backend)
    assert ops.search_codes(query, codes, words, 0, backend=backend).ids.shape == (1, 0)
    none = ops.search_codes(query, codes[:0], words, 2, backend=backend)
    assert none.ids.tolist() == [[-1, -1]]


def test_kmeans_finds_separate_clusters(rng):
    centres = normal(rng, 40, 12) * 30
    rows = (centres[np.arange(4000) % 40] + normal(rng, 4000, 12)).astype(np.float32)
    first = seeds(rows, 40, copy.deepcopy(rng))
    # k-means++ leaves out a third of a cluster on average; random rows would leave out 14.
    assert len(set(ops.assign(first, centres)[0].tolist())) >= 35
    words, counts, sums = kmeans(rows, 40, rng)
    assert ops.assign(rows, words)[1].mean() > ops.assign(rows, first)[1].mean()
    assert counts.sum() == 4000
    assert (counts > 0).all()
    np.testing.assert_array_equal(words, sums / counts[:, None].astype(np.float32))


def test_kmeans_of_few_rows(rng):
    rows = np.repeat(normal(rng, 3, 5), 4, axis=0)
    words, counts, _ = kmeans(rows, 8, rng)
    codes, scores = ops.assign(rows, words)
    assert (scores == 0).all()
    assert len(set(codes.tolist())) == 3
    assert counts.sum() == 12

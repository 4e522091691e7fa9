"""The oracle against numbers worked by hand, against Python's own arithmetic, and against laws."""

import math
import struct

import numpy as np
import pytest

from cases import CASES, DIMS, METRICS, normal
from compare import assert_hits, bits
from memcore import reference


def fl32(number):
    """A Python float rounded to float32.

    Sums, products, quotients and roots of float32 numbers may be found in float64 first: rounding
    twice gives the same, since 53 bits are more than 2 * 24 + 2.
    """
    return struct.unpack("<f", struct.pack("<f", number))[0]


def sum_in_python(terms):
    lanes = [0.0] * 16
    for i, term in enumerate(terms):
        lanes[i % 16] = fl32(lanes[i % 16] + term)
    for half in (8, 4, 2, 1):
        lanes = [fl32(lanes[i] + lanes[i + half]) for i in range(half)]
    return lanes[0]


def dot_in_python(a, b):
    return sum_in_python([fl32(x * y) for x, y in zip(a, b, strict=True)])


def score_in_python(query, key, metric):
    if metric == "dot":
        return dot_in_python(query, key)
    if metric == "l2":
        differences = [fl32(x - y) for x, y in zip(query, key, strict=True)]
        return -dot_in_python(differences, differences)
    norms = [fl32(math.sqrt(dot_in_python(row, row))) for row in (query, key)]
    product = fl32(norms[0] * norms[1])
    return 0.0 if product == 0 else fl32(dot_in_python(query, key) / product)


def row(dim, **components):
    """A row of zeros but for x<place> = value."""
    out = np.zeros((1, dim), np.float32)
    for name, value in components.items():
        out[0, int(name[1:])] = value
    return out


def test_lanes_cancel_before_the_fold():
    ones = np.ones((1, 32), np.float32)
    assert reference.score(ones, row(32, x0=1e8, x16=-1e8, x1=1), "dot") == 1
    assert reference.score(ones, row(32, x0=1e8, x1=-1e8, x8=1), "dot") == 0


@pytest.mark.parametrize(("a", "b"), [(0, 8), (3, 11), (2, 6), (1, 3), (0, 1), (7, 15)])
def test_the_fold_goes_by_halves(a, b):
    """Lanes that meet keep what cancels between them; a 1 met first is swallowed."""
    ones = np.ones((1, 16), np.float32)
    for other in set(range(16)) - {a, b}:
        key = row(16, **{f"x{a}": 1e8, f"x{b}": -1e8, f"x{other}": 1})
        assert reference.score(ones, key, "dot") == sum_in_python(key[0].tolist())


def test_each_product_is_rounded():
    """1 + 2^-12 squared is 1 + 2^-11 + 2^-24: a fused multiply-add would keep the last part."""
    x = 1 + 2.0**-12
    key = row(32, x0=x, x16=1)
    query = row(32, x0=x, x16=-(1 + 2.0**-11))
    assert reference.score(query, key, "dot") == 0


def test_metrics_by_hand():
    query, keys = np.array([[3, 4]], np.float32), np.array([[3, 4], [4, -3], [0, 0]], np.float32)
    assert reference.score(query, keys, "dot").tolist() == [[25, 0, 0]]
    assert reference.score(query, keys, "l2").tolist() == [[0, -50, -25]]
    assert reference.score(query, keys, "cosine").tolist() == [[1, 0, 0]]
    assert reference.norms(keys).tolist() == [5, 5, 0]


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("metric", METRICS)
def test_scores_equal_pythons(metric, dim, rng):
    spread = 10.0 ** rng.uniform(-4, 4, (12, dim))
    queries = normal(rng, 3, dim)
    keys = (rng.standard_normal((12, dim)) * spread).astype(np.float32)
    keys[5] = queries[0]
    expected = [[score_in_python(q, k, metric) for k in keys.tolist()] for q in queries.tolist()]
    assert np.array_equal(reference.score(queries, keys, metric), expected)


def test_sums_of_denormals_equal_pythons(rng):
    queries, keys = normal(rng, 3, 50), normal(rng, 20, 50) * np.float32(1e-40)
    expected = [[dot_in_python(q, k) for k in keys.tolist()] for q in queries.tolist()]
    assert np.array_equal(reference.score(queries, keys, "dot"), expected)
    assert np.abs(expected).max() < 2.0**-126


def test_many_pairs_equal_few():
    """Tiles are an arrangement, not a part of the definition."""
    rng = np.random.default_rng(5)
    queries, keys = normal(rng, 70, 33), normal(rng, 5000, 33)
    for metric in METRICS:
        whole = reference.score(queries, keys, metric)
        part = reference.score(queries[11:12], keys[2040:2060], metric)
        assert (bits(whole[11:12, 2040:2060]) == bits(part)).all()


def test_norms_that_underflow():
    """The table in docs/score.md."""
    one = row(4, x0=1)
    tiny = np.concatenate([row(4, x0=x) for x in (1e-23, 3e-23, 1e-22, 2e-19)])
    assert reference.squares(tiny)[:3].tolist() == [0, 2.0**-149, 7 * 2.0**-149]
    expected = np.array([0, 0.8014122, 1.0096844, 1], np.float32)
    assert np.array_equal(reference.score(one, tiny, "cosine")[0], expected)
    itself = [reference.score(x[None], x[None], "cosine").item() for x in tiny]
    assert itself == [0, 1, 1, 1]


def test_zero_vectors_score_zero_under_cosine(rng):
    zero, keys = np.zeros((1, 7), np.float32), normal(rng, 9, 7)
    keys[3] = 0
    assert bits(reference.score(zero, keys, "cosine")).tolist() == [[0] * 9]
    assert bits(reference.score(keys, zero, "cosine")).tolist() == [[0]] * 9


def test_scores_are_close_to_real_ones(rng):
    """Within the rounding of dim / 16 additions per lane, four folds and one product."""
    queries, keys = normal(rng, 5, 200), normal(rng, 300, 200)
    exact = queries.astype(np.float64) @ keys.astype(np.float64).T
    weight = np.abs(queries).astype(np.float64) @ np.abs(keys).astype(np.float64).T
    unit = 2.0**-24
    assert (np.abs(reference.score(queries, keys, "dot") - exact) <= 19 * unit * weight).all()


def test_final_score_rounds_twice():
    """3 * fl32(1/3) is 1 after rounding, and 1 - 1 is 0; in one rounding it would not be."""
    third = np.float32(1 / 3)
    final = reference.final_score(
        np.array([[third]]), np.array([3], np.float32), np.array([-1], np.float32)
    )
    assert final.item() == 0
    assert 3 * float(third) - 1 != 0


def test_negative_zero_is_zero():
    queries, keys = np.array([[1.0]], np.float32), np.array([[-0.0], [0.0]], np.float32)
    scores, ids = reference.search(queries, keys, 2, bias=np.array([-0.0, -0.0], np.float32))
    assert ids.tolist() == [[0, 1]]
    assert bits(scores).tolist() == [[0, 0]]
    scores, ids = reference.search(queries, queries, 1, metric="l2")
    assert bits(scores).tolist() == [[0]]


def test_nan_is_not_returned_and_infinity_is():
    keys = np.array([[np.nan], [-np.inf], [2], [np.inf], [-1]], np.float32)
    scores, ids = reference.search(np.array([[1]], np.float32), keys, 6)
    assert ids.tolist() == [[3, 2, 4, 1, -1, -1]]
    assert scores.tolist() == [[np.inf, 2, -1, -np.inf, -np.inf, -np.inf]]


def test_bounds_are_inside():
    keys = np.arange(6, dtype=np.float32)[:, None]
    scores, ids = reference.search(np.ones((1, 1)), keys, 6, min_score=2.0, max_score=4.0)
    assert ids.tolist() == [[4, 3, 2, -1, -1, -1]]
    assert scores[0, :3].tolist() == [4, 3, 2]


def test_widening_equals_pythons():
    numbers = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    halves = [struct.unpack("<e", number.tobytes())[0] for number in numbers]
    assert np.array_equal(reference.widen(numbers.view(np.float16)), halves, equal_nan=True)
    brains = [struct.unpack("<f", b"\0\0" + number.tobytes())[0] for number in numbers]
    assert np.array_equal(reference.widen(numbers), brains, equal_nan=True)
    assert reference.widen(np.array([-128, 0, 127], np.int8)).tolist() == [-128, 0, 127]


def test_float64_is_rounded_once(rng):
    numbers = rng.standard_normal(1000)
    assert reference.widen(numbers).tolist() == [fl32(x) for x in numbers.tolist()]
    # Halfway between two floats, and a little above: to the even one, and up.
    assert reference.widen(np.array([1 + 2.0**-24, 1 + 2.0**-24 + 2.0**-50])).tolist() == [
        1,
        1 + 2.0**-23,
    ]


def test_ties_go_to_the_smaller_id(rng):
    keys = np.repeat(normal(rng, 4, 9), 5, 0)[rng.permutation(20)]
    scores, ids = reference.search(normal(rng, 6, 9), keys, 20)
    falls = scores[:, 1:] < scores[:, :-1]
    assert (falls | ((scores[:, 1:] == scores[:, :-1]) & (ids[:, 1:] > ids[:, :-1]))).all()
    assert (np.sort(ids) == np.arange(20)).all()
    assert falls.sum() == 6 * 3


@pytest.mark.parametrize("metric", METRICS)
def test_permuting_keys_permutes_ids(metric, rng):
    queries, keys = normal(rng, 5, 20), normal(rng, 100, 20)
    order = rng.permutation(100)
    scores, ids = reference.search(queries, keys, 100, metric=metric)
    again_scores, again_ids = reference.search(queries, keys[order], 100, metric=metric)
    assert_hits((again_scores, order[again_ids]), (scores, ids))


@pytest.mark.parametrize("metric", METRICS)
def test_merging_shards_equals_searching_the_union(metric, rng):
    queries, keys = normal(rng, 5, 20), normal(rng, 100, 20)
    keys[50:70] = keys[:20]
    left = reference.search(queries, keys[:43], 10, metric=metric)
    right = reference.search(queries, keys[43:], 10, metric=metric)
    scores = np.concatenate([left[0], right[0]], 1)
    ids = np.concatenate([left[1], right[1] + 43], 1)
    merged_scores, places = reference.topk(scores, 10)
    merged = merged_scores, np.take_along_axis(ids, places, 1)
    assert_hits(merged, reference.search(queries, keys, 10, metric=metric))


def test_a_mask_is_a_list_of_candidates(rng):
    queries, keys, mask = normal(rng, 5, 20), normal(rng, 100, 20), rng.random(100) < 0.2
    named = np.tile(np.flatnonzero(mask), (5, 1))
    assert_hits(
        reference.search(queries, keys, 30, mask=mask),
        reference.search(queries, keys, 30, candidates=named),
    )
    kept_scores, kept_ids = reference.search(queries, keys[mask], 30)
    expected = kept_scores, np.where(kept_ids < 0, -1, np.flatnonzero(mask)[kept_ids])
    assert_hits(reference.search(queries, keys, 30, mask=mask), expected)


def test_a_segment_is_a_search_of_its_slice(rng):
    case = CASES["everything_at_once"](rng)
    options = dict(case.options)
    offsets, segments = np.array([0, 0, 300, 301, 700]), rng.integers(0, 4, 8)
    hits = reference.search_ragged(
        case.queries, case.keys, offsets, segments, case.k, metric="l2", **options
    )
    for i, segment in enumerate(segments):
        inside = np.zeros(700, np.bool_)
        inside[offsets[segment] : offsets[segment + 1]] = True
        options["mask"] = case.options["mask"][i] & inside
        options["candidates"] = case.options["candidates"][i : i + 1]
        scores, ids = reference.search(
            case.queries[i : i + 1], case.keys, case.k[i], metric="l2", **options
        )
        width = ids.shape[1]
        assert_hits((hits[0][i : i + 1, :width], hits[1][i : i + 1, :width]), (scores, ids))
        assert (hits[1][i, width:] == -1).all()


def test_topk_of_the_scores_is_the_search(rng):
    queries, keys = normal(rng, 5, 20), normal(rng, 100, 20)
    keys[::4] = keys[1::4]
    for metric in METRICS:
        scores = reference.score(queries, keys, metric)
        expected = reference.search(queries, keys, 17, metric=metric)
        assert_hits(reference.topk(scores, 17), expected)

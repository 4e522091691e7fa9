"""What breaks a search: shapes, numbers that strain a bound, and every option.

A case is made from a generator, so that each run sees new numbers of the same kind, in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

METRICS = ("dot", "cosine", "l2")
SIZES = (1, 15, 16, 17, 63, 65, 101, 1000)
DIMS = (1, 3, 4, 15, 16, 17, 100, 128, 385)


@dataclass
class Case:
    """One search: arrays, k, and keyword arguments that `search` and the reference share."""

    queries: Any
    keys: Any
    k: Any = 10
    options: dict[str, Any] = field(default_factory=dict)


CASES: dict[str, Callable[[np.random.Generator], Case]] = {}


def case(make):
    CASES[make.__name__] = make
    return make


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def rows_of_scores(rng, n_rows, n):
    scores = normal(rng, n_rows, n)
    # A few values for many places: ties of both zeros, infinities, NaN.
    odd = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1, 1], np.float32)
    chosen = rng.random((n_rows, n)) < 0.4
    scores[chosen] = rng.choice(odd, int(chosen.sum()))
    return scores


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def near_ties(row, n, rng):
    """Copies of a row, each with one component moved by one unit in the last place."""
    rows = np.repeat(row[None], n, 0)
    moved = rng.integers(0, len(row), n)
    up = rng.random(n) < 0.5
    places = np.arange(n), moved
    rows[places] = np.nextafter(rows[places], np.where(up, np.inf, -np.inf).astype(np.float32))
    return rows


@case
def plain(rng):
    return Case(normal(rng, 9, 100), normal(rng, 1000, 100))


@case
def one_key_one_query(rng):
    return Case(normal(rng, 1, 20), normal(rng, 1, 20), 3)


@case
def no_keys(rng):
    return Case(normal(rng, 3, 20), normal(rng, 0, 20), 4)


@case
def no_queries(rng):
    return Case(normal(rng, 0, 20), normal(rng, 30, 20), 4)


@case
def k_zero(rng):
    return Case(normal(rng, 3, 20), normal(rng, 30, 20), 0)


@case
def k_all(rng):
    return Case(normal(rng, 5, 33), normal(rng, 333, 33), 333)


@case
def k_beyond(rng):
    return Case(normal(rng, 5, 33), normal(rng, 65, 33), 200)


@case
def k_per_query(rng):
    return Case(normal(rng, 6, 33), normal(rng, 65, 33), np.array([3, 0, 65, 1, 100, 7]))


@case
def many_queries(rng):
    return Case(normal(rng, 300, 24), normal(rng, 200, 24), 5)


@case
def huge_dynamic_range(rng):
    def rows(n):
        exponents = rng.uniform(-37, 16.5, (n, 48))
        return (rng.choice([-1, 1], (n, 48)) * 10.0**exponents).astype(np.float32)

    return Case(rows(7), rows(400))


@case
def denormals(rng):
    queries = np.concatenate([normal(rng, 4, 40), normal(rng, 4, 40) * np.float32(1e-39)])
    return Case(queries, normal(rng, 300, 40) * np.float32(1e-39))


@case
def products_that_are_denormal(rng):
    return Case(normal(rng, 6, 40) * np.float32(1e-20), normal(rng, 300, 40) * np.float32(1e-20))


@case
def tiny_rows_among_others(rng):
    keys = normal(rng, 400, 40)
    keys[::2] *= np.float32(1e-38)
    keys[::7] *= np.float32(1e-30)
    return Case(normal(rng, 6, 40), keys, 250)


@case
def all_equal(rng):
    return Case(normal(rng, 5, 40), np.repeat(normal(rng, 1, 40), 400, 0))


@case
def ties_within_one_ulp(rng):
    queries = normal(rng, 5, 64)
    return Case(queries, np.concatenate([near_ties(query, 120, rng) for query in queries]), 40)


@case
def signs_that_cancel(rng):
    half = normal(rng, 300, 64) * np.float32(1000)
    keys = np.concatenate([half, -half], 1)
    keys += normal(rng, 300, 128) * np.float32(1e-3)
    return Case(np.ones((3, 128), np.float32) + normal(rng, 3, 128) * np.float32(1e-6), keys)


@case
def norms_at_the_limit(rng):
    most = np.float32(0.9999e18)
    return Case(unit(normal(rng, 6, 40)) * most, unit(normal(rng, 300, 40)) * most)


@case
def outlier_dimension(rng):
    queries, keys = normal(rng, 8, 100), normal(rng, 1000, 100)
    queries[:, 7] *= 1000
    keys[:, 7] *= 1000
    return Case(queries, keys)


@case
def common_offset(rng):
    offset = np.float32(1000) * normal(rng, 1, 100)
    return Case(normal(rng, 8, 100) + offset, normal(rng, 1000, 100) + offset)


@case
def near_duplicates(rng):
    """500 near copies of each of three rows, asked for by their neighbours: a buffer that fills."""
    centres = normal(rng, 3, 96)
    keys = np.repeat(centres, 500, 0) * (1 + np.float32(1e-6) * normal(rng, 1500, 96))
    return Case(centres + np.float32(1e-3) * normal(rng, 3, 96), rng.permutation(keys), 20)


@case
def rows_that_get_better(rng):
    """Each row beats all before it: a threshold that never helps."""
    queries = np.repeat(normal(rng, 1, 64), 4, 0)
    keys = normal(rng, 1500, 64)
    order = np.argsort(keys @ queries[0])
    return Case(queries, keys[order])


@case
def rows_that_get_worse(rng):
    hard = rows_that_get_better(rng)
    return Case(hard.queries, hard.keys[::-1])


@case
def all_scores_negative(rng):
    """Zeros in wiped places beside the 17 rows would win."""
    return Case(np.abs(normal(rng, 4, 40)), -np.abs(normal(rng, 17, 40)), 20)


@case
def zero_vectors(rng):
    queries, keys = normal(rng, 6, 40), normal(rng, 200, 40)
    queries[::2] = 0
    keys[::3] = 0
    return Case(queries, keys, 150)


@case
def signed_zeros(rng):
    queries = rng.choice(np.array([0, -0.0, 1, -1], np.float32), (6, 5))
    keys = rng.choice(np.array([0, -0.0, 1, -1], np.float32), (100, 5))
    return Case(queries, keys, 100)


@case
def keys_not_finite(rng):
    keys = normal(rng, 300, 20)
    keys[::5, 3] = np.inf
    keys[1::7, 4] = -np.inf
    keys[2::9, 5] = np.nan
    queries = normal(rng, 6, 20)
    queries[0, 3] = 0
    return Case(queries, keys, 300)


@case
def keys_that_overflow(rng):
    keys = normal(rng, 300, 20)
    keys[::3] *= np.float32(1e25)
    keys[1::3] *= np.float32(3e37)
    return Case(normal(rng, 6, 20) * np.float32(1e10), keys, 300)


def closest(rows, scores, target, n):
    """The n rows whose scores come closest to the target."""
    return rows[np.argsort(np.abs(scores - target))[:n]]


@case
def residuals_along_the_query(rng):
    """Reaches the bound on what an int8 row leaves out: 120 rows gain all of it, 600 nothing."""
    signs = rng.choice(np.array([-1, 1], np.float32), 257)
    rows = (rng.integers(-2, 3, 257) + rng.integers(-1, 2, (720, 257))).astype(np.float32)
    rows[600:] += signs * (0.499 - (rng.random((120, 257)) < 0.5))
    # The largest component makes the step 1, so that whole numbers are exact.
    rows[:, 0] = 127
    return Case(8 * signs[None], rng.permutation(rows), 20)


@case
def residuals_of_the_query(rng):
    """The same for the query, with steps of 1 for a largest code of 127 and of 63."""
    codes = rng.integers(-3, 4, (2, 257))
    signs = rng.choice([-1, 1], (2, 257))
    queries = (codes + 0.499 * signs).astype(np.float32)
    queries[:, 0] = 127, 63
    keys = []
    for query, code, sign in zip(queries, codes, signs, strict=True):
        gaining = sign * rng.choice([1, 1, 1, 1, 1, -1], (60, 257))
        follows = (rng.random((6000, 257)) < rng.random((6000, 1))) & (code != 0)
        others = np.where(follows, np.sign(code), rng.choice([-1, 1], (6000, 257)))
        keys += [gaining, closest(others, others @ query, np.median(gaining @ query), 300)]
    return Case(queries, rng.permutation(np.concatenate(keys)).astype(np.float32), 20)


@case
def constant_rows(rng):
    """Every step of a sum is rounded the same way, and the steps of the shadow are exact."""
    near = 1 + rng.integers(-500, 500, 300) * 2.0**-23
    keys = np.repeat(near[:, None], 6000, 1).astype(np.float32)
    queries = np.repeat(np.float32([1, 1.1, 0.7, 3])[:, None], 6000, 1)
    return Case(queries, keys, 20)


@case
def constant_rows_that_nearly_underflow(rng):
    hard = constant_rows(rng)
    queries, keys = hard.queries[:, :385], hard.keys[:, :385]
    keys = keys * (1 + 1e-3 * rng.random((300, 1)))
    return Case(
        (queries * 2.0**-66.5).astype(np.float32), (keys * 2.0**-66.5).astype(np.float32), 20
    )


@case
def halves_of_a_step(rng):
    """What an int8 shadow of scale 1 rounds worst, with and against the signs of the query."""
    signs = rng.choice(np.array([-1, 1], np.float32), (4, 64))
    steps = rng.integers(0, 100, (800, 64)) + 0.5 + rng.uniform(-1e-3, 1e-3, (800, 64))
    keys = (signs[rng.integers(0, 4, 800)] * steps).astype(np.float32)
    keys[:, 0] = 127
    queries = (signs * (rng.integers(20, 60, (4, 64)) + 0.5)).astype(np.float32)
    queries[:, 1] = 127
    return Case(queries, keys, 20)


@case
def same_codes(rng):
    """Rows that differ by less than a step: only their full numbers tell them apart."""
    row = normal(rng, 1, 96)
    return Case(normal(rng, 5, 96), row + np.float32(1e-3) * normal(rng, 900, 96), 25)


@case
def clusters(rng):
    centres = normal(rng, 12, 64) * np.float32(10)
    keys = centres[rng.integers(0, 12, 1200)] + normal(rng, 1200, 64)
    return Case(centres[:6] + normal(rng, 6, 64), keys, 100)


@case
def one_hot(rng):
    eye = np.eye(32, dtype=np.float32)
    return Case(eye[rng.integers(0, 32, 5)], np.repeat(eye, 9, 0), 20)


@case
def mask_of_keys(rng):
    return Case(normal(rng, 6, 40), normal(rng, 500, 40), 10, {"mask": rng.random(500) < 0.3})


@case
def mask_of_each_query(rng):
    mask = rng.random((6, 500)) < rng.uniform(0, 0.2, (6, 1))
    return Case(normal(rng, 6, 40), normal(rng, 500, 40), 10, {"mask": mask})


@case
def mask_that_leaves_k_less_one(rng):
    mask = np.zeros((6, 500), np.bool_)
    for row in mask:
        row[rng.choice(500, 9, replace=False)] = True
    return Case(normal(rng, 6, 40), -np.abs(normal(rng, 500, 40)), 10, {"mask": mask})


@case
def mask_of_nothing(rng):
    return Case(normal(rng, 6, 40), normal(rng, 50, 40), 10, {"mask": np.zeros(50, np.bool_)})


@case
def few_candidates(rng):
    """Repeated, padded in the middle, and fewer than k."""
    named = rng.integers(-1, 300, (6, 8))
    named[0] = -1
    named[1] = 299
    return Case(normal(rng, 6, 40), normal(rng, 300, 40), 10, {"candidates": named})


@case
def many_candidates(rng):
    named = rng.integers(-1, 300, (6, 400))
    return Case(normal(rng, 6, 40), normal(rng, 300, 40), 10, {"candidates": named})


@case
def no_candidates(rng):
    named = np.empty((3, 0), np.int64)
    return Case(normal(rng, 3, 40), normal(rng, 30, 40), 10, {"candidates": named})


@case
def scaled(rng):
    """Of both signs, with zeros."""
    scale = normal(rng, 500)
    scale[::10] = 0
    return Case(normal(rng, 6, 40), normal(rng, 500, 40), 10, {"scale": scale})


@case
def scaled_far_apart(rng):
    scale = (10.0 ** rng.uniform(-30, 20, 500)).astype(np.float32)
    return Case(normal(rng, 6, 40), normal(rng, 500, 40), 10, {"scale": scale})


@case
def biased(rng):
    bias = normal(rng, 500) * np.float32(30)
    return Case(normal(rng, 6, 40), normal(rng, 500, 40), 10, {"bias": bias})


@case
def biased_beyond_the_scores(rng):
    """The bias swallows all but the last bits: ties by the hundred."""
    bias = rng.choice(np.array([1e7, 2e7], np.float32), 500)
    return Case(normal(rng, 6, 40), normal(rng, 500, 40), 30, {"bias": bias})


@case
def scaled_and_biased_without_bounds(rng):
    scale, bias = normal(rng, 500), normal(rng, 500)
    scale[::11], scale[5::50], bias[3::50], bias[4::50] = np.inf, np.nan, np.inf, -np.inf
    bias[7::50] = np.nan
    options = {"scale": scale, "bias": bias}
    return Case(normal(rng, 6, 40), normal(rng, 500, 40), 500, options)


@case
def few_of_many_weights_without_bounds(rng):
    """Weights that are not finite, where a threshold matters: none may raise it wrongly."""
    whole = scaled_and_biased_without_bounds(rng)
    n = 2000
    scale = rng.choice(np.array([1, -1, 2, np.inf, -np.inf, np.nan, 0], np.float32), n)
    bias = rng.choice(np.array([0, 1, 5, np.inf, -np.inf, np.nan, 3e38], np.float32), n)
    scale[: n // 2], bias[n // 4 : 3 * n // 4] = 1, 0
    return Case(whole.queries, normal(rng, n, 40), 5, {"scale": scale, "bias": bias})


@case
def many_biases_that_are_nan(rng):
    bias = np.full(3000, np.nan, np.float32)
    bias[rng.choice(3000, 8, replace=False)] = 0
    return Case(normal(rng, 6, 20), normal(rng, 3000, 20), 10, {"bias": bias})


@case
def scales_that_overflow(rng):
    """Scores of 3e38 and infinity, of both signs, by the hundred."""
    scale = rng.choice(np.array([1e38, -1e38, 3e37, 1], np.float32), 1500)
    return Case(normal(rng, 6, 20), normal(rng, 1500, 20), 12, {"scale": scale})


@case
def bounded(rng):
    options = {"min_score": -3.0, "max_score": 5.0}
    return Case(normal(rng, 6, 40), normal(rng, 500, 40), 60, options)


@case
def bounded_to_one_value(rng):
    """A bound is inside."""
    keys = np.repeat(np.eye(4, dtype=np.float32), 10, 0)
    options = {"min_score": 1.0, "max_score": 1.0}
    return Case(np.eye(4, dtype=np.float32), keys, 15, options)


@case
def bounded_to_nothing(rng):
    options = {"min_score": 1.0, "max_score": -1.0}
    return Case(normal(rng, 3, 40), normal(rng, 50, 40), 5, options)


@case
def everything_at_once(rng):
    options = {
        "mask": rng.random((8, 700)) < 0.8,
        "candidates": rng.integers(-1, 700, (8, 300)),
        "scale": normal(rng, 700),
        "bias": normal(rng, 700),
        "min_score": -20.0,
        "max_score": 3.5,
    }
    return Case(normal(rng, 8, 50), normal(rng, 700, 50), rng.integers(0, 40, 8), options)

"""Every engine against the definition, by equality of ids and of score bits."""

import numpy as np
import pytest

import memcore
from cases import CASES, DIMS, METRICS, SIZES, Case, normal
from compare import assert_hits, bits
from containers import CONTAINERS, from_bfloat16, to_bfloat16
from memcore import reference
from memcore.backends import engine

FINITE = 1e18


def queries_that_may_be_asked(queries):
    """Rounding to a smaller dtype may pass its largest number, which a query may not hold."""
    return bool(np.all(reference.squares(queries) <= reference.MAX_SQUARE))


def run_native(case, metric, first_pass):
    """The compiled engine itself, with its first pass forced on or off."""
    options = dict(case.options)
    widths = np.broadcast_to(case.k, len(case.queries))
    width = int(widths.max(initial=0)) if np.ndim(case.k) else case.k
    scores = np.full((len(case.queries), width), np.nan, np.float32)
    ids = np.full((len(case.queries), width), -7777)
    names = ("mask", "candidates", "scale", "bias")
    bounds = options.get("min_score", -np.inf), options.get("max_score", np.inf)
    arguments = [metric, *(options.get(name) for name in names), *bounds, first_pass]
    engine("search", "cpu")(case.queries, case.keys, None, None, case.k, *arguments, scores, ids)
    return scores, ids


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", CASES)
def test_every_case(backend, name, metric, rng):
    case = CASES[name](rng)
    expected = reference.search(case.queries, case.keys, case.k, metric=metric, **case.options)
    hits = memcore.search(
        case.queries, case.keys, case.k, metric=metric, backend=backend, **case.options
    )
    assert_hits(hits, expected, name)


@pytest.mark.parametrize("first_pass", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_the_first_pass_changes_nothing(isa, name, first_pass, rng):
    case = CASES[name](rng)
    for metric in METRICS:
        expected = reference.search(case.queries, case.keys, case.k, metric=metric, **case.options)
        assert_hits(run_native(case, metric, first_pass), expected, f"{name}, {metric}")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("n_same", [1, 2, 3, 4])
def test_the_sums_of_the_first_pass_do_not_saturate(isa, sign, n_same, rng):
    # Components of eight whose int8 products some sets add in one 16-bit lane.
    queries = 0.01 * normal(rng, 13, 24)
    for i, query in enumerate(queries):
        lane = rng.permutation([(0, 1, 4, 5), (2, 3, 6, 7)][i % 2])[:n_same]
        query[8 * (i % 3) + lane] = sign
    # Codes of 127 or nearly so.
    keys = 1 - 0.01 * rng.random((300, 24), np.float32)
    keys[1::3] *= -1
    keys[2::3] *= np.sign(normal(rng, 100, 24))
    for metric in METRICS:
        expected = reference.search(queries, keys, 3, metric=metric)
        assert_hits(run_native(Case(queries, keys, 3), metric, True), expected, metric)


@pytest.mark.parametrize("n_keys", SIZES)
@pytest.mark.parametrize("dim", DIMS)
def test_every_shape(backend, n_keys, dim, rng):
    queries, keys = normal(rng, 5, dim), normal(rng, n_keys, dim)
    for metric in METRICS:
        expected = reference.search(queries, keys, 12, metric=metric)
        hits = memcore.search(queries, keys, 12, metric=metric, backend=backend)
        assert_hits(hits, expected, metric)


@pytest.mark.parametrize("name", ["plain", "denormals", "huge_dynamic_range", "keys_not_finite"])
def test_every_container(backend, container, name, rng):
    case = CASES[name](rng)
    queries, keys = container.numbers(case.queries), container.numbers(case.keys)
    wrapped_queries, wrapped_keys = container.wrap(case.queries), container.wrap(case.keys)
    for metric in METRICS:
        if not queries_that_may_be_asked(queries):
            with pytest.raises(memcore.InputError, match="row"):
                memcore.search(wrapped_queries, wrapped_keys, metric=metric, backend=backend)
            continue
        expected = reference.search(queries, keys, case.k, metric=metric)
        hits = memcore.search(wrapped_queries, wrapped_keys, case.k, metric=metric, backend=backend)
        assert (type(hits.ids).__module__ == "torch") == container.is_torch
        assert_hits(hits, expected, f"{name}, {metric}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["float16", "strided", "torch_bfloat16", "byte_swapped"])
def test_queries_and_keys_may_differ(backend, kind, metric, rng):
    other = CONTAINERS[kind]
    if other.needs:
        pytest.importorskip(other.needs)
    queries, keys = normal(rng, 7, 50), normal(rng, 200, 50)
    expected = reference.search(queries, other.numbers(keys), metric=metric)
    assert_hits(memcore.search(queries, other.wrap(keys), metric=metric, backend=backend), expected)
    expected = reference.search(other.numbers(queries), keys, metric=metric)
    assert_hits(memcore.search(other.wrap(queries), keys, metric=metric, backend=backend), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 16, 100])
def test_int8_keys(backend, dim, metric, rng):
    keys = rng.integers(-128, 128, (300, dim), np.int8)
    keys[:20] = rng.choice(np.array([-128, 127], np.int8), (20, dim))
    queries = normal(rng, 6, dim)
    expected = reference.search(queries, keys.astype(np.float32), 20, metric=metric)
    assert_hits(memcore.search(queries, keys, 20, metric=metric, backend=backend), expected)
    expected = reference.search(keys[:6].astype(np.float32), keys.astype(np.float32), metric=metric)
    assert_hits(memcore.search(keys[:6], keys, metric=metric, backend=backend), expected)
    wide = rng.integers(-1000, 1000, (50, dim))
    expected = reference.search(queries, wide.astype(np.float32), metric=metric)
    assert_hits(memcore.search(queries, wide, metric=metric, backend=backend), expected)


def test_every_float16_and_bfloat16_number(backend):
    """One key per number that there is: its widening, alone."""
    numbers = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)[:, None]
    query = np.ones((1, 1), np.float32)
    run = engine("search", backend)
    for keys, wide in (
        (numbers.view(np.float16), numbers.view(np.float16).astype(np.float32)),
        (numbers, from_bfloat16(numbers)),
    ):
        scores = np.full((1, 1 << 16), np.nan, np.float32)
        ids = np.full((1, 1 << 16), -7777)
        limits = (None, None, None, None, -np.inf, np.inf, None)
        run(query, keys, None, None, 1 << 16, "dot", *limits, scores, ids)
        assert_hits((scores, ids), reference.search(query, wide, 1 << 16))


@pytest.mark.parametrize("name", ["plain", "near_duplicates", "everything_at_once", "all_equal"])
def test_the_batch_changes_nothing(isa, name, rng):
    case = CASES[name](rng)
    n = len(case.queries)
    widths = np.broadcast_to(case.k, n)
    for metric in METRICS:
        whole = memcore.search(case.queries, case.keys, case.k, metric=metric, **case.options)
        for size in (1, 2, 3, 4, 5, 7):
            for begin in range(0, n, size):
                part = slice(begin, begin + size)
                options = {
                    key: value[part] if np.ndim(value) == 2 else value
                    for key, value in case.options.items()
                }
                hits = memcore.search(
                    case.queries[part], case.keys, widths[part], metric=metric, **options
                )
                width = hits.ids.shape[1]
                expected = whole.scores[part, :width], whole.ids[part, :width]
                assert_hits(hits, expected, f"{metric}, queries {part}")


@pytest.mark.parametrize("metric", METRICS)
def test_threads_change_nothing(isa, threads, metric, rng):
    queries, keys = normal(rng, 130, 64), normal(rng, 3000, 64)
    keys[::3] = keys[1::3]
    expected = reference.search(queries, keys, metric=metric)
    for n_threads in (1, 2, 3, 8):
        threads(n_threads)
        assert_hits(memcore.search(queries, keys, metric=metric), expected, f"{n_threads} threads")
        assert_hits(
            memcore.search(queries[:1], keys, metric=metric),
            (expected[0][:1], expected[1][:1]),
            f"{n_threads} threads, one query",
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["plain", "near_duplicates", "outlier_dimension", "common_offset"])
def test_the_order_of_rows_changes_nothing(isa, name, metric, rng):
    case = CASES[name](rng)
    order = rng.permutation(len(case.keys))
    once = memcore.search(case.queries, case.keys, case.k, metric=metric)
    again = memcore.search(case.queries, case.keys[order], case.k, metric=metric)
    assert (bits(once.scores) == bits(again.scores)).all()
    # Rows that tie may change places, and at the k-th place one another.
    scores = reference.score(case.queries, case.keys, metric)
    found = np.take_along_axis(scores, order[again.ids], 1)
    assert (bits(found) == bits(again.scores)).all()


def test_every_k(backend, rng):
    queries, keys = normal(rng, 3, 24), normal(rng, 130, 24)
    keys[40:80] = keys[0]
    scores, ids = reference.search(queries, keys, 140)
    for k in range(141):
        hits = memcore.search(queries, keys, k, backend=backend)
        assert_hits(hits, (scores[:, :k], ids[:, :k]), f"k={k}")


def test_large_k(isa, rng):
    queries, keys = normal(rng, 2, 16), normal(rng, 20000, 16)
    keys[::2] = np.round(keys[::2])
    for k in (1000, 5000, 20000, 30000):
        assert_hits(memcore.search(queries, keys, k), reference.search(queries, keys, k), f"k={k}")


@pytest.mark.parametrize("metric", METRICS)
def test_many_rows(isa, metric, rng):
    """More rows than any tile, thread or page holds."""
    queries, keys = normal(rng, 17, 20), normal(rng, 50000, 20)
    expected = reference.search(queries, keys, 10, metric=metric)
    assert_hits(memcore.search(queries, keys, 10, metric=metric), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1024, 4099, 32768, 32769, 70000])
def test_large_dims(isa, dim, metric, rng):
    """The last two are beyond what the first pass can sum in int32."""
    queries, keys = normal(rng, 3, dim), normal(rng, 70, dim)
    keys[5] = 1
    queries[0] = 1
    expected = reference.search(queries, keys, 9, metric=metric)
    assert_hits(memcore.search(queries, keys, 9, metric=metric), expected)


@pytest.mark.parametrize("dim", [2, 4, 50, 1024, 32768])
def test_codes_at_their_limits(isa, dim, rng):
    """Sums of products as large as they get, for queries in a batch and for one that is alone."""
    keys = np.where(rng.random((300 if dim < 5000 else 40, dim)) < 0.5, -1, 1).astype(np.float32)
    keys[1], keys[2], keys[3, 1:] = 1, -1, 1
    keys[4, ::2], keys[4, 1::2] = 1, -1
    level = rng.uniform(-1, 1, dim).astype(np.float32)
    level[:2] = 1
    queries = np.stack([keys[1], keys[2], keys[4], keys[1] * (np.arange(dim) % 2 == 0), level])
    for metric in METRICS:
        scores, ids = reference.search(queries, keys, 5, metric=metric)
        hits = run_native(Case(queries, keys, 5, {}), metric, True)
        assert_hits(hits, (scores, ids), f"{metric}, together")
        for i in range(len(queries)):
            hits = run_native(Case(queries[i : i + 1], keys, 5, {}), metric, True)
            assert_hits(hits, (scores[i : i + 1], ids[i : i + 1]), f"{metric}, query {i}")


def test_one_vector_is_one_query(backend, rng):
    query, keys = normal(rng, 20), normal(rng, 30, 20)
    expected = reference.search(query[None], keys, 4)
    assert_hits(memcore.search(query, keys, 4, backend=backend), expected)
    assert_hits(memcore.search(query.tolist(), keys.tolist(), 4, backend=backend), expected)
    named = [3, 1, -1, 3]
    expected = reference.search(query[None], keys, 4, candidates=np.array([named]))
    assert_hits(memcore.search(query, keys, 4, candidates=named, backend=backend), expected)


def test_hits_say_what_is_valid(backend):
    hits = memcore.search([[1.0, 2.0]], [[1.0, 0.0]], 3, backend=backend)
    assert hits.valid.tolist() == [[True, False, False]]
    scores, ids = hits
    assert scores.tolist() == [[1.0, -np.inf, -np.inf]]
    assert ids.tolist() == [[0, -1, -1]]


def test_inputs_are_left_as_they_were(backend, rng):
    case = CASES["everything_at_once"](rng)
    arrays = [case.queries, case.keys, case.k, *case.options.values()]
    before = [np.copy(array) for array in arrays]
    memcore.search(case.queries, case.keys, case.k, backend=backend, **case.options)
    for array, copy in zip(arrays, before, strict=True):
        assert np.array_equal(array, copy)


def test_bfloat16_helper_agrees_with_torch(rng):
    torch = pytest.importorskip("torch")
    numbers = (normal(rng, 1000) * 10.0 ** rng.uniform(-40, 38, 1000)).astype(np.float32)
    expected = torch.tensor(numbers).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(to_bfloat16(numbers), expected)

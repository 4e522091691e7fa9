"""Every refusal of the ops: its type, its sentence, and that nothing ran."""

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from containers import unaligned
from memcore import reference

QUERIES = np.ones((2, 4), np.float32)
KEYS = np.ones((10, 4), np.float32)


@pytest.mark.parametrize(
    ("queries", "keys", "sentence"),
    [
        (np.ones((2, 3, 4)), KEYS, r"queries has shape \(2, 3, 4\), should be \(n_queries, dim\)"),
        (3.0, KEYS, r"queries has shape \(\), should be"),
        (QUERIES, np.ones(4), r"keys has shape \(4,\), should be \(n_keys, dim\)"),
        (QUERIES, np.ones((10, 5)), "keys has dim 5, should be 4 as queries has"),
        (np.ones((2, 0)), np.ones((10, 0)), "keys has dim 0, should be at least 1"),
    ],
)
def test_shapes(backend, queries, keys, sentence):
    with pytest.raises(memcore.ShapeError, match=f"^search: {sentence}"):
        memcore.search(queries, keys, backend=backend)


@pytest.mark.parametrize(
    ("k", "error", "sentence"),
    [
        (-1, memcore.InputError, "k is -1, should be at least 0"),
        ([2, -3], memcore.InputError, "k is -3, should be at least 0"),
        (True, memcore.DtypeError, "k is True, should be an int"),
        (np.True_, memcore.DtypeError, "k is np.True_, should be an int"),
        (2.0, memcore.DtypeError, r"k is 2\.0, should be an int"),
        (np.float32(2), memcore.DtypeError, r"k is np\.float32\(2\.0\), should be an int"),
        ([2.0, 1.0], memcore.DtypeError, "k has dtype float64, should be int64"),
        ("3", memcore.DtypeError, "k is a str"),
        (None, memcore.DtypeError, "k has dtype object, should be int64"),
        ([1, 2, 3], memcore.ShapeError, r"k has shape \(3,\), should be \(2,\), one per query"),
    ],
)
def test_k(backend, k, error, sentence):
    with pytest.raises(error, match=f"^search: {sentence}"):
        memcore.search(QUERIES, KEYS, k, backend=backend)


@pytest.mark.parametrize("k", [2**62, 2**63, 2**70, [1, 2**62]])
def test_k_whose_result_no_memory_holds(backend, k):
    with pytest.raises((MemoryError, memcore.DtypeError), match=r"^(search|topk): k "):
        memcore.search(QUERIES, KEYS, k, backend=backend)
    with pytest.raises((MemoryError, memcore.DtypeError), match=r"^(search|topk): k "):
        memcore.topk(QUERIES, k, backend=backend)


@pytest.mark.parametrize("k", [np.int32(3), np.uint8(3), np.array(3), np.array([3, 3], np.int16)])
def test_k_may_be_any_whole_number(backend, k):
    expected = reference.search(QUERIES, KEYS, 3)
    assert_hits(memcore.search(QUERIES, KEYS, k, backend=backend), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2e18])
@pytest.mark.parametrize("row", [0, 5, 99])
def test_the_first_bad_query_is_named(backend, bad, row, rng):
    queries = normal(rng, 100, 4)
    queries[row, 2] = bad
    queries[99, 1] = bad
    with pytest.raises(memcore.InputError, match=f"^search: queries row {row} is not finite"):
        memcore.search(queries, KEYS, backend=backend)
    with pytest.raises(memcore.InputError, match=f"queries row {row} is not"):
        memcore.search(queries, KEYS[:0], backend=backend)


def test_a_norm_of_1e18_may_be_asked(backend):
    queries = np.array([[1e18, 0, 0, 0], [6e17, 0, 8e17, 0]], np.float32)
    keys = np.concatenate([queries, -queries])
    assert_hits(memcore.search(queries, keys, backend=backend), reference.search(queries, keys))


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"metric": "l1"}, memcore.InputError, "metric is 'l1', should be one of dot, cosine, l2"),
        ({"mask": np.ones(9, bool)}, memcore.ShapeError, r"mask has shape \(9,\), should be \(10,"),
        ({"mask": np.ones((10, 2), bool)}, memcore.ShapeError, r"mask has shape \(10, 2\)"),
        ({"mask": np.ones(10)}, memcore.DtypeError, "mask has dtype float64, should be bool"),
        ({"mask": [0, 1] * 5}, memcore.DtypeError, "mask has dtype int64, should be bool"),
        ({"candidates": [1, 2]}, memcore.ShapeError, r"candidates has shape \(2,\), should be"),
        ({"candidates": [[1]]}, memcore.ShapeError, r"candidates has shape \(1, 1\)"),
        (
            {"candidates": [[1, 2], [3, 10]]},
            memcore.InputError,
            r"candidates\[1, 1\] is 10, should be -1 or below 10",
        ),
        ({"candidates": [[1, -2], [0, 0]]}, memcore.InputError, r"candidates\[0, 1\] is -2"),
        ({"candidates": [[1.0], [2.0]]}, memcore.DtypeError, "candidates has dtype float64"),
        ({"candidates": [[True], [False]]}, memcore.DtypeError, "candidates has dtype bool"),
        ({"scale": np.ones(9)}, memcore.ShapeError, r"scale has shape \(9,\), should be \(10,\)"),
        ({"scale": 2.0}, memcore.ShapeError, r"scale has shape \(\), should be \(10,\)"),
        ({"bias": np.ones((2, 10))}, memcore.ShapeError, r"bias has shape \(2, 10\)"),
        ({"bias": ["a"] * 10}, memcore.DtypeError, "bias has dtype <U1"),
        ({"min_score": np.nan}, memcore.InputError, "min_score is NaN, should be a number"),
        ({"max_score": "high"}, memcore.DtypeError, "max_score is 'high', should be a number"),
        ({"banks": 3}, memcore.InputError, "banks is given with an array of keys"),
        ({"where": {}}, memcore.InputError, "where is given with an array of keys"),
    ],
)
def test_options(backend, options, error, sentence):
    with pytest.raises(error, match=f"^search: {sentence}"):
        memcore.search(QUERIES, KEYS, backend=backend, **options)


@pytest.mark.parametrize(
    "array",
    [
        "words",
        b"bytes",
        None,
        object(),
        [["a", "b"]],
        [[1, 2], [3]],
        [[1 + 2j, 3, 4, 5]],
        np.ones((2, 4), np.complex64),
        np.ones((2, 4), object),
        np.ones((2, 4), "datetime64[s]"),
        np.ones((2, 4), "timedelta64[s]"),
        np.ma.masked_array(QUERIES, QUERIES > 0),
        [[2**70, 1, 1, 1]],
        {"a": 1},
    ],
    ids=repr,
)
def test_what_is_not_an_array_of_numbers(backend, array):
    with pytest.raises(memcore.DtypeError, match=r"^search: queries (has dtype|is )"):
        memcore.search(array, KEYS, backend=backend)
    with pytest.raises(memcore.DtypeError, match=r"^search: keys (has dtype|is )"):
        memcore.search(QUERIES, array, backend=backend)


def test_every_type_of_a_mask_and_of_candidates(backend, rng):
    torch = pytest.importorskip("torch")
    queries, keys = normal(rng, 3, 8), normal(rng, 40, 8)
    mask = rng.random((3, 40)) < 0.5
    expected = reference.search(queries, keys, 9, mask=mask)
    wide = np.zeros((6, 80), bool)
    wide[::2, ::2] = mask
    for form in (mask, mask.tolist(), torch.tensor(mask), np.asfortranarray(mask), wide[::2, ::2]):
        assert_hits(memcore.search(queries, keys, 9, mask=form, backend=backend), expected)
    named = rng.integers(-1, 40, (3, 12))
    expected = reference.search(queries, keys, 9, candidates=named)
    forms = (
        named,
        named.astype(np.int8),
        named.tolist(),
        torch.tensor(named),
        named[:, ::-1],
        unaligned(named),
        np.asfortranarray(named),
    )
    for form in forms:
        assert_hits(memcore.search(queries, keys, 9, candidates=form, backend=backend), expected)


def test_every_type_of_scale_and_bias(backend, rng):
    torch = pytest.importorskip("torch")
    queries, keys = normal(rng, 3, 8), normal(rng, 40, 8)
    weights = np.round(normal(rng, 40) * 8) / 8
    expected = reference.search(queries, keys, scale=weights, bias=weights)
    every_second = np.repeat(weights, 2)[::2]
    tensors = torch.tensor(weights), torch.tensor(weights).bfloat16()
    for form in (
        weights.astype(np.float64),
        weights.tolist(),
        every_second,
        unaligned(weights),
        *tensors,
    ):
        hits = memcore.search(queries, keys, scale=form, bias=form, backend=backend)
        assert_hits(hits, expected)


def test_bounds_are_rounded_to_float32(backend):
    keys = np.array([[0.1], [0.7], [1e-3]], np.float32)
    for bound in (0.1, 0.7, 1e-3, np.float64(0.7), np.float32(0.7)):
        hits = memcore.search([[1.0]], keys, min_score=bound, max_score=bound, backend=backend)
        assert hits.valid.sum() == 1
    assert memcore.search([[1.0]], keys, min_score=1e300, backend=backend).valid.sum() == 0
    assert memcore.search([[1.0]], keys, max_score=1e300, backend=backend).valid.sum() == 3


class Store:
    """Stands where a Bank stands, and remembers how it was asked."""

    metric = "cosine"

    def search(self, *args, **options):
        self.asked = args, options
        return memcore.Hits(1, 2)


class Stores(Store):
    """Stands where an Arena stands."""

    def new(self):
        """What tells it from a Bank."""


def test_a_store_is_asked_itself():
    store = Store()
    assert memcore.search("words", store) == (1, 2)
    assert store.asked == (("words", 10), {})
    memcore.search("words", store, 3, metric="cosine", where={"a": 1}, min_score=0.5, backend="cpu")
    options = {"where": {"a": 1}, "min_score": 0.5, "backend": "cpu"}
    assert store.asked == (("words", 3), options)
    store = Stores()
    memcore.search("words", store, 3, banks=[7], candidates=[1], scale="s", bias="b", max_score=1)
    options = {"candidates": [1], "scale": "s", "bias": "b", "max_score": 1}
    assert store.asked == (([7], "words", 3), options)


def test_what_a_store_does_not_take():
    with pytest.raises(memcore.InputError, match=r"^search: metric is 'dot', should be"):
        memcore.search("words", Store(), metric="dot")
    with pytest.raises(memcore.InputError, match=r"^search: mask is given with a store"):
        memcore.search("words", Store(), mask=[True])
    for store, given in ((memcore.Bank(4), {}), (memcore.Arena(4), {"banks": []})):
        with pytest.raises(memcore.BackendError, match=r"^search: backend is 'reference', should"):
            memcore.search(np.ones((0, 4)), store, backend="reference", **given)

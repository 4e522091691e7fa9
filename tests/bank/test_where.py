"""Conditions: every operator on every kind, nulls, joins, one per query, and what is refused."""

import numpy as np
import pytest

from bank_oracle import DONE, FIELDS, NAMES, TAGS, TIMES, WEIGHTS, matches
from bank_steps import condition
from memcore import Arena, Bank
from memcore.errors import DtypeError, InputError, ShapeError

N_ROWS = 60


class Dice:
    def __init__(self, rng):
        self.rng = rng

    def below(self, n):
        return int(self.rng.integers(n))


@pytest.fixture
def shelf(rng):
    """A bank of rows with all sorts of fields, and the fields."""
    rows = [
        {
            "time": TIMES[rng.integers(len(TIMES))],
            "weight": WEIGHTS[rng.integers(len(WEIGHTS))],
            "done": DONE[rng.integers(len(DONE))],
            "who": NAMES[rng.integers(len(NAMES))],
            "tags": TAGS[rng.integers(len(TAGS))],
        }
        for _ in range(N_ROWS)
    ]
    bank = Bank(3, fields=FIELDS)
    columns = {name: [row[name] for row in rows] for name in FIELDS}
    bank.add(rng.standard_normal((N_ROWS, 3)), fields=columns)
    return bank, rows


def found(bank, where):
    ids = bank.search(np.ones(bank.dim), 500, where=where).ids[0]
    return sorted(ids[ids >= 0].tolist())


def table(values):
    bank = Bank(1)
    bank.add(np.ones((len(values), 1)), fields={"f": values})
    return bank


@pytest.mark.parametrize(
    ("values", "where", "expected"),
    [
        (["ana", "bob", None], {"f": "ana"}, [0]),
        (["ana", "bob", None], {"f": {"ne": "ana"}}, [1]),
        (["ana", "bob", None], {"f": {"ne": "nobody"}}, [0, 1]),
        (["ana", "bob", None], {"not": {"f": "ana"}}, [1, 2]),
        (["ana", "bob", None], {"f": None}, [2]),
        (["ana", "bob", None], {"f": {"eq": None}}, [2]),
        (["ana", "bob", None], {"f": {"ne": None}}, [0, 1]),
        (["ana", "bob", None], {"f": {"in": ["bob", "eve"]}}, [1]),
        (["ana", "bob", None], {"f": {"in": []}}, []),
        (["ana", "bob", None], {"f": {"nin": ["bob", "eve"]}}, [0]),
        (["ana", "bob", None], {"f": {"nin": []}}, [0, 1]),
        (["ana", "anna", "bob", None], {"f": {"contains": "na"}}, [0, 1]),
        (["ana", "anna", "bob", None], {"f": {"contains": ""}}, [0, 1, 2]),
        (["b", "a", "B", None], {"f": {"gt": "a"}}, [0]),
        (["b", "a", "B", None], {"f": {"gte": "a", "lte": "b"}}, [0, 1]),
        ([5, 6, None], {"f": {"gte": 5, "lt": 6}}, [0]),
        ([5, 6, None], {"f": {"gt": 5}}, [1]),
        ([5, 6, None], {"f": {"lte": 6}}, [0, 1]),
        ([5, 6, None], {"f": np.int32(6)}, [1]),
        ([5, 6, None], {"f": {"nin": [6, 7]}}, [0]),
        ([2**53, 2**53 + 1], {"f": 2**53 + 1}, [1]),
        ([0.5, -0.0, None, float("nan")], {"f": 0}, [1]),
        ([0.5, -0.0, None, float("nan")], {"f": {"in": [0.0, 0.5]}}, [0, 1]),
        ([0.5, -0.0, None, float("nan")], {"f": None}, [2, 3]),
        ([0.5, -0.0, None, float("nan")], {"not": {"f": {"gt": 0}}}, [1, 2, 3]),
        ([0.5, float("inf"), -2.0], {"f": {"gt": 0.25}}, [0, 1]),
        ([0.5, float("inf"), -2.0], {"f": {"in": [-2, float("inf")]}}, [1, 2]),
        ([True, False, None], {"f": True}, [0]),
        ([True, False, None], {"f": {"ne": True}}, [1]),
        ([True, False, None], {"f": {"in": [True, False]}}, [0, 1]),
        ([["a", "b"], [], None, ["b"]], {"f": {"contains": "b"}}, [0, 3]),
        ([["a", "b"], [], None, ["b"]], {"f": []}, [1]),
        ([["a", "b"], [], None, ["b"]], {"f": ["b", "a"]}, []),
        ([["a", "b"], [], None, ["b"]], {"f": {"ne": ["b"]}}, [0, 1]),
        ([["a", "b"], [], None, ["b"]], {"f": {"in": [["b"], []]}}, [1, 3]),
        ([["a", "b"], [], None, ["b"]], {"f": {"contains": "ab"}}, []),
        ([1, 2, 3], {}, [0, 1, 2]),
        ([1, 2, 3], {"f": {}}, [0, 1, 2]),
        ([1, 2, 3], {"and": []}, [0, 1, 2]),
        ([1, 2, 3], {"or": []}, []),
        ([1, 2, 3], {"not": {}}, []),
        ([1, 2, 3], {"or": [{"f": 1}, {"f": 3}]}, [0, 2]),
        ([1, 2, 3], {"and": [{"f": {"gt": 1}}, {"f": {"lt": 3}}]}, [1]),
        ([1, 2, 3], {"or": [{"f": 1}, {"f": 2}], "not": {"f": 2}}, [0]),
    ],
)
def test_by_hand(values, where, expected):
    assert found(table(values), where) == expected


def test_against_python(shelf, rng):
    bank, rows = shelf
    dice = Dice(rng)
    for _ in range(400):
        where = condition(dice, depth=3)
        expected = [i for i, row in enumerate(rows) if matches(where, row)]
        assert found(bank, where) == expected, where


def test_the_k_best_of_the_allowed(shelf, rng):
    bank, rows = shelf
    dice = Dice(rng)
    queries = rng.standard_normal((20, 3))
    everything = bank.search(queries, N_ROWS)
    conditions = [None if i % 5 == 0 else condition(dice) for i in range(20)]
    hits = bank.search(queries, 4, where=conditions)
    for i, where in enumerate(conditions):
        allowed = [
            (score, row)
            for score, row in zip(everything.scores[i], everything.ids[i], strict=True)
            if where is None or matches(where, rows[row])
        ]
        best = (allowed + [(-np.inf, -1)] * 4)[:4]
        assert hits.ids[i].tolist() == [row for _, row in best]
        assert hits.scores[i].tolist() == [score for score, _ in best]


def test_one_condition_for_each_query_of_a_group():
    arena = Arena(2, fields={"t": "int64"})
    group = arena.new(6).reshape(2, 3)
    arena.add(np.repeat(group.reshape(-1), 3), np.ones((18, 2)), fields={"t": [0, 1, 2] * 6})
    where = [[{"t": 0}, {"t": 1}, None], [None, {"t": 2}, {"t": 9}]]
    hits = arena.search(group, np.ones((2, 3, 2)), 2, where=where)
    assert hits.ids[..., 0].tolist() == [[0, 1, 0], [0, 2, -1]]
    assert hits.ids[..., 1].tolist() == [[-1, -1, 1], [1, -1, -1]]


def test_a_wide_and_a_deep_condition():
    bank = table(list(range(500)))
    wide = {"or": [{"f": value} for value in range(0, 500, 2)]}
    assert found(bank, wide) == list(range(0, 500, 2))
    assert found(bank, {"f": {"in": list(range(0, 500, 3))}}) == list(range(0, 500, 3))
    deep = {"f": 7}
    for _ in range(98):
        deep = {"not": deep}
    assert found(bank, deep) == [7]


def test_words_come_and_go():
    """A number of a word that went may stand for another word now."""
    bank = Bank(1)
    for i in range(50):
        row = bank.add(np.ones((2, 1)), fields={"f": [f"word {i}", "stays"]})
        assert found(bank, {"f": f"word {i}"}) == [row[0]]
        assert found(bank, {"f": {"contains": "word"}}) == [row[0]]
        bank.delete(row[0])
        assert found(bank, {"f": f"word {i}"}) == []


class WritesFirst:
    """Pages where another writer comes between the making of a condition and the search."""

    def __init__(self, pages, write):
        self.pages = pages
        self.write = write

    def __getattr__(self, name):
        return getattr(self.pages, name)

    def search(self, *arguments):
        self.write()
        self.pages.search(*arguments)


@pytest.mark.parametrize("n_writes", [1, 2, 3])
def test_a_word_that_comes_between_is_found(n_writes):
    bank = table(["old"])
    arena, handle = bank._place
    left = list(range(n_writes))

    def write():
        if left:
            arena.add(handle, [[1.0]], fields={"f": [f"new {left.pop()}"]})

    pages = arena._store.pages
    arena._store.pages = WritesFirst(pages, write)
    hits = bank.search(np.ones(1), 5, where={"f": {"contains": "new"}})
    arena._store.pages = pages
    assert left == []
    assert hits.ids[0, :n_writes].tolist() == list(range(1, n_writes + 1))


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ({"whom": "ana"}, InputError, "where names field 'whom', should be one of 'time'"),
        ({"who": {"like": "a"}}, InputError, "where has operator 'like', should be one of 'eq'"),
        ({"who": 3}, DtypeError, "where['who'] is 3 (int), should be a str"),
        ({"who": {"in": "ana"}}, DtypeError, "should be a list"),
        ({"who": {"in": [None]}}, DtypeError, "is None, should be a str"),
        ({"who": {"gt": None}}, DtypeError, "is None, should be a str"),
        ({"time": "x"}, DtypeError, "where['time'] is 'x' (str), should be an int"),
        ({"time": 1.5}, DtypeError, "should be an int"),
        ({"time": True}, DtypeError, "should be an int"),
        ({"time": 2**63}, InputError, "should be between -2^63 and 2^63"),
        ({"time": {"contains": 1}}, InputError, "operator 'contains' on 'time'"),
        ({"weight": float("nan")}, InputError, "NaN"),
        ({"weight": "1"}, DtypeError, "should be a number"),
        ({"done": 1}, DtypeError, "should be a bool"),
        ({"done": {"gt": False}}, InputError, "operator 'gt' on 'done'"),
        ({"tags": "a"}, DtypeError, "should be a list of str"),
        ({"tags": {"gt": ["a"]}}, InputError, "operator 'gt' on 'tags'"),
        ({"tags": {"contains": ["a"]}}, DtypeError, "should be a str"),
        ({"and": {"who": "ana"}}, DtypeError, "where['and']"),
        ({"not": [{"who": "ana"}]}, DtypeError, "should be a dict"),
        ({"or": ["ana"]}, DtypeError, "should be a dict"),
        ("who", ShapeError, "where"),
        ([{"who": "ana"}, None], ShapeError, "where has 2 values, should have 1"),
        ([7], DtypeError, "should be a dict"),
    ],
)
def test_refused(shelf, where, error, words):
    bank, _ = shelf
    with pytest.raises(error) as caught:
        bank.search(np.ones(3), where=where)
    assert str(caught.value).startswith("search: ")
    assert words in str(caught.value)


def test_too_deep_is_refused(shelf):
    bank, _ = shelf
    deep = {"who": "ana"}
    for _ in range(2000):
        deep = {"not": deep}
    with pytest.raises(InputError, match="nested deeper"):
        bank.search(np.ones(3), where=deep)

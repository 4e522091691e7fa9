"""The plain call: what the engine takes as it is, and what it leaves to the checks in Python."""

import numpy as np
import pytest

import memcore
from cases import METRICS, normal
from compare import assert_hits
from memcore import _core, reference


def unaligned(array):
    room = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    room[...] = array
    return room


def read_only(array):
    array.flags.writeable = False
    return array


LAYOUTS = {
    "contiguous": lambda a: a,
    "fortran": np.asfortranarray,
    "every other row": lambda a: np.repeat(a, 2, 0)[::2],
    "every other component": lambda a: np.repeat(a, 2, 1)[:, ::2],
    "backwards": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "unaligned": unaligned,
    "read-only": read_only,
}


@pytest.mark.parametrize("metric", [None, *METRICS])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_queries", [0, 1, 9])
def test_a_plain_call_equals_the_definition(layout, metric, n_queries, rng):
    queries = LAYOUTS[layout](normal(rng, n_queries, 19))
    keys = LAYOUTS[layout](normal(rng, 300, 19))
    for k in (0, 1, 7, 400):
        hits = _core.search_plain(queries, keys, k, metric)
        assert type(hits) is memcore.Hits
        assert_hits(hits, reference.search(queries, keys, k, metric=metric or "dot"))
        assert_hits(memcore.search(queries, keys, k, metric=metric), hits)


def test_one_query_may_be_flat(rng):
    queries, keys = normal(rng, 1, 8), normal(rng, 30, 8)
    hits = _core.search_plain(queries[0], keys, 3, None)
    assert hits.ids.shape == (1, 3)
    assert_hits(hits, memcore.search(queries, keys, 3, backend="cpu"))


Q = np.ones((2, 4), np.float32)
X = np.ones((5, 4), np.float32)
NOT_PLAIN = {
    "list": (Q.tolist(), X, 1, None),
    "float64": (Q, X.astype(float), 1, None),
    "float16": (Q.astype(np.float16), X, 1, None),
    "other byte order": (Q.astype(">f4"), X, 1, None),
    "masked": (np.ma.array(Q), X, 1, None),
    "subclass": (Q.view(np.recarray), X, 1, None),
    "no axis": (np.float32(1), X, 1, None),
    "three axes": (Q[None], X, 1, None),
    "one key": (Q, X[0], 1, None),
    "another dim": (Q[:, :3], X, 1, None),
    "no dim": (Q[:, :0], X[:, :0], 1, None),
    "bool k": (Q, X, True, None),
    "float k": (Q, X, 1.0, None),
    "negative k": (Q, X, -1, None),
    "huge k": (Q, X, 1 << 70, None),
    "k of each query": (Q, X, [1, 2], None),
    "unknown metric": (Q, X, 1, "hamming"),
    "no metric": (Q, X, 1, 5),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_is_left_to_python(name):
    queries, keys, k, metric = NOT_PLAIN[name]
    assert _core.search_plain(queries, keys, k, metric) is None


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_the_same_answer_or_the_same_sentence_where_the_engine_is_named(name):
    queries, keys, k, metric = NOT_PLAIN[name]
    answers = []
    for backend in (None, "cpu"):
        try:
            hits = memcore.search(queries, keys, k, metric=metric, backend=backend)
            answers.append(tuple(map(np.ndarray.tolist, hits)))
        except Exception as error:
            answers.append((type(error), str(error)))
    assert answers[0] == answers[1]


def test_a_bad_query_is_named():
    queries = np.ones((3, 4), np.float32)
    queries[1, 2] = np.nan
    with pytest.raises(memcore.InputError, match=r"^search: queries row 1 is not finite"):
        memcore.search(queries, X)


def test_a_plain_call_of_banks_equals_the_others(rng):
    arena = memcore.Arena(dim=6)
    handles = arena.new(4)
    arena.add(np.repeat(handles, 30), normal(rng, 120, 6))
    queries = normal(rng, 4, 6)
    pages = arena._store.pages
    for banks, asked in ((handles, queries), (handles[2:3], queries), (handles[:1], queries[0])):
        expected = arena.search(banks, asked, 5, backend="cpu")
        hits = pages.search_plain(banks, asked, 5)
        assert type(hits) is memcore.Hits
        assert_hits(hits, expected)
        assert_hits(arena.search(banks, asked, 5), expected)
    for banks in (handles[:3], handles[::2], handles.astype(np.int32), handles[None], handles[0]):
        assert pages.search_plain(banks, queries, 5) is None
    assert pages.search_plain(unaligned(handles), queries, 5) is None
    for asked in (queries.astype(float), queries[:, :5], queries[None]):
        assert pages.search_plain(handles, asked, 5) is None
    arena.drop(handles[1])
    with pytest.raises(memcore.NotFoundError, match=r"search: handle .* \(position 1\)"):
        arena.search(handles, queries)
    bare = memcore.Arena()
    assert bare._store.pages.search_plain(bare.new(1), np.empty((1, 0), np.float32), 1) is None

"""Bank: the verbs of an arena of one, what its first add fixes, text, forks, and its life."""

import copy
import gc
import threading

import numpy as np
import pytest

import memcore
from compare import assert_hits
from memcore import Arena, Bank, Hits, reference
from memcore.errors import BackendError, DtypeError, InputError, NotFoundError, ShapeError


def letters(texts):
    """Counts of a to z: an embedder that one can check by hand."""
    return [[float(text.lower().count(chr(97 + i))) for i in range(26)] for text in texts]


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_search_is_the_reference(rng, metric, isa):
    vectors = rng.standard_normal((300, 24)).astype(np.float32)
    queries = rng.standard_normal((9, 24)).astype(np.float32)
    bank = Bank(24, metric=metric)
    for chunk in np.array_split(vectors, 7):
        bank.add(chunk)
    for k in (1, 5, 300, 301):
        expected = reference.search(queries, vectors, k, metric=metric)
        assert_hits(bank.search(queries, k), expected)
        # The general path.
        assert_hits(bank.search(queries.astype(np.float64), k), expected)
        assert_hits(bank.search(queries, k, where={}), expected)
        for i in range(9):
            alone = bank.search(queries[i], k)
            assert_hits(alone, (expected[0][i : i + 1], expected[1][i : i + 1]))


def test_results():
    bank = Bank(2)
    bank.add([[1, 0], [0, 1], [0, 0]], payloads=["east", "north", "nowhere"])
    hits = bank.search([1, 0], 4)
    assert isinstance(hits, Hits)
    assert hits.scores.tolist() == [[1.0, 0.0, 0.0, -np.inf]]
    assert hits.ids.tolist() == [[0, 1, 2, -1]]
    assert hits.valid.tolist() == [[True, True, True, False]]
    scores, ids = hits
    assert scores is hits.scores
    assert ids is hits.ids
    assert bank.rows(hits) == [["east", "north", "nowhere", None]]
    assert bank.search(np.zeros((0, 2), np.float32), 3).ids.shape == (0, 3)
    assert bank.search(np.ones((2, 2), np.float32), 0).ids.shape == (2, 0)
    assert bank.search(np.ones((2, 2), np.float32)).ids.shape == (2, 10)
    assert bank.search(np.ones((2, 2)), np.array([1, 3])).ids.tolist() == [[0, -1, -1], [0, 1, 2]]


def test_verbs():
    bank = Bank(2, fields={"n": int})
    assert bank.add(np.eye(2)).tolist() == [0, 1]
    assert bank.add(np.ones(2, np.float32)).tolist() == [2]
    assert bank.add(np.ones(2), ids=7).tolist() == [7]
    assert bank.add(np.ones((1, 2)), fields={"n": [4]}, payloads=["four"]).tolist() == [8]
    assert (len(bank), bank.count(), list(bank)) == (5, 5, [0, 1, 2, 7, 8])
    assert bank.ids().tolist() == [0, 1, 2, 7, 8]
    assert bank.contains([7, 3]).tolist() == [True, False]
    assert 7 in bank
    assert 3 not in bank
    assert np.int64(8) in bank
    assert bank.update(7, np.zeros(2)).tolist() == [True]
    assert bank.update([0, 5], fields={"n": [1, 2]}, missing="skip").tolist() == [True, False]
    assert bank.delete([1, 5], missing="skip").tolist() == [True, False]
    rows = bank.get([0, 7, 8])
    assert rows.vectors.tolist() == [[1, 0], [0, 0], [1, 1]]
    assert rows.fields == {"n": [1, None, 4]}
    assert rows.payloads == [None, None, "four"]
    assert bank.score([1, 0], [[0, 7, -1]]).tolist() == [[1.0, 0.0, -np.inf]]
    with pytest.raises(NotFoundError, match="id 1 "):
        bank.get([0, 1])
    assert (bank.dim, bank.metric, bank.dtype, bank.fields) == (
        2,
        "cosine",
        "float32",
        {"n": "int64"},
    )
    assert repr(bank) == "Bank(dim=2, metric='cosine', dtype='float32')"
    before = bank.nbytes
    bank.delete(bank.ids())
    assert bank.nbytes < before
    bank.compact()
    assert bank.add(np.ones(2)).tolist() == [9]


def test_the_first_add_fixes_dim_and_fields():
    bank = Bank()
    assert (bank.dim, bank.fields, len(bank), list(bank)) == (None, {}, 0, [])
    hits = bank.search(np.ones((3, 5)), 2, where={"who": "ana"})
    assert hits.ids.tolist() == [[-1, -1]] * 3
    assert (hits.scores == -np.inf).all()
    assert bank.search(np.ones(4), 2, scale="w").ids.shape == (1, 2)
    with pytest.raises(InputError, match=r"row 0"):
        bank.search([np.nan, 1], 2)
    with pytest.raises(InputError, match="k is -1"):
        bank.search([1.0, 1], -1)
    for bad in (np.full((1, 3), np.nan), [["x"]], np.ones((1, 2, 0)), 1.0):
        with pytest.raises((InputError, DtypeError, ShapeError)):
            bank.add(bad, fields={"bad": [1]})
    assert bank.add(np.ones((0, 7)), payloads=[]).tolist() == []
    assert (bank.dim, bank.fields, len(bank)) == (None, {}, 0)
    assert bank.add(np.ones((2, 3)), fields={"who": ["ana", "bob"]}).tolist() == [0, 1]
    assert (bank.dim, bank.fields, len(bank)) == (3, {"who": "str"}, 2)
    with pytest.raises(ShapeError, match="vectors has dim 4, should be 3"):
        bank.add(np.ones((1, 4)))
    with pytest.raises(InputError, match="names field 'size'"):
        bank.add(np.ones((1, 3)), fields={"size": [1]})


def test_a_dim_that_is_given_holds_for_the_first_add():
    bank = Bank(3)
    with pytest.raises(ShapeError, match="vectors has dim 4, should be 3"):
        bank.add(np.ones((1, 4)))
    with pytest.raises(ShapeError, match="queries has dim 4, should be 3"):
        bank.search(np.ones((1, 4)))
    assert bank.search(np.ones((1, 3))).ids.shape == (1, 10)
    bank.add(np.ones((1, 3)))
    assert bank.fields == {}


def test_a_bank_without_vectors():
    bank = Bank()
    assert bank.add(payloads=["a", "b"], fields={"n": [1, 2]}).tolist() == [0, 1]
    assert bank.get([1]) == (None, {"n": [2]}, ["b"], np.array([True]))
    with pytest.raises(ShapeError, match="vectors is given"):
        bank.add(np.ones((1, 3)))
    with pytest.raises(InputError, match=r"^search: the rows have no vectors"):
        bank.search(np.ones((1, 3)))


def test_threads_may_race_for_the_first_add():
    for _ in range(20):
        bank = Bank()
        barrier = threading.Barrier(4)
        got = []

        def add(bank=bank, barrier=barrier, got=got):
            barrier.wait()
            got.extend(bank.add(np.ones((2, 3)), payloads=["x", "y"]).tolist())

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == list(range(8))
        assert bank.get(range(8)).payloads == ["x", "y"] * 4


def test_text(rng):
    bank = Bank(embed=letters)
    assert bank.search("anything").ids.shape == (1, 10)
    assert bank.add(texts=[]).tolist() == []
    texts = ["a cab", "the sea", "a fig"]
    assert bank.add(texts=texts, fields={"n": [1, 2, 3]}).tolist() == [0, 1, 2]
    assert bank.add(texts="zoo").tolist() == [3]
    assert bank.dim == 26
    hits = bank.search("abc", 2)
    assert hits.ids[0, 0] == 0
    assert bank.rows(hits)[0][0] == "a cab"
    assert_hits(hits, bank.search(np.array(letters(["abc"])), 2))
    where = {"n": {"gt": 1}}
    two = bank.search(["figs", "sea"], 1, where=where)
    assert_hits(two, bank.search(letters(["figs", "sea"]), 1, where=where))
    assert bank.rows(two) == [["a fig"], ["the sea"]]
    assert bank.score("fig", [[2, 3]]).tolist() == bank.score(letters(["fig"]), [[2, 3]]).tolist()
    assert bank.update(1, texts="the bee").tolist() == [True]
    assert bank.update([0], texts=["a cab"], payloads=["other"]).tolist() == [True]
    assert bank.get([0, 1]).payloads == ["other", "the bee"]
    assert bank.get([1]).vectors.tolist() == letters(["the bee"])
    assert bank.add(texts=["x"], payloads=[{"my": "own"}]).tolist() == [4]
    assert bank.get([4]).payloads == [{"my": "own"}]
    # Vectors are still taken.
    bank.add(np.ones((1, 26)))
    assert bank.fork().search("abc", 1).ids.tolist() == [[0]]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda b: b.add(texts=["a", 1]), DtypeError, "add: texts is ['a', 1]"),
        (lambda b: b.add(texts=7), DtypeError, "add: texts is 7"),
        (lambda b: b.add(np.ones((1, 26)), texts=["a"]), InputError, "vectors and texts are given"),
        (lambda b: b.update([0], np.ones((1, 26)), texts=["a"]), InputError, "vectors and texts"),
        (lambda b: b.search(["a", 1]), DtypeError, "search: texts is ['a', 1]"),
        (lambda b: b.add(texts=["a"], payloads=[]), ShapeError, "payloads has 0 values"),
    ],
)
def test_text_that_is_refused(call, error, words):
    bank = Bank(embed=letters)
    bank.add(texts=["a"])
    with pytest.raises(error) as caught:
        call(bank)
    assert words in str(caught.value)
    assert len(bank) == 1


def test_an_embedder_that_does_not_fit():
    with pytest.raises(DtypeError, match="search: text is given, should come with Bank"):
        Bank(3).search("text")
    with pytest.raises(DtypeError, match="add: text is given"):
        Bank(3).add(texts=["text"])
    bank = Bank(embed=lambda texts: np.ones((1, 3)))
    with pytest.raises(
        ShapeError, match=r"embed\(texts\) has shape \(1, 3\), should be \(2, dim\)"
    ):
        bank.add(texts=["a", "b"])
    bank.add(texts=["a"])
    bank.embed = lambda texts: np.ones((len(texts), 4))
    with pytest.raises(ShapeError, match="has dim 4, should be 3"):
        bank.add(texts=["b"])
    with pytest.raises(ShapeError, match="has dim 4, should be 3"):
        bank.search("b")
    bank.embed = lambda texts: np.full((len(texts), 3), np.nan)
    with pytest.raises(InputError, match="row 0"):
        bank.add(texts=["b"])
    assert len(bank) == 1


def test_forks_are_banks_of_their_own(rng):
    bank = Bank(4)
    bank.add(rng.standard_normal((50, 4)), payloads=list(range(50)))
    fork = bank.fork()
    twin = copy.copy(fork)
    fork.delete([0, 1])
    twin.update([0], payloads=["changed"])
    assert fork.add(np.ones(4)).tolist() == [50]
    assert bank.add(np.ones(4)).tolist() == [50]
    assert (len(bank), len(fork), len(twin)) == (51, 49, 50)
    assert bank.get([0]).payloads == [0]
    assert twin.get([0]).payloads == ["changed"]
    mark = bank.snapshot()
    with pytest.raises(InputError, match=r"^rollback: "):
        fork.rollback(mark)
    arena = bank._place[0]
    before = arena.nbytes
    del fork, twin
    gc.collect()
    assert arena.nbytes < before
    bank.drop()
    bank.drop()
    with pytest.raises(NotFoundError):
        bank.count()


def test_forks_of_a_bank_that_is_open():
    bank = Bank()
    fork = bank.fork()
    bank.add(np.ones((1, 3)), fields={"n": [1]})
    fork.add(np.ones((2, 5)), fields={"who": ["ana", "bob"]})
    assert (bank.dim, bank.fields, len(bank)) == (3, {"n": "int64"}, 1)
    assert (fork.dim, fork.fields, len(fork)) == (5, {"who": "str"}, 2)
    assert len(bank.fork()) == 1


def test_marks():
    bank = Bank(2, fields={})
    empty = bank.snapshot()
    bank.add(np.ones((3, 2)), payloads=["a", "b", "c"])
    three = bank.snapshot()
    bank.delete([0])
    bank.update([1], payloads=["B"])
    bank.rollback(three)
    assert bank.get([0, 1, 2]).payloads == ["a", "b", "c"]
    bank.rollback(empty)
    assert list(bank) == []
    bank.rollback(three)
    assert bank.add(np.ones((1, 2))).tolist() == [3]
    three.release()
    with pytest.raises(InputError, match="released"):
        bank.rollback(three)


def test_a_mark_from_before_the_first_add():
    bank = Bank()
    mark = bank.snapshot()
    other = Bank()
    others = other.snapshot()
    bank.rollback(mark)
    bank.add(np.ones((2, 3)), fields={"n": [1, 2]}, payloads=["a", "b"])
    later = bank.snapshot()
    with pytest.raises(InputError, match=r"^rollback: "):
        bank.rollback(others)
    for _ in range(2):
        bank.rollback(mark)
        assert (len(bank), bank.fields) == (0, {"n": "int64"})
        assert bank.add(np.ones((1, 3))).tolist() == [0]
    bank.rollback(later)
    assert bank.get([0, 1]).payloads == ["a", "b"]
    fork = bank.fork()
    with pytest.raises(InputError, match="another arena"):
        fork.rollback(mark)
    mark.release()
    with pytest.raises(InputError, match="released"):
        bank.rollback(mark)
    assert len(bank) == 2


def test_the_functional_search_takes_a_bank(rng):
    bank = Bank(4, metric="l2", fields={"n": int})
    bank.add(rng.standard_normal((30, 4)), fields={"n": np.arange(30)})
    queries = rng.standard_normal((5, 4)).astype(np.float32)
    assert_hits(memcore.search(queries, bank, 3), bank.search(queries, 3))
    where = {"n": {"lt": 9}}
    assert_hits(memcore.search(queries, bank, where=where), bank.search(queries, where=where))
    with pytest.raises(InputError, match="metric is 'cosine', should be the store's 'l2'"):
        memcore.search(queries, bank, metric="cosine")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda b: b.search(np.ones((1, 3), np.float32)), ShapeError, "queries has dim 3"),
        (lambda b: b.search(np.ones(3, np.float32)), ShapeError, "queries has dim 3"),
        (lambda b: b.search(np.full((1, 2), np.nan, np.float32)), InputError, "row 0"),
        (lambda b: b.search(np.ones((1, 2), np.float32), -1), InputError, "k is -1"),
        (lambda b: b.search(np.ones((1, 2)), backend="reference"), BackendError, "reference"),
        (lambda b: b.search(1.0), ShapeError, "queries is one number"),
        (lambda b: b.add(np.ones((1, 3), np.float32)), ShapeError, "vectors has dim 3"),
        (lambda b: b.add(np.full((1, 2), np.nan, np.float32)), InputError, "row 0"),
        (lambda b: b.add(), ShapeError, "vectors is None"),
        (lambda b: b.delete([0, 0]), InputError, "position 1"),
        (lambda b: b.delete(["a"]), DtypeError, "ids has dtype"),
        (lambda b: b.get([0.5]), DtypeError, "ids has dtype float64"),
        (lambda b: b.get([0], missing=None), InputError, "missing is None"),
        (lambda b: Bank(0), InputError, "dim is 0"),
        (lambda b: Bank(2, metric="max"), InputError, "metric is 'max'"),
    ],
)
def test_refused(call, error, words):
    bank = Bank(2, fields={})
    bank.add(np.ones((1, 2)))
    with pytest.raises(error) as caught:
        call(bank)
    assert words in str(caught.value)
    assert list(bank) == [0]


def test_a_bank_and_an_arena_agree(rng):
    vectors = rng.standard_normal((40, 6)).astype(np.float32)
    arena = Arena(6, metric="dot")
    handle = arena.new(1)
    bank = Bank(6, metric="dot")
    assert arena.add(handle, vectors).tolist() == bank.add(vectors).tolist()
    assert_hits(arena.search(handle, vectors, 7), bank.search(vectors, 7))

"""Arena: shapes of handles, batches, forks and marks, dtypes, containers, and what is refused."""

import os
import threading

import numpy as np
import pytest

import memcore
from compare import assert_hits
from containers import from_bfloat16, to_bfloat16, to_float16
from memcore import Arena, reference
from memcore.errors import (
    BackendError,
    DtypeError,
    InputError,
    NotFoundError,
    ShapeError,
)

METRICS = ["dot", "cosine", "l2"]


def filled(rng, n_banks, n_rows, dim=8, **options):
    """An arena, its banks, and their vectors (n_banks, n_rows, dim); ids are 0 to n_rows - 1."""
    arena = Arena(dim, **options)
    banks = arena.new(n_banks)
    vectors = rng.standard_normal((n_banks, n_rows, dim)).astype(np.float32)
    arena.add(np.repeat(banks, n_rows), vectors.reshape(-1, dim))
    return arena, banks, vectors


def test_ids_are_counted_per_bank():
    arena = Arena(2)
    a, b = arena.new(2)
    assert arena.add([a, b, a, a, b], np.ones((5, 2))).tolist() == [0, 0, 1, 2, 1]
    assert arena.add(a, np.ones((2, 2)), ids=[10, 7]).tolist() == [10, 7]
    assert arena.add(a, np.ones((2, 2))).tolist() == [11, 12]
    assert arena.add([b, a], np.ones((2, 2)), ids=[5, 5]).tolist() == [5, 5]
    assert arena.ids(a).tolist() == [0, 1, 2, 5, 7, 10, 11, 12]
    assert arena.ids(b).tolist() == [0, 1, 5]
    assert arena.count([[a, b]]).tolist() == [[8, 3]]
    arena.delete(a, [12])
    with pytest.raises(InputError, match="id 12"):
        arena.add(a, np.ones((1, 2)), ids=[12])
    assert arena.add(a, np.ones((1, 2))).tolist() == [13]


def test_ids_end():
    arena = Arena(2)
    bank = arena.new(1)
    assert arena.add(bank, np.ones((1, 2)), ids=[2**63 - 1]).tolist() == [2**63 - 1]
    with pytest.raises(InputError, match=r"^add: "):
        arena.add(bank, np.ones((1, 2)))
    assert arena.search(bank, np.ones((1, 2)), 1).ids.tolist() == [[2**63 - 1]]
    assert arena.add(bank, np.ones((1, 2)), ids=[3]).tolist() == [3]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4), (2, 1, 3), (0,), (2, 0)])
def test_results_have_the_shape_of_the_handles(rng, shape, metric):
    arena, banks, vectors = filled(rng, 12, 20, metric=metric)
    places = rng.integers(0, 12, shape)
    handles = banks[places]
    lead = np.shape(handles) or (1,)
    queries = rng.standard_normal((*lead, 8)).astype(np.float32)
    expected = [
        reference.search(query[None], vectors[place], 5, metric=metric)
        for query, place in zip(queries.reshape(-1, 8), np.ravel(places), strict=True)
    ]
    scores = np.array([pair[0][0] for pair in expected], np.float32).reshape(*lead, 5)
    ids = np.array([pair[1][0] for pair in expected], np.int64).reshape(*lead, 5)
    assert_hits(arena.search(handles, queries, 5), (scores, ids))
    assert arena.count(handles).shape == shape
    assert arena.fork(handles, 3).shape == (*shape, 3)
    added = arena.add(handles, queries)
    assert added.shape == lead
    assert arena.contains(handles, added).all()
    assert arena.contains(handles, added).shape == lead
    rows = arena.get(handles, added)
    assert rows.vectors.tobytes() == queries.tobytes()
    assert rows.vectors.shape == queries.shape
    assert arena.score(handles, queries, added[..., None]).shape == (*lead, 1)


def test_one_handle_for_all(rng):
    arena, banks, vectors = filled(rng, 3, 10)
    queries = rng.standard_normal((2, 3, 8)).astype(np.float32)
    scores, ids = reference.search(queries.reshape(6, 8), vectors[1], 4, metric="cosine")
    for handle in (banks[1], banks[1:2], banks[1:2, None], int(banks[1])):
        assert_hits(
            arena.search(handle, queries, 4), (scores.reshape(2, 3, 4), ids.reshape(2, 3, 4))
        )
    assert arena.add(banks[1], queries).shape == (2, 3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_search_is_the_reference(rng, metric, dtype, isa):
    """Banks of 0 to 90 rows, queries in any order, banks repeated; every instruction set."""
    dim = 37
    arena = Arena(dim, metric=metric, dtype=dtype)
    banks = arena.new(12)
    sizes = rng.integers(0, 90, 12)
    sizes[:2] = 0, 16
    rows = [rng.standard_normal((n, dim)).astype(np.float32) for n in sizes]
    arena.add(np.repeat(banks, sizes), np.concatenate(rows))
    stored = {"float32": lambda x: x, "float16": to_float16, "bfloat16": to_bfloat16}[dtype]
    asked = rng.integers(0, 12, 60)
    queries = rng.standard_normal((60, dim)).astype(np.float32)
    for k in (0, 1, 10, 100, rng.integers(0, 20, 60)):
        hits = arena.search(banks[asked], queries, k)
        width = int(np.max(k))
        scores = np.full((60, width), -np.inf, np.float32)
        ids = np.full((60, width), -1, np.int64)
        for i, bank in enumerate(asked):
            each = k if isinstance(k, int) else k[i]
            best = reference.search(queries[i : i + 1], stored(rows[bank]), each, metric=metric)
            scores[i, :each], ids[i, :each] = best[0][0], best[1][0]
        assert_hits(hits, (scores, ids), f"k {k}")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_are_rounded_once(rng, dtype):
    """float64 goes straight to the bank's dtype: by way of float32 some would be rounded twice."""
    exact = rng.standard_normal((2000, 3))
    # Just beyond the middle between two neighbours, by less than float32 can tell.
    middle = 1 + 2.0 ** -(11 if dtype == "float16" else 8)
    exact[:2] = [[middle + 1e-12, middle, middle - 1e-12], [-middle - 1e-12, 1e-9, 0.1]]
    arena = Arena(3, dtype=dtype)
    bank = arena.new(1)
    got = arena.get(bank, arena.add(bank, exact)).vectors
    if dtype == "bfloat16":
        wide = from_bfloat16(got).astype(np.float64)
        up = from_bfloat16(got + np.uint16(1)).astype(np.float64)
        down = from_bfloat16(got - np.uint16(1)).astype(np.float64)
        nearest = np.minimum(abs(up - exact), abs(down - exact))
        assert (abs(wide - exact) <= nearest).all()
        ties = abs(wide - exact) == nearest
        assert (got[ties] % 2 == 0).all()
        assert ties.any()
    else:
        assert got.tobytes() == exact.astype(dtype).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_vectors_and_queries_from_any_container(rng, container, dtype):
    arena = Arena(6, dtype=dtype)
    numbers = rng.standard_normal((9, 6)).astype(np.float32)
    theirs, held = container.wrap(numbers), container.numbers(numbers)
    bank = arena.new(1)
    ids = arena.add(bank, theirs)
    plain = Arena(6, dtype=dtype)
    other = plain.new(1)
    plain.add(other, held)
    rows = arena.get(bank, np.arange(9)).vectors
    assert rows.tobytes() == plain.get(other, np.arange(9)).vectors.tobytes()
    hits = arena.search(bank, theirs, 4)
    assert_hits(hits, plain.search(other, held, 4))
    assert type(ids) is type(hits.ids)


def test_tensors_in_tensors_out(rng):
    torch = pytest.importorskip("torch")
    arena = Arena(4, dtype="bfloat16")
    banks = torch.from_numpy(arena.new(3))
    vectors = torch.from_numpy(rng.standard_normal((3, 4))).to(torch.bfloat16)
    ids = arena.add(banks, vectors)
    assert ids.dtype == torch.int64
    assert ids.tolist() == [0, 0, 0]
    rows = arena.get(banks, ids)
    assert rows.vectors.dtype == torch.bfloat16
    assert torch.equal(rows.vectors, vectors)
    assert torch.equal(arena.fork(banks, 2)[:, :0], torch.zeros(3, 0, dtype=torch.int64))
    hits = arena.search(banks, vectors.requires_grad_(), 2)
    assert hits.scores.requires_grad
    assert torch.equal(hits.ids, torch.tensor([[0, -1]] * 3))
    assert torch.equal(hits.valid, torch.tensor([[True, False]] * 3))
    assert torch.equal(arena.score(banks, vectors, ids[:, None]), hits.scores[:, :1])
    assert arena.delete(banks, ids).all()
    # What NumPy holds as uint16 is the same numbers.
    bits = vectors.detach().view(torch.int16).numpy().view(np.uint16)
    arena.add(banks, bits)
    assert torch.equal(arena.get(banks, ids + 1).vectors, vectors)
    assert_hits(arena.search(banks, bits, 2), arena.search(banks, vectors.detach(), 2))


def test_update_delete_and_get_in_one_batch(rng):
    arena, banks, vectors = filled(rng, 4, 5)
    handles = np.repeat(banks, 2)
    ids = np.array([0, 1, 2, 3, 4, 0, 1, 2])
    new = rng.standard_normal((8, 8)).astype(np.float32)
    assert arena.update(handles, ids, new).all()
    assert arena.get(handles, ids).vectors.tobytes() == new.tobytes()
    assert arena.delete(handles[::2], ids[::2]).all()
    assert arena.contains(handles, ids).tolist() == [False, True] * 4
    rows = arena.get(handles, ids, missing="skip")
    assert rows.found.tolist() == [False, True] * 4
    assert (rows.vectors[::2] == 0).all()
    assert rows.vectors[1::2].tobytes() == new[1::2].tobytes()
    assert arena.update(handles, ids, 2 * new, missing="skip").tolist() == [False, True] * 4
    assert arena.delete(handles, ids, missing="skip").tolist() == [False, True] * 4
    assert arena.count(banks).tolist() == [3, 3, 3, 3]
    # The others are what they were.
    assert arena.get(banks[0], [2]).vectors.tobytes() == vectors[0, 2].tobytes()


def test_the_first_bad_position_is_named_and_nothing_is_changed(rng):
    arena, banks, _ = filled(rng, 2, 4)
    before = [arena.get(bank, np.arange(4)).vectors.tobytes() for bank in banks]
    handles = np.array([banks[0], banks[1], banks[0], banks[1]])
    vectors = np.ones((4, 8), np.float32)
    for call, error, words in [
        (lambda: arena.update(handles, [0, 1, 9, 8], vectors), NotFoundError, "id 9 (position 2)"),
        (lambda: arena.delete(handles, [0, 1, 2, 8]), NotFoundError, "id 8 (position 3)"),
        (lambda: arena.get(handles, [0, 7, 2, 8]), NotFoundError, "id 7 (position 1)"),
        (lambda: arena.delete(handles, [0, 1, 0, 2]), InputError, "position 2"),
        (lambda: arena.update(handles, [0, 1, 2, 1], vectors), InputError, "position 3"),
        (lambda: arena.add(handles, vectors, ids=[9, 9, 8, 3]), InputError, "position 3"),
        (lambda: arena.add([banks[0], 12345, 1, 2], vectors), NotFoundError, "position 1"),
        (lambda: arena.drop([banks[0], banks[1], banks[0]]), InputError, "position 2"),
        (lambda: arena.score(handles, vectors, [[0], [1], [-1], [9]]), NotFoundError, "id 9"),
    ]:
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value)
        assert arena.count(banks).tolist() == [4, 4]
        after = [arena.get(bank, np.arange(4)).vectors.tobytes() for bank in banks]
        assert after == before
    assert arena.add(banks, vectors[:2]).tolist() == [4, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.1e18, 3e38])
def test_what_cannot_be_scored_is_refused(rng, bad):
    arena, banks, _ = filled(rng, 2, 3)
    vectors = np.ones((6, 8), np.float32)
    vectors[4, 3] = bad
    with pytest.raises(InputError, match=r"^add: .*row 4"):
        arena.add(np.repeat(banks, 3), vectors)
    with pytest.raises(InputError, match=r"^update: .*row 4"):
        arena.update(np.repeat(banks, 3), [0, 1, 2, 0, 1, 2], vectors)
    with pytest.raises(InputError, match=r"^search: .*row 4"):
        arena.search(np.repeat(banks, 3), vectors, 2)
    assert arena.count(banks).tolist() == [3, 3]


def test_a_large_number_that_overflows_half_precision_is_refused():
    arena = Arena(2, dtype="float16")
    with pytest.raises(InputError, match="row 1"):
        arena.add(arena.new(2), np.array([[1, 2], [1e6, 0]]))


def test_forks_are_independent(rng):
    arena, banks, vectors = filled(rng, 3, 40)
    group = arena.fork(banks, 4)
    queries = rng.standard_normal((3, 4, 8)).astype(np.float32)
    before = arena.search(np.repeat(banks[:, None], 4, 1), queries, 5)
    assert_hits(arena.search(group, queries, 5), before)
    arena.delete(group[:, 0], [7, 7, 7])
    arena.update(group[:, 1], [8, 8, 8], np.ones((3, 8)))
    assert arena.add(group[:, 2], np.ones((3, 8))).tolist() == [40, 40, 40]
    arena.drop(group[:, 3])
    # Siblings give equal ids.
    assert arena.add(banks, np.zeros((3, 8))).tolist() == [40, 40, 40]
    assert arena.get(banks, [8, 8, 8]).vectors.tobytes() == vectors[:, 8].tobytes()
    assert arena.count(group[:, :3]).tolist() == [[39, 40, 41]] * 3
    arena.drop(banks)
    assert (arena.get(group[:, 1], [8, 8, 8]).vectors == 1).all()
    assert arena.get(group[:, 0], [9, 9, 9]).vectors.tobytes() == vectors[:, 9].tobytes()


def test_forks_of_forks(rng):
    arena, banks, vectors = filled(rng, 2, 3)
    deep = banks
    for _ in range(30):
        deep = arena.fork(deep).reshape(-1)
        arena.add(deep, np.ones((2, 8)))
    assert arena.count(deep).tolist() == [33, 33]
    assert arena.count(banks).tolist() == [3, 3]
    assert arena.get(deep, [2, 2]).vectors.tobytes() == vectors[:, 2].tobytes()


def test_marks_nest_and_are_used_again(rng):
    arena, banks, vectors = filled(rng, 3, 4)
    first = arena.snapshot(banks)
    assert arena.add(banks, np.ones((3, 8))).tolist() == [4, 4, 4]
    second = arena.snapshot(banks[:2])
    arena.delete(banks, [0, 0, 0])
    arena.rollback(banks[:2], second)
    assert arena.count(banks).tolist() == [5, 5, 4]
    arena.rollback(banks[2], first)
    assert arena.ids(banks[2]).tolist() == [0, 1, 2, 3]
    arena.rollback(banks, first)
    assert arena.count(banks).tolist() == [4, 4, 4]
    # The counter went back too.
    assert arena.add(banks, np.ones((3, 8))).tolist() == [4, 4, 4]
    arena.rollback(banks[1], second)
    arena.rollback(banks[::2], first)
    assert arena.count(banks).tolist() == [4, 5, 4]
    assert arena.get(banks, [0, 0, 0]).vectors.tobytes() == vectors[:, 0].tobytes()
    first.release()
    first.release()
    with pytest.raises(InputError, match="mark is released"):
        arena.rollback(banks[0], first)


def test_rollback_of_what_it_should_not():
    arena, other = Arena(2), Arena(2)
    banks = arena.new(3)
    mark = arena.snapshot(banks[:2])
    with pytest.raises(InputError, match=f"banks has {banks[2]}"):
        arena.rollback(banks, mark)
    with pytest.raises(InputError, match="another arena"):
        other.rollback(other.new(1), mark)
    with pytest.raises(InputError, match=r"^rollback: "):
        arena.rollback(banks[[0, 0]], mark)
    with pytest.raises(DtypeError, match="mark is a str"):
        arena.rollback(banks, "mark")
    arena.add(banks, np.ones((3, 2)))
    arena.drop(banks[1])
    with pytest.raises(NotFoundError, match=r"^rollback: "):
        arena.rollback(banks[:2], mark)
    assert arena.count(banks[0]).tolist() == 1
    arena.rollback(banks[0], mark)
    assert arena.count(banks[0]).tolist() == 0
    arena.rollback([], arena.snapshot([]))


def test_a_dropped_bank_is_gone_for_good():
    arena = Arena(2)
    banks = arena.new(4)
    arena.add(banks, np.ones((4, 2)))
    arena.drop(banks[1:3])
    fresh = arena.new(8)
    assert not set(fresh.tolist()) & set(banks.tolist())
    for call in (arena.count, arena.drop, arena.fork, arena.snapshot, arena.ids):
        with pytest.raises(NotFoundError, match=f"{banks[1]}"):
            call(banks[1])
    assert arena.count(fresh).tolist() == [0] * 8
    assert arena.count(banks[[0, 3]]).tolist() == [1, 1]


def test_scale_bias_and_bounds(rng):
    arena = Arena(8, metric="dot", fields={"w": "float64", "n": "int64", "who": "str"})
    banks = arena.new(3)
    vectors = rng.standard_normal((3, 30, 8)).astype(np.float32)
    w = rng.standard_normal((3, 30))
    n = rng.integers(-5, 5, (3, 30))
    weights = [[None if i == 4 else x for i, x in enumerate(row)] for row in w.tolist()]
    fields = {"w": [x for row in weights for x in row], "n": n.reshape(-1)}
    arena.add(np.repeat(banks, 30), vectors.reshape(-1, 8), fields=fields)
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    hits = arena.search(banks, queries, 30, scale="w", bias="n", min_score=-4.0, max_score=3.5)
    w[:, 4] = 1
    for i in range(3):
        expected = reference.search(
            queries[i : i + 1],
            vectors[i],
            30,
            scale=w[i].astype(np.float32),
            bias=n[i].astype(np.float32),
            min_score=-4.0,
            max_score=3.5,
        )
        assert_hits((hits.scores[i : i + 1], hits.ids[i : i + 1]), expected)
    for name, error, words in [
        ("who", InputError, "scale is 'who', a str, should be a number"),
        ("size", InputError, "scale names field 'size'"),
        (np.ones(30), DtypeError, "scale is a ndarray, should be a field's name"),
    ]:
        with pytest.raises(error) as caught:
            arena.search(banks, queries, scale=name)
        assert words in str(caught.value)


def test_candidates(rng):
    arena, banks, vectors = filled(rng, 3, 30, metric="l2")
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    named = rng.integers(-1, 30, (3, 9))
    hits = arena.search(banks, queries, 5, candidates=named)
    for i in range(3):
        expected = reference.search(
            queries[i : i + 1], vectors[i], 5, metric="l2", candidates=named[i : i + 1]
        )
        assert_hits((hits.scores[i : i + 1], hits.ids[i : i + 1]), expected)
    assert arena.search(banks[0], queries[0], 2, candidates=[3, -1]).ids.tolist() == [[3, -1]]
    assert (arena.search(banks, queries, 2, candidates=np.zeros((3, 0), int)).ids == -1).all()
    named[1, 2] = -2
    with pytest.raises(InputError, match=r"candidates\[1, 2\] is -2"):
        arena.search(banks, queries, 5, candidates=named)
    with pytest.raises(ShapeError, match=r"candidates has shape \(9,\), should be \(3, m\)"):
        arena.search(banks, queries, 5, candidates=named[0])


@pytest.mark.parametrize("metric", METRICS)
def test_score(rng, metric):
    arena, banks, vectors = filled(rng, 3, 30, metric=metric)
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    ids = rng.integers(-1, 30, (3, 7))
    scores = arena.score(banks, queries, ids)
    for i in range(3):
        every = reference.score(queries[i : i + 1], vectors[i], metric)[0] + np.float32(0)
        expected = np.where(ids[i] < 0, np.float32(-np.inf), every[ids[i]])
        assert scores[i].tobytes() == expected.astype(np.float32).tobytes()


def test_rows_without_vectors():
    arena = Arena(fields={"n": "int64"})
    banks = arena.new(2)
    assert arena.add(banks).tolist() == [0, 0]
    assert arena.add(banks[0], payloads=["a", "b"]).tolist() == [1, 2]
    assert arena.add(banks[0], fields={"n": [5, 6, 7]}).tolist() == [3, 4, 5]
    assert arena.add(banks[0], ids=[9, 8]).tolist() == [9, 8]
    assert arena.add(banks[1]).tolist() == [1]
    rows = arena.get(banks[0], [2, 4, 9])
    assert rows.vectors is None
    assert rows.payloads == ["b", None, None]
    assert rows.fields == {"n": [None, 6, None]}
    arena.update(banks[0], [9], fields={"n": [1]})
    assert arena.get(banks[0], [9]).fields == {"n": [1]}
    arena.delete(banks[0], [0, 1, 2])
    assert arena.ids(banks[0]).tolist() == [3, 4, 5, 8, 9]
    with pytest.raises(ShapeError, match="vectors is given"):
        arena.add(banks, np.ones((2, 2)))
    with pytest.raises(InputError, match=r"^search: "):
        arena.search(banks, np.ones((2, 2)))
    with pytest.raises(ShapeError, match="vectors is None"):
        Arena(2).add(0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a, b: a.add(b, np.ones((2, 3))), ShapeError, "vectors has dim 3, should be 2"),
        (
            lambda a, b: a.add(b, np.ones((3, 2))),
            ShapeError,
            "banks has shape (2,), should be (3,)",
        ),
        (lambda a, b: a.add(b, 1.0), ShapeError, "vectors is one number"),
        (lambda a, b: a.add(b, [["x", "y"]] * 2), DtypeError, "vectors has dtype"),
        (lambda a, b: a.add(b, [[1], [1, 2]]), DtypeError, "vectors is not an array"),
        (lambda a, b: a.add(b, np.ones((2, 2), complex)), DtypeError, "complex128"),
        (lambda a, b: a.add(b, np.ones((2, 2), object)), DtypeError, "object"),
        (lambda a, b: a.add(b, np.ones((2, 2)), ids=[1]), ShapeError, "ids has shape (1,)"),
        (lambda a, b: a.add(b, np.ones((2, 2)), ids=[1.0, 2.0]), DtypeError, "should be int64"),
        (lambda a, b: a.add(b * 1.0, np.ones((2, 2))), DtypeError, "banks has dtype float64"),
        (lambda a, b: a.update(b, [0, 1], np.ones((1, 2))), ShapeError, "vectors has (1,) rows"),
        (lambda a, b: a.update(b, [0, 0, 0]), ShapeError, "banks has shape (2,)"),
        (lambda a, b: a.get(b, [0, 0], missing="drop"), InputError, "missing is 'drop'"),
        (lambda a, b: a.search(b, np.ones((2, 3))), ShapeError, "queries has dim 3"),
        (lambda a, b: a.search(b, np.ones((3, 2))), ShapeError, "banks has shape (2,)"),
        (lambda a, b: a.search(b, np.ones((2, 2)), k=-1), InputError, "k is -1"),
        (lambda a, b: a.search(b, np.ones((2, 2)), k=2.0), DtypeError, "k is 2.0"),
        (lambda a, b: a.search(b, np.ones((2, 2)), k=True), DtypeError, "k is True"),
        (lambda a, b: a.search(b, np.ones((2, 2)), k=[1, 2, 3]), ShapeError, "k has shape (3,)"),
        (lambda a, b: a.search(b, np.ones((2, 2)), min_score="x"), DtypeError, "min_score"),
        (lambda a, b: a.search(b, np.ones((2, 2)), max_score=np.nan), InputError, "max_score"),
        (lambda a, b: a.search(b, np.ones((2, 2)), backend="x"), BackendError, "backend is 'x'"),
        (lambda a, b: a.ids(b), ShapeError, "bank has shape (2,), should be one handle"),
        (lambda a, b: a.new(-1), InputError, "n is -1"),
        (lambda a, b: a.new(1.0), DtypeError, "n is 1.0"),
        (lambda a, b: a.fork(b, True), DtypeError, "n is True"),
        (lambda a, b: a.score(b, np.ones((2, 2)), [0, 1]), ShapeError, "ids has shape (2,)"),
        (lambda a, b: Arena(0), InputError, "dim is 0"),
        (lambda a, b: Arena(2.0), DtypeError, "dim is 2.0"),
        (lambda a, b: Arena(2, metric="hamming"), InputError, "metric is 'hamming'"),
        (lambda a, b: Arena(2, dtype="int8"), InputError, "dtype is 'int8'"),
    ],
)
def test_refused(call, error, words):
    arena = Arena(2)
    banks = arena.new(2)
    arena.add(banks, np.ones((2, 2)))
    with pytest.raises(error) as caught:
        call(arena, banks)
    assert words in str(caught.value)
    assert arena.count(banks).tolist() == [1, 1]


def test_a_result_that_passes_the_memory_is_refused():
    arena = Arena(2)
    bank = arena.new(1)
    with pytest.raises(MemoryError):
        arena.search(bank, np.ones((1, 2), np.float32), k=2**50)
    hits = arena.search(bank, np.ones((1, 2), np.float32), k=2**20)
    assert (hits.ids == -1).all()


def test_the_functional_search_takes_an_arena(rng):
    arena, banks, _ = filled(rng, 4, 12, metric="l2")
    queries = rng.standard_normal((4, 8)).astype(np.float32)
    expected = arena.search(banks, queries, 3)
    assert_hits(memcore.search(queries, arena, 3, banks=banks), expected)
    assert_hits(memcore.search(queries, arena, 3, banks=banks, metric="l2"), expected)
    with pytest.raises(InputError, match="metric is 'dot', should be the store's 'l2'"):
        memcore.search(queries, arena, banks=banks, metric="dot")


def test_memory_is_given_back(rng):
    arena, banks, _ = filled(rng, 50, 100, dim=64)
    full = arena.nbytes
    arena.delete(np.repeat(banks, 99), np.tile(np.arange(1, 100), 50))
    few = arena.nbytes
    assert few < full / 3
    arena.drop(banks)
    assert arena.nbytes < few
    arena.compact()
    again = arena.new(50)
    assert arena.count(again).tolist() == [0] * 50
    vectors = rng.standard_normal((50, 64)).astype(np.float32)
    arena.add(again, vectors)
    assert arena.get(again, np.zeros(50, int)).vectors.tobytes() == vectors.tobytes()


def test_the_store_does_not_grow_over_resets(rng):
    arena, banks, _ = filled(rng, 20, 30)
    vectors = rng.standard_normal((160, 8)).astype(np.float32)
    sizes = []
    for _ in range(30):
        group = arena.fork(banks, 8)
        ids = arena.add(group, vectors.reshape(20, 8, 8))
        arena.delete(group[:, 0], ids[:, 0])
        mark = arena.snapshot(group)
        arena.update(group, ids * 0, vectors.reshape(20, 8, 8))
        arena.rollback(group, mark)
        arena.drop(group)
        mark.release()
        sizes.append(arena.nbytes)
    assert max(sizes[2:]) <= sizes[1]


def test_readers_see_whole_writes():
    """A write to two banks is seen in both or in none."""
    arena = Arena(4, metric="dot")
    banks = arena.new(2)
    arena.add(banks, np.zeros((2, 4)))
    torn = []
    stop = threading.Event()

    def read():
        queries = np.array([[1, 0, 0, 0]] * 2, np.float32)
        while not stop.is_set():
            hits = arena.search(banks, queries, 1)
            if hits.scores[0] != hits.scores[1]:
                torn.append(hits.scores.tolist())

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for i in range(400):
            arena.update(banks, [0, 0], np.full((2, 4), i + 1, np.float32))
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert torn == []
    assert arena.search(banks, np.ones((2, 4)), 1).scores.tolist() == [[1600.0], [1600.0]]


def test_a_forked_child_searches(rng):
    arena, banks, _ = filled(rng, 8, 300, dim=32)
    queries = rng.standard_normal((8, 32)).astype(np.float32)
    before = arena.search(banks, queries, 5)
    child = os.fork()
    if child == 0:
        same = False
        try:
            arena.add(banks, queries)
            arena.delete(banks, [300] * 8)
            same = (arena.search(banks, queries, 5).ids == before.ids).all()
        finally:
            # Nothing of pytest may run in the child.
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_hits(arena.search(banks, queries, 5), before)

"""Queue: which rows stay, where they lie, what is drawn, and that bad input changes nothing."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from memcore import slots
from memcore.errors import DtypeError, InputError, NotFoundError, ShapeError
from memcore.queue import POLICIES, Queue


def rows_of(ids):
    """A row that tells its id, in each of three components."""
    return np.repeat(np.asarray(ids, np.float32)[:, None], 3, axis=1)


def batches(rng, n, largest):
    while n > 0:
        size = min(n, int(rng.integers(0, largest + 1)))
        yield size
        n -= size


def snapshot(queue):
    return {name: np.asarray(array) for name, array in queue.state_dict().items()}


def expect_same(before, after):
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)


def expect_rows_follow_ids(queue):
    np.testing.assert_array_equal(queue.get(queue.ids), rows_of(queue.ids))
    assert sorted(queue.data()[:, 0].tolist()) == queue.ids.tolist()


# ---- policies


@pytest.mark.parametrize("largest", [1, 5, 64])
def test_fifo_keeps_the_last_rows_in_order(rng, largest):
    queue, last = Queue(17), collections.deque(maxlen=17)
    for n in batches(rng, 300, largest):
        ids = queue.add(rows_of(np.arange(n) + queue._next_id))
        last.extend(ids.tolist())
        assert queue.ids.tolist() == list(last)
        if last:
            expect_rows_follow_ids(queue)
            assert queue.ages.tolist() == [ids_added(queue) - 1 - i for i in last]


def ids_added(queue):
    return int(queue.ids[-1] + queue.ages[-1] + 1)


def test_a_row_is_gone_exactly_at_the_horizon():
    queue = Queue(20_000)
    first = queue.add(rows_of(range(75)))
    for frame in range(1, 400):
        held = queue.contains(first).sum()
        # 75 rows a frame: the first rows stay while 75 * frame rows fit behind them.
        assert held == min(75, max(0, 20_000 - 75 * (frame - 1)))
        queue.add(rows_of(range(75)))


@pytest.mark.parametrize("evict", POLICIES)
@pytest.mark.parametrize("n_groups", [None, 4])
def test_a_batch_leaves_what_single_rows_leave(rng, evict, n_groups):
    batched = Queue(13, evict=evict, n_groups=n_groups, seed=7)
    serial = Queue(13, evict=evict, n_groups=n_groups, seed=7)
    for n in batches(rng, 400, 60):
        rows = rows_of(np.arange(n) + batched._next_id)
        # Few different scores: ties.
        scores = rng.integers(0, 6, n).astype(float)
        groups = None if n_groups is None else rng.integers(0, n_groups, n)
        ids = batched.add(rows, scores=scores, groups=groups)
        # An empty batch too: the first one says what a row is, with or without rows.
        alone = [
            serial.add(
                rows[part],
                scores=scores[part],
                groups=None if groups is None else groups[part],
            )
            for part in [slice(i, i + 1) for i in range(n)] or [slice(0)]
        ]
        assert ids.tolist() == np.concatenate(alone).tolist()
        for what in ("ids", "scores", "groups", "ages", "counts"):
            np.testing.assert_array_equal(getattr(batched, what), getattr(serial, what))
        np.testing.assert_array_equal(batched.get(batched.ids), rows_of(batched.ids))
        np.testing.assert_array_equal(batched.sample(5), serial.sample(5))
        if evict != "lowest":
            np.testing.assert_array_equal(batched.data(), serial.data())


@pytest.mark.parametrize("n_groups", [None, 3])
def test_lowest_keeps_exactly_the_best_scores(rng, n_groups):
    queue = Queue(25, evict="lowest", n_groups=n_groups)
    seen = []
    for n in batches(rng, 500, 40):
        scores = rng.choice([-np.inf, -1.0, 0.0, 0.5, 2.0], n)
        groups = rng.integers(0, n_groups or 1, n)
        ids = queue.add(
            rows_of(np.arange(n) + queue._next_id),
            scores=scores,
            groups=groups if n_groups else None,
        )
        seen += zip(groups.tolist(), (-scores).tolist(), ids.tolist(), strict=True)
        best = [
            i for g in range(n_groups or 1) for _, _, i in sorted(s for s in seen if s[0] == g)[:25]
        ]
        assert queue.ids.tolist() == sorted(best)
        np.testing.assert_array_equal(queue.get(queue.ids), rows_of(queue.ids))
        # The filled slots are the first.
        if n_groups is None and len(queue):
            assert sorted(queue.data()[:, 0].astype(int)) == sorted(best)


def test_random_eviction_has_the_half_life_of_its_law():
    capacity, n = 20_000, 75
    law = np.log(2) * capacity / n
    half_lives = []
    for seed in range(12):
        queue = Queue(capacity, evict="random", seed=seed)
        first = queue.add(np.zeros((capacity, 1), np.float32))
        shares = []
        while not shares or shares[-1] > 0.45:
            queue.add(np.zeros((n, 1), np.float32))
            shares.append(queue.contains(first).mean())
        below = int(np.argmax(np.array(shares) <= 0.5))
        half_lives.append(below + 1)
    assert np.mean(half_lives) == pytest.approx(law, rel=0.03)


def test_at_the_horizon_of_fifo_a_random_queue_keeps_one_in_e():
    queue = Queue(20_000, evict="random", seed=3)
    first = queue.add(np.zeros((20_000, 1), np.float32))
    for _ in range(267):
        queue.add(np.zeros((75, 1), np.float32))
    assert queue.contains(first).mean() == pytest.approx(np.exp(-1), abs=0.015)


def test_a_reservoir_is_a_uniform_sample():
    n, capacity, n_runs = 200, 20, 2000
    kept = np.zeros(n)
    for seed in range(n_runs):
        queue = Queue(capacity, evict="reservoir", seed=seed)
        for size in (50, 1, 149):
            queue.add(np.zeros((size, 1), np.float32))
        kept[queue.ids] += 1
    expected = n_runs * capacity / n
    # Kept or not are tied to sum to the capacity: the variance of a cell is np(1 - p)·n/(n - 1).
    chi_square = ((kept - expected) ** 2).sum() / (expected * (1 - capacity / n)) * (n - 1) / n
    # 199 degrees of freedom: mean 199, standard deviation 20.
    assert 119 < chi_square < 279


# ---- groups, payloads, libraries


def test_groups_do_not_touch_each_other(rng):
    queue, alone = Queue(5, n_groups=3), [collections.deque(maxlen=5) for _ in range(3)]
    for n in batches(rng, 120, 17):
        groups = rng.integers(0, 3, n)
        ids = queue.add(rows_of(np.arange(n) + queue._next_id), groups=groups)
        for group, i in zip(groups, ids, strict=True):
            alone[group].append(int(i))
        assert queue.counts.tolist() == [len(a) for a in alone]
        for group in range(3):
            inside = queue.data()[group][queue.filled[group]]
            assert sorted(inside[:, 0].astype(int).tolist()) == list(alone[group])
            assert queue.ids[queue.groups == group].tolist() == list(alone[group])


def test_ring_of_nine_equals_a_dict_and_concat(rng):
    queue, frames = Queue(9), {}
    for t in range(40):
        payload = rng.standard_normal((1, 12, 2, 4)).astype(np.float16)
        pointer = rng.standard_normal((1, 7))
        queue.add({"memory": payload, "pointer": pointer})
        frames[t] = (payload, pointer)
        if len(frames) > 9:
            del frames[min(frames)]
        for place, name in enumerate(("memory", "pointer")):
            concatenated = np.concatenate([frame[place] for frame in frames.values()])
            got = queue.get(queue.ids, name)
            assert got.dtype == concatenated.dtype
            assert got.tobytes() == concatenated.tobytes()
        assert queue.ids.tolist() == list(frames)


@pytest.mark.parametrize("evict", POLICIES)
def test_a_torch_queue_holds_what_a_numpy_queue_holds(rng, evict):
    torch = pytest.importorskip("torch")
    ours, theirs = Queue(11, evict=evict, seed=2), Queue(11, evict=evict, seed=2)
    for n in batches(rng, 120, 25):
        rows = rng.standard_normal((n, 2, 3)).astype(np.float32)
        scores = rng.standard_normal(n)
        tensor = torch.from_numpy(rows).requires_grad_()
        np.testing.assert_array_equal(
            ours.add(rows, scores=scores), theirs.add(tensor, scores=torch.from_numpy(scores))
        )
        np.testing.assert_array_equal(ours.data(), theirs.data().numpy())
        assert not theirs.data().requires_grad
        ids = ours.sample(4, by="top")
        np.testing.assert_array_equal(ids, theirs.sample(4, by="top"))
        np.testing.assert_array_equal(ours.get(ids), theirs.get(ids).numpy())


def test_a_torch_queue_takes_and_keeps_bfloat16(rng):
    torch = pytest.importorskip("torch")
    queue = Queue(4)
    rows = torch.from_numpy(rng.standard_normal((6, 5)).astype(np.float32))
    queue.add(rows.to(torch.bfloat16))
    queue.add(rows[:1])
    assert queue.data().dtype == torch.bfloat16
    expected = torch.cat([rows[3:6], rows[:1]]).to(torch.bfloat16)
    assert torch.equal(queue.get(queue.ids), expected)


def test_a_write_moves_its_own_rows_only(rng):
    queue = Queue(1000)
    queue.add(rng.standard_normal((1000, 4)))
    view = queue.data()
    address, before = view.ctypes.data, view.copy()
    queue.add(np.ones((3, 4)))
    assert queue.data().ctypes.data == address
    assert (view[:3] == 1).all()
    np.testing.assert_array_equal(view[3:], before[3:])


def test_update_changes_rows_and_scores_in_place(rng):
    queue = Queue(6, evict="lowest")
    ids = queue.add(rows_of(range(6)), scores=np.arange(6.0))
    queue.update([4, 1, 4], rows_of([40, 10, 44]), scores=[9, -3, 8])
    assert queue.get(ids)[:, 0].tolist() == [0, 10, 2, 3, 44, 5]
    assert queue.scores.tolist() == [0, -3, 2, 3, 8, 5]
    queue.add(rows_of([6]), scores=[-1])
    assert queue.ids.tolist() == [0, 2, 3, 4, 5, 6]


# ---- draws


def test_a_sample_has_no_row_twice_and_all_rows_when_asked_for_more():
    queue = Queue(50, evict="random")
    queue.add(np.zeros((80, 1)))
    for n in (0, 1, 49, 50, 300):
        for by in ("uniform", "top"):
            ids = queue.sample(n, by=by)
            assert len(ids) == len(set(ids.tolist())) == min(n, 50)
            assert queue.contains(ids).all()
    assert set(queue.sample(300).tolist()) == set(queue.ids.tolist())


def test_a_uniform_sample_is_uniform_and_in_random_order():
    queue = Queue(40)
    queue.add(np.zeros((40, 1)))
    drawn = np.zeros(40)
    first = np.zeros(40)
    n_draws = 4000
    for _ in range(n_draws):
        ids = queue.sample(10)
        drawn[ids] += 1
        first[ids[0]] += 1
    # 39 degrees of freedom: mean 39, standard deviation 8.8.
    expected = n_draws / 4
    assert ((drawn - expected) ** 2).sum() / (expected * 0.75) * 39 / 40 < 75
    assert ((first - n_draws / 40) ** 2).sum() / (n_draws / 40) < 75


def test_a_sample_by_score_follows_the_scores():
    queue = Queue(3)
    queue.add(np.zeros((3, 1)), scores=[1, 2, 0])
    n_draws = 6000
    first = np.array([queue.sample(1, by="score")[0] for _ in range(n_draws)])
    assert (first == 2).sum() == 0
    # Standard deviation 0.006.
    assert (first == 1).mean() == pytest.approx(2 / 3, abs=0.025)
    assert sorted(queue.sample(3, by="score").tolist()) == [0, 1]


def test_top_is_by_score_then_age_and_in_groups_padded():
    queue = Queue(4, n_groups=3)
    queue.add(rows_of(range(7)), groups=[0, 0, 0, 0, 2, 2, 0], scores=[1, 5, 5, 0, 2, 3, 5])
    expected = [[1, 2, 6], [-1, -1, -1], [5, 4, -1]]
    assert queue.sample(3, by="top").tolist() == expected
    assert queue.sample(3, by="top", groups=[2, 2]).tolist() == [expected[2], expected[2]]
    rows = queue.get(queue.sample(3, by="top"))
    assert rows[..., 0].tolist() == [[1, 2, 6], [0, 0, 0], [5, 4, 0]]


def test_seeds_decide_and_a_generator_is_a_seed():
    def drawn(seed):
        queue = Queue(30, evict="random", seed=seed)
        queue.add(np.zeros((100, 1)))
        return [*queue.ids.tolist(), *queue.sample(5).tolist()]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    assert drawn(np.random.default_rng(5)) == drawn(np.random.default_rng(5))
    assert drawn(np.random.default_rng(5)) != drawn(np.random.default_rng(6))


def test_uniforms_fill_the_unit_interval():
    numbers = slots.uniforms(slots.seed_of(0), np.arange(100_000))
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    # 99 degrees of freedom: standard deviation 14.
    assert ((counts - 1000) ** 2 / 1000).sum() < 160
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02


# ---- state


@pytest.mark.parametrize("evict", POLICIES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_loaded_state_goes_on_as_the_queue_would(rng, evict, library):
    rows = rng.standard_normal((90, 3)).astype(np.float32)
    scores = rng.standard_normal(90)
    if library == "torch":
        torch = pytest.importorskip("torch")
        given = torch.from_numpy(rows)
    else:
        given = rows
    queue = Queue(20, evict=evict, seed=4)
    queue.add(given[:50], scores=scores[:50])
    queue.sample(3)
    state = queue.state_dict()
    other = Queue(20, evict=evict, seed=99)
    other.load_state_dict(state)
    for each in (queue, other):
        each.add(given[50:], scores=scores[50:])
    expect_same(snapshot(queue), snapshot(other))
    np.testing.assert_array_equal(queue.sample(7), other.sample(7))
    # The state is a copy: what came after is not in it.
    assert int(state["counters"][0]) == 50


def test_a_state_of_another_queue_is_refused(rng):
    queue = Queue(20)
    queue.add(rng.standard_normal((5, 2)))
    before = snapshot(queue)
    for other, error in (
        (Queue(21), ShapeError),
        (Queue(20, n_groups=2), ShapeError),
        (Queue(20, evict="random"), InputError),
    ):
        with pytest.raises(error, match="load_state_dict: state has"):
            queue.load_state_dict(other.state_dict())
    with pytest.raises(InputError, match="state has no seed"):
        queue.load_state_dict({"evict": np.array("fifo")})
    expect_same(before, snapshot(queue))


def test_clear_drops_the_rows_and_ids_go_on(rng):
    queue = Queue(4)
    queue.add(rng.standard_normal((6, 2)))
    queue.clear()
    assert len(queue) == 0
    assert queue.ids.tolist() == []
    assert queue.add(rng.standard_normal((1, 2))).tolist() == [6]


# ---- what it should not take


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"rows": np.zeros((2, 4), np.float32)}, ShapeError, "rows has rows of shape"),
        ({"rows": np.zeros((2, 3), np.int64)}, DtypeError, "rows has dtype int64"),
        ({"rows": np.float32(1)}, ShapeError, "rows has no axes"),
        ({"rows": {"other": np.zeros((2, 3))}}, InputError, "should have rows"),
        ({"rows": {"rows": np.zeros((2, 3)), "more": np.zeros(2)}}, InputError, "should have rows"),
        ({"rows": np.array([[0, 0, 0], [0, np.nan, 0]], np.float32)}, InputError, "row 1 is not f"),
        ({"rows": np.array([[1, 2, object()]], object)}, DtypeError, "dtype object"),
        ({"scores": np.zeros(3)}, ShapeError, "scores has shape"),
        ({"scores": [0, np.nan]}, InputError, r"scores\[1\] is NaN"),
        ({"scores": None}, InputError, "scores is None"),
        ({"groups": [0, 2]}, InputError, r"groups\[1\] is 2"),
        ({"groups": [0, -1]}, InputError, r"groups\[1\] is -1"),
        ({"groups": [0.0, 1.0]}, DtypeError, "groups has dtype"),
        ({"groups": [0]}, ShapeError, "groups has shape"),
        ({"groups": None}, InputError, "groups is None"),
    ],
)
def test_a_bad_add_changes_nothing(change, error, sentence):
    queue = Queue(5, evict="lowest", n_groups=2)
    queue.add(rows_of(range(4)), scores=np.arange(4), groups=[0, 1, 1, 0])
    before = snapshot(queue)
    given = {"rows": rows_of([8, 9]), "scores": [5, 6], "groups": [0, 1]} | change
    with pytest.raises(error, match=f"^add: .*{sentence}"):
        queue.add(**given)
    expect_same(before, snapshot(queue))


def test_rows_of_another_library_are_refused(rng):
    torch = pytest.importorskip("torch")
    queue = Queue(5)
    queue.add(np.zeros((1, 2)))
    before = snapshot(queue)
    with pytest.raises(DtypeError, match="add: rows is Tensor, should be NumPy"):
        queue.add(torch.zeros(1, 2))
    expect_same(before, snapshot(queue))


def test_a_first_add_that_fails_fixes_nothing():
    queue = Queue(5)
    with pytest.raises(InputError, match="row 0 is not finite"):
        queue.add(np.full((1, 2), np.inf))
    queue.add(np.zeros((1, 7), np.int8))
    assert queue.data().dtype == np.int8


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda q: q.get([9]), NotFoundError, "get: ids has 9"),
        (lambda q: q.update([0, 9], scores=[1, 2]), NotFoundError, "update: ids has 9"),
        (lambda q: q.update([0], {"x": np.zeros(1)}), InputError, "update: rows has x"),
        (lambda q: q.update([0], scores=[np.nan]), InputError, "is NaN"),
        (lambda q: q.update([0, 1], rows_of([1])), ShapeError, "update: rows has 1 rows"),
        (lambda q: q.get([0], "x"), InputError, "get: name is 'x'"),
        (lambda q: q.data("x"), InputError, "data: name is 'x'"),
        (lambda q: q.sample(-1), InputError, "sample: n is -1"),
        (lambda q: q.sample(1.5), DtypeError, "sample: n is 1.5"),
        (lambda q: q.sample(1, by="best"), InputError, "sample: by is 'best'"),
        (lambda q: q.sample(1, by="score"), InputError, "sample: scores has -1"),
        (lambda q: q.sample(1, groups=[0]), InputError, "sample: groups is"),
    ],
)
def test_a_bad_call_changes_nothing(call, error, sentence):
    queue = Queue(5)
    queue.add(rows_of(range(3)), scores=[-1, 0, 1])
    before = snapshot(queue)
    with pytest.raises(error, match=sentence):
        call(queue)
    expect_same(before, snapshot(queue))


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"capacity": 0}, InputError, "capacity is 0"),
        ({"capacity": 2.0}, DtypeError, "capacity is 2.0"),
        ({"capacity": 2, "evict": "lru"}, InputError, "evict is 'lru'"),
        ({"capacity": 2, "n_groups": 0}, InputError, "n_groups is 0"),
        ({"capacity": 2, "seed": 1.5}, DtypeError, "seed is 1.5"),
    ],
)
def test_a_queue_that_cannot_be(options, error, sentence):
    with pytest.raises(error, match=f"^Queue: {sentence}"):
        Queue(**options)


def test_an_empty_add_and_an_empty_queue():
    queue = Queue(3)
    assert queue.sample(2).tolist() == []
    assert queue.ids.tolist() == []
    assert queue.add(np.zeros((0, 2))).tolist() == []
    assert queue.data().shape == (0, 2)
    assert queue.get([-1]).tolist() == [[0, 0]]

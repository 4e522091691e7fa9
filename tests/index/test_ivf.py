"""Inverted files: all lists give the exact search, fewer the recall that was asked for."""

import threading

import numpy as np
import pytest

import memcore
from memcore.errors import DtypeError, InputError, NotFoundError, ShapeError
from memcore.index import IVF
from memcore.index.balance import Sizes

METRICS = ("dot", "cosine", "l2")
DIM = 24


def clusters(seed, n, dim=DIM, n_centres=60, noise=0.5):
    """(n, dim) float32 around n_centres centres, which are the same for every seed."""
    centres = np.random.default_rng(7).standard_normal((n_centres, dim))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(n_centres, size=n)] + noise * rng.standard_normal((n, dim))
    return rows.astype(np.float32)


def ramp(seed, n, dim=DIM):
    """(n, dim) float32 without clusters, of all lengths, in few directions."""
    rng = np.random.default_rng(seed)
    basis = np.random.default_rng(8).standard_normal((6, dim))
    return (rng.standard_normal((n, 6)) @ basis * rng.uniform(0.5, 2, (n, 1))).astype(np.float32)


def pair(rows, metric, index="ivf", **options):
    """A bank with lists and one without, of the same rows."""
    banks = [memcore.Bank(rows.shape[1], metric=metric, index=i, **options) for i in (index, None)]
    for bank in banks:
        bank.add(rows)
    return banks


def partition(bank):
    return bank._pages._members.partitions.get(int(bank._handle[0]))


def sizes(bank):
    found = partition(bank)
    if found is None:
        return np.array([len(bank)])
    lists = found.lists[found.places]
    counts = bank._pages._pages.count(lists)
    assert counts.tolist() == found.sizes[found.places].tolist()
    assert counts.sum() == len(bank)
    return counts


def assert_same(got, want):
    assert got.ids.tolist() == want.ids.tolist()
    assert got.scores.tobytes() == want.scores.tobytes()


def recall(hits, truth):
    return (hits.ids[:, :, None] == truth.ids[:, None]).any(axis=1).mean()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_all_lists_give_the_exact_search(rng, metric, dtype, isa):
    bank, flat = pair(clusters(rng, 5000), metric, dtype=dtype)
    assert len(sizes(bank)) > 20
    queries = clusters(rng, 40)
    for k in (1, 10, 300):
        for asked in (queries, queries[:1], np.zeros((1, DIM), np.float32)):
            want = flat.search(asked, k)
            assert_same(bank.search(asked, k, n_probes=1 << 40), want)
            assert_same(bank.search(asked, k, recall=1.0), want)


def test_options_of_a_search_hold_in_lists(rng):
    n = 4000
    fields = {"group": rng.integers(0, 5, n), "w": rng.uniform(-1, 2, n).round(3)}
    rows, queries = clusters(rng, n), clusters(rng, 12)
    banks = [memcore.Bank(DIM, metric="l2", index=index) for index in ("ivf", None)]
    for bank in banks:
        bank.add(rows, fields=fields, payloads=[f"row {i}" for i in range(n)])
    where = [{"group": 3}, None, {"group": {"lt": 0}}] * 4
    k = np.array([1, 5, 0] * 4)
    calls = [
        {"where": {"group": {"in": [1, 2]}}},
        {"where": where, "k": k},
        {"scale": "w", "bias": "group"},
        {"min_score": -14.0, "max_score": -9.0},
        {"candidates": rng.integers(-1, n + 5, (12, 50))},
        {"candidates": rng.integers(-1, n, (12, 50)), "where": where, "scale": "w"},
    ]
    for call in calls:
        hits, want = (bank.search(queries, **{"k": 7, **call}) for bank in banks)
        if "where" in call or "scale" in call or "candidates" in call or "max_score" in call:
            assert_same(hits, want)
        all_lists = {"n_probes": 10**6, **call}
        if "candidates" not in call:
            assert_same(banks[0].search(queries, **{"k": 7, **all_lists}), want)
        assert banks[0].rows(hits) == banks[1].rows(want)
    named = rng.integers(0, n, (12, 9))
    got, want = (bank.score(queries, named) for bank in banks)
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("metric", METRICS)
def test_more_lists_find_more(metric):
    bank, flat = pair(clusters(1, 8000), metric)
    queries = clusters(2, 200)
    truth = flat.search(queries)
    found = [recall(bank.search(queries, n_probes=n), truth) for n in (1, 2, 4, 8, 1000)]
    assert found == sorted(found)
    assert found[0] > 0.5
    assert found[2] > 0.9
    assert found[-1] == 1
    each = np.array([1, 8] * 100)
    hits = bank.search(queries, n_probes=each)
    for at, n in ((slice(0, None, 2), 1), (slice(1, None, 2), 8)):
        want = bank.search(queries[at], n_probes=n)
        assert hits.ids[at].tolist() == want.ids.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_a_plain_call_finds_what_others_find(rng, metric):
    bank = memcore.Bank(DIM, metric=metric, index="ivf")
    bank.add(clusters(rng, 9000))
    queries = clusters(rng, 30) * rng.uniform(0.1, 3, (30, 1)).astype(np.float32)
    for effort in ({}, {"recall": 0.9}, {"recall": 1.0}, {"n_probes": 3}, {"n_probes": 10**9}):
        plain = bank.search(queries, 5, **effort)
        # A list is no plain argument.
        assert_same(bank.search(queries.tolist(), 5, **effort), plain)
        for i in range(3):
            assert_same(
                bank.search(queries[i], 5, **effort), memcore.Hits(*(a[i : i + 1] for a in plain))
            )
    assert bank.search(queries[:0], 5).ids.shape == (0, 5)
    assert bank.search(queries[:0], 5, n_probes=np.empty(0, int)).ids.shape == (0, 5)
    with pytest.raises(InputError, match=r"^search: .*row 1"):
        bank.search(np.where(np.arange(3)[:, None] == 1, np.nan, queries[:3]), 5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", [clusters, ramp])
def test_a_recall_is_kept(metric, kind):
    bank, flat = pair(kind(1, 20_000), metric)
    queries = kind(2, 400)
    # The sample of the bank and the queries here both have their chance.
    for k, slack in ((1, 0.06), (10, 0.03), (50, 0.03)):
        truth = flat.search(queries, k)
        for wanted in (0.8, 0.95, 0.99):
            assert recall(bank.search(queries, k, recall=wanted), truth) > wanted - slack
    each = np.where(np.arange(400) % 2, 0.6, 0.99)
    hits = bank.search(queries, recall=each)
    truth = flat.search(queries)
    careful = each > 0.9
    assert (
        recall(
            memcore.Hits(*(a[careful] for a in hits)), memcore.Hits(*(a[careful] for a in truth))
        )
        > 0.96
    )


def test_lists_keep_their_size(rng):
    bank = memcore.Bank(DIM, metric="l2", index=IVF(list_rows=32))
    rows = clusters(rng, 6000, n_centres=300)
    for begin in range(0, 6000, 150):
        bank.add(rows[begin : begin + 150])
        if len(bank) > 64:
            assert sizes(bank).max() <= 64
    assert sizes(bank).min() >= 4
    assert len(sizes(bank)) > 100
    full = bank.nbytes
    order = rng.permutation(6000)
    for begin in range(0, 5800, 200):
        bank.delete(order[begin : begin + 200])
        assert sizes(bank).max() <= 64
        assert len(sizes(bank)) == 1 or sizes(bank).min() >= 4
    assert len(bank) == 200
    assert bank.nbytes < full / 8
    bank.delete(bank.ids())
    assert len(sizes(bank)) == 1
    assert bank.search(rows[:2], 3).ids.tolist() == [[-1] * 3] * 2


def test_a_bank_that_changed_finds_as_before(rng):
    rows, more, queries = clusters(1, 9000), clusters(3, 9000), clusters(2, 200)
    bank, flat = pair(rows, "l2")
    before = recall(bank.search(queries, n_probes=4), flat.search(queries))
    for begin in range(0, 9000, 90):
        gone = rng.choice(flat.ids(), 90, replace=False)
        moved = rng.choice(np.setdiff1d(flat.ids(), gone), 45, replace=False)
        for each in (bank, flat):
            each.delete(gone)
            each.add(more[begin : begin + 90])
            each.update(moved, more[begin : begin + 45])
    truth = flat.search(queries)
    assert_same(bank.search(queries, recall=1.0), truth)
    assert recall(bank.search(queries, n_probes=4), truth) > before - 0.05
    assert recall(bank.search(queries), truth) > 0.92


def test_equal_rows_cannot_be_divided(rng):
    bank, flat = pair(np.ones((3000, DIM), np.float32), "cosine")
    assert len(sizes(bank)) == 1
    rows = clusters(rng, 3000)
    for each in (bank, flat):
        each.add(rows)
    queries = clusters(rng, 10)
    assert_same(bank.search(queries, 20, recall=1.0), flat.search(queries, 20))


def test_small_banks_are_one_list(rng):
    bank = memcore.Bank(DIM, index="ivf")
    assert bank.search(np.ones(DIM), 2).ids.tolist() == [[-1, -1]]
    assert bank.search(np.ones(DIM), 2, n_probes=3).ids.tolist() == [[-1, -1]]
    bank.add(np.ones(DIM, np.float32), ids=[5])
    assert bank.search(np.ones(DIM), 2, recall=0.5).ids.tolist() == [[5, -1]]
    assert bank.search(np.ones(DIM), 0).ids.shape == (1, 0)
    assert bank.search(np.empty((0, DIM)), 3).ids.shape == (0, 3)
    rows = clusters(rng, 500)
    flat = memcore.Bank(DIM)
    flat.add(np.ones(DIM, np.float32), ids=[5])
    for each in (bank, flat):
        each.add(rows)
    assert_same(bank.search(rows[:9]), flat.search(rows[:9]))


def test_large_and_small_banks_in_one_call(rng):
    arenas = [memcore.Arena(DIM, metric="l2", index=i) for i in (IVF(list_rows=20), None)]
    banks = [arena.new(40) for arena in arenas]
    # Bank 0 has many lists, bank 1 two or none, the others one.
    which = np.concatenate([np.zeros(600, int), np.ones(41, int), rng.integers(2, 40, 300)])
    for _ in range(3):
        order = rng.permutation(which.size)
        owner, vectors = which[order], clusters(rng, which.size)
        for arena, bank in zip(arenas, banks, strict=True):
            ids = arena.add(bank[owner], vectors)
        gone = rng.permutation(which.size)[:400]
        asked = rng.integers(0, 40, 90)
        queries, named = clusters(rng, 90), ids[rng.integers(which.size, size=(90, 4))]
        found = []
        for arena, bank in zip(arenas, banks, strict=True):
            arena.delete(bank[owner[gone]], ids[gone])
            left = np.setdiff1d(np.arange(which.size), gone)[::2]
            arena.update(bank[owner[left]], ids[left], vectors[::-1][left])
            effort = {"recall": 1.0} if bank is banks[0] else {}
            fork = arena.fork(bank, 2)[:, 1]
            arena.delete(bank[asked[:1]], [10**6], missing="skip")
            found.append(
                [
                    arena.search(fork[asked], queries, 7, **effort),
                    arena.search(bank[asked], queries, 7, candidates=named),
                    arena.get(bank[asked], named[:, 0], missing="skip").vectors,
                    arena.count(bank).tolist(),
                ]
            )
            arena.drop(fork)
        for got, want in zip(*found, strict=True):
            assert str(got) == str(want)
            if isinstance(got, memcore.Hits):
                assert_same(got, want)
    sizes = {len(p.places) for p in arenas[0]._store.pages._members.partitions.values()}
    assert max(sizes) > 10


def test_forks_and_marks(rng):
    rows, queries = clusters(rng, 5000), clusters(rng, 20)
    bank = memcore.Bank(DIM, metric="l2", index="ivf")
    bank.add(rows)
    before = bank.search(queries, recall=1.0)
    some = bank.search(queries, n_probes=3)
    mark, fork = bank.snapshot(), bank.fork()
    fork.delete(np.arange(0, 4900))
    bank.add(clusters(rng, 4000))
    assert len(fork) == 100
    assert_same(fork.fork().search(queries, recall=1.0), fork.search(queries, recall=1.0))
    assert bank.search(queries, recall=1.0).ids.tolist() != before.ids.tolist()
    bank.rollback(mark)
    assert_same(bank.search(queries, recall=1.0), before)
    assert_same(bank.search(queries, n_probes=3), some)
    full = bank.nbytes
    mark.release()
    fork.drop()
    assert bank.nbytes <= full
    assert bank.add(rows[:1]).tolist() == [5000]


def test_ids_are_never_used_again(rng):
    bank = memcore.Bank(DIM, index="ivf")
    bank.add(clusters(rng, 3000), ids=np.arange(3000) * 7)
    bank.delete([7, 14])
    for ids in ([7], [21], [-1]):
        with pytest.raises(InputError, match=r"^add: id"):
            bank.add(clusters(rng, 1), ids=ids)
    assert bank.add(clusters(rng, 2), ids=[8, 9]).tolist() == [8, 9]
    assert bank.add(clusters(rng, 1)).tolist() == [2999 * 7 + 1]


def test_threads_change_nothing(rng):
    rows, queries = clusters(rng, 6000), clusters(rng, 700)
    found = []
    before = memcore.threads()
    try:
        for n_threads in (1, 2, 7):
            memcore.set_threads(n_threads)
            bank = memcore.Bank(DIM, metric="dot", index="ivf")
            bank.add(rows)
            found.append(
                [bank.search(q, n_probes=n) for q in (queries, queries[:1]) for n in (3, 10**6)]
            )
            found[-1].append(bank.search(queries, recall=0.9))
    finally:
        memcore.set_threads(before)
    for other in found[1:]:
        for got, want in zip(other, found[0], strict=True):
            assert_same(got, want)


def test_searches_while_lists_split(rng):
    rows = clusters(rng, 12_000)
    bank = memcore.Bank(DIM, metric="l2", index=IVF(list_rows=40))
    bank.add(rows[:200])
    wrong, done = [], threading.Event()

    def ask():
        while not done.is_set():
            # The first rows never go: each finds itself.
            hits = bank.search(rows[:50], 1, recall=1.0)
            if hits.ids[:, 0].tolist() != list(range(50)):
                wrong.append(hits)

    readers = [threading.Thread(target=ask) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for begin in range(200, 12_000, 400):
            ids = bank.add(rows[begin : begin + 400])
            if begin % 800 == 200:
                bank.delete(ids)
            bank.fork()
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert wrong == []


def test_what_is_refused(rng):
    bank, flat = pair(clusters(rng, 3000), "l2")
    query = np.ones(DIM, np.float32)
    with pytest.raises(InputError, match="no index"):
        flat.search(query, n_probes=2)
    with pytest.raises(InputError, match="no index"):
        flat.search(query, recall=0.5)
    with pytest.raises(InputError, match="one of them"):
        bank.search(query, n_probes=2, recall=0.5)
    for n_probes, error in (
        (0, InputError),
        (-3, InputError),
        (1.5, DtypeError),
        ([1, 2], ShapeError),
    ):
        with pytest.raises(error, match="search: n_probes"):
            bank.search(query, n_probes=n_probes)
    for wanted, error in (
        (0, InputError),
        (1.1, InputError),
        (np.nan, InputError),
        ("all", DtypeError),
    ):
        with pytest.raises(error, match="search: recall"):
            bank.search(query, recall=wanted)
    with pytest.raises(InputError, match="Bank: index is 'tree'"):
        memcore.Bank(3, index="tree")
    with pytest.raises(DtypeError, match="Bank: index is a int"):
        memcore.Bank(3, index=7)
    with pytest.raises(InputError, match="dim is None"):
        memcore.Arena(index="ivf")
    for options in ({"recall": 0}, {"recall": 2}, {"list_rows": 1}):
        with pytest.raises(InputError, match="IVF"):
            IVF(**options)


def test_what_fails_changes_nothing(rng):
    bank, _ = pair(clusters(rng, 3000), "l2")
    n_bytes, ids = bank.nbytes, bank.ids().tolist()
    bad = np.full((1, DIM), np.nan, np.float32)
    with pytest.raises(InputError, match=r"add: .*row 0"):
        bank.add(bad)
    with pytest.raises(InputError, match=r"update: .*row 0"):
        bank.update([1], bad)
    with pytest.raises(NotFoundError, match="update: id 9999"):
        bank.update([1, 9999], clusters(rng, 2))
    with pytest.raises(NotFoundError, match="delete: id 9999"):
        bank.delete([2, 9999])
    with pytest.raises(InputError, match="delete: id 2"):
        bank.delete([2, 2])
    with pytest.raises(NotFoundError, match="get: id 9999"):
        bank.get([9999])
    with pytest.raises(NotFoundError, match="score: id 9999"):
        bank.score(np.ones(DIM), [[1, 9999]])
    assert (bank.nbytes, bank.ids().tolist()) == (n_bytes, ids)
    assert bank.add(clusters(rng, 1)).tolist() == [3000]


def test_lists_grow_with_the_root_of_the_bank():
    assert [Sizes.of(n, None).wanted for n in (0, 10**5, 10**6, 10**9)] == [160, 160, 250, 1024]


def test_a_bank_before_its_first_add_checks_what_is_wanted(rng):
    bank = memcore.Bank(index="ivf")
    for wanted, words in (
        ({"n_probes": 0}, "n_probes is 0"),
        ({"recall": 2.0}, "recall is 2.0"),
        ({"n_probes": 1, "recall": 0.5}, "n_probes and recall are given"),
    ):
        with pytest.raises(memcore.InputError, match=f"^search: {words}"):
            bank.search(np.ones((2, 4)), **wanted)
    assert bank.search(np.ones((2, 4)), 1, recall=0.5).ids.tolist() == [[-1], [-1]]


def test_a_dropped_bank_is_named_by_the_op(rng):
    arena = memcore.Arena(4, index="ivf")
    banks = arena.new(2)
    arena.drop(banks[:1])
    with pytest.raises(memcore.NotFoundError, match=r"^search: handle "):
        arena.search(banks, np.ones((2, 4)), 1)

"""Bank(index="lsh"): a search scores what lies in the probed buckets, whatever has changed."""

import threading

import numpy as np
import pytest

import memcore
from memcore import reference


class Model:
    """A bank of rows and their codes in dictionaries, and the search that the index stands for."""

    def __init__(self, lsh, rows=None):
        self.lsh = lsh
        self.rows = dict(rows or {})

    def copy(self):
        return Model(self.lsh, self.rows)

    def search(self, queries, k, n_probes):
        ids = np.array(sorted(self.rows), np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        found = np.full((len(queries), k), -1, np.int64)
        if not len(ids):
            return scores, found
        keys = np.array([self.rows[i] for i in ids.tolist()])
        codes = self.lsh.encode(keys)
        probes = self.lsh.probes(queries, n_probes)
        near = (codes[None, :, :, None] == probes[:, None]).any((2, 3))
        scores, places = reference.search(queries, keys, k, metric="cosine", mask=near)
        return scores, np.where(places < 0, -1, ids[places])


def assert_same(bank, model, queries, n_probes, k=12):
    hits = bank.search(queries, k, n_probes=n_probes)
    scores, ids = model.search(queries, k, n_probes)
    assert np.array_equal(hits.ids, ids)
    assert np.array_equal(hits.scores, scores)


def rows_of(rng, n, dim=12):
    centres = np.random.default_rng(5).standard_normal((20, dim))
    rows = centres[rng.integers(20, size=n)] + 0.4 * rng.standard_normal((n, dim))
    return rows.astype(np.float32)


@pytest.mark.parametrize("kind", ["sign", "cross_polytope"])
def test_a_history_of_changes_forks_and_rollbacks(kind, rng):
    lsh = memcore.LSH(12, 4, 3, kind=kind, seed=2)
    bank, model = memcore.Bank(12, index=lsh), Model(lsh)
    others, marks = [], []
    queries = rows_of(rng, 9)
    assert bank.search(queries, 3).ids.tolist() == [[-1] * 3] * 9
    for _ in range(120):
        action = rng.integers(7)
        ids = np.array(sorted(model.rows), np.int64)
        if action <= 1 or len(ids) < 5:
            rows = rows_of(rng, int(rng.integers(1, 40)))
            added = bank.add(rows)
            model.rows.update(zip(added.tolist(), rows, strict=True))
        elif action == 2:
            chosen = rng.choice(ids, len(ids) // 3, replace=False)
            rows = rows_of(rng, len(chosen))
            assert bank.update(chosen, rows).all()
            model.rows.update(zip(chosen.tolist(), rows, strict=True))
        elif action == 3:
            chosen = rng.choice(ids, len(ids) // 4, replace=False)
            bank.delete(chosen)
            for i in chosen.tolist():
                del model.rows[i]
        elif action == 4:
            others.append((bank, model))
            bank, model = bank.fork(), model.copy()
        elif action == 5:
            marks.append((bank, bank.snapshot(), model.copy()))
        elif marks:
            owner, mark, then = marks[int(rng.integers(len(marks)))]
            if owner is bank:
                bank.rollback(mark)
                model = then.copy()
        assert_same(bank, model, queries, int(rng.integers(1, 9)))
    for other, its_model in others[-5:]:
        assert_same(other, its_model, queries, 2)


def test_missing_rows_are_skipped(rng):
    lsh = memcore.LSH(12, 3, 2, seed=1)
    bank, model = memcore.Bank(12, index=lsh, fields={"t": "int64"}), Model(lsh)
    rows = rows_of(rng, 30)
    bank.add(rows, fields={"t": list(range(30))})
    model.rows.update(enumerate(rows))
    new = rows_of(rng, 3)
    assert bank.update([4, 99, 7], new, missing="skip").tolist() == [True, False, True]
    model.rows.update({4: new[0], 7: new[2]})
    assert bank.delete([99, 5], missing="skip").tolist() == [False, True]
    del model.rows[5]
    # Fields alone change nothing of the index.
    bank.update([4], fields={"t": [100]})
    assert_same(bank, model, rows[:10], 4)
    hits = bank.search(rows[:4], 5, where={"t": {"gte": 15}}, n_probes=8)
    assert ((hits.ids >= 15) | (hits.ids == 4) | (hits.ids == -1)).all()
    assert (hits.ids[hits.ids >= 0].size) > 0
    each = bank.search(rows[:2], 5, where=[{"t": 100}, None], n_probes=8)
    assert set(each.ids[0].tolist()) <= {4, -1}


def test_a_change_that_raises_changes_nothing(rng):
    lsh = memcore.LSH(12, 3, 2, seed=1)
    bank, model = memcore.Bank(12, index=lsh), Model(lsh)
    rows = rows_of(rng, 30)
    bank.add(rows)
    model.rows.update(enumerate(rows))
    bad = rows[:3].copy()
    bad[1, 2] = np.nan
    for call, error, words in (
        (lambda: bank.add(bad), memcore.InputError, "add: vectors row 1 is not finite"),
        (lambda: bank.add(rows[:2], ids=[3, 50]), memcore.InputError, "add: "),
        (lambda: bank.add(rows[:2, :5]), memcore.ShapeError, "add: "),
        (lambda: bank.update([1, 2, 3], bad), memcore.InputError, "update: vectors row 1 is not"),
        (lambda: bank.update([1, 77], rows[:2]), memcore.NotFoundError, "update: "),
        (lambda: bank.update([1, 1], rows[:2]), memcore.InputError, "update: "),
        (lambda: bank.delete([1, 77]), memcore.NotFoundError, "delete: "),
        (lambda: bank.search(bad), memcore.InputError, "search: "),
        (lambda: bank.search(rows[:1, :4]), memcore.ShapeError, "search: "),
        (lambda: bank.search(rows, n_probes=0), memcore.InputError, "search: n_probes is 0"),
        (lambda: bank.search(rows, n_probes=9), memcore.InputError, "probes: n_probes is 9"),
        (lambda: bank.search(rows, -1), memcore.InputError, "search: k is -1"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            call()
    assert_same(bank, model, rows[:10], 4)


def test_exact_and_candidates_pass_the_index_by(rng):
    lsh = memcore.LSH(12, 12, 1, seed=1)
    bank, plain = memcore.Bank(12, index=lsh), memcore.Bank(12)
    rows = rows_of(rng, 200)
    bank.add(rows)
    plain.add(rows)
    queries = rows_of(rng, 70)
    wanted = plain.search(queries, 10)
    assert np.array_equal(bank.search(queries, 10, recall=1.0).ids, wanted.ids)
    assert not np.array_equal(bank.search(queries, 10, n_probes=1).ids, wanted.ids)
    everyone = np.tile(np.arange(200), (70, 1))
    assert np.array_equal(bank.search(queries, 10, candidates=everyone).ids, wanted.ids)
    # All buckets: nothing is missed.
    small = memcore.Bank(12, index=memcore.LSH(12, 3, 1))
    small.add(rows)
    assert np.array_equal(small.search(queries, 10, n_probes=8).scores, wanted.scores)
    counts = rng.integers(0, 9, 70)
    hits = small.search(queries, counts, n_probes=8)
    assert np.array_equal(hits.ids, plain.search(queries, counts).ids)


def test_what_an_index_may_be():
    for index, error, words in (
        ("hnsw", memcore.InputError, "Bank: index is 'hnsw', should be one of 'ivf', 'lsh'"),
        (3, memcore.DtypeError, "Bank: index is a int, should be"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            memcore.Bank(4, index=index)
    bank = memcore.Bank(index=memcore.LSH(4))
    with pytest.raises(memcore.InputError, match=r"^Arena: index has dim 4, should be 3"):
        bank.add(np.eye(3))
    with pytest.raises(memcore.InputError, match=r"^Arena: dim is None, should be"):
        bank.add(payloads=["no vector"])
    with pytest.raises(memcore.InputError, match=r"^search: n_probes is given, should be None"):
        memcore.Bank(3).search(np.ones(3), n_probes=2)


def test_rollback_to_the_time_before_the_first_add(rng):
    bank = memcore.Bank(index="lsh")
    mark = bank.snapshot()
    rows = rows_of(rng, 50)
    bank.add(rows)
    assert bank.search(rows[:1], 1).ids.tolist() == [[0]]
    bank.rollback(mark)
    assert len(bank) == 0
    assert bank.search(rows[:1], 1).ids.tolist() == [[-1]]
    bank.add(rows[::-1])
    assert bank.search(rows[:1], 1).ids.tolist() == [[49]]


def test_threads_search_while_one_writes(rng):
    lsh = memcore.LSH(12, 4, 2, seed=1)
    bank = memcore.Bank(12, index=lsh)
    rows = rows_of(rng, 2000)
    bank.add(rows[:100])
    failures = []

    def read():
        try:
            for _ in range(60):
                hits = bank.search(rows[:5], 1, n_probes=2)
                # The first rows never change: each finds itself, or a copy with a smaller id.
                assert (hits.scores[:, 0] >= 0.999).all()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for begin in range(100, 2000, 50):
        ids = bank.add(rows[begin : begin + 50])
        bank.update(ids[:20], rows[:20] + 1)
        bank.delete(ids[20:40])
    for reader in readers:
        reader.join()
    assert failures == []


def test_nbytes_counts_what_forks_share_once(rng):
    arena = memcore.Arena(dim=8, index=memcore.LSH(8, 4, 4, seed=1))
    (bank,) = arena.new(1)
    arena.add(bank, rng.standard_normal((2000, 8)))
    alone = arena.nbytes
    forks = arena.fork([bank], 5)[0]
    assert arena.nbytes < 1.1 * alone
    arena.delete(forks[0], [3])
    # One fork has buckets of its own now: 4 codes and an id, 20 bytes each, of 2,048 places.
    own = 2048 * 5 * (8 + 8 + 4)
    assert alone + own < arena.nbytes < 1.2 * alone + own
    arena.drop(forks)
    assert arena.nbytes <= 1.1 * alone


def test_tim_finds_its_thoughts_in_few_buckets(rng):
    """TiM: 4 tables x 128 buckets of a cross-polytope hash, recall@10 >= 0.9 at <= 5 % scanned."""
    n, dim = 20_000, 64
    centres = rng.standard_normal((n // 50, dim))
    member = rng.integers(len(centres), size=n)
    rows = (centres[member] + 0.35 * rng.standard_normal((n, dim))).astype(np.float32)
    queries = rows[rng.permutation(n)[:300]] + 0.12 * rng.standard_normal((300, dim))
    queries = queries.astype(np.float32)
    exact = memcore.Bank(dim)
    exact.add(rows)
    truth = exact.search(queries, 10).ids
    recall = {}
    for n_tables in (1, 4):
        lsh = memcore.LSH(dim, 7, n_tables, kind="cross_polytope", seed=3)
        assert lsh.n_buckets == 128
        bank = memcore.Bank(dim, index=lsh)
        bank.add(rows)
        hits = bank.search(queries, 10, n_probes=1)
        recall[n_tables] = np.mean(
            [len(set(a) & set(b)) / 10 for a, b in zip(hits.ids, truth, strict=True)]
        )
        codes, asked = lsh.encode(rows), lsh.encode(queries)
        scanned = (codes[None] == asked[:, None]).any(2).mean()
    assert recall[4] >= 0.90
    assert scanned <= 0.05
    assert recall[1] <= 0.65


class ThoughtMemory:
    """TiM's memory: thoughts in hash groups, and its three verbs after thinking."""

    def __init__(self, dim):
        self.lsh = memcore.LSH(dim, 5, 1, kind="cross_polytope", seed=7)
        self.bank = memcore.Bank(dim, index=self.lsh, fields={"head": "str"})

    def recall(self, vector, k=10, **options):
        """The k most similar thoughts of the vector's group."""
        hits = self.bank.search(vector, k, n_probes=1, **options)
        return hits.ids[0][hits.ids[0] >= 0]

    def insert(self, vector, head, thought):
        return int(self.bank.add(vector, fields={"head": [head]}, payloads=[thought])[0])

    def forget(self, vector, head, contradicts):
        """Drop the thoughts of the group about the same head that contradict."""
        named = self.recall(vector, 100, where={"head": head})
        gone = [i for i in named.tolist() if contradicts(self.bank.get([i]).payloads[0])]
        self.bank.delete(gone)
        return gone

    def merge(self, vector, head, join, least=0.95):
        """Make one thought of those of the group about the same head that are nearly equal."""
        named = self.recall(vector, 100, where={"head": head}, min_score=least)
        if len(named) < 2:
            return None
        rows = self.bank.get(named)
        kept, *rest = sorted(named.tolist())
        self.bank.update([kept], rows.vectors.mean(0), payloads=[join(rows.payloads)])
        self.bank.delete(rest)
        return kept


def test_tim_inserts_forgets_and_merges():
    # Vectors of their own: some lie at the border of two groups, and their neighbours in both.
    rng = np.random.default_rng(0)
    memory = ThoughtMemory(16)
    tea = rng.standard_normal(16).astype(np.float32)
    near = [tea + 0.01 * rng.standard_normal(16).astype(np.float32) for _ in range(3)]
    likes = memory.insert(tea, "ana", "ana likes tea")
    also = memory.insert(near[0], "ana", "ana enjoys tea")
    bob = memory.insert(near[1], "bob", "bob likes tea")
    job = memory.insert(-tea, "ana", "ana works")
    group = memory.lsh.encode(np.stack([tea, *near[:2]]))[:, 0]
    assert len(set(group.tolist())) == 1, "one hash group"
    assert sorted(memory.recall(near[2]).tolist()) == [likes, also, bob]

    gone = memory.forget(near[2], "ana", lambda thought: "likes" in thought)
    assert gone == [likes]
    assert sorted(memory.recall(near[2]).tolist()) == [also, bob]

    again = memory.insert(near[2], "ana", "ana drinks tea")
    kept = memory.merge(tea, "ana", "; ".join)
    assert kept == also
    assert again not in memory.bank
    assert memory.bank.get([kept]).payloads in (
        ["ana enjoys tea; ana drinks tea"],
        ["ana drinks tea; ana enjoys tea"],
    )
    assert memory.recall(-tea).tolist() == [job]
    assert len(memory.bank) == 3

"""LSH, BucketTable and SketchTable: the laws they obey, and serial equals batch."""

import numpy as np
import pytest

import memcore
from memcore import reference
from memcore.backends import engine


def pairs_at(angle, n, dim, rng):
    """n pairs of unit vectors at an angle."""
    one = rng.standard_normal((n, dim))
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    other = rng.standard_normal((n, dim))
    other -= (one * other).sum(1, keepdims=True) * one
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return one.astype(np.float32), (np.cos(angle) * one + np.sin(angle) * other).astype(np.float32)


@pytest.mark.parametrize("planes", ["signs", "gaussian"])
@pytest.mark.parametrize("degrees", [15, 30, 60, 90, 120, 150])
def test_sign_bits_collide_by_the_angle(planes, degrees, rng):
    # Charikar's law: a bit agrees with probability 1 - angle / pi. One bit of each pair, so that
    # the 65,536 are independent.
    n, dim = 65_536, 64
    one, other = pairs_at(np.radians(degrees), n, dim, rng)
    hashes = memcore.LSH(dim, 16, planes=planes, seed=int(rng.integers(1 << 31)))
    different = (hashes.encode(one) ^ hashes.encode(other))[:, 0]
    agreed = (
        1 - (different >> (np.arange(n, dtype=np.uint64) % np.uint64(16)) & np.uint64(1)).mean()
    )
    law = 1 - degrees / 180
    assert abs(agreed - law) <= 4 * np.sqrt(law * (1 - law) / n)


def test_tables_and_hits_obey_the_binomial_law(rng):
    # 10 bits x 150 tables, as MagicPIG has them.
    angle = np.radians(60)
    one, other = pairs_at(angle, 4000, 64, rng)
    hashes = memcore.LSH(64, 10, 150, planes="gaussian", seed=5)
    shared = (hashes.encode(one) == hashes.encode(other)).sum(1)
    for least in (1, 2, 3):
        law = hashes.collision(np.cos(angle), least)
        assert abs((shared >= least).mean() - law) <= 0.03
    assert hashes.collision(np.cos(angle), 2) == pytest.approx(0.736, abs=0.002)


def neighbours(n, rng, dim=64, degrees=20):
    """Rows (n, dim), and queries at an angle from the first 1,000 of a permutation of them."""
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = rng.permutation(n)[:1000]
    noise = rng.standard_normal((1000, dim)).astype(np.float32)
    noise -= (noise * rows[chosen]).sum(1, keepdims=True) * rows[chosen]
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    angle = np.radians(degrees)
    return rows, chosen, np.cos(angle) * rows[chosen] + np.sin(angle) * noise


def recall_of(table, hashes, chosen, queries):
    hits = table.search(hashes.encode(queries))
    return (hits.ids == chosen[:, None]).any(1), hits


def test_bucket_recall_follows_the_law_while_the_slots_suffice(rng):
    n, n_slots = 100_000, 64
    rows, chosen, queries = neighbours(n, rng)
    hashes = memcore.LSH(64, 12, 16, planes="gaussian", seed=1)
    table = memcore.BucketTable(12, 16, n_slots, seed=2)
    before = table.nbytes
    table.add(np.arange(n), hashes.encode(rows))
    assert table.nbytes == before
    found, hits = recall_of(table, hashes, chosen, queries)
    collision = (1 - 20 / 180) ** 12
    kept = min(1, n_slots * 2**12 / n)
    law = 1 - (1 - collision * kept) ** 16
    assert abs(found.mean() - law) <= 0.03
    assert (hits.ids >= 0).sum(1).mean() / n <= 0.01


def test_random_eviction_beats_fifo_when_buckets_overflow(rng):
    # 98 rows a bucket for 64 slots.
    n = 100_000
    rows, chosen, queries = neighbours(n, rng)
    hashes = memcore.LSH(64, 10, 16, planes="gaussian", seed=3)
    recall = {}
    for evict in ("random", "fifo"):
        table = memcore.BucketTable(10, 16, 64, evict=evict, seed=4)
        table.add(np.arange(n), hashes.encode(rows))
        assert (table.counts.sum(1) == n).all()
        recall[evict], _ = recall_of(table, hashes, chosen, queries)
    assert recall["random"].mean() >= recall["fifo"].mean() + 0.05
    # FIFO forgets the oldest in every table alike.
    old, new = chosen < 0.2 * n, chosen > 0.6 * n
    assert recall["fifo"][old].mean() < recall["random"][old].mean()
    assert recall["fifo"][new].mean() >= 0.97


@pytest.mark.parametrize("evict", ["random", "fifo"])
def test_buckets_equal_the_definition_in_any_batches(backend, evict, rng):
    codes = rng.integers(0, 8, (500, 3)).astype(np.uint64)
    ids = rng.permutation(500)
    slots, counts = np.full((3, 8, 7), -1), np.zeros((3, 8), np.int64)
    reference.bucket_add(slots, counts, ids, codes, evict == "random", 11)
    for sizes in ([500], [1] * 500, [3, 200, 297]):
        table = memcore.BucketTable(3, 3, 7, evict=evict, seed=11)
        for end, size in zip(np.cumsum(sizes), sizes, strict=True):
            part = slice(end - size, end)
            table.add(ids[part], codes[part], backend=backend)
        assert np.array_equal(table.slots, slots)
        assert np.array_equal(table.counts, counts)
    probes = rng.integers(0, 8, (90, 3, 2)).astype(np.uint64)
    for least in (1, 2, 3):
        offsets, found, tables = reference.bucket_search(slots, probes, least)
        hits = table.search(probes, min_hits=least, backend=backend)
        for q in range(90):
            n = offsets[q + 1] - offsets[q]
            assert hits.ids[q, :n].tolist() == found[offsets[q] : offsets[q + 1]].tolist()
            assert hits.scores[q, :n].tolist() == tables[offsets[q] : offsets[q + 1]].tolist()
            assert (hits.ids[q, n:] == -1).all()
            assert (hits.scores[q, n:] == -np.inf).all()
    assert table.search(probes, 2).ids.shape == (90, 2)
    table.clear()
    assert table.search(probes, backend=backend).ids.shape == (90, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_sketch_added_in_batches_is_the_sketch_added_row_by_row(backend, dtype, rng):
    codes = rng.integers(0, 16, (700, 5)).astype(np.uint64)
    values = rng.standard_normal((700, 3)).astype(dtype) * 10.0 ** rng.integers(-6, 6, (700, 1))
    values = values.astype(dtype)
    serial = np.zeros((5, 16, 3), dtype)
    for row in range(700):
        for t in range(5):
            serial[t, codes[row, t]] += values[row]
    for sizes in ([700], [1] * 700, [123, 77, 500]):
        sketch = memcore.SketchTable(4, 5, 3, dtype=dtype)
        for end, size in zip(np.cumsum(sizes), sizes, strict=True):
            sketch.add(codes[end - size : end], values[end - size : end], backend=backend)
        assert sketch.sums.tobytes() == serial.tobytes()
    assert sketch.read(codes[:9]).tobytes() == serial[np.arange(5), codes[:9].astype(int)].tobytes()
    sketch.scale(0.5)
    assert np.array_equal(sketch.sums, serial * serial.dtype.type(0.5))


def auc(labels, scores):
    order = np.argsort(scores)
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    n_true = labels.sum()
    return (ranks[labels].sum() - n_true * (n_true + 1) / 2) / (n_true * (len(labels) - n_true))


def test_reloop2_recovers_from_a_flip_of_concepts(rng):
    """A base model goes stale for a tenth of the topics; the sketch of errors compensates."""
    n, dim, n_topics, temperature = 20_000, 32, 60, 0.1
    topics = rng.standard_normal((n_topics, dim))
    topic = rng.integers(n_topics, size=n)
    rows = (topics[topic] + 0.35 * rng.standard_normal((n, dim))).astype(np.float32)
    chance = rng.beta(0.4, 0.4, n_topics)
    stale = chance.copy()
    # What the base model learned was turned round since.
    flipped = rng.permutation(n_topics)[: n_topics // 6]
    stale[flipped] = 1 - stale[flipped]
    labels = rng.random(n) < chance[topic]
    base = np.clip(stale[topic] + 0.05 * rng.standard_normal(n), 0.01, 0.99)

    hashes = memcore.LSH(dim, 14, 64, seed=1)
    sketch = memcore.SketchTable(14, 64, 3)
    n_bytes = sketch.nbytes
    predicted = base.copy()
    batch = 500
    for begin in range(0, n, batch):
        now = slice(begin, begin + batch)
        codes = hashes.encode(rows[now])
        count, label_sum = np.moveaxis(sketch.read(codes)[:, :, :2].astype(np.float64), 2, 0)
        share = count / np.maximum(count.max(1, keepdims=True), 1)
        weights = np.exp(share / temperature) * (count > 0)
        weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)
        seen = np.maximum(count, 1)
        mean_label = (weights * label_sum / seen).sum(1)
        error = np.where(count.any(1), mean_label - base[now], 0)
        predicted[now] = np.clip(base[now] + 0.7 * error, 0, 1)
        values = np.stack([np.ones(batch), labels[now], base[now]], 1).astype(np.float32)
        sketch.add(codes, values)
    assert auc(labels, predicted) >= auc(labels, base) + 0.03
    assert sketch.nbytes == n_bytes
    # Counts are exact: every row is in every table once.
    assert (sketch.sums[:, :, 0].sum(1) == n).all()


def test_bad_arguments():
    hashes = memcore.LSH(4, 3, 2)
    table, sketch = memcore.BucketTable(3, 2, 4), memcore.SketchTable(3, 2, 2)
    codes = np.array([[1, 8]], np.uint64)
    for call, error, words in (
        (lambda: memcore.LSH(0), memcore.InputError, "LSH: dim is 0, should be at least 1"),
        (lambda: memcore.LSH(4, 70), memcore.InputError, "LSH: n_bits is 70, should be at most 64"),
        (lambda: memcore.LSH(4, planes="x"), memcore.InputError, "LSH: planes is 'x'"),
        (lambda: memcore.LSH(4, 3, seed=-1), memcore.InputError, "LSH: seed is -1"),
        (
            lambda: memcore.LSH(4, 3, kind="cross_polytope").collision(0.5),
            memcore.InputError,
            "collision: kind is 'cross_polytope'",
        ),
        (
            lambda: hashes.encode(np.ones(5)),
            memcore.ShapeError,
            r"encode: vectors has shape \(5,\)",
        ),
        (lambda: table.add([1], codes), memcore.InputError, "add: codes has 8, should be below 8"),
        (
            lambda: table.add([1], codes[:, :1]),
            memcore.ShapeError,
            r"add: codes has shape \(1, 1\)",
        ),
        (lambda: table.add([-1], codes // 2), memcore.InputError, "add: ids has -1"),
        (lambda: table.add([1, 2], codes // 2), memcore.ShapeError, "add: codes has 1 rows"),
        (lambda: table.search(codes), memcore.InputError, "search: codes has 8"),
        (
            lambda: memcore.BucketTable(3, 2, 4, evict="lru"),
            memcore.InputError,
            "BucketTable: evict is 'lru', should be one of random, fifo",
        ),
        (lambda: memcore.BucketTable(29, 1, 1), memcore.InputError, "BucketTable: n_bits is 29"),
        (lambda: sketch.add(codes // 2, [[1.0]]), memcore.ShapeError, "add: values has shape"),
        (
            lambda: sketch.add(codes // 2, [[1.0, np.nan]]),
            memcore.InputError,
            "add: values has NaN",
        ),
        (lambda: sketch.scale(np.inf), memcore.InputError, "scale: factor is inf"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            call()
    assert (table.slots == -1).all()
    assert not sketch.sums.any()


def test_nothing_added_nothing_found():
    table = memcore.BucketTable(2, 3, 4)
    table.add(np.empty(0, np.int64), np.empty((0, 3), np.uint64))
    assert table.search(np.zeros((2, 3), np.uint64), 5).ids.tolist() == [[-1] * 5] * 2
    assert engine("bucket_search")(table.slots, table.counts, np.zeros((0, 3, 1), np.uint64), 1)[
        0
    ].tolist() == [0]


def test_a_generator_is_drawn_from_once_for_a_seed():
    def made(rng):
        book = memcore.Codebook(4, 8, seed=rng)
        book.fit(np.eye(8, dtype=np.float32), seed=rng)
        table = memcore.BucketTable(2, 1, 2, evict="random", seed=rng)
        return memcore.LSH(8, 16, seed=rng).planes, book.codewords, table.seed

    one, other = (np.random.default_rng(3) for _ in range(2))
    for first, second in zip(made(one), made(other), strict=True):
        np.testing.assert_array_equal(first, second)
    # Each has drawn four times, and goes on from there.
    assert one.bit_generator.state == other.bit_generator.state
    assert not np.array_equal(made(one)[0], made(np.random.default_rng(3))[0])

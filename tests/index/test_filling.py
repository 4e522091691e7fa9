"""Lists of an inverted file that fill their pages: which rows move, and what that changes."""

import numpy as np
import pytest

import memcore
from memcore.index import IVF
from memcore.index.filling import fill_pages

PAGE = 16


def empty_lanes(counts):
    return int((-counts % PAGE).sum())


def partition_of(bank):
    return bank._pages._members.partitions[int(bank._handle[0])]


@pytest.mark.parametrize("n_lists", [2, 3, 200])
def test_few_rows_move_and_pages_fill(rng, n_lists):
    """Points on a line: each list has two neighbours, and hands on what it lacks."""
    n = 90 * n_lists
    centres = np.sort(rng.random(n_lists))
    distances = (rng.random((n, 1)) - centres) ** 2
    near = np.argsort(distances, axis=1)[:, :2]
    first, second = np.take_along_axis(distances, near, axis=1).T
    places, others = near.T.copy()
    farther = (second / first - 1).astype(np.float32)
    counts = np.bincount(places, minlength=n_lists)
    most = int(counts.max())
    sent = fill_pages(places, others, farther, PAGE, most)
    after = np.bincount(sent, minlength=n_lists)
    moved = sent != places
    assert (sent[moved] == others[moved]).all()
    assert (farther[moved] < 0.6).all()
    assert after.max() <= most
    if n_lists == 2:
        assert empty_lanes(after) <= empty_lanes(counts)
    elif n_lists == 200:
        assert empty_lanes(after) < empty_lanes(counts) / 2
        assert moved.mean() < 0.1
    far = np.full(n, np.float32(np.inf))
    assert (fill_pages(places, others, far, PAGE, most) == places).all()


def test_no_list_grows_beyond_the_most(rng):
    places, others = np.repeat([0, 1], [40, 24]), np.repeat([1, 0], [40, 24])
    near = np.zeros(64, np.float32)
    for most, wanted in ((64, {(32, 32), (48, 16)}), (40, {(32, 32)}), (24, {(40, 24)})):
        sent = fill_pages(places, others, near, PAGE, most)
        assert tuple(np.bincount(sent).tolist()) in wanted


@pytest.mark.parametrize("metric", ["l2", "cosine", "dot"])
def test_a_bank_fills_its_pages_and_finds_the_same(rng, metric):
    # An offset, as what is compared are differences.
    rows = (rng.standard_normal((12_000, 6)) + 3).astype(np.float32)
    queries = (rng.standard_normal((200, 6)) + 3).astype(np.float32)
    bank = memcore.Bank(6, metric=metric, index=IVF(list_rows=128))
    flat = memcore.Bank(6, metric=metric)
    for some in np.array_split(rows, 3):
        bank.add(some)
        flat.add(some)
    sizes = partition_of(bank).sizes[partition_of(bank).places]
    assert sizes.sum() == 12_000
    assert empty_lanes(sizes) / sizes.size < 3
    got, want = bank.search(queries, 10, recall=1.0), flat.search(queries, 10)
    assert got.ids.tolist() == want.ids.tolist()
    assert got.scores.tobytes() == want.scores.tobytes()
    quick = bank.search(queries, 10, recall=0.9)
    found = [
        len(set(a) & set(b)) for a, b in zip(quick.ids.tolist(), want.ids.tolist(), strict=True)
    ]
    assert np.mean(found) > 8.7
    # Rows that come and go one by one do not set it off each time.
    before = partition_of(bank).n_unfilled
    bank.delete([5])
    assert partition_of(bank).n_unfilled == before + 1

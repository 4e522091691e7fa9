"""The map from id to row of large banks, for ids of any size."""

import numpy as np
import pytest

from memcore import _core


def pages():
    return _core.Pages(None, "float32", "dot", ["int64"])


def rows_of(store, bank, ids):
    """The cell of each id, -1 where there is none."""
    cells = np.full(ids.size, -1, np.int64)
    found = store.get(bank, ids, True, None, [cells])
    return np.where(found, cells, -1)


@pytest.mark.parametrize("top", [1 << 20, 1 << 40, (1 << 62) + 1])
def test_ids_of_any_size_are_found_after_adds_moves_and_deletes(rng, top):
    store = pages()
    bank = store.new(1)
    # Small ids first, so that leaves meet a large one when they are full of small ones.
    small = np.arange(3000)
    large = np.unique(rng.integers(3000, top, 3000, dtype=np.int64))
    truth = {}
    for ids in (small, large):
        for some in np.array_split(rng.permutation(ids), 7):
            cells = rng.integers(1 << 50, size=some.size)
            store.add(bank, some, None, [cells])
            truth.update(zip(some.tolist(), cells.tolist(), strict=True))
    fork = store.fork(bank, 1).reshape(-1)
    before = dict(truth)
    for _ in range(3):
        gone = rng.choice(np.fromiter(truth, np.int64), len(truth) // 2, replace=False)
        store.delete(bank, gone, False)
        for id_ in gone.tolist():
            del truth[id_]
        moved = rng.choice(np.fromiter(truth, np.int64), len(truth) // 2, replace=False)
        cells = rng.integers(1 << 50, size=moved.size)
        store.update(bank, moved, None, [cells], False)
        truth.update(zip(moved.tolist(), cells.tolist(), strict=True))
        # Halves that are taken for one another would be found here.
        asked = np.concatenate([small, large, large & 0xFFFFFFFF, small + (1 << 32)])
        for handle, wanted in ((bank, truth), (fork, before)):
            found = rows_of(store, handle, asked)
            assert np.array_equal(found, [wanted.get(i, -1) for i in asked.tolist()])


def test_the_map_takes_no_more_than_twelve_bytes_a_row(rng):
    store = pages()
    bank = store.new(1)
    n = 200_000
    store.add(bank, None, None, [np.zeros(n, np.int64)])
    # 16 bytes are the id and the cell.
    assert store.nbytes / n < 16 + 12 + 1

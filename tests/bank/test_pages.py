"""The native page store: copy on write, ids, handles, memory."""

import os
from pathlib import Path

import numpy as np
import pytest

from memcore import _core
from memcore.errors import InputError, NotFoundError
from pages_oracle import NULLS, PagesOracle, draw_cells, draw_vectors


def test_a_large_bank_forks_and_diverges(rng):
    both = PagesOracle(2)
    [parent] = both.new(1)
    both.add([parent], None, draw_vectors(rng, 5000, 2, "float32"), draw_cells(rng, 5000))
    before = both.pages.nbytes
    [[fork]] = both.fork([parent], 1).tolist()
    assert both.pages.page_table(fork).tolist() == both.pages.page_table(parent).tolist()
    assert both.pages.nbytes - before < 0.02 * before
    for _ in range(3):
        ids = rng.choice(list(both.banks[fork].rows), 2, False).tolist()
        both.delete([fork] * 2, ids)
        both.add([parent], None, draw_vectors(rng, 3, 2, "float32"), [None] * 5)
    both.check()
    assert both.pages.nbytes - before < 0.2 * before
    both.copy_from([fork], [parent])
    both.drop([parent])
    both.check()


def test_a_fork_copies_only_what_it_writes(rng):
    both = PagesOracle(4)
    [parent] = both.new(1)
    both.add([parent], None, draw_vectors(rng, 40, 4, "float32"), draw_cells(rng, 40))
    [[fork]] = both.fork([parent], 1).tolist()
    both.update([fork], [20], draw_vectors(rng, 1, 4, "float32"), [None] * 5)
    mine, theirs = both.pages.page_table(fork), both.pages.page_table(parent)
    assert (mine == theirs).tolist() == [True, False, True]
    both.drop([parent])
    both.check()
    assert both.pages.n_pages - both.pages.n_free_pages == 3


def test_forks_written_in_one_call(rng):
    both = PagesOracle(4)
    [parent] = both.new(1)
    both.add([parent], None, draw_vectors(rng, 37, 4, "float32"), draw_cells(rng, 37))
    forks = both.fork([parent], 8).ravel().tolist()
    both.drop([parent])
    both.delete(forks, [0, 36, 15, 16, 31, 32, 7, 35])
    both.check()
    both.add(forks, None, draw_vectors(rng, 8, 4, "float32"), draw_cells(rng, 8))
    both.check()
    both.update(forks, [1] * 8, draw_vectors(rng, 8, 4, "float32"), draw_cells(rng, 8))
    both.check()
    both.delete(
        [f for f in forks for _ in range(30)], [i for _ in forks for i in range(1, 31)], True
    )
    both.check()


def test_a_rollback_gives_the_counter_back(rng):
    both = PagesOracle(3)
    [bank] = both.new(1)
    both.add([bank], [5, 90], draw_vectors(rng, 2, 3, "float32"), [None] * 5)
    [[mark]] = both.fork([bank], 1).tolist()
    assert both.add([bank], None, draw_vectors(rng, 2, 3, "float32"), [None] * 5) == [91, 92]
    both.add([bank], [7], draw_vectors(rng, 1, 3, "float32"), [None] * 5)
    both.copy_from([bank], [mark])
    assert both.add([bank], [7], draw_vectors(rng, 1, 3, "float32"), [None] * 5) == [7]
    assert both.add([bank], None, draw_vectors(rng, 1, 3, "float32"), [None] * 5) == [91]
    both.check()


def test_banks_swap_through_copy_from(rng):
    both = PagesOracle(3)
    a, b = both.new(2)
    both.add([a], None, draw_vectors(rng, 20, 3, "float32"), draw_cells(rng, 20))
    both.add([b], None, draw_vectors(rng, 3, 3, "float32"), draw_cells(rng, 3))
    both.copy_from([a, b], [b, a])
    assert both.pages.count(np.array([a, b])).tolist() == [3, 20]
    both.copy_from([a], [a])
    both.check()


def test_an_id_is_never_used_again(rng):
    both = PagesOracle(None, kinds=[])
    [bank] = both.new(1)
    both.add([bank], [0, 1, 5, 9], None, [])
    both.delete([bank, bank], [1, 9])
    for row in (0, 1, 5, 9):
        with pytest.raises(InputError, match=rf"add: id {row} \(position 1\) was used before"):
            both.add([bank], [3, row], None, [])
    both.add([bank], [8, 2, 20, 3], None, [])
    assert both.add([bank], None, None, []) == [21]
    both.check()


def test_ids_end(rng):
    both = PagesOracle(None, kinds=[])
    [bank] = both.new(1)
    both.add([bank], [2**63 - 2], None, [])
    with pytest.raises(InputError, match="has 1 ids left, should have 2"):
        both.pages.add(np.array([bank, bank]), None, None, [])
    assert both.add([bank], None, None, []) == [2**63 - 1]
    with pytest.raises(InputError, match="has 0 ids left, should have 1"):
        both.pages.add(np.array([bank]), None, None, [])
    both.add([bank], [17], None, [])
    both.check()


def test_handles_of_dropped_banks_name_nothing(rng):
    pages = _core.Pages(2, "float32", "dot", [])
    old = pages.new(2)
    pages.drop(old)
    new = pages.new(2)
    assert not set(old) & set(new)
    assert pages.alive(np.concatenate([old, new])).tolist() == [False, False, True, True]
    for handle in (old[0], -1, 0, 1, 2**62, 2**32 + 7):
        with pytest.raises(NotFoundError, match=rf"count: handle {handle} \(position 1\)"):
            pages.count(np.array([new[0], handle]))


def test_a_thousand_resets_do_not_grow(rng):
    pages = _core.Pages(16, "float32", "dot", ["ref"])
    vectors = draw_vectors(rng, 64 * 20, 16, "float32")
    sizes = set()
    for cycle in range(1000):
        banks = pages.new(64)
        pages.add(np.repeat(banks, 20), None, vectors, [np.arange(64 * 20)])
        forks = pages.fork(banks, 4)
        pages.delete(forks[:, 0], np.full(64, cycle % 20), False)
        pages.drop(np.concatenate([forks.ravel(), banks]))
        assert len(pages.dead_refs(0)) == 64 * 20
        sizes.add((pages.nbytes, pages.n_pages))
    assert len(sizes) <= 2
    assert pages.n_free_pages == pages.n_pages


def test_memory_per_bank(rng):
    pages = _core.Pages(384, "float32", "dot", [])
    banks = pages.new(1000)
    pages.add(np.repeat(banks, 100), None, np.ones((100_000, 384), np.float32), [])
    needed = 100_000 * (384 * 4 + 384 + 12)
    assert pages.nbytes <= 1.2 * needed
    pages.delete(np.repeat(banks, 90), np.tile(np.arange(90), 1000), False)
    assert pages.nbytes <= 0.2 * needed
    pages.compact()
    assert pages.n_pages == 1000
    assert (pages.count(banks) == 10).all()


def test_a_column_without_values_takes_no_memory(rng):
    both = PagesOracle(4)
    [bank] = both.new(1)
    nothing = [None] * 5
    nulls = [np.full(300, null) for null in NULLS]
    both.add([bank], None, draw_vectors(rng, 300, 4, "float32"), nulls)
    [[fork]] = both.fork([bank], 1).tolist()
    both.delete([bank] * 7, range(20, 27))
    both.check()
    full = both.pages.nbytes
    cells = [np.array([1]), None, None, np.array([2**40]), None]
    with pytest.raises(InputError, match=r"columns\[3\] has reference"):
        both.pages.add(np.array([bank]), None, np.ones((1, 4), np.float32), cells)
    assert both.pages.nbytes == full
    # One cell, in the one page of a fork that is its own: 8 bytes for each lane there is.
    values = [5, np.float64(0.5).view(np.int64), 0, 0, 7]
    for column, value in enumerate(values):
        before, n_pages = both.pages.nbytes, both.pages.n_pages - both.pages.n_free_pages
        cells = [np.array([value]) if at == column else None for at in range(5)]
        both.update([fork], [17], None, cells)
        n_new = both.pages.n_pages - both.pages.n_free_pages - n_pages
        stored = (n_pages + n_new) * 128
        assert stored <= both.pages.nbytes - before < stored + n_new * 2000 + 400
        both.check()
    both.add([bank], None, draw_vectors(rng, 40, 4, "float32"), nothing)
    both.delete([bank, fork], [299, 3])
    both.copy_from([bank], [fork])
    both.check()


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def test_compact_gives_memory_back(rng):
    pages = _core.Pages(256, "float32", "dot", [])
    banks = pages.new(100)
    vectors = np.ones((50_000, 256), np.float32)
    pages.add(np.repeat(banks, 500), None, vectors, [])
    full = resident_bytes()
    assert full > 60e6
    pages.drop(banks[rng.permutation(100)[:95]])
    pages.compact()
    assert full - resident_bytes() > 50e6
    left = banks[pages.alive(banks)]
    assert (pages.count(left) == 500).all()

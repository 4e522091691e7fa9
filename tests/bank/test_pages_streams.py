"""Writes that are large enough to go past the cache, and pages that are used again."""

import numpy as np
import pytest

from memcore import _core
from pages_oracle import KINDS, PagesOracle, draw_cells, draw_vectors

NOTHING = [None] * len(KINDS)


# Rows of whole lines of the cache, and of others.
@pytest.mark.parametrize("dim", [512, 515])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_large_writes(rng, threads, dim, n_threads):
    threads(n_threads)
    both = PagesOracle(dim)
    banks = both.new(10)
    n, half = 1200, 600
    handles = np.tile(banks, n // 10)
    ids = np.repeat(np.arange(n // 10), 10)
    both.add(handles.tolist(), None, draw_vectors(rng, n, dim, "float32"), draw_cells(rng, n))
    both.check()
    order = rng.permutation(n)
    both.update(
        handles[order].tolist(), ids[order].tolist(), draw_vectors(rng, n, dim, "float32"), NOTHING
    )
    # The last half of every bank moves to where the first was.
    both.delete(handles[:half].tolist(), ids[:half].tolist())
    both.check()


@pytest.mark.parametrize("n_rows", [1, 7, 16, 33])
def test_a_page_used_again_shows_nothing_of_before(rng, n_rows):
    vectors, fewer = draw_vectors(rng, 48, 6, "float32"), draw_vectors(rng, n_rows, 6, "float32")
    contents = []
    for is_used in (False, True):
        pages = _core.Pages(6, "float32", "dot", [])
        if is_used:
            before = pages.new(1)
            pages.add(before, None, vectors, [])
            # Reading a page completes its shadow, which then is that of rows that go.
            assert all(pages.page_content(page) for page in pages.page_table(int(before[0])))
            pages.drop(before)
        bank = pages.new(1)
        pages.add(bank, None, fewer, [])
        table = pages.page_table(int(bank[0]))
        contents.append(sorted(pages.page_content(int(page)) for page in table))
    assert contents[0] == contents[1]

"""Positions and sizes beyond 32 bits, in files with holes: no disk and little memory is used."""

import numpy as np
import pytest

import memcore

FAR = 2**31 + 1000


def sparse(path, shape, rows, values):
    """Zeros but for a few int8 rows."""
    keys = np.memmap(path / "keys", np.int8, "w+", shape=shape)
    keys[rows] = np.array(values, np.int8)[:, None]
    return keys


def test_positions_beyond_32_bits(isa, tmp_path):
    keys = sparse(tmp_path, (FAR, 1), [5, FAR - 900, FAR - 3], [9, 7, 5])
    query = np.ones((2, 1), np.float32)
    hits = memcore.search_ragged(query, keys, [0, 100, FAR - 950, FAR], 3, segments=[2, 0])
    assert hits.ids.tolist() == [[FAR - 900, FAR - 3, FAR - 950], [5, 0, 1]]
    assert hits.scores.tolist() == [[7, 5, 0], [9, 0, 0]]
    named = [[FAR - 3, 5, FAR - 1, -1], [FAR - 900, 2**31, -1, 7]]
    hits = memcore.search(query, keys, 3, candidates=named)
    assert hits.ids.tolist() == [[5, FAR - 3, FAR - 1], [FAR - 900, 7, 2**31]]


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_more_than_32_bits_of_bytes(metric, tmp_path):
    n = 34_000_000
    keys = sparse(tmp_path, (n, 128), [5, n // 2, n - 3], [3, 7, 5])
    query = np.full((1, 128), 7, np.float32)
    hits = memcore.search(query, keys, 3, metric=metric)
    assert hits.ids.tolist() == [[n // 2, n - 3, 5]]
    products, squares = [6272, 4480, 2688], [0, -512, -2048]
    assert hits.scores.tolist() == [products if metric == "dot" else squares]

"""That the comparison of hits sees what it should."""

import numpy as np
import pytest

from compare import assert_hits

SCORES = np.array([[2, 1, 0], [3, 1, -np.inf]], np.float32)
IDS = np.array([[5, 2, 1], [0, 4, -1]])


def with_change(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def test_equal_hits_pass():
    assert_hits((SCORES, IDS), (SCORES.copy(), IDS.tolist()))


@pytest.mark.parametrize(
    ("scores", "ids"),
    [
        (with_change(SCORES, (0, 2), -0.0), IDS),
        (with_change(SCORES, (0, 1), np.nextafter(np.float32(1), np.float32(2))), IDS),
        (with_change(SCORES, (1, 2), np.nan), IDS),
        (SCORES, with_change(IDS, (1, 2), -7777)),
        (SCORES.astype(np.float64), IDS),
        (SCORES, IDS.astype(np.int32)),
        (SCORES[:, :2], IDS[:, :2]),
    ],
)
def test_any_difference_fails(scores, ids):
    with pytest.raises(AssertionError):
        assert_hits((scores, ids), (SCORES, IDS))


def test_the_message_says_where():
    with pytest.raises(AssertionError) as failure:
        assert_hits((SCORES, with_change(IDS, (1, 0), 9)), (SCORES, IDS), "three rows")
    assert "three rows: 1 of 6 hits differ, in 1 rows; first (1, 0)" in str(failure.value)
    assert "id 9, score np.float32(3.0) (bits 40400000)" in str(failure.value)

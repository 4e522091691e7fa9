"""Comparison of hits by equality of ids and of score bits, with a message that shows where."""

import numpy as np

from memcore import reference


def bits(scores):
    """Scores as what they are made of: NaN equals itself, and -0 differs from +0."""
    return np.asarray(scores, np.float32).view(np.uint32)


def assert_hits(hits, expected, what=""):
    """Fail unless hits (scores, ids) equal expected in shape, ids and bits."""
    scores, ids = (np.asarray(array) for array in hits)
    wanted_scores, wanted_ids = (np.asarray(array) for array in expected)
    assert scores.dtype == np.float32, what
    assert ids.dtype == np.int64, what
    assert scores.shape == wanted_scores.shape, what
    assert ids.shape == wanted_ids.shape, what
    wrong = (ids != wanted_ids) | (bits(scores) != bits(wanted_scores))
    if wrong.any():
        raise AssertionError(_story(scores, ids, wanted_scores, wanted_ids, wrong, what))


def _story(scores, ids, wanted_scores, wanted_ids, wrong, what):
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    rows = int(wrong.reshape(-1, wrong.shape[-1]).any(1).sum())
    return "\n".join(
        [
            f"{what}: {wrong.sum()} of {wrong.size} hits differ, in {rows} rows; first {place}",
            f"  got      id {ids[place]}, score {_number(scores[place])}",
            f"  expected id {wanted_ids[place]}, score {_number(wanted_scores[place])}",
            f"  got ids      {ids[place[:-1]][:20]}",
            f"  expected ids {wanted_ids[place[:-1]][:20]}",
        ]
    )


def _number(score):
    return f"{score!r} (bits {int(bits(score)):08x})"


def expected_search(queries, keys, k=10, **options):
    """What the definition returns, from whatever numbers the containers hold."""
    return reference.search(np.asarray(queries), np.asarray(keys), k, **options)

"""The errors of banks name the op that was called, whatever it is made of."""

import numpy as np
import pytest

import memcore

GONE = 77


def calls(arena, bank):
    """By op: a call that another op, which it is made of, finds wrong; and what it should say."""
    queries = np.ones((2, 4), np.float32)
    spoiled = queries.copy()
    spoiled[1, 2] = np.nan
    found = memcore.Hits(np.ones((1, 1), np.float32), np.array([[GONE]]))
    return [
        (lambda: arena.attend(bank, spoiled, beta=1.0), "attend: queries row 1 is not finite"),
        (lambda: arena.attend(bank, queries[:, :3], beta=1.0), "attend: queries has dim 3"),
        (lambda: arena.attend(bank, queries, -1, beta=1.0), "attend: k is -1"),
        (lambda: arena.attend(bank, queries, beta=1.0, where={"x": 1}), "attend: where names"),
        (lambda: arena.attend(GONE, queries, beta=1.0), "attend: handle 77 .position 0. names no"),
        (lambda: arena.rows(bank, found), "rows: id 77 .position 0. is not in its bank"),
        (lambda: arena.rows(GONE, found), "rows: handle 77 .position 0. names no bank"),
        (lambda: arena.snapshot(GONE), "snapshot: handle 77 .position 0. names no bank"),
    ]


@pytest.mark.parametrize("number", range(len(calls(None, None))))
@pytest.mark.parametrize("index", [None, "ivf", "lsh"])
def test_errors_name_the_op_that_was_called(index, number):
    arena = memcore.Arena(dim=4, index=index, fields={"t": "int64"})
    bank = arena.new(1)
    arena.add(bank, np.eye(4, dtype=np.float32), fields={"t": range(4)})
    call, sentence = calls(arena, bank)[number]
    with pytest.raises((ValueError, memcore.NotFoundError), match=f"^{sentence}"):
        call()
    assert arena.count(bank)[0] == 4

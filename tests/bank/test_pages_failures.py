"""Calls on pages that fail: the right sentence, and nothing has changed."""

import os
from pathlib import Path

import numpy as np
import pytest

from memcore.errors import DtypeError, InputError, NotFoundError, ShapeError
from pages_oracle import KINDS, PagesOracle, draw_cells, draw_vectors


def bad_vectors(dim, row, value):
    vectors = np.ones((20, dim), np.float32)
    vectors[row, -1] = value
    return vectors


def failing_calls(both, bank, other, dropped):
    """Each call with the error it should raise. All banks have rows 0 … 19."""
    pages, dim = both.pages, both.dim
    nothing = [None] * len(KINDS)
    good = np.ones((20, dim), np.float32)
    one, ids = np.array([bank]), np.arange(20)
    mixed = np.array([bank, other] * 10)
    gone = mixed.copy()
    gone[13] = dropped
    repeated = np.repeat(np.arange(10), 2)
    repeated[14:16] = 3
    missing = ids.copy()
    missing[9] = 77
    bad_ref = [None, None, None, np.full(20, 2**40), None]
    return [
        (pages.add, (gone, None, good, nothing), NotFoundError, r"add: handle \d+ \(position 13\)"),
        (
            pages.add,
            (mixed, None, bad_vectors(dim, 17, np.nan), nothing),
            InputError,
            "add: vectors row 17 is not finite",
        ),
        (
            pages.add,
            (mixed, None, bad_vectors(dim, 0, np.inf), nothing),
            InputError,
            "add: vectors row 0 is not finite",
        ),
        (
            pages.add,
            (mixed, None, bad_vectors(dim, 3, 2e18), nothing),
            InputError,
            "add: vectors row 3 has squared norm 4",
        ),
        (
            pages.add,
            (mixed, ids + 20, good[:, :-1], nothing),
            ShapeError,
            f"add: vectors has dim {dim - 1}, should be {dim}",
        ),
        (
            pages.add,
            (mixed, ids[:-1], good, nothing),
            ShapeError,
            "add: ids has 19 entries, should have 20",
        ),
        (
            pages.add,
            (mixed[:3], None, good, nothing),
            ShapeError,
            "add: handles has 3 entries, should have 1 or 20",
        ),
        (pages.add, (mixed, None, None, nothing), ShapeError, "add: vectors is None"),
        (
            pages.add,
            (mixed, None, good, nothing[:-1]),
            ShapeError,
            "add: columns has 4 arrays, should have 5",
        ),
        (
            pages.add,
            (mixed, None, good, [ids[:-1], *nothing[1:]]),
            ShapeError,
            r"add: columns\[0\] has 19 cells",
        ),
        (pages.add, (mixed, None, good, bad_ref), InputError, r"add: columns\[3\] has reference"),
        (
            pages.add,
            (mixed, None, good.astype(np.float64), nothing),
            DtypeError,
            "add: vectors has dtype float64",
        ),
        (
            pages.add,
            (mixed.astype(np.int32), None, good, nothing),
            DtypeError,
            "add: handles has dtype int32",
        ),
        (pages.add, (one, ids, good, nothing), InputError, r"add: id 0 \(position 0\) was used"),
        (
            pages.add,
            (one, np.where(ids == 11, -5, ids + 99), good, nothing),
            InputError,
            r"add: id -5 \(position 11\)",
        ),
        (
            pages.add,
            (one, np.where(ids == 11, 99, ids + 99), good, nothing),
            InputError,
            r"add: id 99 \(position 11\) is rep",
        ),
        (
            pages.update,
            (one, missing, good, nothing, False),
            NotFoundError,
            r"update: id 77 \(position 9\)",
        ),
        (
            pages.update,
            (mixed, repeated, good, nothing, True),
            InputError,
            r"update: id 3 \(position 14\) is repeated",
        ),
        (
            pages.update,
            (one, ids, bad_vectors(dim, 19, -np.inf), nothing, True),
            InputError,
            "update: vectors row 19",
        ),
        (
            pages.update,
            (one, ids, None, bad_ref, True),
            InputError,
            r"update: columns\[3\] has reference",
        ),
        (
            pages.update,
            (gone, ids, good, nothing, True),
            NotFoundError,
            r"update: handle \d+ \(position 13\)",
        ),
        (
            pages.delete,
            (one, missing, False),
            NotFoundError,
            r"delete: id 77 \(position 9\) is not in its bank",
        ),
        (
            pages.delete,
            (mixed, repeated, True),
            InputError,
            r"delete: id 3 \(position 14\) is repeated",
        ),
        (pages.delete, (gone, ids, True), NotFoundError, r"delete: handle \d+ \(position 13\)"),
        (pages.delete, (one, ids[None]), TypeError, "incompatible"),
        (pages.delete, (one, ids[None], True), ShapeError, "delete: ids has 2 axes"),
        (
            pages.drop,
            (np.array([bank, other, bank]),),
            InputError,
            r"drop: handle \d+ \(position 2\) is repeated",
        ),
        (
            pages.drop,
            (np.array([bank, dropped]),),
            NotFoundError,
            r"drop: handle \d+ \(position 1\)",
        ),
        (
            pages.copy_from,
            (np.array([bank, bank]), mixed[:2]),
            InputError,
            r"rollback: handle \d+ \(position 1\)",
        ),
        (
            pages.copy_from,
            (np.array([bank, other]), np.array([other, dropped])),
            NotFoundError,
            "rollback: handle",
        ),
        (
            pages.copy_from,
            (np.array([bank, other]), np.array([other])),
            ShapeError,
            "rollback: sources has 1",
        ),
        (
            pages.fork,
            (np.array([bank, dropped]), 2),
            NotFoundError,
            r"fork: handle \d+ \(position 1\)",
        ),
        (pages.fork, (one, -1), InputError, "fork: n is -1"),
        (pages.new, (-1,), InputError, "new: n is -1"),
        (
            pages.get,
            (one, missing, False, None, nothing),
            NotFoundError,
            r"get: id 77 \(position 9\)",
        ),
        (pages.get, (one, ids, False, good[:3], nothing), ShapeError, "get: vectors"),
        (pages.dead_refs, (0,), InputError, "dead_refs: column is 0"),
        (pages.ids, (dropped,), NotFoundError, "ids: handle"),
    ]


def test_bad_calls_change_nothing(rng):
    both = PagesOracle(4)
    bank, other, dropped = both.new(3)
    both.drop([dropped])
    for handle in (bank, other):
        both.add([handle], None, draw_vectors(rng, 20, 4, "float32"), draw_cells(rng, 20))
    [[_]] = both.fork([bank], 1).tolist()
    both.check()
    before = both.digest()
    for call, arguments, error, message in failing_calls(both, bank, other, dropped):
        with pytest.raises(error, match=message):
            call(*arguments)
        assert both.digest() == before, message
    both.check()


@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="the sanitizer maps memory of its own, which the limit would refuse",
)
def test_running_out_of_memory_changes_nothing(rng):
    """In a child process, as the limit on its memory cannot be lifted again."""
    pytest.importorskip("resource")
    pid = os.fork()
    if pid == 0:
        os._exit(_out_of_memory(rng))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _out_of_memory(rng):
    import resource

    try:
        both = PagesOracle(256)
        [bank] = both.new(1)
        both.add([bank], None, draw_vectors(rng, 600, 256, "float32"), draw_cells(rng, 600))
        forks = both.fork([bank], 20).ravel().tolist()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        vectors, columns = draw_vectors(rng, 600, 256, "float32"), draw_cells(rng, 600)
        rows = np.tile(vectors, (20, 1))
        handles, ids = np.repeat(forks, 600), np.tile(np.arange(600), 20)
        before = both.digest()
        n_failed = 0
        for spare in range(1, 60):
            resource.setrlimit(
                resource.RLIMIT_AS, (used + spare * 1_000_000, resource.RLIM_INFINITY)
            )
            try:
                both.pages.update(handles, ids, rows, [None] * 5, False)
            except MemoryError:
                n_failed += 1
            else:
                break
            finally:
                resource.setrlimit(
                    resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                )
            if both.digest() != before:
                return 2
        del columns
        return 0 if n_failed > 3 else 3
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1

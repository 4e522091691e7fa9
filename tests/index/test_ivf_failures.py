"""Writes to inverted files that fail on the way: the bank is as before, or as wanted."""

import os
from pathlib import Path

import numpy as np
import pytest

import memcore
from memcore.index import IVF, filling, lists, partition

DIM = 6
WRITES = ("add", "update", "delete", "new", "fork", "copy_from", "search")


class Failing:
    """A native store whose n-th call to come fails, for want of memory; undoing does not."""

    left = -1

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        call = getattr(self._store, name)
        return (lambda *a, **k: self._run(call, *a, **k)) if name in WRITES else call

    def _run(self, call, *arguments, **options):
        Failing.left -= 1
        if Failing.left == 0:
            raise MemoryError
        return call(*arguments, **options)


class Core:
    @staticmethod
    def Pages(*arguments):
        return Failing(memcore._core.Pages(*arguments))

    @staticmethod
    def Directory():
        return Failing(memcore._core.Directory())


def rows(rng, n, dim=DIM):
    return (rng.integers(0, 40, (n, 1)) + rng.standard_normal((n, dim)) / 4).astype(np.float32)


def assert_equal(bank, flat, queries):
    ids = flat.ids()
    assert bank.ids().tolist() == ids.tolist()
    got, want = bank.get(ids), flat.get(ids)
    assert got.vectors.tobytes() == want.vectors.tobytes()
    assert got.fields == want.fields
    got, want = (
        each.search(queries, 20, recall=1.0) if each is bank else each.search(queries, 20)
        for each in (bank, flat)
    )
    assert got.ids.tolist() == want.ids.tolist()
    assert got.scores.tobytes() == want.scores.tobytes()


@pytest.mark.parametrize(("metric", "list_rows"), [("l2", 4), ("dot", 4), ("l2", 24)])
def test_a_write_that_fails_anywhere_happens_whole_or_not_at_all(
    rng, monkeypatch, metric, list_rows
):
    # Short lists fill their pages too.
    monkeypatch.setattr(filling, "_ROWS_OF_A_LIST", 2)
    monkeypatch.setattr(lists, "_core", Core)
    monkeypatch.setattr(partition, "_core", Core)
    bank = memcore.Bank(DIM, metric=metric, fields={"a": "int64"}, index=IVF(list_rows=list_rows))
    flat = memcore.Bank(DIM, metric=metric, fields={"a": "int64"})
    queries = rows(rng, 4)
    n_failed = n_put_off = 0
    for step in range(500):
        n = int(rng.integers(1, 60))
        chosen = rng.permutation(flat.ids())[:n]
        vectors, cells = rows(rng, n), {"a": rng.integers(0, 99, n)}
        kind = ("add", "update", "delete", "recell")[rng.integers(4)] if len(flat) > 40 else "add"
        at = Failing.left = int(rng.integers(1, 40))
        try:
            if kind == "add":
                chosen = bank.add(vectors, fields=cells)
            elif kind == "delete":
                bank.delete(chosen)
            else:
                vectors = vectors[: chosen.size] if kind == "update" else None
                cells = {"a": cells["a"][: chosen.size]}
                bank.update(chosen, vectors, fields=cells)
        except MemoryError:
            n_failed += 1
        else:
            n_put_off += Failing.left <= 0 < at
            if kind == "add":
                flat.add(vectors, ids=chosen, fields=cells)
            elif kind == "delete":
                flat.delete(chosen)
            else:
                flat.update(chosen, vectors, fields=cells)
        Failing.left = -1
        if step % 5 == 0:
            assert_equal(bank, flat, queries)
    assert_equal(bank, flat, queries)
    assert min(n_failed, n_put_off) > 20


@pytest.mark.skipif(
    "libasan" in os.environ.get("LD_PRELOAD", ""),
    reason="the sanitizer maps memory of its own, which the limit would refuse",
)
def test_lists_that_split_without_memory_stay_as_they_are(rng):
    """In a child process, as the limit on its memory cannot be lifted again."""
    pytest.importorskip("resource")
    pid = os.fork()
    if pid == 0:
        os._exit(_out_of_memory(rng))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _out_of_memory(rng):
    import resource

    try:
        memcore.set_threads(1)
        dim = 128
        bank = memcore.Bank(dim, metric="l2", fields={"a": "int64"}, index=IVF(list_rows=2000))
        flat = memcore.Bank(dim, metric="l2", fields={"a": "int64"})
        queries = rows(rng, 4, dim)
        n_failed = n_done = 0
        for spare in (*range(0, 40, 4), 400):
            vectors, cells = rows(rng, 4000, dim), {"a": np.arange(4000)}
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = (used + spare * 500_000, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_AS, limit)
            ids = None
            try:
                ids = bank.add(vectors, fields=cells)
                n_done += 1
            except MemoryError:
                n_failed += 1
            finally:
                none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                resource.setrlimit(resource.RLIMIT_AS, none)
            if ids is not None:
                flat.add(vectors, ids=ids, fields=cells)
            assert_equal(bank, flat, queries)
        assert n_failed > 2
        assert n_done > 1
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0

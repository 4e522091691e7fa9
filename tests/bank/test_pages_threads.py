"""Threads and forked processes on one page store."""

import os
import threading

import numpy as np

from memcore import _core


def test_readers_see_whole_writes(rng):
    """Writers move all rows of a bank from one value to the next; a reader never sees two."""
    pages = _core.Pages(8, "float32", "dot", ["int64"])
    banks = pages.new(4)
    ids = np.arange(100)
    for bank in banks:
        pages.add(bank[None], None, np.zeros((100, 8), np.float32), [np.zeros(100, np.int64)])
    stop, torn, n_reads = threading.Event(), [], dict.fromkeys(banks.tolist(), 0)

    def write(bank, value):
        while not stop.is_set():
            value += 1
            rows = np.full((100, 8), value, np.float32)
            pages.update(bank, ids, rows, [np.full(100, value)], False)
            [[fork]] = pages.fork(bank, 1)
            pages.delete(np.array([fork]), ids[:50], False)
            pages.copy_from(np.array([fork]), bank)
            pages.drop(np.array([fork]))

    def read(bank):
        while not stop.is_set():
            rows, cells = np.zeros((100, 8), np.float32), np.zeros(100, np.int64)
            pages.get(bank, ids, False, rows, [cells])
            n_reads[int(bank[0])] += 1
            if len({*rows.ravel().tolist(), *cells.tolist()}) != 1:
                torn.append((rows, cells))

    def tidy():
        while not stop.is_set():
            pages.compact()
            assert pages.nbytes > 0

    threads = [threading.Thread(target=write, args=(bank[None], 0)) for bank in banks]
    threads += [threading.Thread(target=read, args=(bank[None],)) for bank in banks]
    threads.append(threading.Thread(target=tidy))
    for thread in threads:
        thread.start()
    stop.wait(2)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not torn
    assert min(n_reads.values()) > 10
    assert pages.n_pages - pages.n_free_pages == 4 * 7


def test_a_forked_child_goes_on(rng):
    """While another thread writes without pause; the child's banks are whole and its own."""
    pages = _core.Pages(64, "float32", "dot", [])
    banks = pages.new(64)
    pages.add(np.repeat(banks, 100), None, np.zeros((6400, 64), np.float32), [])
    stop = threading.Event()

    def write():
        ids, handles = np.tile(np.arange(100), 64), np.repeat(banks, 100)
        value = 0
        while not stop.is_set():
            value += 1
            pages.update(handles, ids, np.full((6400, 64), value, np.float32), [], False)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            pid = os.fork()
            if pid == 0:
                os._exit(_child(pages, banks))
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        stop.set()
        writer.join()
    assert (pages.count(banks) == 100).all()


def _child(pages, banks):
    try:
        rows = np.zeros((100, 64), np.float32)
        for bank in banks:
            pages.get(bank[None], np.arange(100), False, rows, [])
        whole = len(set(rows.ravel().tolist())) == 1
        pages.add(np.repeat(banks, 3), None, np.ones((192, 64), np.float32), [])
        forks = pages.fork(banks, 2)
        pages.delete(forks.ravel(), np.full(128, 5), False)
        return 0 if whole and (pages.count(banks) == 103).all() else 1
    except BaseException:
        return 2


def test_readers_bring_the_shadow_up_to_date_together(rng):
    """Blocks lag behind writes until they are read, here by four threads at once."""
    pages = _core.Pages(96, "float32", "dot", [])
    bank = pages.new(1)
    ids = pages.add(bank, None, np.zeros((800, 96), np.float32), [])
    barrier = threading.Barrier(4)
    for _ in range(20):
        vectors = rng.standard_normal((800, 96), dtype=np.float32)
        pages.update(bank, ids, vectors, [], False)
        expected = _core.Pages(96, "float32", "dot", [])
        expected.add(expected.new(1), None, vectors, [])
        wanted = [expected.page_content(page) for page in range(50)]
        seen = [[] for _ in range(4)]

        def read(out, pages=pages):
            barrier.wait()
            out.extend(pages.page_content(page) for page in range(50))

        threads = [threading.Thread(target=read, args=(out,)) for out in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [wanted] * 4

"""Searches beside other threads, in forked children, under Ctrl-C and at the end of the process."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore import _core, reference

INF = float("inf")


def search_into(queries, keys, first_pass=None, candidates=None, scale=None, k=10):
    scores = np.empty((len(queries), k), np.float32)
    ids = np.empty((len(queries), k), np.int64)
    limits = (None, candidates, scale, None, -INF, INF, first_pass)
    _core.search(queries, keys, None, None, k, "dot", *limits, scores, ids)
    return scores, ids


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "while_another_thread_searches"])
def test_a_forked_child_searches(busy, threads, rng):
    threads(4)
    queries, keys = normal(rng, 40, 32), normal(rng, 4000, 32)
    expected = reference.search(queries, keys)
    assert_hits(memcore.search(queries, keys), expected)
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            memcore.search(queries, keys)

    other = threading.Thread(target=keep_busy)
    if busy:
        other.start()
    try:
        for _ in range(25):
            child = os.fork()
            if child == 0:
                # A child that hangs is ended by the alarm, with another status.
                signal.alarm(20)
                hits = memcore.search(queries, keys)
                same = np.array_equal(hits.ids, expected[1])
                os._exit(0 if same and np.array_equal(hits.scores, expected[0]) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        if busy:
            other.join()
    assert_hits(memcore.search(queries, keys), expected)


def long_searches(rng):
    """Calls of seconds on one thread, each down another path of the engine."""
    queries, keys = normal(rng, 3000, 128), normal(rng, 60000, 128)
    named = rng.integers(0, len(keys), (len(queries), 10000))
    scale = np.abs(normal(rng, len(keys)))
    offsets, segments = np.array([0, len(keys)]), np.zeros(len(queries), np.int64)
    return {
        "first_pass": lambda: search_into(queries, keys, True),
        "full_rows": lambda: search_into(queries, keys, False),
        "candidates": lambda: search_into(queries, keys, candidates=named),
        "scaled": lambda: search_into(queries, keys, scale=scale),
        "large_k": lambda: search_into(queries, keys, k=5000),
        "ragged": lambda: memcore.search_ragged(queries, keys, offsets, segments=segments),
    }


@pytest.mark.parametrize("path", long_searches(np.random.default_rng(0)))
def test_ctrl_c_is_answered(path, threads, rng):
    """Within 100 ms at best of five, and the next search is right."""
    threads(1)
    memcore.set_isa("scalar")
    call = long_searches(rng)[path]
    waited = []
    try:
        for delay in (0.05, 0.1, 0.2, 0.3, 0.4):
            sent = []

            def interrupt(sent=sent, delay=delay):
                time.sleep(delay)
                sent.append(time.perf_counter())
                os.kill(os.getpid(), signal.SIGINT)

            sender = threading.Thread(target=interrupt)
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                sender.start()
                call()
                sender.join()
                raise AssertionError(f"{path}: the call was over before {delay} s")
            waited.append(time.perf_counter() - sent[0])
            sender.join()
    finally:
        memcore.set_isa(memcore.isas()[-1])
    assert min(waited) <= 0.1, waited
    queries, keys = normal(rng, 5, 32), normal(rng, 500, 32)
    assert_hits(memcore.search(queries, keys), reference.search(queries, keys))


def test_other_threads_run_during_a_search(threads, rng):
    threads(1)
    queries, keys = normal(rng, 1500, 128), normal(rng, 20000, 128)
    ticks, stop = [], threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    begin = time.perf_counter()
    search_into(queries, keys, False)
    end = time.perf_counter()
    stop.set()
    ticker.join()
    # A search that holds the interpreter's lock lets through one tick at each end.
    during = [t for t in ticks if begin < t < end]
    assert len(during) >= 5, f"{len(during)} ticks in {end - begin:.3f} s"


def test_many_threads_search_at_once(threads, rng):
    threads(3)
    work = [(normal(rng, n, 40), normal(rng, 50 * n, 40)) for n in (1, 3, 17, 40, 65, 5, 2, 90)]
    expected = [reference.search(queries, keys) for queries, keys in work]
    wrong = []

    def search_often(i):
        for _ in range(20):
            try:
                assert_hits(memcore.search(*work[i]), expected[i], f"thread {i}")
            except Exception as error:
                wrong.append(error)

    searchers = [threading.Thread(target=search_often, args=(i,)) for i in range(len(work))]
    for searcher in searchers:
        searcher.start()
    for n_threads in (1, 4, 2, 3) * 5:
        threads(n_threads)
        time.sleep(0.002)
    for searcher in searchers:
        searcher.join()
    assert wrong == []


def test_the_process_may_end_during_a_search():
    code = (
        "import threading, time, numpy as np, memcore\n"
        "memcore.set_threads(4)\n"
        "rows = np.random.default_rng(0).standard_normal((20000, 64), dtype=np.float32)\n"
        "def forever():\n"
        "    while True: memcore.search(rows[:500], rows)\n"
        "threading.Thread(target=forever, daemon=True).start()\n"
        "time.sleep(0.3)\n"
    )
    for _ in range(3):
        done = subprocess.run([sys.executable, "-I", "-c", code], timeout=60, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")

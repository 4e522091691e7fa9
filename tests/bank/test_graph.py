"""Searches that were recorded and are replayed: they read what is there then, and ask no host."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore.bank import chunks, constants, published

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

IS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if IS_GPU else "cpu"
DIM = 6
# What makes views, or memory of the graph's own.
HARMLESS = {"empty", "empty_like", "new_empty", "view", "reshape", "expand", "detach", "slice"}
HARMLESS |= {"alias", "select", "as_strided", "unsqueeze", "squeeze", "_unsafe_view", "t"}


class Recorded(TorchDispatchMode):
    """The launches of a search by the interpreter, and the names of all else that torch did."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.launches, self.ops, self.is_inside = [], set(), False
        launch = interpreter.GridExecutor.__call__

        def note(executor, *given, **named):
            self.launches.append(lambda: launch(executor, *given, **named))
            self.is_inside = True
            launch(executor, *given, **named)
            self.is_inside = False

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", note)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not self.is_inside:
            self.ops.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Graph:
    """A search that is captured: by CUDA, or by noting what the interpreter is told."""

    def __init__(self, monkeypatch, search):
        for _ in range(2):
            search()
        if IS_GPU:
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.hits = search()
            self.replay = graph.replay
            return
        with monkeypatch.context() as patch:
            recorded = Recorded(patch)
            with recorded:
                self.hits = search()
        assert recorded.launches
        assert recorded.ops <= HARMLESS
        self.launches = recorded.launches

    def replay(self):
        for launch in self.launches:
            launch()

    def now(self):
        """The hits of a replay."""
        for each in self.hits:
            each.fill_(-7)
        self.replay()
        return tuple(each.cpu().numpy() for each in self.hits)


def test_a_replay_sees_what_was_written_since(rng, monkeypatch):
    monkeypatch.setattr(chunks, "_FIRST_CHUNK", 1)
    monkeypatch.setattr(published, "_PARCEL", 1)
    cpu, device = (memcore.Arena(DIM, **each) for each in ({}, {"device": "cuda"}))
    rows, queries = normal(rng, 400, DIM), normal(rng, 6, DIM)

    def both(verb, *given, **named):
        return [getattr(arena, verb)(*given, **named) for arena in (cpu, device)][1]

    banks = both("new", 6)
    both("add", np.repeat(banks[:5], 20), rows[:100])
    asked, handles = torch.tensor(queries, device=DEVICE), torch.tensor(banks, device=DEVICE)
    graph = Graph(monkeypatch, lambda: device.search(handles, asked, 4))
    held = device._store.mirror
    tables = {name: each.data.data_ptr() for name, each in held._published._tables.items()}
    root = held.root.data_ptr()
    assert_hits(graph.now(), cpu.search(banks, queries, 4))
    # Pages, tables and heads outgrow their memory; a shared page is copied; rows move.
    both("add", np.repeat(banks, 50), rows[100:])
    both("new", 100)
    forks = both("fork", banks, 2)
    both("update", forks[:, 0], np.full(6, 21), queries)
    both("delete", banks[[0, 1, 2]], [3, 7, 0])
    assert any(
        each.data.data_ptr() != tables[name] for name, each in held._published._tables.items()
    )
    assert held.root.data_ptr() == root
    assert_hits(graph.now(), cpu.search(banks, queries, 4))
    # The queries' memory is read anew; a bank that was dropped is padding, its place taken or not.
    queries = normal(rng, 6, DIM)
    asked.copy_(torch.tensor(queries))
    both("drop", banks[[1, 4]])
    both("add", np.repeat(both("new", 1), 30), rows[:30])
    left = [0, 2, 3, 5]
    scores, ids = graph.now()
    assert_hits((scores[left], ids[left]), cpu.search(banks[left], queries[left], 4))
    assert (ids[[1, 4]] == -1).all()
    assert np.isneginf(scores[[1, 4]]).all()


def test_a_replay_sees_the_book_that_rows_were_coded_by_since(rng, monkeypatch):
    rows, queries = normal(rng, 60, DIM), normal(rng, 4, DIM)
    books = [memcore.Codebook(9, DIM), memcore.Codebook(5, DIM, n_subspaces=2)]
    for book in books:
        book.fit(rows, seed=0)
    cpu, device = (memcore.Bank(codebook=books[0], **each) for each in ({}, {"device": "cuda"}))
    cpu.add(rows), device.add(rows)
    asked = torch.tensor(queries, device=DEVICE)
    device.search(asked, 4)
    graph = Graph(monkeypatch, lambda: device.search(asked, 4))
    cpu.recode(books[1]), device.recode(books[1])
    assert_hits(graph.now(), cpu.search(queries, 4))


def test_what_cannot_be_captured_says_so(rng, monkeypatch):
    arena = memcore.Arena(DIM, device="cuda", fields={"t": "int64", "who": "str"})
    banks, asked = arena.new(2), torch.tensor(normal(rng, 2, DIM), device=DEVICE)
    arena.add(banks, normal(rng, 2, DIM), fields={"t": [1, 2]})
    handles = torch.tensor(banks, device=DEVICE)
    assert arena.search(handles, asked, 1, where={"t": {"lt": 9}}).ids.tolist() == [[0], [0]]
    turns = type(arena._store.mirror.turns)
    monkeypatch.setattr(turns, "is_capturing", True)
    for given, options in (
        ((banks, asked), {}),
        ((handles, asked), {"where": {"t": 1}}),
        ((handles, asked), {"where": {"t": {"lt": 9}}}),
        ((handles, asked), {"k": np.array([1, 2])}),
        ((handles, asked), {"candidates": np.zeros((2, 1), np.int64)}),
        ((handles, asked.cpu().numpy()), {}),
    ):
        if not IS_GPU and isinstance(given[1], np.ndarray):
            continue
        with pytest.raises(memcore.BackendError, match=r"^search: an array or a condition is on"):
            arena.search(*given, **options)
    with pytest.raises(memcore.BackendError, match=r"^search: k is 300 while a CUDA graph is"):
        arena.search(handles, asked, 300)
    with pytest.raises(memcore.BackendError, match=r"^add: a CUDA graph is being captured"):
        arena.add(banks, normal(rng, 2, DIM))
    assert arena.search(handles, asked, 1).ids.tolist() == [[0], [0]]
    with pytest.raises(memcore.BackendError, match=r"^search: where asks for words while a CUDA"):
        arena.search(handles, asked, where={"who": "ana"})


def test_what_two_searches_had_is_captured_and_stays(rng, monkeypatch):
    cpu, device = (
        memcore.Arena(DIM, fields={"t": "int64"}, **each) for each in ({}, {"device": "cuda"})
    )
    rows, queries = normal(rng, 60, DIM), normal(rng, 4, DIM)
    for arena in (cpu, device):
        banks = arena.new(4)
        arena.add(np.repeat(banks, 10), rows[:40], fields={"t": np.arange(40) % 7})
    asked, where = torch.tensor(queries, device=DEVICE), {"t": {"gte": 2, "lt": 6}}
    k = np.array([3, 1, 0, 4])
    graph = Graph(monkeypatch, lambda: device.search(banks, asked, k, where=where))
    assert_hits(graph.now(), cpu.search(banks, queries, k, where=where))
    # What is let go, and given to others, is nothing that the graph reads.
    monkeypatch.setattr(constants, "_MOST", 1)
    for handle in (*banks, *banks):
        device.search(handle, asked, 3, where={"t": int(handle)})
    for arena in (cpu, device):
        arena.add(np.repeat(banks, 5), rows[40:], fields={"t": np.arange(20) % 7})
    assert_hits(graph.now(), cpu.search(banks, queries, k, where=where))


def test_what_a_graph_reads_is_never_let_go(monkeypatch):
    monkeypatch.setattr(constants, "_MOST", 2)
    turns = SimpleNamespace(is_capturing=False, writing=nullcontext)
    kept = constants.Constants(torch, torch.device(DEVICE), turns)
    many, one = np.arange(3), np.array([7])
    assert kept.of(many) is None
    first, number = kept.of(many), kept.of(one)
    assert (first.tolist(), number.tolist()) == ([0, 1, 2], [7])
    turns.is_capturing = True
    assert kept.of(many) is first
    assert kept.of(np.array([8])) is None
    turns.is_capturing = False
    for i in range(9):
        kept.of(np.array([i + 20]))
    assert kept.of(many) is first
    assert kept.of(one) is not number
    kept.forget()
    turns.is_capturing = True
    assert kept.of(many) is first
    assert kept.of(one) is None
    assert kept.of(many.astype(np.float64)) is None
    assert kept.of(np.zeros(10000)) is None

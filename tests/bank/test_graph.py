"""Searches that were recorded and are replayed: they read what is there then, and ask no host."""

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore.bank import mirror, published

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
    monkeypatch.setattr(mirror, "_FIRST_CHUNK", 1)
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
    tables = {name: each.data_ptr() for name, each in held._published._tables.items()}
    root = held.root.data_ptr()
    assert_hits(graph.now(), cpu.search(banks, queries, 4))
    # Pages, tables and heads outgrow their memory; a shared page is copied; rows move.
    both("add", np.repeat(banks, 50), rows[100:])
    both("new", 100)
    forks = both("fork", banks, 2)
    both("update", forks[:, 0], np.full(6, 21), queries)
    both("delete", banks[[0, 1, 2]], [3, 7, 0])
    assert any(each.data_ptr() != tables[name] for name, each in held._published._tables.items())
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


def test_what_cannot_be_captured_says_so(rng, monkeypatch):
    arena = memcore.Arena(DIM, device="cuda", fields={"t": "int64"})
    banks, asked = arena.new(2), torch.tensor(normal(rng, 2, DIM), device=DEVICE)
    arena.add(banks, normal(rng, 2, DIM), fields={"t": [1, 2]})
    handles = torch.tensor(banks, device=DEVICE)
    turns = type(arena._store.mirror.turns)
    monkeypatch.setattr(turns, "is_capturing", True)
    for given, options in (
        ((banks, asked), {}),
        ((handles, asked), {"where": {"t": 1}}),
        ((handles, asked), {"k": np.array([1, 2])}),
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

"""Indexes over rows on a device: what the CPU finds, to the bit. Interpreted, or on a GPU."""

import threading

import numpy as np
import pytest

import memcore
from bank_oracle import World
from bank_steps import STEPS
from compare import assert_hits
from memcore.errors import BackendError, NotFoundError
from memcore.index import IVF
from walk import Walk

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from device_banks import DEVICE, host, tensor  # noqa: E402

DIM = 6
N_ROWS = 40
FIELDS = {"t": "int64", "w": "float64"}
# Rows, ids and norms, two fields and the numbers of payloads.
PAGE_BYTES = 16 * (4 * DIM + 12 + 8 * 3)


def some(rng, n):
    """(n, DIM) float32 around centres that are the same each time."""
    centres = 2 * np.random.default_rng(3).standard_normal((6, DIM))
    rows = centres[rng.integers(6, size=n)] + 0.4 * rng.standard_normal((n, DIM))
    return rows.astype(np.float32)


class Pair:
    """The same banks with an index in an arena of the CPU and in one of the device."""

    def __init__(self, rng, index, metric="cosine", **options):
        self.arenas = [
            memcore.Arena(DIM, metric=metric, fields=FIELDS, index=index, **each)
            for each in ({}, {"device": "cuda", **options})
        ]
        rows, changed = some(rng, N_ROWS), some(rng, 3)
        fields = {"t": [i % 4 for i in range(N_ROWS)], "w": [i / 7 - 3 for i in range(N_ROWS)]}
        for arena in self.arenas:
            # Many lists, one list, none; and forks of them that were changed.
            banks = arena.new(3)
            arena.add(np.repeat(banks[:2], [N_ROWS - 6, 6]), rows, fields=fields)
            forks = arena.fork(banks, 1).reshape(-1)
            arena.update(forks[0], [1, 2, 30], changed)
            arena.delete(forks[0], np.arange(3, N_ROWS - 6, 5))
            self.banks = np.array([banks[0], forks[0], banks[1], banks[2], banks[0]])

    def search(self, banks, queries, k, kinds=("numpy", "tensors", "all"), **options):
        """Hold hits for NumPy's queries, for tensors, and for tensors of all else too."""
        cpu, device = self.arenas
        expected = cpu.search(banks, queries, k, **options)
        for kind in kinds:
            given, at = dict(options), banks
            if kind == "all":
                at = tensor(banks)
                if "candidates" in options:
                    given["candidates"] = tensor(options["candidates"])
            found = device.search(at, queries if kind == "numpy" else tensor(queries), k, **given)
            if kind != "numpy":
                assert found.ids.device.type == DEVICE
                found = host(found)
            assert_hits(found, expected)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_lists_are_those_of_the_cpu(metric, rng):
    pair = Pair(rng, IVF(list_rows=6), metric)
    assert len(pair.arenas[1]._store.pages._members.partitions) == 2
    queries = some(rng, 5) * rng.uniform(0.1, 3, (5, 1)).astype(np.float32)
    pair.search(pair.banks, queries, 3, ["all"], n_probes=np.array([1, 3, 2, 9, 99]))
    pair.search(pair.banks, queries, 3, ["numpy"], recall=np.array([0.3, 0.9, 1, 0.5, 0.6]))
    for effort in ({"n_probes": 2}, {"recall": 0.6}, {"recall": 1.0}):
        pair.search(pair.banks[:1], queries[:1], 2, ["tensors"], **effort)


@pytest.mark.parametrize("index", [IVF(list_rows=4), memcore.LSH(DIM, 4, 3, seed=2)], ids=type)
def test_a_history_of_changes(index, rng):
    arenas = [memcore.Arena(DIM, metric="l2", index=index, device=d) for d in ("cpu", "cuda")]
    for arena in arenas:
        banks = arena.new(2)
    marks = [arena.snapshot(banks) for arena in arenas]
    for step in range(24):
        bank, rows = rng.choice(banks), some(rng, int(rng.integers(1, 12)))
        ids = arenas[0].ids(bank)
        chosen = rng.choice(ids, min(len(ids), len(rows)), replace=False)
        action = rng.integers(6)
        for i, arena in enumerate(arenas):
            given = tensor(rows) if i and step % 3 else rows
            if action < 2:
                arena.add(bank, given)
            elif action == 2:
                arena.update(bank, chosen, given[: len(chosen)])
            elif action == 3:
                arena.delete(bank, chosen)
            elif action == 4:
                forks = arena.fork(bank, 1)[0]
                after = np.append(banks[banks != bank], forks)[-3:]
            elif step % 2:
                marks[i] = arena.snapshot(banks)
            else:
                known = np.intersect1d(banks, marks[i]._banks)
                arena.rollback(known, marks[i])
        banks = after if action == 4 else banks
        if step % 8 == 7:
            queries, n_probes = some(rng, len(banks)), int(rng.integers(1, 4))
            wanted = arenas[0].search(banks, queries, 3, n_probes=n_probes)
            found = arenas[1].search(banks, tensor(queries), 3, n_probes=n_probes)
            assert_hits(host(found), wanted)


def test_many_hits_of_lists(rng):
    pair = Pair(rng, IVF(list_rows=6))
    k = np.array([0, 300, 2, 1, 4])
    pair.search(pair.banks, some(rng, 5), k, ["tensors"], n_probes=3, where={"t": {"lt": 3}})


@pytest.mark.parametrize("budget", [None, 5000])
def test_options_hold_in_lists(budget, rng):
    pair = Pair(rng, IVF(list_rows=6), device_bytes=budget)
    queries = some(rng, 5)
    where = [{"t": 1}, None, {"t": 9}, None, None]
    pair.search(pair.banks, queries, 4, ["tensors"], where=where, min_score=-0.2, max_score=0.7)
    weights = {"scale": "w", "bias": "t", "n_probes": 2}
    pair.search(pair.banks, queries, 4, ["numpy", "all"], **weights)
    pair.search(pair.banks, queries, 4, ["all"], candidates=rng.integers(-1, N_ROWS, (5, 7)))
    named = rng.integers(-1, N_ROWS, (5, 2))
    pair.search(pair.banks, queries, 4, ["tensors"], candidates=named)


def test_without_memory_for_the_choice_the_cpu_searches(rng, monkeypatch):
    pair = Pair(rng, IVF(list_rows=6))
    calls = []

    def no_room(*_):
        calls.append(0)
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(memcore.kernels, "visits", no_room)
    pair.search(pair.banks, some(rng, 5), 3, n_probes=2)
    assert len(calls) == 3


def test_rows_by_id_attention_and_gradients(rng):
    pair = Pair(rng, IVF(list_rows=6))
    cpu, device = pair.arenas
    queries, ids = some(rng, 5), rng.integers(-1, 6, (5, 4))
    ids[3] = -1
    expected = cpu.score(pair.banks, queries, np.where(ids == 3, 4, ids))
    ids = np.where(ids == 3, 4, ids)
    assert np.array_equal(device.score(pair.banks, queries, ids), expected)
    for banks in (pair.banks, tensor(pair.banks)):
        scores = device.score(banks, tensor(queries), tensor(ids))
        assert np.array_equal(scores.cpu().numpy(), expected)
    got = device.get(tensor(pair.banks[[0, 1]]), tensor(np.array([30, 30])))
    want = cpu.get(pair.banks[[0, 1]], [30, 30])
    assert np.array_equal(got.vectors.cpu().numpy(), want.vectors)
    read = cpu.attend(pair.banks, queries, 3, beta=2.0)
    there = device.attend(pair.banks, tensor(queries), 3, beta=2.0)
    assert np.allclose(there.cpu().numpy(), read, atol=1e-6)
    given = [torch.tensor(queries, requires_grad=True), tensor(queries).requires_grad_()]
    for arena, each in zip(pair.arenas, given, strict=True):
        arena.search(pair.banks, each, 2).scores[[0, 1, 2, 4]].sum().backward()
    assert torch.allclose(given[0].grad, given[1].grad.cpu(), atol=1e-6)


@pytest.mark.parametrize("index", [IVF(list_rows=6), memcore.LSH(DIM, 4, 3, seed=2)], ids=type)
def test_handles_that_name_no_bank_and_queries_that_may_not_be_asked(index, rng, monkeypatch):
    pair = Pair(rng, index)
    device = pair.arenas[1]
    queries = some(rng, 5)
    expected = pair.arenas[0].search(pair.banks, queries, 3)
    for arena in pair.arenas:
        arena.drop(pair.banks[1])
    with pytest.raises(NotFoundError, match=r"^search: "):
        device.search(pair.banks, tensor(queries), 3)
    with pytest.raises(NotFoundError, match=r"^search: "):
        device.search(pair.banks, queries, 3)
    queries[2, 1] = np.nan
    found = host(device.search(tensor(pair.banks), tensor(queries), 3))
    expected.ids[1:3], expected.scores[1:3] = -1, -np.inf
    assert_hits(found, expected)
    sound = pair.banks[[0, 2, 3, 4]]
    with pytest.raises(memcore.InputError, match=r"^search: .*row 1"):
        device.search(sound, queries[[0, 2, 3, 4]], 3)
    turns = device._store.mirror.turns
    monkeypatch.setattr(type(turns), "is_capturing", property(lambda _: True))
    with pytest.raises(BackendError, match=r"^search: a CUDA graph is captured, should not be"):
        device.search(sound, tensor(some(rng, 4)), 3)
    with pytest.raises(BackendError, match=r"^add: a CUDA graph is being captured"):
        device.add(sound, some(rng, 4))


def test_hashes_find_what_the_cpu_finds(rng):
    pair = Pair(rng, memcore.LSH(DIM, 4, 3, seed=2))
    queries = some(rng, 5)
    pair.search(pair.banks, queries, 3, ["numpy", "all"])
    pair.search(pair.banks, queries, 3, ["tensors"], n_probes=2, where={"t": 1}, scale="w")
    pair.search(pair.banks, queries, 3, ["tensors"], recall=1.0)
    pair.search(pair.banks[:1], queries[:1], 3, ["tensors"], candidates=np.arange(8)[None])


@pytest.mark.parametrize(
    ("metric", "dtype", "budget"), [("cosine", "float32", None), ("l2", "bfloat16", 9000)]
)
def test_random_walk(metric, dtype, budget, rng):
    steps, weights = list(STEPS), np.array(list(STEPS.values()))
    index = IVF(recall=1.0, list_rows=3)
    world = World(metric, dtype, index, device="cuda", device_bytes=budget)
    world.new(3)
    source = Walk(rng)
    for step in rng.choice(len(steps), 40, p=weights / weights.sum()):
        steps[step](world, source)
    world.check()


@pytest.mark.parametrize("index", [IVF(list_rows=6), memcore.LSH(DIM, 4, 3, seed=2)], ids=type)
def test_threads_write_and_read_side_by_side(index, rng):
    pair = Pair(rng, index)
    device, bank = pair.arenas[1], pair.banks[0]
    queries, rows = tensor(some(rng, 1)), some(rng, 5)
    failed = []

    def read():
        for _ in range(2):
            device.attend(bank, queries, 2, beta=1.0)

    def write():
        for i in range(6):
            device.add(bank, rows)
            mark = device.snapshot(bank)
            device.delete(bank, device.ids(bank)[:6])
            if i % 2:
                device.rollback(bank, mark)

    def run(call):
        try:
            call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in (read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert failed == []
    ids = device.ids(bank)
    found = host(device.search(bank, queries, len(ids), recall=1.0))[1]
    assert np.sort(found[0]).tolist() == ids.tolist()


@pytest.mark.parametrize(
    ("index", "n_pages"), [(IVF(list_rows=6), 8), (memcore.LSH(DIM, 4, 3, seed=2), 4)], ids=str
)
def test_banks_are_fetched_ahead_and_memory_is_given_back(index, n_pages, rng):
    pair = Pair(rng, index, device_bytes=n_pages * PAGE_BYTES)
    device, mirror = pair.arenas[1], pair.arenas[1]._store.mirror
    assert mirror.is_limited
    if isinstance(index, IVF):
        first = device._store.pages._members.partitions[pair.banks[0].item()]
        hidden = first.lists[first.places]
    else:
        hidden = pair.banks[:1]
    device.prefetch(pair.banks[:1])
    assert not mirror._banks.cold[hidden & 0xFFFFFFFF].any()
    pair.search(pair.banks[:1], some(rng, 1), 3, ["tensors"])
    held = device.device_nbytes
    assert held >= mirror.nbytes
    assert (held > mirror.nbytes) == isinstance(index, IVF)
    with pytest.raises(NotFoundError, match=r"^prefetch: "):
        device.prefetch([1 << 40])
    for arena in pair.arenas:
        arena.drop(pair.banks[1])
        arena.compact()
    pair.search(pair.banks[[0, 2]], some(rng, 2), 3, ["numpy"])

"""Banks on a device: what the CPU finds, to the bit. Interpreted, or on a GPU."""

import sys
import threading

import numpy as np
import pytest

import memcore
from bank_oracle import DIM, World
from bank_steps import STEPS
from cases import normal
from compare import assert_hits
from memcore.bank import chunks, published
from walk import Walk

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
from device_banks import DEVICE, Both, host, tensor  # noqa: E402

# One page of the walk's rows: rows and ids, norms, six columns.
PAGE_BYTES = 320 + 192 + 128 * 6


@pytest.mark.parametrize(
    ("metric", "dtype", "budget"),
    [
        ("cosine", "float32", None),
        ("l2", "bfloat16", None),
        ("dot", "float16", None),
        ("dot", "float32", 12 * PAGE_BYTES),
        ("cosine", "float32", 3 * PAGE_BYTES),
        ("l2", "float32", 0),
    ],
)
def test_random_walk(metric, dtype, budget, rng):
    steps, weights = list(STEPS), np.array(list(STEPS.values()))
    world = World(metric, dtype, device="cuda", device_bytes=budget)
    world.new(3)
    source = Walk(rng)
    for i, step in enumerate(rng.choice(len(steps), 60, p=weights / weights.sum())):
        steps[step](world, source)
        if i % 30 == 0:
            world.check()
    world.check()
    if budget is not None:
        assert sum(map(len, world.arena._store.mirror._held._chunks)) <= budget


@pytest.mark.parametrize(
    ("metric", "dtype"), [("cosine", "float32"), ("dot", "bfloat16"), ("l2", "float16")]
)
def test_forks_and_deletes_and_empty_banks(metric, dtype, rng):
    both = Both(rng, metric, dtype)
    queries = normal(rng, len(both.banks), 20)
    queries[2] = 0
    both.search(queries, np.arange(len(queries)) % 5)
    both.search(queries, 300, "tensors")
    both.search(queries, 0, "numpy")


@pytest.mark.parametrize(("metric", "options"), [("cosine", {}), ("l2", {"where": {"t": 1}})])
def test_forks_that_share_most_of_their_pages(metric, options, rng, monkeypatch):
    rows, queries = normal(rng, 60, 20), normal(rng, 10, 20)
    cpu, device = (
        memcore.Arena(20, metric=metric, fields={"t": "int64"}, **each)
        for each in ({}, {"device": "cuda"})
    )
    for arena in (cpu, device):
        parents = arena.new(2)
        arena.add(np.repeat(parents, [40, 20]), rows, fields={"t": [1, 1, 2] * 20})
        forks = arena.fork(parents, 5)
    banks = forks.reshape(-1)
    assert device._store.mirror.are_forks
    scored = []
    if DEVICE == "cpu":
        paged = memcore.kernels.scan_pages.paged
        score = paged.score_rows
        counted = lambda *given: scored.append(0) or score(*given)  # noqa: E731
        monkeypatch.setattr(paged, "score_rows", counted)
    found = host(device.search(tensor(banks[:4]), tensor(queries[:4]), 4, **options))
    assert_hits(found, cpu.search(banks[:4], queries[:4], 4, **options))
    # Forty rows are read once for four banks.
    assert DEVICE == "cuda" or len(scored) == 2

    for arena in (cpu, device):
        # Changed, longer, shorter, and empty.
        arena.update(forks[0, 1], [3, 33], queries[:2])
        arena.add(np.repeat(forks[1, :2], 20), rows[:40], fields={"t": [1] * 40})
        arena.delete(forks[0, 3], np.arange(15, 40))
        arena.delete(forks[1, 3], np.arange(20))
    queries[2, 2] = np.nan
    sound = np.arange(10) != 2
    found = host(device.search(tensor(banks), tensor(queries), 4, **options))
    expected = cpu.search(banks[sound], queries[sound], 4, **options)
    assert_hits(tuple(each[sound] for each in found), expected)
    assert (found[1][2] == -1).all()
    # Two banks without forks, asked by several.
    alone, on_cpu = memcore.Arena(20, device="cuda"), memcore.Arena(20)
    for arena in (alone, on_cpu):
        pair = np.repeat(arena.new(2), 4)
        arena.add(np.repeat(pair[[0, 4]], 30), rows)
    scored.clear()
    found = alone.search(pair, queries[sound][:8], 2)
    assert DEVICE == "cuda" or len(scored) == 2
    assert_hits(found, on_cpu.search(pair, queries[sound][:8], 2))
    # Siblings far from each other, and banks of both parents in turn.
    order = rng.permutation(np.flatnonzero(sound))
    expected = cpu.search(banks[order], queries[order], 4, **options)
    assert_hits(device.search(banks[order], queries[order], 4, **options), expected)


@pytest.mark.parametrize(
    "where",
    [
        {"time": {"gte": 10, "lt": 30}},
        {"weight": {"in": [0.25, -0.0, 9.5]}},
        {"or": [{"who": "ana"}, {"not": {"weight": {"lte": 0.5}}}]},
        {"and": [{"who": {"contains": "b"}}, {"time": {"ne": None}}, {"weight": {"nin": [1.0]}}]},
        {"weight": None},
        {},
    ],
    ids=str,
)
def test_conditions(where, rng):
    both = Both(rng)
    queries = normal(rng, len(both.banks), 20)
    both.search(queries, 3, "tensors", where=where)
    each = [where if i % 2 else None for i in range(len(queries))]
    each[3] = {"time": {"gt": 20}}
    both.search(queries, 3, "numpy", where=each)


def test_a_condition_that_is_too_deep_for_a_program(rng):
    both = Both(rng)
    deep = {"time": 1}
    for _ in range(90):
        deep = {"or": [{"time": 2}, deep]}
    both.search(normal(rng, len(both.banks), 20), 4, where=deep)


def test_weights_bounds_and_candidates(rng):
    both = Both(rng, "dot")
    queries = normal(rng, len(both.banks), 20)
    candidates = rng.integers(-1, 60, (len(queries), 20))
    both.search(queries, 3, "numpy", scale="weight", bias="time", min_score=-3.0, max_score=40.0)
    both.search(queries, 3, "tensors", candidates=candidates, bias="weight")
    both.search(queries, 270, candidates=candidates, where={"who": "ana"})
    both.search(queries, 4, candidates=candidates[:, :0])


def test_many_queries_of_one_bank(rng):
    bank = memcore.Bank(20, metric="l2", device="cuda", fields={"t": "int64"})
    rows, queries = normal(rng, 90, 20), normal(rng, 6, 20)
    bank.add(rows, fields={"t": list(range(90))}, payloads=[f"row {i}" for i in range(90)])
    on_cpu = memcore.Bank(20, metric="l2", fields={"t": "int64"})
    on_cpu.add(rows, fields={"t": list(range(90))})
    for where in (None, {"t": {"gte": 40}}):
        hits = bank.search(tensor(queries), 5, where=where)
        assert_hits(host(hits), on_cpu.search(queries, 5, where=where))
        assert bank.rows(hits)[0][0] == f"row {int(hits.ids[0, 0])}"
    found = bank.get(hits.ids[0])
    assert found.vectors.device.type == DEVICE
    assert found.vectors.cpu().numpy().tobytes() == rows[hits.ids[0].cpu().numpy()].tobytes()
    assert_hits(host(memcore.search(tensor(queries), bank, 5, where=where)), host(hits))
    fork = bank.fork()
    fork.delete(hits.ids[0])
    assert fork.count() == 85
    out = bank.attend(tensor(queries), 5, beta=2.0)
    expected = on_cpu.attend(queries, 5, beta=2.0)
    np.testing.assert_allclose(out.cpu().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_bank_that_knows_nothing_yet(rng):
    rows = tensor(normal(rng, 4, 6))
    for bank in (memcore.Bank(device="cuda"), memcore.Bank(6, device="cuda")):
        hits = bank.search(rows, 2)
        assert hits.ids.device.type == DEVICE
        assert hits.ids.tolist() == [[-1, -1]] * 4
        bank.add(rows, fields={"t": [1, 2, 3, 4]})
        assert bank.search(rows, 1, where={"t": {"gte": 2}}).ids[1:].tolist() == [[1], [2], [3]]


def test_tensors_in_and_out(rng):
    arena = memcore.Arena(6, device="cuda")
    banks = tensor(arena.new(3))
    rows = tensor(normal(rng, 3, 6))
    ids = arena.add(banks, rows)
    assert ids.device.type == DEVICE
    assert arena.count(banks).tolist() == [1, 1, 1]
    assert arena.fork(banks, 2).shape == (3, 2)
    assert arena.update(banks, ids, rows * 2).tolist() == [True] * 3
    scores = arena.score(banks, rows, ids[:, None])
    assert scores.device.type == DEVICE
    group = arena.fork(banks, 2)
    hits = arena.search(group, rows[:, None].expand(3, 2, 6), 1)
    assert hits.scores.shape == (3, 2, 1)
    assert hits.ids.tolist() == [[[0], [0]]] * 3
    assert arena.delete(banks, ids).tolist() == [True] * 3
    assert arena.search(banks, rows, 1).ids.tolist() == [[-1]] * 3


def test_a_bank_that_was_dropped_is_empty_to_handles_on_the_device(rng):
    arena = memcore.Arena(6, device="cuda")
    banks = arena.new(3)
    rows = normal(rng, 3, 6)
    arena.add(banks, rows)
    there = tensor(np.append(banks, [-1, 2**40, 99]))
    arena.drop(banks[1:2])
    arena.new(1)
    asked = tensor(np.repeat(rows[:1], 6, 0))
    assert arena.search(there, asked, 1).ids.tolist() == [[0], [-1], [0], [-1], [-1], [-1]]
    with pytest.raises(memcore.NotFoundError, match=r"^search: handle \d+ \(position 1\)"):
        arena.search(banks, asked[:3], 1)


def test_a_query_that_may_not_be_asked(rng):
    arena = memcore.Arena(6, device="cuda")
    bank = arena.new(1)
    arena.add(bank, normal(rng, 5, 6))
    queries = normal(rng, 3, 6)
    queries[1, 2] = np.nan
    ids = arena.search(bank, tensor(queries), 2).ids
    assert (ids[1] == -1).all()
    assert (ids[[0, 2]] >= 0).all()
    with pytest.raises(memcore.InputError, match=r"^search: queries row 1"):
        arena.search(bank, queries, 2)
    with pytest.raises(memcore.ShapeError, match=r"^search: queries has dim 5, should be 6"):
        arena.search(bank, tensor(queries[:, 1:]), 2)
    with pytest.raises(memcore.ShapeError, match=r"^search: candidates has shape \(4,\)"):
        arena.search(bank, tensor(queries), 2, candidates=tensor(np.arange(4)))
    with pytest.raises(memcore.ShapeError, match=r"^search: banks has shape"):
        arena.search(tensor(np.repeat(bank, 2)), tensor(queries), 2)


def test_banks_beyond_the_budget_are_fetched(rng):
    rows = normal(rng, 320, 16)
    page_bytes = 16 * 64 + 192 + 128
    arena = memcore.Arena(16, device="cuda", device_bytes=8 * page_bytes)
    on_cpu = memcore.Arena(16)
    for each in (arena, on_cpu):
        banks = each.new(10)
        each.add(np.repeat(banks, 32), rows)
    held = arena._store.mirror
    assert held.is_limited
    queries = normal(rng, 10, 16)
    expected = on_cpu.search(banks, queries, 3)
    for _ in range(2):
        for i in range(10):
            hits = arena.search(banks[i], tensor(queries[i]), 3)
            assert_hits(host(hits), (expected.scores[i : i + 1], expected.ids[i : i + 1]))
            assert not held._banks.cold[banks[i] & 0xFFFFFFFF]
    # The four banks that were searched last stay.
    assert np.flatnonzero(~held._banks.cold[:10]).tolist() == (banks[6:] & 0xFFFFFFFF).tolist()
    arena.prefetch(banks[:3])
    assert not held._banks.cold[banks[:3] & 0xFFFFFFFF].any()
    # More than fits at once: the CPU's engine finds the same.
    assert_hits(host(arena.search(banks, tensor(queries), 3)), expected)
    assert_hits(host(arena.search(tensor(banks), tensor(queries), 3)), expected)
    assert_hits(arena.search(banks, queries, 3), expected)
    # What the CPU would refuse finds nothing there as well.
    spoiled, gone = queries.copy(), np.append(banks[:9], 2**40)
    spoiled[4] = np.nan
    hits = arena.search(tensor(gone), tensor(spoiled), np.arange(10) % 4, where={})
    sound = [i for i in range(10) if i not in (4, 9)]
    assert_hits(
        tuple(each[sound] for each in host(hits)),
        on_cpu.search(banks[sound], queries[sound], np.array(sound) % 4),
    )
    assert (hits.ids[[4, 9]] == -1).all()
    assert sum(map(len, held._held._chunks)) <= 8 * page_bytes
    with pytest.raises(memcore.NotFoundError, match=r"^prefetch: handle"):
        arena.prefetch([12345])


def test_out_of_memory_leaves_the_arena_usable(rng, monkeypatch):
    arena, on_cpu = memcore.Arena(8, device="cuda"), memcore.Arena(8)
    rows, queries = normal(rng, 120, 8), normal(rng, 6, 8)
    room = torch.zeros

    def no_room(n, *given, **named):
        if isinstance(n, int) and n > 64:
            raise torch.OutOfMemoryError("no memory")
        return room(n, *given, **named)

    monkeypatch.setattr(chunks, "_FIRST_CHUNK", 1)
    for each in (arena, on_cpu):
        banks = each.new(6)
        each.add(np.repeat(banks[:3], 20), rows[:60])
    assert not arena._store.mirror.is_limited
    monkeypatch.setattr(torch, "zeros", no_room)
    for each in (arena, on_cpu):
        each.add(np.repeat(banks[3:], 20), rows[60:])
    assert arena._store.mirror.is_limited
    expected = on_cpu.search(banks, queries, 3)
    for part in (slice(0, 3), slice(2, 5), slice(0, 6)):
        hits = arena.search(banks[part], queries[part], 3)
        assert_hits(hits, tuple(each[part] for each in expected))
    # Not even tables find room; after that, memory is there again.
    monkeypatch.setattr(published.Published, "put", lambda *_: no_room(1 << 20))
    for each in (arena, on_cpu):
        each.delete(banks, np.arange(6))
    monkeypatch.undo()
    expected = on_cpu.search(banks, queries, 3)
    assert_hits(arena.search(banks, queries, 3), expected)
    assert arena._store.mirror.root.tolist() == [0] * 4
    arena.compact()
    assert not arena._store.mirror.is_limited
    assert_hits(arena.search(banks, queries, 3), expected)


def test_a_write_that_is_stopped_on_its_way_is_caught_up(rng, monkeypatch):
    arena = memcore.Arena(8, device="cuda")
    banks = arena.new(2)
    rows = normal(rng, 40, 8)
    arena.add(np.repeat(banks, 20), rows)
    kernels = memcore.kernels.pages
    write = kernels.write_pages

    def stopped(*given):
        monkeypatch.setattr(kernels, "write_pages", write)
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "write_pages", stopped)
    with pytest.raises(KeyboardInterrupt):
        arena.update(banks, [3, 4], rows[:2])
    hits = arena.search(banks, rows[:2], 2)
    # The first bank has its first row twice now, the second has a row of the first.
    assert hits.ids[0].tolist() == [0, 3]
    assert hits.ids[1, 0] == 4


def test_a_fetch_that_is_stopped_on_its_way_is_caught_up(rng, monkeypatch):
    rows = normal(rng, 96, 16)
    arena = memcore.Arena(16, device="cuda", device_bytes=4 * (16 * 64 + 192 + 128))
    banks = arena.new(3)
    arena.add(np.repeat(banks, 32), rows)
    place = chunks.Chunks.place

    def stopped(*given):
        monkeypatch.setattr(chunks.Chunks, "place", place)
        place(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(chunks.Chunks, "place", stopped)
    absent = banks[arena._store.mirror._banks.cold[banks & 0xFFFFFFFF]]
    with pytest.raises(KeyboardInterrupt):
        arena.search(absent[0], rows[:1], 1)
    hits = [arena.search(banks[i], rows[32 * i + 5], 1).ids[0, 0] for i in (2, 0, 1)]
    assert hits == [5, 5, 5]


def test_threads_write_and_search_side_by_side(rng):
    arena = memcore.Arena(6, device="cuda")
    banks, rows = arena.new(3), normal(rng, 30, 6)
    found = {}

    def work(i):
        mark = arena.snapshot(banks[i])
        for n in range(4):
            arena.add(banks[i], rows[10 * i + n])
            found[i, n] = arena.search(banks[i], rows[10 * i + n], 2).ids[0].tolist()
        arena.rollback(banks[i], mark)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(ids[0] == n for (_, n), ids in found.items())
    assert arena.search(banks, rows[:3], 1).ids.tolist() == [[-1]] * 3
    # A mark that is collected gives its pages up, there too.
    arena.compact()
    assert arena._store.pages.n_pages == 0


def test_lanes_without_a_row_are_wiped(rng):
    arena = memcore.Arena(DIM, device="cuda", fields={"t": "int64"})
    banks = arena.new(6)
    arena.add(np.repeat(banks, 33), normal(rng, 198, DIM), fields={"t": list(range(1, 199))})
    arena.delete(banks[0], np.arange(0, 33, 2))
    arena.drop(banks[2:4])
    there, pages = arena._store.mirror, arena._store.pages
    n_held = {}
    for bank in banks[[0, 1, 4, 5]]:
        for position, page in enumerate(pages.page_table(int(bank)).tolist()):
            n_held[page] = min(16, int(arena.count(bank)[()]) - 16 * position)
    chunk = torch.cat([each.cpu() for each in there._held._chunks]).numpy()
    begin = there._held._chunks[0].data_ptr() - there.root.data_ptr()
    assert len(there._held._chunks) == 1
    for page in range(pages.n_pages):
        record = chunk[16 * int(there._held.addresses[page]) - begin :][: there.layout.page_bytes]
        ids = record[there.layout.ids_at :][:128].view(np.int64)
        rows = record[: 16 * DIM * 4].reshape(16, DIM * 4)
        n = n_held.get(page, 0)
        assert (ids[:n] >= 0).all()
        assert (ids[n:] <= 0).all()
        assert not rows[n:].any()


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"device": "tpu"}, memcore.BackendError, "device is 'tpu', should be 'cpu' or 'cuda'"),
        ({"device_bytes": 5}, memcore.InputError, "device_bytes is given, should be None on the"),
        ({"device": "cuda", "device_bytes": -1}, memcore.InputError, "device_bytes is -1"),
        ({"device": "cuda", "device_bytes": 1.5}, memcore.DtypeError, "device_bytes is 1.5"),
        ({"device": "cuda", "dim": None}, memcore.InputError, "dim is None, should be an int"),
    ],
)
def test_what_cannot_be_on_a_device(options, error, sentence):
    with pytest.raises(error, match=rf"^Arena: {sentence}"):
        memcore.Arena(**{"dim": 4, **options})
    if "dim" not in options:
        with pytest.raises(error, match=rf"^Bank: {sentence}"):
            memcore.Bank(**options)


def test_without_a_gpu_the_error_says_so(monkeypatch):
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(memcore.BackendError, match=r"^Arena: device is 'cuda', but torch sees 0 G"):
        memcore.Arena(4, device="cuda")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(memcore.BackendError, match=r"^Arena: torch is not installed"):
        memcore.Arena(4, device="cuda")

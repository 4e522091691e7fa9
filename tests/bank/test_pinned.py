"""The host's pages that a device reads by itself, by a driver in the host's memory."""

import gc
import os

import numpy as np
import pytest

import memcore
from bank_oracle import World
from bank_steps import STEPS
from cases import normal
from compare import assert_hits
from interpreter import SANITIZER
from walk import Walk

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from device_banks import DEVICE, host, tensor  # noqa: E402
from libcuda import Libcuda  # noqa: E402
from memcore import _core  # noqa: E402
from memcore.bank import driver as driver_  # noqa: E402
from memcore.bank.pinned import Pinned  # noqa: E402

DIM = 6
FIELDS = {"time": "int64", "who": "str", "weight": "float64"}
# Rows of float16, ids, norms, four columns.
PAGE_BYTES = 16 * 2 * DIM + 192 + 16 * 8 * 4


@pytest.fixture(scope="module")
def standing_in(tmp_path_factory):
    return Libcuda(tmp_path_factory.mktemp("libcuda"))


@pytest.fixture
def cuda(standing_in, monkeypatch):
    """The driver of every device that is opened; it holds nothing when the test is over."""
    opened = driver_.Driver(standing_in.library, 0)
    monkeypatch.setattr(driver_, "opened", lambda device: opened)
    monkeypatch.setattr(SANITIZER.memory, "locked", standing_in.locked)
    standing_in.notes()
    yield standing_in
    monkeypatch.undo()
    gc.collect()
    standing_in.fail("")
    assert standing_in.held() == [0, 0, 0, 0]


def arenas(rng, n_pages=4, n_banks=4):
    """The same banks of 20 rows on the CPU, and with room for some pages on the device."""
    rows = normal(rng, 20 * n_banks, DIM)
    both = [
        memcore.Arena(DIM, dtype="float16", fields=FIELDS, **each)
        for each in ({}, {"device": "cuda", "device_bytes": n_pages * PAGE_BYTES})
    ]
    for arena in both:
        banks = arena.new(n_banks)
        times = [None if i % 5 == 0 else i for i in range(len(rows))]
        arena.add(np.repeat(banks, 20), rows, fields={"time": times})
    return *both, banks, rows


def gathered(arena, monkeypatch):
    """The slots that the host has read for the device, from now on."""
    slots, published = [], arena._store.mirror._published
    pages = published._pages

    class Pages:
        def __getattr__(self, name):
            return getattr(pages, name)

        def read_slots(self, some, *rest):
            slots.extend(some.tolist())
            pages.read_slots(some, *rest)

    monkeypatch.setattr(published, "_pages", Pages())
    return slots


on_host = pytest.mark.skipif(DEVICE == "cuda", reason="a GPU reads no memory of this driver")


def hold(arena, on_cpu, banks, queries, **options):
    """Search bank after bank, so that each is fetched in turn."""
    for bank, query in zip(banks, queries, strict=True):
        found = arena.search(bank, tensor(query), 3, **options)
        assert_hits(host(found), on_cpu.search(bank, query, 3, **options))


@on_host
def test_cold_banks_are_read_by_the_device(cuda, rng, monkeypatch):
    on_cpu, arena, banks, rows = arenas(rng)
    locked = cuda.calls("cuMemHostRegister")
    memory = arena._store.pages.host.chunk_memory()
    assert locked == [("cuMemHostRegister", *each) for each in memory.tolist()]
    slots = gathered(arena, monkeypatch)
    queries = normal(rng, len(banks), DIM)
    hold(arena, on_cpu, banks, queries, where={"time": {"ne": None}}, bias="weight")
    assert slots == []
    # A column that is kept from now on, rows that move, pages that are copied.
    for each in (on_cpu, arena):
        each.add(banks[:2], rows[:2], fields={"who": ["ana", "bob"], "weight": [2.0, 3.0]})
        each.delete(banks[2], [0, 19, 3])
        fork = each.fork(banks[3])
        each.update(fork, 7, rows[40])
    asked = np.append(banks, fork)
    slots.clear()
    hold(arena, on_cpu, asked, normal(rng, len(asked), DIM), bias="weight")
    hold(arena, on_cpu, banks[:2], queries[:2], where={"who": "bob"})
    assert slots == []
    arena.prefetch(banks[:2])
    assert not arena._store.mirror._banks.cold[banks[:2] & 0xFFFFFFFF].any()
    assert slots == []


@on_host
def test_codes_of_cold_banks_are_read_by_the_device(cuda, rng, monkeypatch):
    book = memcore.Codebook(9, DIM)
    book.fit(normal(rng, 50, DIM), seed=0)
    # Halves, ids, norms, a payload, a book and a code.
    room = {"device": "cuda", "device_bytes": 4 * (64 + 192 + 16 * 8 * 3)}
    on_cpu, arena = (memcore.Arena(DIM, codebook=book, **each) for each in ({}, room))
    for each in (on_cpu, arena):
        banks = each.new(4)
        each.add(np.repeat(banks, 20), normal(np.random.default_rng(0), 80, DIM))
    slots = gathered(arena, monkeypatch)
    hold(arena, on_cpu, banks, normal(rng, 4, DIM))
    assert slots == []


@on_host
def test_random_walk(cuda, rng):
    steps, weights = list(STEPS), np.array(list(STEPS.values()))
    # Twelve pages of the walk's rows: rows and ids, norms, six columns.
    world = World("dot", "float32", device="cuda", device_bytes=12 * (320 + 192 + 128 * 6))
    world.new(3)
    source = Walk(rng)
    for step in rng.choice(len(steps), 60, p=weights / weights.sum()):
        steps[step](world, source)
    world.check()


@on_host
def test_chunks_are_locked_as_they_are_made_and_unlocked_before_they_go(cuda, rng):
    on_cpu, arena, banks, rows = arenas(rng)
    pages, mirror = arena._store.pages.host, arena._store.mirror
    n_chunks = len(pages.chunk_memory())
    for each in (on_cpu, arena):
        each.add(np.repeat(banks, 600), np.tile(rows, (30, 1)))
    assert len(pages.chunk_memory()) > n_chunks
    assert cuda.held()[0] == len(pages.chunk_memory())
    assert mirror._pinned.nbytes == pages.chunk_memory()[:, 1].sum()
    for each in (on_cpu, arena):
        each.drop(banks[1:])
    cuda.notes()
    compact = pages.compact
    held = []

    def compacted():
        held.extend(cuda.held()[:1])
        compact()

    class Host:
        def __getattr__(self, name):
            return compacted if name == "compact" else getattr(pages, name)

    arena._store.pages.host = Host()
    arena.compact()
    assert held == [0]
    arena._store.pages.host = pages
    hold(arena, on_cpu, banks[:1], rows[:1])


@on_host
@pytest.mark.parametrize("name", ["cuMemHostRegister", "cuMemHostGetDevicePointer"])
def test_what_cannot_be_locked_is_gathered(name, cuda, rng, monkeypatch):
    cuda.fail(name)
    on_cpu, arena, banks, rows = arenas(rng)
    assert cuda.held()[0] == 0
    slots = gathered(arena, monkeypatch)
    hold(arena, on_cpu, banks[:3], rows[:3])
    assert slots
    # The chunks after it are locked, and pages of both kinds are fetched together.
    more = 3 * arena._store.pages.host.n_pages
    while len(arena._store.pages.host.chunk_memory()) == 1:
        for each in (on_cpu, arena):
            last = each.new(more)
            each.add(last, np.tile(rows, (more // len(rows) + 1, 1))[:more])
    assert cuda.held()[0] == len(arena._store.pages.host.chunk_memory()) - 1
    hold(arena, on_cpu, np.append(banks[:3], last[-2:]), rows[:5])


@on_host
def test_nothing_is_locked_while_all_banks_fit(cuda, rng):
    _, arena, banks, rows = arenas(rng, n_pages=20)
    assert cuda.calls("cuMemHostRegister") == []
    arena.add(np.repeat(banks, 80), np.tile(rows, (4, 1)))
    assert cuda.held()[0] > 0


@on_host
def test_a_write_waits_for_the_fetch_and_an_unlock_for_all(cuda, rng, monkeypatch):
    _, arena, banks, rows = arenas(rng)
    turns, host = arena._store.mirror.turns, arena._store.pages.host
    order = []
    for name in ("arrive", "finish"):
        monkeypatch.setattr(type(turns), name, lambda self, name=name: order.append(name))

    class Host:
        def __getattr__(self, name):
            method = getattr(host, name)
            if name not in ("add", "drop", "delete", "compact"):
                return method
            return lambda *given: order.append(name) or method(*given)

    arena._store.pages.host = Host()
    arena.prefetch(banks[:1])
    assert order == []
    arena.add(banks, rows[: len(banks)])
    arena.delete(banks, np.full(len(banks), 3))
    arena.drop(banks[3:])
    assert order == ["arrive", "add", "arrive", "delete", "arrive", "drop"]
    arena.compact()
    assert order[6:] == ["finish", "compact"]
    arena._store.pages.host = host


@on_host
def test_a_forked_child_unlocks_nothing_and_its_parent_locks_anew(cuda, rng):
    on_cpu, arena, banks, rows = arenas(rng)
    held, cold = cuda.held()[0], arena._store.mirror._banks.cold
    cuda.notes()
    child = os.fork()
    if child == 0:
        # pytest goes on in the parent alone.
        code = 1
        try:
            del arena, cold
            gc.collect()
            code = 0 if cuda.calls("cuMemHostUnregister", "cuMemHostRegister") == [] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    hold(arena, on_cpu, banks[np.flatnonzero(cold[:6])[:1]], rows[:1])
    names = [name for name, *_ in cuda.calls("cuMemHostUnregister", "cuMemHostRegister")]
    assert names == ["cuMemHostUnregister"] * held + ["cuMemHostRegister"] * held


@on_host
def test_the_store_outlives_its_locks(cuda, rng):
    _, arena, _, _ = arenas(rng)
    begins = arena._store.pages.host.chunk_memory()[:, 0].tolist()
    del arena
    gc.collect()
    unlocked = [begin for _, begin, _ in cuda.calls("cuMemHostUnregister")]
    assert sorted(unlocked) == sorted(begins)


@pytest.mark.parametrize(("dtype", "dim"), [("float32", 20), ("bfloat16", 7), ("float16", 40)])
def test_fetched_pages_are_those_that_are_sent(dtype, dim, rng):
    pages = _core.Pages(dim, dtype, "dot", ["int64", "ref", "bool"])
    layout = memcore.kernels.pages.Layout(dim, dtype, (0, 3, 2))
    banks = pages.new(3)
    cells = [np.arange(70), None, None]
    pages.add(np.repeat(banks, [40, 25, 5]), None, normal(rng, 70, dim), cells)
    pages.delete(banks[:2], np.array([3, 24]), False)
    n = pages.n_pages
    # Memory of a device, its pages one after the other: those that are sent, and those that are
    # fetched, from copies of the chunks, that a GPU reads as well.
    there = torch.full((2 * n, layout.page_bytes), 99, dtype=torch.uint8, device=DEVICE)
    root = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    unit = (there.data_ptr() - root.data_ptr()) // 16
    directory = unit + torch.arange(2 * n, device=DEVICE) * (layout.page_bytes // 16)
    slots = np.arange(16 * n)
    rows, ids = np.empty((len(slots), layout.row_bytes), np.uint8), np.empty(len(slots), np.int64)
    columns = np.empty((3, len(slots)), np.int64)
    pages.read_slots(slots, rows, ids, columns)
    is_row = ids >= 0
    sent = (
        slots[np.argsort(~is_row, kind="stable")],
        ids[is_row],
        columns[:, is_row],
        rows[is_row],
    )
    memcore.kernels.pages.write_pages(layout, root, directory, *map(tensor, sent))
    places, chunks = pages.page_addresses(np.arange(n)), pages.chunk_memory()
    for begin, n_bytes in chunks.tolist():
        bytes_ = np.frombuffer((np.ctypeslib.ctypes.c_char * n_bytes).from_address(begin), np.uint8)
        copy = torch.from_numpy(bytes_.copy()).to(DEVICE)
        inside = (places[:, 0] >= begin) & (places[:, 0] < begin + n_bytes)
        places[inside, :3] += copy.data_ptr() - begin
        units = (places[inside, :3] - root.data_ptr()) // 16
        to = directory[n:].cpu().numpy()[inside, None]
        given = np.concatenate([to, units, places[inside, 3:] // 16], 1)
        nulls = tensor(pages.column_nulls())
        memcore.kernels.fetch.fetch_pages(layout, root, tensor(given), nulls)
    parts = there.cpu().numpy().reshape(2, n, -1)
    at = 16 * layout.row_bytes
    assert parts[0, :, :at].tobytes() == parts[1, :, :at].tobytes()
    at = layout.ids_at
    assert parts[0, :, at:].tobytes() == parts[1, :, at:].tobytes()


def test_places_are_of_whole_chunks(rng):
    pages = _core.Pages(4, "float32", "dot", ["int64", "float64"])
    bank = pages.new(1)
    n = 40000
    pages.add(np.repeat(bank, n), None, normal(rng, n, 4), [np.arange(n), np.zeros(n, np.int64)])
    memory, table = pages.chunk_memory(), pages.page_table(int(bank[0]))
    assert len(memory) > 2
    places = pages.page_addresses(table)
    assert (places[:, :3] % 64 == 0).all()
    for rows, ids, cells, stride in places[:: len(places) // 50].tolist():
        begin, n_bytes = memory[(memory[:, 0] <= rows) & (rows < memory.sum(1))][0].tolist()
        assert rows < ids < cells < cells + stride + 128 <= begin + n_bytes
    assert pages.column_nulls()[:, 0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="page_addresses: page is -1, should be below"):
        pages.page_addresses(np.full(1, -1))


def test_the_driver_that_is_there_locks(rng, monkeypatch):
    on_cpu, arena, banks, rows = arenas(rng)
    slots = gathered(arena, monkeypatch)
    hold(arena, on_cpu, banks, rows[: len(banks)])
    assert (arena._store.mirror._pinned.nbytes > 0) == (DEVICE == "cuda")
    assert (not slots) == (DEVICE == "cuda")


def test_without_a_driver_nothing_is_locked(rng):
    pages = _core.Pages(4, "float32", "dot", [])
    bank = pages.new(1)
    pages.add(np.repeat(bank, 20), None, normal(rng, 20, 4), [])
    pinned = Pinned(pages, None, None)
    pinned.follow()
    is_seen, places = pinned.places(np.arange(2))
    assert is_seen.tolist() == [False, False]
    assert places.shape == (0, 4)
    assert pinned.nbytes == 0

"""Vectors of a write that lie on the device: the mirror takes them from there, to the same bits."""

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from device_banks import DEVICE, host  # noqa: E402
from memcore import _core  # noqa: E402

DIM = 5


class Counted:
    """A native store that counts the rows that are read for a mirror."""

    def __init__(self, store):
        self.store, self.n_sent = store, 0

    def __getattr__(self, name):
        return getattr(self.store, name)

    def read_slots(self, slots, rows, ids, cells):
        self.n_sent += 0 if rows is None else len(slots)
        self.store.read_slots(slots, rows, ids, cells)


def arenas(dtype="float32", **options):
    on_cpu = memcore.Arena(DIM, dtype=dtype, fields={"t": "int64"})
    arena = memcore.Arena(DIM, dtype=dtype, fields={"t": "int64"}, device="cuda", **options)
    counted = Counted(arena._store.pages.host)
    arena._store.mirror._published._pages = counted
    return on_cpu, arena, counted


def there(array, dtype=torch.float32):
    return torch.from_numpy(array).to(DEVICE, dtype)


def hold(arena, on_cpu, banks, rng):
    queries = normal(rng, len(banks), DIM)
    found = arena.search(banks, there(queries), 30)
    assert_hits(host(found), on_cpu.search(banks, queries, 30))


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        ("float32", torch.float32),
        ("float16", torch.float32),
        ("bfloat16", torch.float32),
        ("float16", torch.bfloat16),
        ("bfloat16", torch.float16),
    ],
)
def test_rows_are_not_sent_again(stored, given, rng):
    on_cpu, arena, counted = arenas(stored)
    # Halves of the last bit, what is below the smallest normal number, and signed zeros.
    rows = normal(rng, 46, DIM) * np.float32(2.0) ** rng.integers(-28, 5, (46, 1))
    rows[:8] = rows[:8].astype(np.float16) + np.float32(2.0**-12)
    rows[8], rows[9, ::2] = 1 + 2.0**-8, -0.0
    vectors = there(rows, given)
    for each in (on_cpu, arena):
        banks = each.new(2)
        owners = np.repeat(banks, 20)
        each.add(owners, vectors[:40], fields={"t": list(range(40))})
        each.add(banks[0], vectors[40:44].reshape(2, 2, DIM), ids=[[70, 60], [50, 99]])
        each.update(banks[0], [50, 3, 1000], vectors[43:46], missing="skip")
    assert counted.n_sent == 0
    hold(arena, on_cpu, banks, rng)
    found = arena.get(banks[0], [3, 50, 70]).vectors
    kept = on_cpu.get(banks[0], [3, 50, 70]).vectors
    assert torch.as_tensor(found).cpu().numpy().tobytes() == np.asarray(kept).tobytes()


def test_what_is_sent_nevertheless(rng):
    on_cpu, arena, counted = arenas()
    rows = normal(rng, 12, DIM)
    for each in (on_cpu, arena):
        banks = each.new(3)
        each.add(banks[0], rows[:4])
    assert counted.n_sent == 4
    vectors = there(rows)
    for each in (on_cpu, arena):
        # Rounded twice on the way; no matrix without a copy.
        each.add(banks[1], there(rows, torch.float64)[:3])
        wide = torch.cat([vectors, vectors], 1).view(2, 6, 2 * DIM)[:, ::2, :DIM].transpose(0, 1)
        each.add(banks[2], wide)
    assert counted.n_sent == 4 + 3 + 6
    hold(arena, on_cpu, banks, rng)


def test_a_write_that_is_refused_or_follows_another_offers_nothing(rng):
    on_cpu, arena, counted = arenas()
    rows = normal(rng, 6, DIM)
    spoiled = rows.copy()
    spoiled[2, 1] = np.nan
    for each in (on_cpu, arena):
        bank = each.new(1)
        with pytest.raises(memcore.InputError, match="vectors row 2"):
            each.add(bank, there(spoiled))
        each.add(bank, there(rows))
    assert counted.n_sent == 0
    # Two writes that the mirror follows at once: what the first was given may be written over.
    pages = arena._store.pages
    store = arena._store
    with pages.together():
        given, changed = there(rows[:3] + 1), rows[3:6]
        ids = pages.add(bank, None, store.rows("add", given)[0], store.no_cells)
        pages.update(bank, ids, changed, store.no_cells, False)
    on_cpu.update(bank, on_cpu.add(bank, rows[:3] + 1), changed)
    assert counted.n_sent == 3
    hold(arena, on_cpu, bank, rng)
    assert arena._store.mirror.given.take(np.arange(3))[1] is None


def test_a_write_in_parts_and_beyond_the_budget(rng):
    on_cpu, arena, counted = arenas(device_bytes=4 * (16 * 4 * DIM + 192 + 128))
    arena._store.mirror._published._n_at_once = 16
    rows = normal(rng, 100, DIM)
    for each in (on_cpu, arena):
        banks = each.new(2)
        each.add(banks[0], there(rows[:50]))
        each.add(banks[1], there(rows[50:]))
    assert counted.n_sent == 0
    hold(arena, on_cpu, banks[:1], rng)
    hold(arena, on_cpu, banks[1:], rng)
    held = arena._store.mirror.given
    _, on_host, _ = arenas(device_bytes=0)
    on_host.add(on_host.new(1), there(rows))
    assert on_host._store.mirror.given._vectors is None
    assert held._vectors is None


def test_without_memory_rows_are_sent(rng, monkeypatch):
    on_cpu, arena, counted = arenas()
    rows = normal(rng, 6, DIM)

    class Full:
        def __getattr__(self, name):
            if name == "find_slots":
                raise MemoryError
            return getattr(counted.store, name)

    monkeypatch.setattr(arena._store.pages, "host", Full())
    for each in (on_cpu, arena):
        bank = each.new(1)
        each.add(bank, there(rows))
    assert counted.n_sent == 6
    hold(arena, on_cpu, bank, rng)


def test_without_memory_on_the_device_the_host_answers(rng, monkeypatch):
    on_cpu, arena, _ = arenas()
    rows = normal(rng, 6, DIM)

    class Full:
        def __getitem__(self, _):
            raise torch.OutOfMemoryError

    given = arena._store.mirror.given
    monkeypatch.setattr(given, "noted", lambda _: Full())
    for each in (on_cpu, arena):
        bank = each.new(1)
        each.add(bank, rows)
    hold(arena, on_cpu, bank, rng)
    assert arena._store.mirror.root.tolist() == [0] * 4
    monkeypatch.undo()
    arena.compact()
    assert arena._store.mirror.root[0] != 0
    hold(arena, on_cpu, bank, rng)


def test_slots_of_rows(rng):
    pages = _core.Pages(2, "float32", "dot", [])
    banks = pages.new(2)
    ids = pages.add(np.repeat(banks, [20, 3]), None, normal(rng, 23, 2), [])
    pages.delete(banks[:1], np.array([4]), False)
    slots = pages.find_slots(np.repeat(banks, [20, 3]), ids)
    assert slots[4] == -1
    row_ids = np.empty(22, np.int64)
    found = np.delete(slots, 4)
    pages.read_slots(found, None, row_ids, np.empty((0, 22), np.int64))
    assert row_ids.tolist() == np.delete(ids, 4).tolist()
    pages.drop(banks[1:])
    assert pages.find_slots(banks, np.array([0, 0])).tolist() == [slots[0], -1]
    with pytest.raises(ValueError, match="find_slots: handles has 2 entries, should have 1 as"):
        pages.find_slots(banks, np.zeros(1, np.int64))

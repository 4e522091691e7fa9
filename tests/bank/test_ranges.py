"""Arrays that grow in ranges of addresses, by a driver in the host's memory."""

import gc
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from device_banks import DEVICE  # noqa: E402
from libcuda import GRANULE, Libcuda  # noqa: E402
from memcore.bank import driver as driver_  # noqa: E402
from memcore.bank import ranges  # noqa: E402
from memcore.bank.ranges import Growing  # noqa: E402
from memcore.bank.turns import Turns  # noqa: E402

HOST = torch.device("cpu")
# Calls of the driver on the way to a longer array.
STEPS = ["cuMemAddressReserve", "cuMemCreate", "cuMemMap", "cuMemSetAccess"]
STEPS += ["cuCtxPushCurrent", "cuThreadExchangeStreamCaptureMode"]


@pytest.fixture(scope="module")
def standing_in(tmp_path_factory):
    return Libcuda(tmp_path_factory.mktemp("libcuda"))


@pytest.fixture
def cuda(standing_in):
    yield standing_in
    gc.collect()
    standing_in.fail("")
    assert standing_in.held() == [0, 0, 0, 0]


@pytest.fixture
def opened(cuda):
    found = driver_.Driver(cuda.library, 0)
    cuda.notes()
    return found


def grown(opened, shape=(64,), dtype=torch.int64):
    turns = Turns(torch, HOST, cuda)
    return Growing(torch.zeros(shape, dtype=dtype), HOST, torch, opened, turns)


@pytest.mark.parametrize(("shape", "dtype"), [((64,), torch.int32), ((64, 3), torch.int64)])
def test_an_array_grows_where_it_is(shape, dtype, cuda, opened, rng):
    array = grown(opened, shape, dtype)
    expected = np.zeros(shape, np.int64)
    places, old = set(), []
    for n in (64, 300, 2000, 2001, 9000, 30000):
        array.reserve(n)
        assert len(array.data) >= n
        longer = np.zeros(array.data.shape, np.int64)
        longer[: len(expected)] = expected
        np.testing.assert_array_equal(array.data.numpy(), longer)
        written = rng.integers(0, 1000, array.data.shape)
        array.data.copy_(torch.from_numpy(written))
        expected = written
        if array.nbytes >= GRANULE:
            places.add(array.data.data_ptr())
            old.append(array.data)
    assert len(places) == 1
    # What was launched with a shorter one sees the same memory.
    for each in old:
        np.testing.assert_array_equal(each.numpy(), expected[: len(each)])
    assert len(cuda.calls("cuMemAddressReserve")) == 1
    assert cuda.held()[1:] == [1, cuda.held()[2], 0]


def test_memory_goes_when_nobody_sees_it_after_what_is_under_way(cuda, opened, monkeypatch):
    array = grown(opened)
    array.reserve(5000)
    array.reserve(50000)
    order = []
    monkeypatch.setattr(Turns, "finish", lambda self: order.append(cuda.held()[1:3]))
    seen = array.data
    del array
    gc.collect()
    assert order == []
    del seen
    gc.collect()
    assert order == [[1, 2]]
    names = [name for name, *_ in cuda.notes() if name in ("cuMemUnmap", "cuMemAddressFree")]
    assert names == ["cuMemUnmap", "cuMemUnmap", "cuMemAddressFree"]


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("n_before", [0, 1, 2])
def test_where_the_driver_refuses_arrays_are_copied(name, n_before, cuda, opened):
    array = grown(opened)
    cuda.fail(name, n_before)
    expected = torch.zeros(0, dtype=torch.int64)
    for n in (64, 600, 2000, 5000, 9000):
        array.reserve(n)
        assert len(array.data) >= n
        assert torch.equal(array.data[: len(expected)], expected)
        assert not array.data[len(expected) :].any()
        expected = torch.arange(1, len(array.data) + 1)
        array.data.copy_(expected)


def test_an_array_that_is_longer_than_its_range_is_copied(cuda, opened, monkeypatch):
    monkeypatch.setattr(ranges, "_MOST_BYTES", 4 * GRANULE + 5)
    array = grown(opened)
    for n in (1000, 2000, 3000):
        array.reserve(n)
        array.data.copy_(torch.arange(len(array.data)))
    array.reserve(4000)
    assert array.data[:3000].tolist() == list(range(3000))
    assert cuda.held() == [0, 0, 0, 0]
    assert cuda.calls("cuMemAddressReserve")[0][1] == 4 * GRANULE


def test_no_room_at_all_changes_nothing(cuda, opened, monkeypatch):
    array = grown(opened)
    array.reserve(1000)
    before = array.data.clone()

    def no_room(*_):
        raise torch.OutOfMemoryError("no memory")

    cuda.fail("cuMemCreate")
    monkeypatch.setattr(torch.Tensor, "new_zeros", no_room)
    with pytest.raises(torch.OutOfMemoryError):
        array.reserve(5000)
    assert torch.equal(array.data, before)
    monkeypatch.undo()
    array.reserve(5000)
    assert len(array.data) >= 5000


def test_a_forked_child_calls_nothing(cuda, opened):
    array = grown(opened)
    array.reserve(1000)
    cuda.notes()
    child = os.fork()
    if child == 0:
        # A child that hangs is ended by the alarm.
        signal.alarm(20)
        code = 1
        try:
            # So short that torch starts no threads, which a child does not have.
            array.reserve(len(array.data) + 1)
            del array
            gc.collect()
            code = 0 if cuda.notes() == [] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU sees no memory of this driver")
@pytest.mark.parametrize(("name", "n_before"), [("", 0), ("cuMemMap", 2)])
def test_banks_are_found_as_the_tables_grow(name, n_before, cuda, opened, rng, monkeypatch):
    monkeypatch.setattr(driver_, "opened", lambda device: opened)
    arena, on_cpu = memcore.Arena(4, device="cuda"), memcore.Arena(4)
    cuda.fail(name, n_before)
    rows, roots = normal(rng, 600, 4), []

    def hold(banks):
        some = banks[[0, 5, -1]]
        assert_hits(arena.search(some, rows[:3], 2), on_cpu.search(some, rows[:3], 2))
        roots.append(arena._store.mirror.root.tolist())

    for each in (on_cpu, arena):
        banks = each.new(600)
        each.add(banks, rows)
    hold(banks)
    for each in (on_cpu, arena):
        forks = each.fork(banks, 1)[:, 0]
    hold(forks)
    for each in (on_cpu, arena):
        more = each.new(300)
        each.add(more, rows[:300])
    hold(more)
    if not name:
        # Heads, tables and directory stay where they are, once they are large.
        assert cuda.held()[1] == 3
        assert roots[0][::3] == roots[1][::3] == roots[2][::3]
        assert roots[1][2] == roots[2][2]
    for each in (on_cpu, arena):
        each.drop(np.concatenate((banks, forks, more[6:])))
        each.compact()
    hold(more[:6])


def test_very_many_banks(rng):
    arena, on_cpu = memcore.Arena(4, device="cuda"), memcore.Arena(4)
    rows = normal(rng, 3, 4)
    for n in (100_000, 150_000):
        for each in (on_cpu, arena):
            banks = each.new(n)[[0, 5, -1]]
            each.add(banks, rows)
        assert_hits(arena.search(banks, rows, 2), on_cpu.search(banks, rows, 2))
    # Three words for each bank are more than the two megabytes that a GPU's memory comes in.
    heads = arena._store.mirror._published._tables["heads"]
    assert (heads._range is not None) == (DEVICE == "cuda")


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU sees no memory of this driver")
def test_tables_that_find_no_room_leave_banks_to_the_host(cuda, opened, rng, monkeypatch):
    monkeypatch.setattr(driver_, "opened", lambda device: opened)
    arena, on_cpu = memcore.Arena(4, device="cuda"), memcore.Arena(4)
    rows = normal(rng, 250, 4)

    def no_room(*_):
        raise torch.OutOfMemoryError("no memory")

    cuda.fail("cuMemCreate")
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_zeros", no_room)
        for each in (on_cpu, arena):
            banks = each.new(250)
            each.add(banks, rows)
    # No tables are there, and the host answers.
    assert arena._store.mirror.root.tolist() == [0] * 4
    some = banks[[0, 7, 9]]
    assert_hits(arena.search(some, rows[:3], 2), on_cpu.search(some, rows[:3], 2))
    for each in (on_cpu, arena):
        each.drop(banks[10:])
        each.compact()
    assert_hits(arena.search(some, rows[:3], 2), on_cpu.search(some, rows[:3], 2))
    assert arena._store.mirror.root[0] != 0


def test_what_the_driver_does_not_have(cuda, opened, monkeypatch):
    with pytest.raises(driver_.DriverError, match="older than CUDA 12"):
        driver_.Driver(SimpleNamespace(), 0)
    for name in ("cuMemMap", "cuInit", "cuDevicePrimaryCtxRetain"):
        cuda.fail(name)
        with pytest.raises(driver_.DriverError, match=name):
            driver_.Driver(cuda.library, 0)
    assert driver_.opened(HOST) is None

    def none_such(name):
        raise OSError(name)

    monkeypatch.setattr(driver_.ctypes, "CDLL", none_such)
    assert driver_.opened(SimpleNamespace(type="cuda", index=0)) is None
    monkeypatch.setattr(driver_.ctypes, "CDLL", lambda name: cuda.library)
    assert driver_.opened(SimpleNamespace(type="cuda", index=0)).granule == GRANULE

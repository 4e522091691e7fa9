"""The order of reads and writes on a device, told by a CUDA that only keeps a list."""

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import memcore
from memcore.bank.parcel import Sender
from memcore.bank.turns import Turns


class Cuda:
    """Streams and events that note what they are told; work runs in the order it may, last first.

    Attributes:
        waits: what the host has waited for, in order.
        capturing: the streams that capture.
    """

    def __init__(self):
        self.waits, self.capturing, self.current, self.n_streams = [], set(), None, 0
        outer = self

        class Stream:
            def __init__(self, device=None):
                outer.n_streams += 1
                self.cuda_stream = outer.n_streams
                # What is done before all that comes, and the work that was launched.
                self.before, self.work = set(), []

            def wait_event(self, event):
                assert self not in outer.capturing
                self.before |= event.done

            def synchronize(self):
                outer.waits.append(frozenset(self.before))

            def launch(self, name):
                self.work.append((name, frozenset(self.before)))
                self.before.add(name)

        class Event:
            done = frozenset()

            def record(self, stream=None):
                assert (stream or outer.current) not in outer.capturing
                self.done = frozenset((stream or outer.current).before)

            def query(self):
                assert not outer.capturing
                return False

            def synchronize(self):
                outer.waits.append(self.done)

        self.Stream, self.Event = Stream, Event
        self.current = Stream()

    def is_current_stream_capturing(self):
        return self.current in self.capturing

    def current_stream(self, device=None):
        return self.current

    def synchronize(self, device):
        self.waits.append("all")

    @contextmanager
    def stream(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before


class Owner:
    """What holds the memory."""


def made():
    cuda, owner = Cuda(), Owner()
    device = SimpleNamespace(type="cuda")
    turns = Turns(SimpleNamespace(cuda=cuda), device, owner)
    return cuda, turns, owner


def read(cuda, turns, name, stream=None):
    with cuda.stream(stream or cuda.current), turns.reading("search"):
        cuda.current.launch(name)


def write(cuda, turns, name, waits=True):
    with turns.writing(waits):
        cuda.current.launch(name)
    return dict(turns._own.work)[name]


def test_a_write_comes_after_the_reads_and_the_host_waits_once():
    cuda, turns, _owner = made()
    other = cuda.Stream()
    for i in range(3):
        read(cuda, turns, f"a{i}")
        read(cuda, turns, f"b{i}", other)
    cuda.current.launch("training")
    assert cuda.waits == []
    assert write(cuda, turns, "w0") == {"a0", "a1", "a2", "b0", "b1", "b2"}
    assert len(cuda.waits) == 1
    # What is under way beside the reads is not waited for.
    assert cuda.waits[0] >= {"w0"}
    assert "training" not in cuda.waits[0]
    read(cuda, turns, "a3")
    assert len(cuda.waits) == 1
    assert write(cuda, turns, "w1") >= {"w0", "a3"}


def test_what_is_prefetched_is_waited_for_on_the_device():
    cuda, turns, _owner = made()
    other = cuda.Stream()
    write(cuda, turns, "fetch", waits=False)
    read(cuda, turns, "a")
    read(cuda, turns, "b", other)
    assert cuda.waits == []
    assert dict(cuda.current.work)["a"] == {"fetch"}
    assert dict(other.work)["b"] == {"fetch"}
    cuda.capturing.add(cuda.current)
    with pytest.raises(memcore.BackendError, match=r"^search: banks are on their way, should"):
        read(cuda, turns, "c")


def test_after_a_capture_a_write_waits_for_all():
    cuda, turns, _owner = made()
    cuda.capturing.add(cuda.current)
    read(cuda, turns, "a")
    assert turns.is_capturing
    assert turns.has_graph
    cuda.capturing.clear()
    write(cuda, turns, "w0", waits=False)
    assert cuda.waits == ["all", {"w0"}]


def test_memory_is_used_again_after_the_reads():
    cuda, turns, owner = made()
    read(cuda, turns, "a")
    own = turns._own
    assert "a" not in own.before
    del owner
    gc.collect()
    assert "a" in own.before
    assert cuda.waits == []


def test_before_the_host_is_written_a_fetch_arrives():
    cuda, turns, _owner = made()
    write(cuda, turns, "fetch", waits=False)
    turns.arrive()
    assert cuda.waits == [{"fetch"}]
    turns.arrive()
    write(cuda, turns, "w")
    turns.arrive()
    assert cuda.waits == [{"fetch"}, {"fetch", "w"}]


def test_before_memory_goes_reads_and_writes_are_done():
    cuda, turns, _owner = made()
    read(cuda, turns, "a")
    read(cuda, turns, "b", cuda.Stream())
    write(cuda, turns, "w", waits=False)
    read(cuda, turns, "c")
    turns.finish()
    assert cuda.waits == [{"a", "b", "w", "c"}]
    # Nobody has seen which replays are under way.
    turns.has_graph = True
    turns.finish()
    assert cuda.waits[1:] == ["all"]


def test_two_buffers_take_turns():
    torch = pytest.importorskip("torch")
    cuda = Cuda()
    buffers = []

    def empty(n, dtype, pin_memory):
        assert pin_memory
        buffers.append(Buffer(torch.empty(n, dtype=dtype)))
        return buffers[-1]

    class Buffer:
        """A tensor in pinned memory, and its copies to a device."""

        def __init__(self, tensor):
            self.tensor = tensor

        def __len__(self):
            return len(self.tensor)

        def __getitem__(self, part):
            return Buffer(self.tensor[part])

        def numpy(self):
            return self.tensor.numpy()

        def to(self, device, non_blocking, copy):
            assert non_blocking
            assert copy
            cuda.current.launch(len(cuda.current.work))
            return self.tensor.clone()

    library = SimpleNamespace(cuda=cuda, empty=empty, uint8=torch.uint8)
    sender = Sender(library, SimpleNamespace(type="cuda"))
    for i in range(5):
        parcel = sender.parcel(((3,), "int64"), ((2, 5), "uint8"))
        # The parcel before the last has arrived; nobody waits for the last.
        assert cuda.waits == [set(range(j + 1)) for j in range(i - 1)]
        parcel.rooms[0][...], parcel.rooms[1][...] = i, 7
        first, second = parcel.send()
        assert first.tolist() == [i] * 3
        assert second.tolist() == [[7] * 5] * 2
    assert len(buffers) == 2
    assert sender.nbytes == 2 * 4096

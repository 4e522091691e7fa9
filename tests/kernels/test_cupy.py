"""Arrays of CuPy and others: searched where they lie, and what is said where torch is missing."""

import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore import reference, tensors


class OnDevice:
    """An array that says, as CuPy's do, that it lies on a CUDA device."""

    def __dlpack_device__(self):
        return 2, 0


class Interface:
    """An array that has the CUDA array interface and no DLPack, as Numba's."""

    def __init__(self, array, stream=None):
        self.array = array
        is_numpy = isinstance(array, np.ndarray)
        seen = array.__array_interface__ if is_numpy else array.__cuda_array_interface__
        self.__cuda_array_interface__ = {**seen, "stream": stream}


def test_without_torch_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for array in (OnDevice(), Interface(np.zeros((2, 3), np.float32))):
        for options in ({}, {"metric": "hamming"}):
            with pytest.raises(memcore.BackendError, match=r"^search: torch is not installed, sho"):
                memcore.search(array, array, 3, **options)


class Both(Interface):
    """One that has DLPack as well, on the second device."""

    def __dlpack_device__(self):
        return 2, 1

    def __dlpack__(self, **_):
        return None


@pytest.fixture
def torch_on_host(monkeypatch):
    """torch, whose devices are the host: it sees arrays of NumPy by the CUDA array interface.

    What lies on another device than it is asked for is copied. It notes what is waited for.
    """
    torch = pytest.importorskip("torch")
    noted = types.SimpleNamespace(waits=[], asked=[], home=0, by_dlpack=torch.ones(1), torch=torch)

    def as_tensor(given, device):
        noted.asked.append(device.index)
        interface = given.__cuda_array_interface__
        # What torch says of memory that may not be written.
        if interface["data"][1]:
            raise TypeError("the read only flag is not supported")
        seen = types.SimpleNamespace(__array_interface__={**interface, "stream": None}, held=given)
        tensor = torch.from_numpy(np.asarray(seen))
        return tensor if device.index == noted.home else tensor.clone()

    ours = types.SimpleNamespace(wait_stream=noted.waits.append)
    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    monkeypatch.setattr(torch, "from_dlpack", lambda _: noted.by_dlpack)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda stream, device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ours)
    return noted


def test_an_interface_is_waited_for_and_comes_before_dlpack(torch_on_host, rng):
    numbers = normal(rng, 4, 6)
    for kind, home in ((Interface, 0), (Both, 1), (Interface, 2)):
        torch_on_host.home = home
        seen = tensors.vectors("search", "keys", kind(numbers, stream=7 + home))
        assert seen.data_ptr() == numbers.ctypes.data
        assert seen.numpy().tobytes() == numbers.tobytes()
    # The array says where it is, or torch is asked for each device in turn.
    assert torch_on_host.asked == [0, 1, 0, 0, 1, 2]
    assert torch_on_host.waits == [7, 8, 9]
    assert tensors.like(Interface(numbers), seen) is seen


def test_what_an_interface_may_be(torch_on_host, rng):
    numbers = normal(rng, 6, 8)
    numbers.setflags(write=False)
    for part in (numbers, numbers[::2], numbers.T, numbers[:, 3:5], numbers[:0], numbers[:, :0]):
        array = Interface(part)
        del array.__cuda_array_interface__["stream"]
        array.__cuda_array_interface__["version"] = 2
        seen = tensors.vectors("search", "keys", array)
        assert seen.shape == part.shape
        np.testing.assert_array_equal(seen.numpy(), part)
    assert torch_on_host.waits == []
    masked = Interface(numbers)
    masked.__cuda_array_interface__["mask"] = masked
    with pytest.raises(memcore.DtypeError, match=r"^search: keys is a masked array, should be a p"):
        tensors.vectors("search", "keys", masked)


def test_what_no_interface_can_say_goes_through_dlpack(torch_on_host, rng):
    class Silent(Both):
        """bfloat16, as JAX has it: whoever asks for the interface is told off."""

        def __init__(self):
            """Nothing to keep."""

        @property
        def __cuda_array_interface__(self):
            raise ValueError("bfloat16 has no type string")

    odd = Both(normal(rng, 2, 3))
    odd.__cuda_array_interface__["typestr"] = "<V2"
    lost = Both(normal(rng, 2, 3))
    torch_on_host.home = 5
    for array in (Silent(), odd, lost):
        assert tensors.vectors("search", "keys", array) is torch_on_host.by_dlpack
    with pytest.raises(memcore.DtypeError, match=r"^search: keys is not an array of numbers that"):
        tensors.vectors("search", "keys", Interface(normal(rng, 2, 3)))


def test_without_a_gpu_it_says_so(monkeypatch, rng):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(memcore.BackendError, match=r"^search: queries is on a CUDA device, but to"):
        memcore.search(Interface(normal(rng, 2, 3)), Interface(normal(rng, 2, 3)), 1)


def test_an_interface_is_searched_where_it_lies(rng):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    queries, keys = normal(rng, 3, 20), normal(rng, 100, 20)
    there = [Interface(torch.from_numpy(each).cuda(), stream=1) for each in (queries, keys)]
    hits = memcore.search(*there, 5)
    found = tuple(each.cpu().numpy() for each in hits)
    assert_hits(found, reference.search(queries, keys, 5))


def test_cupy_arrays_are_searched_where_they_lie(rng):
    cupy = pytest.importorskip("cupy")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    queries, keys = normal(rng, 3, 20), normal(rng, 100, 20)
    hits = memcore.search(cupy.asarray(queries), cupy.asarray(keys), 5)
    assert isinstance(hits.ids, cupy.ndarray)
    found = tuple(np.asarray(each.get()) for each in hits)
    assert_hits(found, reference.search(queries, keys, 5))


def test_kernels_are_launched_on_the_device_of_the_arrays(monkeypatch, rng):
    torch = pytest.importorskip("torch")
    kernels = pytest.importorskip("memcore.kernels")
    noted, launch = [], kernels.topk

    @contextmanager
    def device_of(array):
        noted.append(array.data_ptr())
        yield
        noted.append("left")

    def launched(*given):
        noted.append("launched")
        launch(*given)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(kernels, "topk", launched)
    scores = torch.from_numpy(normal(rng, 2, 9)).to("cuda" if torch.cuda.is_available() else "cpu")
    hits = memcore.topk(scores, 3, backend="triton")
    assert noted == [scores.data_ptr(), "launched", "left"]
    assert_hits(tuple(each.cpu().numpy() for each in hits), reference.topk(scores.cpu().numpy(), 3))

"""Arrays of CuPy and others: searched where they lie, and what is said where torch is missing."""

import sys
import types

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
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "stream": stream}


def test_without_torch_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for array in (OnDevice(), Interface(types.SimpleNamespace(__cuda_array_interface__={}))):
        for options in ({}, {"metric": "hamming"}):
            with pytest.raises(memcore.BackendError, match=r"^search: torch is not installed, sho"):
                memcore.search(array, array, 3, **options)


def test_an_interface_is_waited_for(monkeypatch):
    torch = pytest.importorskip("torch")
    array = Interface(types.SimpleNamespace(__cuda_array_interface__={}), stream=7)
    seen, waits = torch.zeros(2, 3), []
    ours = types.SimpleNamespace(wait_stream=waits.append)
    monkeypatch.setattr(torch, "as_tensor", lambda given, device: seen if given is array else None)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda stream, device: (stream, device))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: ours)
    assert tensors.vectors("search", "keys", array) is seen
    assert waits == [(7, seen.device)]
    assert tensors.like(array, seen) is seen


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

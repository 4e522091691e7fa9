"""CuPy arrays: searched where they lie, and what is said where torch is missing."""

import sys

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore import reference


class OnDevice:
    """An array that says, as CuPy's do, that it lies on a CUDA device."""

    def __dlpack_device__(self):
        return 2, 0


def test_without_torch_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for options in ({}, {"metric": "hamming"}):
        with pytest.raises(memcore.BackendError, match=r"^search: torch is not installed, should"):
            memcore.search(OnDevice(), OnDevice(), 3, **options)


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

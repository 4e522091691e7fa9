"""A device without memory for what a call allocates: one typed sentence, and nothing is broken."""

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore.errors import BackendError
from memcore.ops import codebook as ops
from memcore.ops.lsh import lsh_encode, lsh_planes, lsh_probes

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

from device_banks import Both  # noqa: E402
from on_device import host, tensor  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about the interpreter")

_MADE = {"empty", "new_empty", "empty_like", "zeros", "new_zeros", "full", "new_full", "sort"}


class NoRoom(TorchDispatchMode):
    """Torch finds no memory, the n-th time that it looks for some; has_failed says whether so."""

    def __init__(self, n):
        super().__init__()
        self._n = n
        self.has_failed = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in _MADE:
            self._n -= 1
            if not self._n:
                self.has_failed = True
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return func(*args, **(kwargs or {}))


def failures(op, call):
    """Call again and again, with each allocation failing in its turn; how many did.

    Launches do nothing meanwhile: what they would write is not looked at.
    """
    n = 0
    while True:
        with pytest.MonkeyPatch.context() as patch, NoRoom(n + 1) as room:
            patch.setattr(interpreter.GridExecutor, "__call__", lambda *_, **__: None)
            error = None
            try:
                call()
            except BackendError as raised:
                error = raised
        if error is not None:
            assert str(error).startswith(f"{op}: the device has no memory left, should have ")
            assert isinstance(error.__cause__, torch.OutOfMemoryError)
            assert room.has_failed
        if not room.has_failed:
            return n
        n += 1


def calls(rng):
    queries, keys = tensor(normal(rng, 3, 20)), tensor(normal(rng, 30, 20))
    yield "search", lambda: memcore.search(queries, keys, 3, metric="cosine", backend="triton")
    yield "search", lambda: memcore.search(queries, keys, 300, backend="triton")
    offsets = tensor(np.array([0, 9, 20, 30]))
    given = queries, keys, offsets
    yield "search_ragged", lambda: memcore.search_ragged(*given, k=3, backend="triton")
    yield "topk", lambda: memcore.topk(keys, 3, backend="triton")
    planes = lsh_planes(24, 20, seed=1)
    yield "lsh_encode", lambda: lsh_encode(queries, planes, 12, backend="triton")
    yield "lsh_probes", lambda: lsh_probes(queries, planes, 12, n_probes=3, backend="triton")
    words = keys[:5].clone()
    yield "assign", lambda: ops.assign(keys, words, backend="triton")
    codes = tensor(rng.integers(0, 5, 30))
    yield "codebook_sums", lambda: ops.codebook_sums(keys, codes, 5, backend="triton")


def test_each_allocation_of_an_op(rng):
    for op, call in calls(rng):
        assert failures(op, call) >= 2


@pytest.mark.parametrize("k", [3, 300])
def test_each_allocation_of_a_search_of_banks(k, rng):
    both = Both(rng)
    queries = normal(rng, len(both.banks), 20)
    cpu, device = both.arenas
    expected = cpu.search(both.banks, queries, k)
    banks, asked = tensor(both.banks), tensor(queries)
    for given in ((both.banks, queries), (banks, asked)):
        assert failures("search", lambda given=given: device.search(*given, k)) >= 3
        found = device.search(*given, k)
        assert_hits(host(found) if given[0] is banks else found, expected)
    # Neither store has changed: both take writes.
    for arena in both.arenas:
        arena.add(both.banks[:1], both.changed[:1])
    both.search(queries, k)


def test_each_allocation_of_attention_and_reads(rng):
    arena = memcore.Arena(20, device="cuda")
    banks = arena.new(2)
    arena.add(np.repeat(banks, 10), normal(rng, 20, 20))
    queries = tensor(normal(rng, 2, 20))
    ids = tensor(np.arange(6).reshape(2, 3))
    places = banks[:, None].repeat(3, 1)
    expected = arena.attend(banks, queries, 3, beta=1.0), arena.score(banks, queries, ids)
    assert failures("attend", lambda: arena.attend(banks, queries, 3, beta=1.0)) >= 4
    assert failures("score", lambda: arena.score(banks, queries, ids)) >= 2
    assert failures("get", lambda: arena.get(places, ids)) >= 1
    again = arena.attend(banks, queries, 3, beta=1.0), arena.score(banks, queries, ids)
    for each, was in zip(again, expected, strict=True):
        assert torch.equal(each, was)

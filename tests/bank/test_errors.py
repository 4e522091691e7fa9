"""Wrong arguments of an arena and a bank: one sentence, of the right kind, and nothing changes."""

import copy
import pickle

import numpy as np
import pytest

import memcore
from cases import normal
from memcore.errors import BackendError, DtypeError, InputError, ShapeError

DIM = 8


@pytest.fixture(params=["cpu", "cuda"])
def arena(request, rng):
    if request.param == "cuda":
        pytest.importorskip("triton")
    made = memcore.Arena(DIM, metric="dot", device=request.param)
    banks = made.new(2)
    made.add(np.repeat(banks, 5), normal(rng, 10, DIM), payloads=list(range(10)))
    return made, banks


@pytest.mark.parametrize(
    ("error", "sentence", "options"),
    [
        (DtypeError, "steps is 1.5, should be an int", {"steps": 1.5}),
        (DtypeError, "steps is '2', should be an int", {"steps": "2"}),
        (InputError, "steps is 0, should be at least 1", {"steps": 0}),
        (InputError, "beta is inf, should be above 0", {"beta": float("inf")}),
        (ShapeError, r"beta has shape \(2,\), should be one number", {"beta": np.ones(2)}),
    ],
)
def test_attend(arena, error, sentence, options, rng):
    arena, banks = arena
    queries = normal(rng, 2, DIM)
    for asked in (queries, as_tensor(queries)):
        with pytest.raises(error, match=f"^attend: {sentence}$"):
            arena.attend(banks, asked, 3, **{"beta": 1.0, **options})


@pytest.mark.parametrize("n", [0, 2])
@pytest.mark.parametrize("k", [0, 3])
def test_attend_of_nothing(arena, n, k, rng):
    arena, banks = arena
    queries, values = normal(rng, n, DIM), normal(rng, 5, 4)
    for asked in (queries, as_tensor(queries), as_tensor(queries).requires_grad_()):
        read = arena.attend(banks[:n], asked, k, beta=1.0, values=values, steps=2, return_lse=True)
        assert read.out.shape == (n, 4)
        assert read.lse.shape == (n,)
        if k == 0:
            assert not read.out.any()
            assert (read.lse == -np.inf).all()


def test_values_that_are_too_few(rng):
    bank = memcore.Bank(DIM)
    bank.add(normal(rng, 5, DIM))
    sentence = "^attend: values has 2 rows, should have one for each id up to 4, which was found$"
    with pytest.raises(InputError, match=sentence):
        bank.attend(normal(rng, 2, DIM), 5, beta=1.0, values=normal(rng, 2, 4))


def test_rows_of_no_hits(arena):
    arena, banks = arena
    with pytest.raises(DtypeError, match=r"^rows: hits is a list, should be what `search` gave$"):
        arena.rows(banks, [1, 2])


def test_banks_with_the_wrong_store(arena, rng):
    arena, _ = arena
    queries, bank = normal(rng, 2, DIM), memcore.Bank(DIM)
    for call, options in ((memcore.search, {}), (memcore.attend, {"beta": 1.0})):
        with pytest.raises(InputError, match="banks is None with an Arena, should be the handle"):
            call(queries, arena, **options)
        with pytest.raises(InputError, match="banks is given with a Bank, should be left out"):
            call(queries, bank, banks=[1, 2], **options)


def test_pickles_and_deep_copies(arena):
    arena, banks = arena
    bank = memcore.Bank(DIM)
    for store in (arena, bank, arena.snapshot(banks)):
        for copied in (pickle.dumps, copy.deepcopy):
            with pytest.raises(DtypeError, match=r"^pickle: a bank or an arena is memory of this"):
                copied(store)
    bank.add(np.ones((1, DIM)))
    assert len(copy.copy(bank)) == 1


def test_construction():
    with pytest.raises(DtypeError, match=r"^Arena: fields is \['time'\], should be a dict$"):
        memcore.Arena(4, fields=["time"])
    with pytest.raises(InputError, match=r"^Arena: dtype is \[\], should be one of float32"):
        memcore.Arena(4, dtype=[])
    for device in ("gpu", "cudafoo", "cuda:x", None, 0):
        with pytest.raises(BackendError, match=r"^Arena: device is .*, should be 'cpu' or 'cuda'$"):
            memcore.Arena(4, device=device)


def test_places():
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    assert memcore.Arena(4, device=torch.device("cpu")).device == "cpu"
    there = memcore.Arena(4, device="cuda").device
    for bank in (memcore.Bank(device=torch.device("cuda")), memcore.Bank(4, device="cuda")):
        assert (bank.device, bank.fork().device) == (there, there)
        bank.add(np.ones((1, 4)))
        assert bank.device_nbytes > 0 == memcore.Bank(4).device_nbytes
    assert memcore.Arena(4, device="cuda", device_bytes=np.int64(0)).device == there


def as_tensor(array):
    return pytest.importorskip("torch").from_numpy(array)

"""OuterMemory: the definition pair by pair, the laws of recall, gradients, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from memcore.errors import DtypeError, InputError, ShapeError
from memcore.outer import OuterMemory
from memcore.reference import queue as reference

RULES = ("hebb", "delta", "gated")


def pairs(rng, *lead, n=10, dim=6, value_dim=4):
    keys = rng.standard_normal((*lead, n, dim))
    keys /= np.linalg.norm(keys, axis=-1, keepdims=True)
    return keys, rng.standard_normal((*lead, n, value_dim))


def definition(keys, values, rule, rates, decays):
    decays = 1 - rates if rule == "gated" else decays
    state = np.zeros((*keys.shape[:-2], keys.shape[-1], values.shape[-1]))
    for place in np.ndindex(keys.shape[:-2]):
        given = (keys[place], values[place], "delta" if rule == "delta" else "hebb")
        state[place] = reference.outer_write(state[place], *given, rates[place], decays[place])
    return state


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 150])
def test_a_write_is_what_the_pairs_would_do_one_by_one(rng, rule, library, n):
    keys, values = pairs(rng, 2, 3, n=n)
    rates, decays = rng.random((2, 3, n)), rng.uniform(0.5, 1, (2, 3, n))
    # A decay of 0 forgets everything; nothing may be divided by it.
    decays[..., n // 2 : n // 2 + 1] = 0
    convert, like = np.asarray, np.zeros(1)
    if library == "torch":
        torch = pytest.importorskip("torch")
        convert, like = torch.from_numpy, torch.zeros(1, dtype=torch.float64)
    memory = OuterMemory(6, 4, rule, lead=(2, 3), like=like)
    given = {"rates": convert(rates)}
    if rule != "gated":
        given["decays"] = convert(decays)
    memory.write(convert(keys), convert(values), **given)
    expected = definition(keys, values, rule, rates, decays)
    np.testing.assert_allclose(np.asarray(memory.state), expected, atol=1e-12)
    queries = rng.standard_normal((2, 3, 5, 6))
    got = np.asarray(memory.read(convert(queries)))
    np.testing.assert_allclose(got, queries @ expected, atol=1e-12)


@pytest.mark.parametrize("rule", ["hebb", "delta"])
def test_several_writes_go_on_from_each_other(rng, rule):
    keys, values = pairs(rng, n=30)
    memory = OuterMemory(6, 4, rule, decay=0.9, like=np.zeros(1))
    for at in range(0, 30, 7):
        memory.write(keys[at : at + 7], values[at : at + 7])
    expected = definition(keys, values, rule, np.ones(30), np.full(30, 0.9))
    np.testing.assert_allclose(memory.state, expected, atol=1e-12)


def recall(rng, rule, load, dim=256):
    keys, values = pairs(rng, n=int(load * dim), dim=dim, value_dim=dim)
    memory = OuterMemory(dim, dim, rule)
    memory.write(keys, values)
    read = memory.read(keys)
    product = (read * values).sum(-1)
    return (product / np.linalg.norm(read, axis=-1) / np.linalg.norm(values, axis=-1)).mean()


@pytest.mark.parametrize("load", [0.125, 0.25, 0.5, 1.0, 2.0])
def test_recall_of_hebb_follows_its_law(rng, load):
    assert recall(rng, "hebb", load) == pytest.approx(1 / np.sqrt(1 + load), abs=0.03)


@pytest.mark.parametrize(
    ("load", "is_better"), [(0.125, True), (0.25, True), (1, False), (2, False)]
)
def test_delta_is_better_below_half_load_and_worse_when_full(rng, load, is_better):
    hebb, delta = recall(rng, "hebb", load), recall(rng, "delta", load)
    assert (delta > hebb + 0.01) if is_better else (delta < hebb - 0.01)


def test_delta_replaces_what_a_key_reads(rng):
    key = np.array([[0.6, 0.8]])
    memory = OuterMemory(2, 3, "delta")
    for value in ([[1, 2, 3]], [[4, 5, 6]]):
        memory.write(key, value)
        np.testing.assert_allclose(memory.read(key), value, rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_in_torch(rng, rule):
    torch = pytest.importorskip("torch")
    keys, values = (
        torch.from_numpy(x).requires_grad_() for x in pairs(rng, 2, n=4, dim=3, value_dim=2)
    )
    rates = torch.from_numpy(rng.uniform(0.2, 0.9, (2, 4))).requires_grad_()
    decays = torch.from_numpy(rng.uniform(0.2, 0.9, (2, 4))).requires_grad_()
    queries = torch.from_numpy(rng.standard_normal((2, 5, 3))).requires_grad_()

    def read(keys, values, rates, decays, queries):
        memory = OuterMemory(3, 2, rule, lead=(2,), like=queries)
        given = {} if rule == "gated" else {"decays": decays}
        memory.write(keys[:, :2], values[:, :2])
        memory.write(keys, values, rates=rates, **given)
        return memory.read(queries)

    assert torch.autograd.gradcheck(read, (keys, values, rates, decays, queries))
    compiled = torch.compile(read, fullgraph=True, backend="aot_eager")
    got = compiled(keys, values, rates, decays, queries)
    torch.testing.assert_close(got, read(keys, values, rates, decays, queries))


def test_detach_reset_and_states(rng):
    torch = pytest.importorskip("torch")
    memory = OuterMemory(3, 2, like=torch.zeros(1))
    memory.write(torch.ones(1, 3, requires_grad=True), torch.ones(1, 2))
    assert memory.state.requires_grad
    state = memory.state_dict()
    memory.detach()
    assert not memory.state.requires_grad
    memory.reset()
    assert memory.state.abs().sum() == 0
    memory.load_state_dict(state)
    assert memory.state.tolist() == [[1, 1]] * 3
    with pytest.raises(ShapeError, match="load_state_dict: state has shape"):
        memory.load_state_dict(OuterMemory(2, 2).state_dict())


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"keys": np.zeros((2, 4))}, ShapeError, "keys has shape"),
        ({"keys": np.zeros(3)}, ShapeError, "keys has shape"),
        ({"keys": np.zeros((5, 2, 3))}, ShapeError, "keys has leading axes"),
        ({"values": np.zeros((3, 2))}, ShapeError, "values has 3 rows"),
        ({"values": np.full((2, 2), np.nan)}, InputError, "values is not finite"),
        ({"keys": [["a"]]}, DtypeError, "keys has dtype"),
        ({"rates": np.zeros(3)}, ShapeError, "rates has shape"),
        ({"decays": [1, np.inf]}, InputError, "decays is not finite"),
    ],
)
def test_a_bad_write_changes_nothing(change, error, sentence):
    memory = OuterMemory(3, 2, "delta")
    memory.write(np.eye(3)[:2], np.ones((2, 2)))
    before = memory.state.copy()
    with pytest.raises(error, match=f"^write: {sentence}"):
        memory.write(**({"keys": np.eye(3)[:2], "values": np.ones((2, 2))} | change))
    np.testing.assert_array_equal(memory.state, before)


def test_gated_has_rates_only():
    memory = OuterMemory(3, 2, "gated")
    with pytest.raises(InputError, match="decays is given"):
        memory.write(np.eye(3)[:2], np.ones((2, 2)), decays=[1, 1])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"rule": "oja"}, "rule is 'oja'"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"lead": (0,)}, "lead is 0, should be at least 1"),
        ({"rule": "gated", "decay": 0.5}, "decay is 0.5"),
    ],
)
def test_a_memory_that_cannot_be(given, sentence):
    with pytest.raises(InputError, match=f"OuterMemory: {sentence}"):
        OuterMemory(3, 2, **given)

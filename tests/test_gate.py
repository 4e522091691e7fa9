"""Gate: near-duplicates stay out, spikes come in, and it does not lock open."""

from __future__ import annotations

import numpy as np
import pytest

from memcore import Bank
from memcore.errors import DtypeError, InputError, ShapeError
from memcore.gate import Gate
from memcore.queue import Queue


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


# ---- novelty


@pytest.mark.parametrize("batch", [1, 37, 4000])
def test_a_stream_of_near_duplicates_stores_one_of_each(rng, batch):
    frames = unit(rng.standard_normal((40, 64)))
    which = rng.permutation(np.repeat(np.arange(40), 100))
    # Cosine of two copies at least 0.99; of two frames at most about 0.6.
    noise = 0.004 * rng.standard_normal((4000, 64))
    stream = unit(frames[which] + noise)
    queue, gate = Queue(64), Gate(0.98)
    stored = []
    for at in range(0, 4000, batch):
        rows = stream[at : at + batch]
        keys = queue.data() if len(queue) else rows[:0]
        keep = gate.admit(rows, keys)
        queue.add(rows[keep])
        stored += which[at : at + batch][keep].tolist()
    assert sorted(stored) == list(range(40))
    # The first of each, in the order of the stream.
    assert stored == list(dict.fromkeys(which.tolist()))


def test_one_by_one_or_at_once(rng):
    rows = unit(rng.standard_normal((300, 4)))
    keys = unit(rng.standard_normal((5, 4)))
    gate = Gate(0.9)
    kept = keys
    alone = []
    for row in rows:
        alone.append(bool(gate.admit(row[None], kept)[0]))
        kept = np.concatenate([kept, row[None]]) if alone[-1] else kept
    assert gate.admit(rows, keys).tolist() == alone
    assert 0 < sum(alone) < 300


def test_banks_and_tensors(rng):
    rows = unit(rng.standard_normal((50, 8)))
    bank = Bank(8)
    bank.add(rows[:30])
    gate = Gate(0.999)
    assert gate.admit(rows, bank).tolist() == [False] * 30 + [True] * 20
    torch = pytest.importorskip("torch")
    keep = gate.admit(torch.from_numpy(rows), torch.from_numpy(rows[:30]))
    assert keep.dtype == torch.bool
    assert keep.tolist() == [False] * 30 + [True] * 20


def test_squared_distance_as_a_metric(rng):
    keys = np.zeros((1, 3), np.float32)
    rows = np.array([[0.5, 0, 0], [2, 0, 0], [2.1, 0, 0], [0, 3, 0]], np.float32)
    assert Gate(-1.0, metric="l2").admit(rows, keys).tolist() == [False, True, False, True]


# ---- surprise


def spiky(rng, n, decay=0.9, size=12.0):
    """|Innovation| of an autoregressive stream with 1 % spikes, and where the spikes are."""
    noise = rng.standard_normal(n)
    stream = np.zeros(n)
    for i in range(1, n):
        stream[i] = decay * stream[i - 1] + noise[i]
    spikes = np.flatnonzero(rng.random(n) < 0.01)
    # Each has a successor, and none lies close behind another.
    spikes = spikes[(spikes > 200) & (spikes < n - 1)]
    spikes = spikes[np.diff(spikes, prepend=-9) > 2]
    stream[spikes] += size
    return np.abs(stream[1:] - decay * stream[:-1]), spikes - 1


def test_spikes_are_stored_and_little_else(rng):
    scores, spikes = spiky(rng, 20_000)
    admitted = Gate(z=4.0).admit(scores)
    assert admitted[spikes].mean() >= 0.99
    assert admitted.mean() <= 0.03
    # Each spike also trips its successor.
    assert admitted[spikes + 1].mean() >= 0.9


def rejected_only(scores, z=4.0, rate=0.01):
    """What a gate does that learns only from what it does not store."""
    mean, variance = scores[:64].mean(), scores[:64].var()
    admitted = []
    for score in scores[64:]:
        admitted.append(score > mean + z * variance**0.5)
        if not admitted[-1]:
            residual = score - mean
            mean += rate * residual
            variance = (1 - rate) * (variance + rate * residual**2)
    return np.array(admitted)


@pytest.mark.parametrize("factor", [20.0, 1e4])
def test_it_does_not_lock_open_when_the_stream_changes(rng, factor):
    scores, _ = spiky(rng, 20_000)
    scores[5_000:] = scores[5_000:] * factor + 5 * factor
    assert rejected_only(scores)[8_000:].mean() > 0.9
    gate = Gate(z=4.0)
    gate.admit(scores[:8_000])
    assert gate.admit(scores[8_000:]).mean() <= 0.03


def test_a_constant_stream_does_not_lock_it_either(rng):
    gate = Gate(z=4.0)
    assert not gate.admit(np.full(500, 3.0)).any()
    scores = np.abs(rng.standard_normal(3_000)) + 10
    assert gate.admit(scores)[1_000:].mean() <= 0.03


def test_batches_are_as_single_scores_and_states_go_on(rng):
    scores, _ = spiky(rng, 1_000)
    whole = Gate(z=3.0)
    expected = whole.admit(scores)
    parts, other = Gate(z=3.0), Gate(z=3.0)
    got = [parts.admit(part) for part in np.array_split(scores[:600], 37)]
    other.load_state_dict(parts.state_dict())
    got.append(other.admit(scores[600:]))
    np.testing.assert_array_equal(np.concatenate(got), expected)
    assert (other.mean, other.variance, other.n_seen) == (whole.mean, whole.variance, whole.n_seen)


def test_while_it_warms_up_nothing_is_admitted():
    scores = np.array([1, 2, 1, 2, 100, 1, 2, 100.0])
    assert Gate(z=2.0, n_warmup=4).admit(scores).tolist() == [False] * 4 + [True] + [False] * 2 + [
        True
    ]
    assert not Gate(z=2.0, n_warmup=100).admit(scores).any()


# ---- bad input


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (([[1.0]],), ShapeError, "given has shape"),
        (([1.0, np.nan],), InputError, r"given\[1\] is nan, should be finite"),
        ((["a"],), DtypeError, "given has dtype"),
        (([1.0], [[1.0]]), InputError, "keys is list, should be None"),
    ],
)
def test_a_bad_score_teaches_nothing(given, error, sentence):
    gate = Gate(z=2.0)
    gate.admit([1.0, 2.0])
    before = gate.state_dict()
    with pytest.raises(error, match=f"^admit: {sentence}"):
        gate.admit(*given)
    np.testing.assert_array_equal(before["statistics"], gate.state_dict()["statistics"])


def test_a_novelty_gate_needs_keys():
    with pytest.raises(InputError, match="admit: keys is NoneType, should be the rows stored"):
        Gate(0.9).admit(np.eye(2))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "threshold is None and z None"),
        ({"threshold": 0.9, "z": 4.0}, "threshold is 0.9 and z 4.0"),
        ({"threshold": np.nan}, "threshold is nan"),
        ({"z": 0}, "z is 0"),
        ({"z": 4, "rate": 0}, "rate is 0"),
        ({"z": 4, "clip": 1}, "clip is 1"),
        ({"z": 4, "n_warmup": 1}, "n_warmup is 1"),
        ({"threshold": 0.9, "metric": "hamming"}, "metric is 'hamming'"),
    ],
)
def test_a_gate_that_cannot_be(given, sentence):
    with pytest.raises(InputError, match=f"^Gate: {sentence}"):
        Gate(**given)

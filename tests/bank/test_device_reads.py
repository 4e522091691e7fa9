"""Rows, scores, reads and gradients of banks on a device, held against those of the CPU."""

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from device_banks import DEVICE, WAITS, Both, Named, host, tensor  # noqa: E402

PAGE_BYTES = 16 * 80 + 192 + 4 * 128


def some_ids(rng, arena, banks, m):
    """Ids (n_banks, m) of rows that are there, and padding."""
    ids = np.full((len(banks), m), -1)
    for row, bank in zip(ids, banks, strict=True):
        held = arena.ids(bank)
        n = min(len(held), m - 1)
        row[rng.permutation(m)[:n]] = rng.permutation(held)[:n]
    return ids


@pytest.mark.parametrize(
    ("metric", "dtype", "budget"),
    [
        ("cosine", "float32", None),
        ("l2", "bfloat16", None),
        ("dot", "float16", None),
        ("cosine", "float32", 3 * PAGE_BYTES),
    ],
)
def test_scores_and_rows_by_id(metric, dtype, budget, rng):
    both = Both(rng, metric, dtype, device_bytes=budget)
    cpu, device = both.arenas
    queries = normal(rng, len(both.banks), 20)
    queries[1] = 0
    ids = some_ids(rng, cpu, both.banks, 19)
    expected = cpu.score(both.banks, queries, ids)
    found = device.score(tensor(both.banks), tensor(queries), tensor(ids))
    assert found.device.type == DEVICE
    assert found.cpu().numpy().tobytes() == expected.tobytes()
    found = device.score(both.banks, tensor(queries[:, None])[:, 0], ids)
    assert found.cpu().numpy().tobytes() == expected.tobytes()
    # An id that is not there, a bank that is not, a query that may not be asked.
    gone, spoiled = both.banks.copy(), queries.copy()
    gone[0], spoiled[3, 4], ids[4, 0] = 2**40, np.inf, 999
    expected[0] = expected[3] = expected[4, 0] = -np.inf
    found = device.score(tensor(gone), tensor(spoiled), tensor(ids))
    assert found.cpu().numpy().tobytes() == expected.tobytes()

    wanted = np.array([[4, 999], [3, 6]])
    pairs = both.banks[[0, 0]][:, None].repeat(2, 1)
    rows = device.get(pairs, tensor(wanted), missing="skip")
    on_cpu = cpu.get(pairs, wanted, missing="skip")
    assert rows.vectors.device.type == DEVICE
    assert rows.vectors.dtype == getattr(torch, dtype)
    kept = rows.vectors.cpu().view(torch.uint8).numpy()
    assert kept.tobytes() == on_cpu.vectors.tobytes()
    assert rows.fields == on_cpu.fields
    assert rows.found.tolist() == on_cpu.found.tolist() == [[True, False], [True, True]]
    with pytest.raises(memcore.NotFoundError, match=r"^get: id 999"):
        device.get(pairs, tensor(wanted))


def test_scores_of_what_does_not_fit(rng):
    device = Both(rng).arenas[1]
    queries, ids = tensor(normal(rng, 2, 20)), tensor(np.zeros((2, 3), np.int64))
    with pytest.raises(memcore.ShapeError, match=r"^score: queries has dim 19, should be 20"):
        device.score(0, queries[:, 1:], ids)
    with pytest.raises(memcore.ShapeError, match=r"^score: ids has shape \(1, 3\), should be"):
        device.score(0, queries, ids[:1])
    with pytest.raises(memcore.NotFoundError, match=r"^score: handle 99"):
        device.score(99, queries, ids)


@pytest.mark.parametrize(("metric", "budget"), [("cosine", None), ("l2", 3 * PAGE_BYTES)])
def test_attend_reads_what_the_cpu_reads(metric, budget, rng):
    both = Both(rng, metric, device_bytes=budget)
    cpu, device = both.arenas
    queries, values = normal(rng, len(both.banks), 20), normal(rng, 90, 5)
    every = {"beta": 0.7, "return_lse": True, "return_weights": True}
    for options in ({}, {"values": values, "where": {"time": {"gte": 4}}}, {"steps": 2}):
        expected = cpu.attend(both.banks, queries, 4, **every, **options)
        given = {**options, "values": tensor(values)} if "values" in options else options
        with Named() as did:
            read = device.attend(tensor(both.banks), tensor(queries), 4, **every, **given)
        assert budget is not None or not did.ops & WAITS
        assert read.ids.device.type == DEVICE
        assert read.ids.tolist() == expected.ids.tolist()
        for one, other in zip(read[:4], expected[:4], strict=True):
            np.testing.assert_allclose(one.cpu().numpy(), other, rtol=1e-5, atol=1e-5)
    out = device.attend(both.banks, tensor(queries), 0, beta=1.0)
    assert out.tolist() == np.zeros((len(queries), 20)).tolist()
    with pytest.raises(memcore.ShapeError, match=r"^attend: values has shape \(3,\), should be"):
        device.attend(both.banks, tensor(queries), 2, beta=1.0, values=tensor(np.ones(3)))


def test_locks_are_taken_in_one_order(rng, monkeypatch):
    arena = Both(rng).arenas[1]
    store = arena._store
    tables, held = store.tables._lock, store.mirror._lock

    class Ordered:
        """The lock of the tables, which nobody may want who has the mirror's alone."""

        def __enter__(self):
            assert tables._is_owned() or not held._is_owned()
            tables.acquire()

        def __exit__(self, *_):
            tables.release()

    monkeypatch.setattr(store.tables, "_lock", Ordered())
    bank, queries = arena.new(1), tensor(normal(rng, 2, 20))
    rows = {"fields": {"who": ["ana", "eve"]}, "payloads": ["a", "b"]}
    ids = tensor(arena.add(bank, queries.cpu().numpy(), **rows))
    condition = {"where": {"who": "eve"}}
    assert arena.search(bank, queries, 1, **condition).ids.tolist() == [[1], [1]]
    assert arena.attend(bank, queries, 1, beta=1.0, **condition).shape == (2, 20)
    asked = queries.clone().requires_grad_()
    assert arena.search(bank, asked, 1, **condition).scores.requires_grad
    assert arena.get(bank, ids).payloads == ["a", "b"]
    arena.update(bank, ids, payloads=["c", None])
    arena.delete(bank, ids)
    arena.drop(bank)


def test_attend_of_payloads(rng):
    arena = memcore.Arena(6, device="cuda")
    banks, rows, payloads = arena.new(2), normal(rng, 8, 6), normal(rng, 8, 2, 3)
    arena.add(np.repeat(banks, 4), rows, payloads=list(payloads))
    out = arena.attend(banks, tensor(rows[[0, 4]]), 1, beta=1.0, values="payloads")
    assert out.device.type == DEVICE
    np.testing.assert_allclose(out.cpu().numpy(), payloads[[0, 4]], rtol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_scores_have_gradients(metric, rng):
    both = Both(rng, metric)
    asked = normal(rng, len(both.banks), 20)
    options = {"scale": "weight", "bias": "time", "where": {"who": {"ne": "bob"}}}
    expected = both.arenas[0].search(both.banks, asked, 3, **options)
    slopes = normal(rng, *expected.scores.shape)
    grads = []
    for arena, place in zip(both.arenas, ("cpu", DEVICE), strict=True):
        queries = torch.tensor(asked, device=place, requires_grad=True)
        with Named() as did:
            hits = arena.search(torch.tensor(both.banks, device=place), queries, 3, **options)
        assert arena is both.arenas[0] or not did.ops & WAITS
        assert_hits(host((hits.scores.detach(), hits.ids)), expected)
        # Later writes change nothing.
        arena.update(both.banks[0], [1, 2, 3], asked[:3])
        valid = torch.where(hits.ids >= 0, hits.scores, 0)
        (valid * torch.tensor(slopes, device=place)).sum().backward()
        grads.append(queries.grad.cpu())
        arena.update(both.banks[0], [1, 2, 3], both.changed)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-5)

    rows = both.arenas[0].get(both.banks[1], expected.ids[1])
    queries = torch.tensor(asked[1], requires_grad=True)
    keys = torch.from_numpy(rows.vectors)
    scores = queries @ keys.T
    if metric == "cosine":
        scores = torch.cosine_similarity(queries[None], keys, dim=-1)
    elif metric == "l2":
        scores = -(queries[None] - keys).square().sum(-1)
    weights = [1.0 if value is None else value for value in rows.fields["weight"]]
    (scores * torch.tensor(weights) * torch.tensor(slopes[1])).sum().backward()
    torch.testing.assert_close(grads[0][1], queries.grad, rtol=1e-4, atol=1e-4)


def test_attend_has_gradients(rng):
    both = Both(rng, "dot")
    asked, values = normal(rng, len(both.banks), 20), normal(rng, 90, 5)
    grads = []
    for arena, place in zip(both.arenas, ("cpu", DEVICE), strict=True):
        leaves = [torch.tensor(each, device=place) for each in (asked, values, np.float32(0.9))]
        queries, read, beta = [each.requires_grad_() for each in leaves]
        out = arena.attend(both.banks, queries, 4, beta=beta, values=read, steps=2)
        grads.append([each.cpu() for each in torch.autograd.grad(out.square().sum(), leaves)])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_bank_has_gradients_where_it_was_asked_for_them(rng):
    rows = normal(rng, 12, 6)
    for options in ({}, {"device": "cuda"}):
        bank = memcore.Bank(6, metric="dot", **options)
        bank.add(rows)
        place = DEVICE if options else "cpu"
        queries = torch.tensor(rows[:2], device=place, requires_grad=True)
        hits = memcore.search(queries, bank, 1)
        hits.scores.sum().backward()
        assert torch.equal(queries.grad.cpu(), torch.from_numpy(rows[hits.ids[:, 0].tolist()]))
        with torch.no_grad():
            assert not bank.search(queries, 1).scores.requires_grad

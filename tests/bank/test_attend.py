"""Arena.attend and Bank.attend: a search and a softmax read in one call."""

from __future__ import annotations

import numpy as np
import pytest

import memcore
from memcore import InputError, ShapeError
from memcore.index import IVF

METRICS = ["dot", "cosine", "l2"]


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def filled(rng, metric="cosine", n_banks=4, n_rows=20, dtype="float32"):
    """An arena whose rows have payloads (2, 3), its handles, the vectors and the payloads."""
    arena = memcore.Arena(dim=8, metric=metric, dtype=dtype, fields={"t": "int64"})
    banks = arena.new(n_banks)
    vectors, payloads = normal(rng, n_banks, n_rows, 8), normal(rng, n_banks, n_rows, 2, 3)
    arena.add(
        np.repeat(banks, n_rows), vectors.reshape(-1, 8), payloads=list(payloads.reshape(-1, 2, 3)),
        fields={"t": np.tile(np.arange(n_rows), n_banks)},
    )  # fmt: skip
    return arena, banks, vectors, payloads


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("metric", METRICS)
def test_each_query_reads_its_bank(rng, metric):
    arena, banks, vectors, payloads = filled(rng, metric)
    order = rng.permutation(np.repeat(np.arange(4), 3)).reshape(4, 3)
    queries = normal(rng, 4, 3, 8)
    hits = arena.search(banks[order], queries, k=5)
    weights = softmax(1.5 * hits.scores.astype(np.float64))
    options = {"beta": 1.5, "return_lse": True, "return_weights": True}
    read = arena.attend(banks[order], queries, 5, **options)
    assert (read.ids == hits.ids).all()
    np.testing.assert_allclose(read.weights, weights, rtol=1e-5)
    lse = np.log(np.exp(1.5 * hits.scores.astype(np.float64)).sum(-1))
    np.testing.assert_allclose(read.lse, lse, rtol=1e-5, atol=1e-5)
    rows = vectors[order[..., None], hits.ids]
    expected = np.einsum("abk,abkd->abd", weights, rows)
    np.testing.assert_allclose(read.out, expected, rtol=1e-5, atol=1e-5)
    rows = payloads[order[..., None], hits.ids]
    out = arena.attend(banks[order], queries, 5, beta=1.5, values="payloads")
    expected = np.einsum("abk,abkij->abij", weights, rows)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_values_by_id_steps_and_where(rng):
    arena, banks, vectors, _ = filled(rng, "dot")
    values, queries = normal(rng, 20, 5), normal(rng, 6, 8)
    bank = banks[1]
    expected = memcore.attend(queries, vectors[1], values, 4, beta=0.8, steps=3)
    out = arena.attend(bank, queries, 4, beta=0.8, steps=3, values=values)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    mask = np.arange(20) >= 12
    expected = memcore.attend(queries, vectors[1], values, 4, beta=0.8, mask=mask)
    out = memcore.attend(queries, arena, values, 4, beta=0.8, banks=bank, where={"t": {"gte": 12}})
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_halves(rng, dtype):
    arena, banks, _, _ = filled(rng, "dot", dtype=dtype)
    queries = normal(rng, 3, 8)
    stored = arena.get(banks[2], np.arange(20)).vectors
    if dtype == "bfloat16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    expected = memcore.attend(queries, stored.astype(np.float32), None, 4, beta=1.0)
    out = arena.attend(banks[2], queries, 4, beta=1.0)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_a_bank_and_nothing_left_behind(rng):
    bank = memcore.Bank(dim=8, metric="dot")
    assert (bank.attend(normal(rng, 2, 8), 3, beta=1.0) == 0).all()
    vectors = normal(rng, 30, 8)
    bank.add(vectors)
    queries = normal(rng, 4, 8)
    before = bank.nbytes
    read = memcore.attend(queries, bank, k=3, beta=1.0, return_lse=True)
    expected = memcore.attend(queries, vectors, None, 3, beta=1.0, return_lse=True)
    np.testing.assert_allclose(read.out, expected.out, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(read.lse, expected.lse, rtol=1e-5)
    for _ in range(50):
        bank.attend(queries, 3, beta=1.0)
    assert bank.nbytes <= before + 4096


@pytest.mark.parametrize("metric", METRICS)
def test_gradients_survive_writes(rng, metric):
    torch = pytest.importorskip("torch")
    arena, banks, vectors, _ = filled(rng, metric)
    values = torch.from_numpy(normal(rng, 20, 5)).requires_grad_()
    queries = torch.from_numpy(normal(rng, 4, 8)).requires_grad_()
    beta = torch.tensor(1.3, requires_grad=True)
    leaves = (queries, values, beta)

    def gradients(is_written):
        out = arena.attend(banks, queries, 5, beta=beta, values=values)
        if is_written:
            arena.update(banks, np.zeros(4, np.int64), normal(rng, 4, 8))
            arena.delete(np.repeat(banks, 5), np.tile(np.arange(5, 10), 4))
        return out, torch.autograd.grad(out.square().sum(), leaves)

    _, clean = gradients(False)
    out, written = gradients(True)
    for one, other in zip(clean, written, strict=True):
        assert torch.equal(one, other)

    rows = torch.from_numpy(vectors)
    if metric == "cosine":
        unit = torch.nn.functional.normalize
        scores = torch.einsum("qd,qnd->qn", unit(queries, dim=-1), unit(rows, dim=-1))
    elif metric == "l2":
        scores = -(queries[:, None] - rows).square().sum(-1)
    else:
        scores = torch.einsum("qd,qnd->qn", queries, rows)
    best = scores.topk(5)
    expected = torch.einsum("qk,qkd->qd", (beta * best.values).softmax(-1), values[best.indices])
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for one, other in zip(written, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["ivf", "codes", "plain"])
def test_searches_give_gradients_whatever_the_bank_keeps(kind, rng):
    torch = pytest.importorskip("torch")
    options = {"metric": "dot"}
    if kind == "ivf":
        options |= {"index": IVF(list_rows=8), "fields": {"w": "float64"}}
    elif kind == "codes":
        options["codebook"] = memcore.Codebook(8, 6).fit(normal(rng, 40, 6))
    bank = memcore.Bank(6, **options)
    weights = rng.standard_normal(50).tolist()
    bank.add(normal(rng, 50, 6), fields={"w": weights})
    queries = torch.from_numpy(normal(rng, 3, 6)).requires_grad_()
    hits = bank.search(queries, np.array([4, 0, 2]), scale="w")
    assert hits.ids[1].tolist() == [-1] * 4
    assert (
        hits.ids.numpy()
        == bank.search(queries.detach(), np.array([4, 0, 2]), scale="w").ids.numpy()
    ).all()
    hits.scores[hits.valid].sum().backward()
    for query, ids in zip(queries.grad, hits.ids, strict=True):
        named = ids[ids >= 0].tolist()
        rows = bank.get(named).vectors * np.array(weights, np.float32)[named, None]
        np.testing.assert_allclose(query, rows.sum(0), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        memcore.DtypeError, match="search: scale is a int, should be a field's name"
    ):
        bank.search(queries, 2, scale=3)


def test_bad_arguments(rng):
    arena, banks, _, _ = filled(rng)
    query = normal(rng, 8)
    with pytest.raises(InputError, match="attend: beta is 0, should be above 0"):
        arena.attend(banks[0], query, 3, beta=0)
    with pytest.raises(InputError, match="attend: values is 'rows', should be 'payloads' or an"):
        arena.attend(banks[0], query, 3, beta=1.0, values="rows")
    with pytest.raises(ShapeError, match="attend: values has shape"):
        arena.attend(banks[0], query, 3, beta=1.0, values=np.ones(3))
    with pytest.raises(InputError, match="attend: mask is given with a store"):
        memcore.attend(query, arena, k=3, beta=1.0, banks=banks[0], mask=np.ones(20, bool))
    arena.update(banks[0], np.arange(20), payloads=["text"] * 20)
    with pytest.raises(InputError, match="attend: a payload is a str, should be an array"):
        arena.attend(banks[0], query, 3, beta=1.0, values="payloads")
    assert (arena.count(banks) == 20).all()

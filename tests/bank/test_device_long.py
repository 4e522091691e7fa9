"""Long banks asked by many queries: a first pass over int8 codes, with the hits of the CPU."""

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from device_banks import Both, host, tensor  # noqa: E402
from memcore import kernels  # noqa: E402
from memcore.bank.device import DevicePages  # noqa: E402


@pytest.fixture
def served(monkeypatch):
    """Force the first pass, and note of how many queries of a bank."""
    search, runs_of, found = DevicePages.search, kernels.runs_of, []

    def forced(self, *given):
        return search(self, *given[:10], True, *given[11:])

    def noted(*given):
        runs, order = runs_of(*given)
        found.extend(run.end - run.begin for run in runs)
        return runs, order

    monkeypatch.setattr(DevicePages, "search", forced)
    monkeypatch.setattr(kernels, "runs_of", noted)
    return found


@pytest.mark.parametrize(
    ("metric", "dtype", "k"),
    [("cosine", "float32", 4), ("dot", "bfloat16", np.array([3, 0, 40, 1, 2, 5, 7, 1])),
     ("l2", "float16", 3)],
)  # fmt: skip
def test_banks_in_any_order(metric, dtype, k, rng, served):
    both = Both(rng, metric, dtype)
    # One is empty; two are forks that share pages.
    banks = both.banks[[1, 3, 0, 2, 3, 1, 1, 3]]
    queries = normal(rng, 8, 20)
    queries[2] = 0
    queries[4] *= 2.0**-70
    queries[5] *= 1e17
    cpu, device = both.arenas
    expected = cpu.search(banks, queries, k)
    if metric == "cosine":
        assert_hits(device.search(banks, queries, k), expected)
    else:
        assert_hits(host(device.search(banks, tensor(queries), k)), expected)
    assert sorted(served) == [1, 3, 3]


@pytest.mark.parametrize(
    ("options", "is_served"),
    [
        ({"where": {"or": [{"who": "ana"}, {"weight": {"lte": 0.5}}]}}, True),
        ({"scale": "weight", "bias": "time", "min_score": -3.0, "max_score": 40.0}, True),
        ({"bias": "weight", "where": {"time": {"gte": 20}}}, True),
        ({"where": [{"who": "ana"}, None, {"who": "bob"}]}, False),
        ({"candidates": np.arange(30).reshape(3, 10)}, False),
    ],
    ids=lambda each: "" if isinstance(each, bool) else " ".join(each),
)
def test_conditions_weights_and_bounds(options, is_served, rng, served):
    both = Both(rng, "dot")
    queries = normal(rng, 3, 20)
    expected = both.arenas[0].search(both.banks[0], queries, 3, **options)
    assert_hits(both.arenas[1].search(both.banks[0], queries, 3, **options), expected)
    assert served == [3] * is_served


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_ties_go_to_the_smaller_id_where_rows_have_moved(metric, rng, served, monkeypatch):
    # What is found is ranked in parts.
    monkeypatch.setattr(kernels.first_pass, "_MOST_PAGES", 64)
    # Few values, in pages whose ids do not rise.
    rows = normal(rng, 9, 18)[rng.integers(0, 9, 130)]
    rows[::7] = 0
    rows[1::31] = -0.0
    rows[2::37] *= np.float32(1e-40)
    cpu, device = memcore.Bank(18, metric=metric), memcore.Bank(18, metric=metric, device="cuda")
    gone = rng.permutation(130)[:50]
    for bank in (cpu, device):
        bank.add(rows)
        bank.delete(gone)
        bank.add(rows[gone[:20]], ids=gone[19::-1] + 1000)
    queries = np.concatenate([rows[:2], normal(rng, 2, 18)])
    queries[3, 5] = np.nan
    found = host(device.search(tensor(queries), 40))
    assert_hits(tuple(each[:3] for each in found), cpu.search(queries[:3], 40))
    assert (found[1][3] == -1).all()
    assert served == [4]


def no_room(*_):
    raise torch.OutOfMemoryError("no memory")


def test_a_pass_that_pays_and_the_queries_beside_it(rng, monkeypatch):
    passes, search = [], kernels.search_pages.__globals__["_search_groups"]

    def noted(pages, n_rows, handle, queries, *rest):
        passes.append((n_rows, len(queries)))
        search(pages, n_rows, handle, queries, *rest)

    monkeypatch.setitem(kernels.search_pages.__globals__, "_search_groups", noted)
    for name, n in (("MIN_KEYS", 60), ("MIN_QUERIES", 3)):
        monkeypatch.setitem(kernels.runs_of.__globals__, name, n)
    cpu, device = (memcore.Arena(8, **each) for each in ({}, {"device": "cuda"}))
    for arena in (cpu, device):
        banks = arena.new(4)
        arena.add(np.repeat(banks, [70, 20, 65, 80]), normal(np.random.default_rng(5), 235, 8))
    # Two long banks, of which one is asked twice alone, and a short one.
    asked = banks[[0, 1, 3, 2, 1, 0, 3, 0, 1, 2, 3]]
    queries = normal(rng, 11, 8)
    expected = cpu.search(asked, queries, 2)
    assert_hits(host(device.search(asked, tensor(queries), 2)), expected)
    assert sorted(passes) == [(70, 3), (80, 3)]
    expected = cpu.search(banks[2], queries[:3], 2)
    assert_hits(host(device.search(banks[2], tensor(queries[:3]), 2)), expected)
    assert passes[2:] == [(65, 3)]
    monkeypatch.setattr(kernels.first_pass.Shadow, "of", no_room)
    assert_hits(host(device.search(banks[2], tensor(queries[:3]), 2)), expected)
    assert len(passes) == 4
    # A graph may be replayed when the bank has another length.
    monkeypatch.setattr(type(device._store.mirror.turns), "is_capturing", True)
    assert_hits(host(device.search(banks[2], tensor(queries[:3]), 2)), expected)
    assert len(passes) == 4

"""Searches and reads of banks under torch.compile: one graph, today's rows, the same gradients."""

import gc

import numpy as np
import pytest

import memcore
from cases import normal

torch = pytest.importorskip("torch")
from memcore.bank import traced  # noqa: E402, F401

pytest.importorskip("triton")

DIM = 6
FIELDS = {"time": "int64", "at": "float64", "who": "str"}
HALF = {
    "or": [{"time": {"gte": 3}, "at": {"lt": float("inf")}}, {"time": 1}],
    "not": {"who": {"in": ["bob"]}},
}


def arena_of(rng, metric="cosine", **options):
    arena = memcore.Arena(DIM, metric=metric, fields=FIELDS, **options)
    banks = arena.new(3)
    fields = {"time": list(range(24)), "at": list(range(24))}
    fields["who"] = [("ana", "bob")[i % 2] for i in range(24)]
    arena.add(np.repeat(banks, 8), normal(rng, 24, DIM), fields=fields)
    return arena, banks


def queries_of(rng, *shape, requires_grad=True):
    queries = torch.from_numpy(normal(rng, *shape, DIM))
    if torch.cuda.is_available():
        queries = queries.cuda()
    return queries.requires_grad_(requires_grad)


def whole(read):
    torch._dynamo.reset()
    return torch.compile(read, fullgraph=True, backend="aot_eager")


def assert_same(read, queries):
    """A function of queries, compiled as one graph, gives what it gives as it is."""
    expected, found = read(queries), whole(read)(queries)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    if queries.requires_grad:
        out = torch.where(torch.isfinite(expected), expected, 0).sum()
        again = torch.where(torch.isfinite(found), found, 0).sum()
        torch.testing.assert_close(*(torch.autograd.grad(x, queries)[0] for x in (again, out)))


@pytest.mark.parametrize(
    ("device", "options"),
    [
        ("cpu", {"where": HALF, "scale": "time", "bias": "at", "min_score": -5, "max_score": 40.0}),
        ("cuda", {"candidates": np.array([[1, 4, -1], [2, 2, 5], [-1, -1, -1]])}),
    ],
    ids=["weights", "candidates"],
)
def test_a_search_is_one_graph(rng, device, options):
    arena, banks = arena_of(rng, device=device)
    queries = queries_of(rng, 3, requires_grad="candidates" not in options)
    assert_same(lambda q: arena.search(banks, q * 2, 5, **options).scores, queries)


def test_a_bank_is_searched_and_read_as_one_graph(rng):
    bank = memcore.Bank(DIM, metric="l2", fields={"time": "int64"})
    bank.add(normal(rng, 12, DIM), fields={"time": list(range(12))})
    queries = queries_of(rng, 4)
    assert_same(
        lambda q: memcore.search(bank.attend(q, 3, beta=0.5, steps=2), bank, 3).scores, queries
    )


def test_a_group_of_forks_is_read_as_one_graph(rng):
    arena, banks = arena_of(rng)
    group = arena.fork(banks, 2)
    values = queries_of(rng, 8)

    def read(queries):
        found = arena.attend(
            group, queries, 3, beta=0.7, values=values, where=HALF, return_lse=True
        )
        return torch.cat([found.out, found.lse[..., None]], -1)

    assert_same(read, queries_of(rng, 3, 2))


def test_a_graph_finds_what_was_written_since(rng):
    arena, banks = arena_of(rng, metric="dot")
    run = whole(lambda q: arena.search(banks, q, 1))
    queries = queries_of(rng, 3, requires_grad=False)
    before = run(queries)
    torch.testing.assert_close(before.scores, arena.search(banks, queries, 1).scores)
    added = arena.add(banks, 9 * queries.cpu().numpy())
    assert torch.equal(run(queries).ids[:, 0].cpu(), torch.from_numpy(added))
    arena.delete(banks, added)
    assert torch.equal(run(queries).ids, before.ids)


def test_a_write_breaks_the_graph_and_stays_in_its_place(rng):
    arena, banks = arena_of(rng, metric="dot")

    def step(queries):
        first = arena.search(banks, queries * 3, 1)
        added = arena.add(banks, queries * 5)
        return first, added, arena.search(banks, queries * 3, 1)

    queries = queries_of(rng, 3, requires_grad=False)
    torch._dynamo.reset()
    first, added, second = torch.compile(step, backend="aot_eager")(queries)
    assert not torch.isin(first.ids, added).any()
    assert torch.equal(second.ids[:, 0], added)


def test_a_backward_searches_no_more(rng, monkeypatch):
    from memcore.bank import searches

    arena, banks = arena_of(rng)
    calls = []
    search = searches.search
    monkeypatch.setattr(searches, "search", lambda *given: calls.append(1) or search(*given))
    run = whole(lambda q: arena.search(banks, q.sin(), 2).scores.exp())
    out = run(queries_of(rng, 3))
    arena.delete(banks, arena.search(banks, out.new_ones(3, DIM).detach(), 1).ids[:, 0])
    n_before = len(calls)
    out.sum().backward()
    assert len(calls) == n_before == 2


def test_shapes_and_conditions_change_without_a_new_graph(rng):
    arena, banks = arena_of(rng)
    n_graphs = []

    def count(graph, _):
        n_graphs.append(1)
        return graph

    def read(queries, handles, since):
        return arena.search(handles, queries, 2, where={"time": {"gte": since}}).scores

    torch._dynamo.reset()
    run = torch.compile(read, fullgraph=True, dynamic=True, backend=count)
    for n, since in ((3, 9), (2, 4), (3, 17)):
        queries = queries_of(rng, n, requires_grad=False)
        expected = read(queries, banks[:n], since)
        torch.testing.assert_close(
            run(queries, torch.from_numpy(banks[:n].copy()), since), expected, rtol=0, atol=0
        )
    assert len(n_graphs) == 1


def test_errors_are_those_of_the_search(rng):
    arena, banks = arena_of(rng)
    queries = queries_of(rng, 3, requires_grad=False)
    other = memcore.Arena(5)
    bank = other.new(1)
    with pytest.raises(memcore.ShapeError, match="search: queries has dim 6, should be 5"):
        whole(lambda q: other.search(bank, q, 2).scores)(queries)
    arena.drop(banks[1])
    with pytest.raises(memcore.NotFoundError, match="names no bank"):
        whole(lambda q: arena.search(banks, q, 2).scores)(queries)
    with pytest.raises(Exception, match="beta is -1, should be above 0"):
        whole(lambda q: arena.attend(banks, q, 2, beta=-1))(queries)


def test_an_arena_that_is_gone(rng):
    arena, banks = arena_of(rng)
    number = arena._store.number
    queries = queries_of(rng, 3, requires_grad=False)
    given = (torch.from_numpy(banks), number, 2, "None", [], [], *[None] * 7, False)
    torch.ops.memcore.search_banks(queries, *given)
    del arena
    gc.collect()
    with pytest.raises(memcore.BackendError, match="is gone"):
        torch.ops.memcore.search_banks(queries, *given)


@pytest.mark.parametrize("with_rows", [False, True])
def test_opcheck(rng, with_rows):
    arena, banks = arena_of(rng)
    limits = (None, "time", None, -1.0, None, None, None)
    given = (
        torch.from_numpy(banks),
        arena._store.number,
        2,
        "{'time':{'gte':(False,0)}}",
        [3],
        [],
        *limits,
    )
    queries = queries_of(rng, 3, requires_grad=False)
    torch.library.opcheck(torch.ops.memcore.search_banks, (queries, *given, with_rows))

"""Banks of codes on a device: what the CPU finds in them, to the bit. Interpreted, or on a GPU."""

import numpy as np
import pytest

import memcore
from bank_oracle import DIM, World
from bank_steps import STEPS
from cases import normal
from compare import assert_hits
from memcore import Arena, Bank, Codebook
from walk import Walk

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from device_banks import DEVICE, WAITS, Both, Named, host, tensor  # noqa: E402

PLACES = ({}, {"device": "cuda"})
# Codewords that are shorter than a block of 16 components, longer, and across two of them.
BOOKS = {
    "vq": (20, {}),
    "pq": (20, {"n_subspaces": 4}),
    "rq": (32, {"n_levels": 3}),
    "both": (48, {"n_subspaces": 2, "n_levels": 8}),
    "single components": (3, {"n_subspaces": 3, "n_levels": 2}),
}


def fitted(rng, dim=20, n_codes=30, **shape):
    book = Codebook(n_codes, dim, **shape)
    book.fit(normal(rng, 120, dim), n_iterations=2, seed=0)
    return book


def pair(rng, metric="dot", dim=20, n=90, **shape):
    """The same bank of codes twice, the second on the device."""
    book = fitted(rng, dim, **shape)
    banks = [Bank(dim, metric=metric, codebook=book, **each) for each in PLACES]
    rows = normal(rng, n, dim)
    for bank in banks:
        bank.add(rows)
    return banks


def assert_same(cpu, device, queries, *given, **options):
    """The same hits for NumPy's queries and for tensors."""
    expected = cpu.search(queries, *given, **options)
    assert_hits(device.search(queries, *given, **options), expected)
    assert_hits(host(device.search(tensor(queries), *given, **options)), expected)


@pytest.mark.parametrize(
    ("metric", "budget", "shape"),
    [
        ("cosine", None, {}),
        ("dot", 3 * (64 + 192 + 128 * 8), {"n_levels": 2}),
    ],
)
def test_random_walk(metric, budget, shape, rng):
    book = fitted(rng, DIM, **shape)
    steps, weights = list(STEPS), np.array(list(STEPS.values()))
    world = World(metric, codebook=book, device="cuda", device_bytes=budget)
    world.new(3)
    source = Walk(rng)
    for step in rng.choice(len(steps), 40, p=weights / weights.sum()):
        steps[step](world, source)
    world.check()


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("cosine", "vq"),
        ("dot", "pq"),
        ("l2", "rq"),
        ("dot", "both"),
        ("cosine", "single components"),
        ("l2", "pq"),
    ],
)
def test_every_shape_of_a_book(metric, name, rng):
    dim, shape = BOOKS[name]
    cpu, device = pair(rng, metric, dim, 24, **shape)
    queries = normal(rng, 3, dim)
    queries[2] = 0
    assert_same(cpu, device, queries, 4)
    expected = cpu.search(queries, np.array([0, 300, 2]))
    assert_hits(device.search(queries, np.array([0, 300, 2])), expected)
    ids = rng.integers(0, 24, (3, 3))
    ids[1, 2] = -1
    expected, found = cpu.score(queries, ids), device.score(tensor(queries), tensor(ids))
    assert found.cpu().numpy().tobytes() == expected.tobytes()
    expected, found = cpu.get(ids[0]).vectors, device.get(tensor(ids[0])).vectors
    assert found.cpu().numpy().tobytes() == expected.tobytes()


def test_components_of_minus_zero(rng):
    book = fitted(rng, 20, n_subspaces=4, n_levels=2)
    words = np.where(rng.random(book.codewords.shape) < 0.5, -0.0, 1.0)
    book.start_from(words)
    rows = rng.choice([0.0, 1.0, 2.0], (30, 20)).astype(np.float32)
    bank = Bank(20, codebook=book, device="cuda")
    ids = bank.add(rows)
    expected = book.dequantize(book.quantize(rows))
    assert (np.signbit(expected) & (expected == 0)).any()
    assert bank.get(tensor(ids)).vectors.cpu().numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"where": {"time": {"gte": 10, "lt": 30}}},
        {"scale": "weight", "bias": "time", "min_score": -3.0, "max_score": 40.0},
        {"candidates": np.arange(7 * 20).reshape(7, 20) % 60, "where": {"who": "ana"}},
        {"k": 270, "bias": "weight"},
    ],
    ids=lambda options: " ".join(options),
)
def test_limits(options, rng):
    both = Both(rng, "dot", codebook=fitted(rng, n_subspaces=2))
    both.search(normal(rng, len(both.banks), 20), **{"k": 4, **options})


def test_forks_are_searched_side_by_side(rng):
    rows, queries = normal(rng, 60, 20), normal(rng, 10, 20)
    book = fitted(rng, n_levels=2)
    cpu, device = (Arena(20, metric="l2", codebook=book, **each) for each in PLACES)
    for arena in (cpu, device):
        parents = arena.new(2)
        arena.add(np.repeat(parents, [40, 20]), rows)
        forks = arena.fork(parents, 5)
        arena.update(forks[0, 1], [3, 33], queries[:2])
        arena.delete(forks[0, 3], np.arange(15, 40))
    assert device._store.mirror.are_forks
    banks = forks.reshape(-1)
    expected = cpu.search(banks, queries, 4)
    assert_hits(host(device.search(tensor(banks), tensor(queries), 4)), expected)
    assert_hits(device.search(banks, queries, 4), expected)


def test_recode_leaves_forks_and_marks_what_they_have(rng):
    banks = pair(rng, "cosine")
    queries, more = normal(rng, 2, 20), normal(rng, 20, 20)
    others = fitted(rng, n_codes=9, n_subspaces=2), fitted(rng, n_codes=20)
    forks = [bank.fork() for bank in banks]
    marks = [bank.snapshot() for bank in banks]
    for bank in banks:
        bank.recode(others[0])
        bank.add(more)
    assert_same(*banks, queries, 6)
    for fork in forks:
        fork.add(more)
        fork.recode(others[1])
    assert_same(*forks, queries, 6)
    for bank, mark in zip(banks, marks, strict=True):
        bank.rollback(mark)
        bank.add(more[:3])
        bank.compact()
    assert_same(*banks, queries, 6)
    assert banks[1].codebook.n_parts == 1


def test_rows_of_several_books_in_one_bank(rng):
    """As a recode that is interrupted before its last step leaves them."""
    banks = pair(rng, "l2", n=30)
    other, more = fitted(rng, n_codes=9, n_subspaces=2), normal(rng, 25, 20)
    for bank in banks:
        bank.recode(other)
        store = getattr(bank._pages, "host", bank._pages)
        store._current[int(bank._handle[0])] = 0
        bank.add(more)
        bank.delete([2, 40])
    cpu, device = banks
    queries = normal(rng, 5, 20)
    assert_same(cpu, device, queries, 55)
    ids = cpu.ids()
    np.testing.assert_array_equal(device.get(tensor(ids)).vectors.cpu(), cpu.get(ids).vectors)
    expected = cpu.score(queries[:1], ids[None])
    np.testing.assert_array_equal(device.score(tensor(queries[:1]), ids[None]).cpu(), expected)


def test_random_history(rng):
    """Adds, updates, deletes, forks, rollbacks and recodes of both, then a search of all banks."""
    books = [fitted(rng, n_subspaces=2), fitted(rng, n_codes=7), fitted(rng, n_codes=5, n_levels=2)]
    arenas = [Arena(20, codebook=books[0], **each) for each in PLACES]
    for arena in arenas:
        banks = arena.new(3)
    for _ in range(12):
        n = int(rng.integers(1, 30))
        bank = banks[rng.integers(len(banks), size=1)]
        rows, book = normal(rng, n, 20), books[rng.integers(3)]
        held = arenas[0].ids(bank)
        some = rng.permutation(held)[:n]
        step = rng.integers(5)
        for arena in arenas:
            if step == 0:
                arena.update(bank, some, rows[: len(some)])
            elif step == 1:
                arena.delete(bank, some)
            elif step == 2:
                forks = arena.fork(bank, 2)
            elif step == 3:
                arena._store.pages.recode(bank, book)
            else:
                mark = arena.snapshot(bank)
                arena.add(bank, rows[::-1])
                if n % 2:
                    arena.rollback(bank, mark)
                mark.release()
            arena.add(bank, rows)
        banks = np.concatenate([banks, forks.reshape(-1)])[:6] if step == 2 else banks
    queries = normal(rng, len(banks), 20)
    expected = arenas[0].search(banks, queries, 5)
    assert_hits(arenas[1].search(banks, queries, 5), expected)
    assert_hits(host(arenas[1].search(tensor(banks), tensor(queries), 5)), expected)


def test_banks_beyond_the_budget_and_vectors_of_the_device(rng):
    book = fitted(rng)
    page_bytes = 64 + 192 + 128 * 3
    cpu, device = (
        Arena(20, codebook=book),
        Arena(20, codebook=book, device="cuda", device_bytes=4 * page_bytes),
    )
    rows, queries = normal(rng, 96, 20), normal(rng, 3, 20)
    for arena, given in ((cpu, rows), (device, tensor(rows))):
        banks = arena.new(3)
        arena.add(np.repeat(banks, 32), given)
    expected = cpu.search(banks, queries, 3)
    assert_hits(host(device.search(banks, tensor(queries), 3)), expected)
    for i in (2, 0, 1):
        hits = host(device.search(banks[i], tensor(queries[i]), 3))
        assert_hits(hits, tuple(each[i : i + 1] for each in expected))
    assert not device._store.mirror._banks.cold[1]


def test_nothing_waits_and_rows_stay_codes(rng):
    arena = Arena(20, codebook=fitted(rng), device="cuda")
    banks = tensor(arena.new(2).repeat(10))
    queries = tensor(normal(rng, 20, 20))
    ids = arena.add(banks, queries)[:, None]
    some = banks[::10], queries[::10]
    with Named() as did:
        arena.search(*some, 3)
        arena.score(*some, ids[::10])
        arena.attend(*some, 3, beta=1.0)
    assert not did.ops & WAITS
    layout = arena._store.mirror.layout
    assert layout.page_bytes == 64 + 192 + 128 * (len(layout.kinds))
    with pytest.raises(memcore.ShapeError, match=r"^search: queries has dim 19, should be 20"):
        arena.search(banks, queries[:, 1:], 3)


@pytest.mark.parametrize("budget", [None, 0])
def test_attention_over_all_rows(budget, rng):
    book, rows, queries = fitted(rng), normal(rng, 90, 20), normal(rng, 3, 20)
    cpu, device = (
        Bank(metric="dot", codebook=book, **each)
        for each in ({}, {"device": "cuda", "device_bytes": budget})
    )
    for bank in (cpu, device):
        assert bank.attend(queries, None, beta=1.0).tolist() == np.zeros((3, 20)).tolist()
        bank.add(rows)
        bank.delete(np.arange(20))
    expected = cpu.attend(queries, None, beta=0.5)
    np.testing.assert_array_equal(device.attend(queries, None, beta=0.5), expected)
    asked = tensor(queries).requires_grad_()
    out = device.attend(asked, None, beta=0.5)
    assert out.device.type == DEVICE
    np.testing.assert_allclose(out.detach().cpu().numpy(), expected, rtol=1e-5, atol=1e-6)
    out.sum().backward()
    assert asked.grad.abs().sum() > 0
    vectors, counts = device.counted()
    assert len(vectors) <= 30
    assert counts.sum() == 70


def test_scores_have_gradients(rng):
    cpu, device = pair(rng, "cosine")
    asked, grads = normal(rng, 3, 20), []
    for bank, place in ((cpu, "cpu"), (device, DEVICE)):
        queries = torch.tensor(asked, device=place, requires_grad=True)
        bank.search(queries, 4).scores.sum().backward()
        grads.append(queries.grad.cpu())
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_scores_of_words_are_looked_up_where_rows_are_many(metric, rng, monkeypatch):
    banks = pair(rng, metric, 16, 40, n_codes=5)
    made, coded = [], memcore.kernels.coded
    tables = coded.tables
    monkeypatch.setattr(coded, "tables", lambda *given: made.append(0) or tables(*given))
    queries = normal(rng, 3, 16)
    assert_same(*banks, queries, 4)
    expected = banks[0].search(queries, np.array([0, 300, 2]), bias=None)
    assert_hits(banks[1].search(queries, np.array([0, 300, 2])), expected)
    assert len(made) == 3
    # Words of two books, and a query that may not be asked.
    forks = [bank.fork() for bank in banks]
    for fork in forks:
        fork.recode(fitted(np.random.default_rng(0), 16, n_codes=7))
    spoiled = queries.copy()
    spoiled[2, 3] = np.nan
    sound = np.arange(3) != 2
    for cpu, device in (banks, forks):
        found = host(device.search(tensor(spoiled), 4))
        assert_hits(tuple(each[sound] for each in found), cpu.search(queries[sound], 4))
        assert (found[1][2] == -1).all()
    assert len(made) == 5
    # Words of two parts are none of a table.
    for fork in forks:
        fork.recode(fitted(np.random.default_rng(1), 16, n_codes=3, n_subspaces=2))
    assert_same(*banks, queries, 4)
    assert_same(*forks, queries, 4)
    assert len(made) == 5

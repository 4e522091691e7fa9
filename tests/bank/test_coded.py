"""A bank of codes is a bank of the vectors that they stand for."""

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore import Bank, Codebook, DtypeError, InputError, NotFoundError, ShapeError

DIM = 12
BOOKS = {
    "vq": {},
    "pq": {"n_subspaces": 3},
    "rq": {"n_levels": 2},
    "both": {"n_subspaces": 2, "n_levels": 9},
}


def fitted(rng, n_codes=30, **shape):
    book = Codebook(n_codes, DIM, **shape)
    book.fit(normal(rng, 400, DIM), seed=0)
    return book


def rounded(book, rows):
    return book.dequantize(book.quantize(rows))


@pytest.fixture(params=BOOKS)
def book(request, rng):
    return fitted(rng, **BOOKS[request.param])


@pytest.fixture(params=["cosine", "dot", "l2"])
def pair(request, book, rng):
    """A bank of codes, and a plain bank of what they stand for."""
    rows = normal(rng, 300, DIM)
    fields = {
        "t": list(range(300)),
        "w": normal(rng, 300).tolist(),
        "who": ["ana", "bo", None] * 100,
    }
    coded = Bank(DIM, metric=request.param, codebook=book)
    plain = Bank(DIM, metric=request.param)
    coded.add(rows, fields=fields, payloads=list(range(300)))
    plain.add(rounded(book, rows), fields=fields, payloads=list(range(300)))
    return coded, plain


def assert_same(coded, plain, rng):
    queries = normal(rng, 9, DIM)
    assert coded.ids().tolist() == plain.ids().tolist()
    ids = plain.ids()
    ours, theirs = coded.get(ids), plain.get(ids)
    np.testing.assert_array_equal(ours.vectors, theirs.vectors)
    assert ours.fields == theirs.fields
    assert ours.payloads == theirs.payloads
    assert_hits(coded.search(queries, 7), plain.search(queries, 7))


def test_search_with_every_option(pair, rng):
    coded, plain = pair
    queries = normal(rng, 9, DIM)
    candidates = rng.integers(-1, 300, (9, 20))
    each = [{"t": {"lt": 30 * i}} if i % 3 else None for i in range(9)]
    for options in (
        {},
        {"k": 0},
        {"k": 400},
        {"k": np.arange(9)},
        {"where": {"who": "ana"}},
        {"where": each},
        {"candidates": candidates},
        {"candidates": candidates, "where": {"t": {"gte": 100}}},
        {"scale": "w"},
        {"bias": "w"},
        {"scale": "w", "bias": "t", "where": {"who": {"ne": "ana"}}},
        {"min_score": -1.0, "max_score": 0.5},
    ):
        assert_hits(
            coded.search(queries, **options), plain.search(queries, **options), str(options)
        )
    some = rng.integers(0, 300, (9, 5))
    some[2, 3] = -1
    np.testing.assert_array_equal(coded.score(queries, some), plain.score(queries, some))


def test_every_verb(pair, book, rng):
    coded, plain = pair
    both = (coded, lambda rows: rows), (plain, lambda rows: rounded(book, rows))
    more, changed = normal(rng, 40, DIM), normal(rng, 20, DIM)
    marks = [bank.snapshot() for bank, _ in both]
    for bank, given in both:
        bank.add(given(more), ids=np.arange(500, 540), fields={"t": [7] * 40})
        bank.update(np.arange(20), given(changed))
        bank.update(np.arange(30, 50), fields={"who": ["eve"] * 20})
        bank.delete(np.arange(100, 220, 3))
    assert_same(coded, plain, rng)
    forks = coded.fork(), plain.fork()
    coded.delete([1]), plain.delete([1])
    assert len(forks[0]) == len(coded) + 1
    assert_same(*forks, rng)
    for (bank, _), mark in zip(both, marks, strict=True):
        bank.rollback(mark)
    assert len(coded) == 300
    assert_same(coded, plain, rng)
    assert coded.rows(coded.search(normal(rng, 2, DIM), 3)) is not None


def test_large_banks_are_searched_in_chunks(rng, monkeypatch):
    import memcore.codebook.pages as pages

    monkeypatch.setattr(pages, "_DECODED", 50 * DIM)
    book = fitted(rng)
    coded, plain = Bank(codebook=book), Bank(DIM)
    rows = normal(rng, 333, DIM)
    coded.add(rows)
    plain.add(rounded(book, rows))
    # Thirty codes for 333 rows: ties across the chunks.
    assert_same(coded, plain, rng)


def test_what_the_book_learns_changes_nothing_until_recode(rng):
    book = fitted(rng, reset_quota=30)
    bank = Bank(codebook=book)
    rows = normal(rng, 200, DIM)
    bank.add(rows)
    before = bank.get(bank.ids()).vectors
    assert bank.codebook.version == book.version == 1
    for _ in range(20):
        book.update(normal(rng, 100, DIM) + 3)
    np.testing.assert_array_equal(bank.get(bank.ids()).vectors, before)
    fork, mark = bank.fork(), bank.snapshot()
    old = bank.codebook
    bank.recode(book)
    assert bank.codebook.version == 21
    after = rounded(book, before)
    assert (after != before).any()
    np.testing.assert_array_equal(bank.get(bank.ids()).vectors, after)
    np.testing.assert_array_equal(fork.get(fork.ids()).vectors, before)
    # What is added from now on has the code of the bank's own book.
    new = normal(rng, 30, DIM)
    for each, its_book in ((bank, book), (fork, old)):
        ids = each.add(new)
        np.testing.assert_array_equal(each.get(ids).vectors, rounded(its_book, new))
    bank.rollback(mark)
    np.testing.assert_array_equal(bank.get(bank.ids()).vectors, before)
    assert bank.codebook.version == 1


def test_counted_attention_is_full_attention(rng):
    """Documents of 24 tokens, 1,665 of them, 512 codes: 78 times fewer rows to attend over."""
    n, dim = 39_960, 64
    book = Codebook(512, dim)
    rows = normal(rng, n, dim)
    book.fit(rows[:4000], n_iterations=2, seed=0)
    bank = Bank(codebook=book)
    ids = bank.add(rows)
    vectors, counts = bank.counted()
    assert len(vectors) * 50 <= n
    assert counts.sum() == n
    queries = normal(rng, 16, dim)
    full = memcore.attend(queries, bank.get(ids).vectors, beta=dim**-0.5)
    few = memcore.attend(queries, vectors, beta=dim**-0.5, bias=np.log(counts))
    error = np.linalg.norm(few - full, axis=1) / np.linalg.norm(full, axis=1)
    assert error.max() <= 1e-5


def test_attend_through_the_bank(rng):
    book = fitted(rng)
    bank, plain = Bank(codebook=book, metric="dot"), Bank(metric="dot")
    rows, queries = normal(rng, 300, DIM), normal(rng, 5, DIM)
    bank.add(rows)
    plain.add(rounded(book, rows))
    np.testing.assert_array_equal(
        bank.attend(queries, 7, beta=0.5), plain.attend(queries, 7, beta=0.5)
    )
    whole = memcore.attend(queries, rounded(book, rows), beta=0.5)
    np.testing.assert_allclose(bank.attend(queries, None, beta=0.5), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        Bank(codebook=book, metric="dot").attend(queries, None, beta=1), 0
    )
    with pytest.raises(InputError, match="attend: metric is 'cosine', should be 'dot'"):
        Bank(codebook=book).attend(queries, None, beta=1)


def test_counts_follow_the_rows(rng):
    book = fitted(rng)
    bank = Bank(codebook=book)
    rows = normal(rng, 100, DIM)
    bank.add(rows)
    bank.delete(np.arange(0, 100, 2))
    vectors, counts = bank.counted()
    expected, theirs = np.unique(rounded(book, rows[1::2]), axis=0, return_counts=True)
    order = np.lexsort(vectors.T[::-1])
    np.testing.assert_array_equal(vectors[order], expected)
    np.testing.assert_array_equal(counts[order], theirs)
    assert Bank(codebook=book).counted()[0].shape == (0, DIM)


def test_bytes_of_a_row(rng):
    book = Codebook(512, 768)
    book.update(normal(rng, 512, 768))
    bank = Bank(codebook=book)
    bank.add(normal(rng, 4096, 768))
    # An id, a payload's number, a book's number, the code, and a component: not 3,072 bytes.
    assert (bank.nbytes - book.nbytes) / 4096 < 96


def test_arena_of_codes(rng):
    book = fitted(rng)
    arena, plain = memcore.Arena(DIM, codebook=book), memcore.Arena(DIM)
    rows = normal(rng, 60, DIM)
    banks = arena.new(6)
    others = plain.new(6)
    arena.add(np.repeat(banks, 10), rows)
    plain.add(np.repeat(others, 10), rounded(book, rows))
    queries = normal(rng, 6, DIM)
    assert_hits(arena.search(banks, queries, 4), plain.search(others, queries, 4))
    group, twin = arena.fork(banks, 3), plain.fork(others, 3)
    queries = normal(rng, 18, DIM).reshape(6, 3, DIM)
    assert_hits(arena.search(group, queries, 4), plain.search(twin, queries, 4))
    arena.drop(group)
    with pytest.raises(NotFoundError):
        arena.search(group[0, 0], queries[0, 0])


def test_one_component(rng):
    book = Codebook(4, 1)
    book.fit(np.array([[0.0], [1], [5], [9]], np.float32), seed=0)
    bank, plain = Bank(metric="l2", codebook=book), Bank(1, metric="l2")
    rows = rng.uniform(0, 9, (30, 1)).astype(np.float32)
    bank.add(rows)
    plain.add(rounded(book, rows))
    queries = rng.uniform(0, 9, (5, 1)).astype(np.float32)
    assert_hits(bank.search(queries, 6), plain.search(queries, 6))


def test_what_it_refuses(rng):
    book = fitted(rng)
    bank = Bank(codebook=book)
    bank.add(normal(rng, 10, DIM))
    bad = normal(rng, 4, DIM)
    bad[2, 1] = np.inf
    with pytest.raises(InputError, match="add: vectors row 2 is not finite"):
        bank.add(bad)
    with pytest.raises(ShapeError, match="add: vectors has dim 5, should be 12"):
        bank.add(np.ones((2, 5)))
    with pytest.raises(InputError, match="search: queries row 2 is not finite"):
        bank.search(bad)
    with pytest.raises(ShapeError, match="search: queries has dim 5"):
        bank.search(np.ones(5))
    with pytest.raises(NotFoundError):
        bank.get([11])
    with pytest.raises(NotFoundError):
        bank.score(normal(rng, 1, DIM), [[11]])
    with pytest.raises(InputError, match="recode: book has 20 codes of 5 bits, should fit into 64"):
        bank.recode(fitted(rng, n_subspaces=2, n_levels=10))
    with pytest.raises(InputError, match="recode: book is empty"):
        bank.recode(Codebook(4, DIM))
    with pytest.raises(DtypeError, match="recode: book is a int"):
        bank.recode(3)
    assert len(bank) == 10
    assert bank.codebook.version == 1
    with pytest.raises(InputError, match="codebook is empty"):
        Bank(codebook=Codebook(4, DIM))
    with pytest.raises(ShapeError, match="codebook has dim 12, should be 13"):
        Bank(13, codebook=book)
    with pytest.raises(InputError, match="dtype is 'float16', should be 'float32'"):
        Bank(dtype="float16", codebook=book)
    with pytest.raises(DtypeError, match="codebook is a str"):
        Bank(DIM, codebook="vq")
    with pytest.raises(InputError, match="counted: the bank keeps vectors, should be a Bank with"):
        Bank(DIM).counted()
    with pytest.raises(InputError, match="recode: the bank keeps vectors"):
        Bank(DIM).recode(book)
    assert Bank(DIM).codebook is None

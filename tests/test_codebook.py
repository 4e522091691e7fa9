"""Codebook: what it learns, what it keeps, what it refuses."""

import copy
import pickle

import numpy as np
import pytest

import memcore
from cases import normal
from memcore import Codebook, DtypeError, InputError, ShapeError, reference

SHAPES = [(1, 1), (4, 1), (1, 3), (2, 2)]


def clusters(rng, n_clusters, dim, spread=0.1):
    """A function that draws n rows around fixed centres."""
    centres = normal(rng, n_clusters, dim)

    def draw(n):
        chosen = rng.integers(0, n_clusters, n)
        return (centres[chosen] + spread * normal(rng, n, dim)).astype(np.float32)

    return draw


def state_of(book):
    return [
        np.array(array)
        for array in (book.codewords, book.usage, book.state.sums, book.state.n_seeded)
    ] + [book.version, book._rng.bit_generator.state]


def assert_same_state(book, before):
    for now, then in zip(state_of(book), before, strict=True):
        if isinstance(now, np.ndarray):
            np.testing.assert_array_equal(now, then)
        else:
            assert now == then


@pytest.mark.parametrize(("n_subspaces", "n_levels"), SHAPES)
def test_quantize_and_dequantize_part_by_part(n_subspaces, n_levels, rng):
    rows = normal(rng, 700, 24)
    book = Codebook(19, 24, n_subspaces, n_levels)
    book.fit(rows, seed=3)
    codes = book.quantize(rows)
    assert codes.shape == (700, n_subspaces * n_levels)
    left, decoded = rows, np.zeros_like(rows)
    for level in range(n_levels):
        of_level = np.empty_like(rows)
        width = 24 // n_subspaces
        for s in range(n_subspaces):
            part = slice(s * width, (s + 1) * width)
            words = book.codewords[level, s]
            expected, _ = reference.assign(left[:, part], words)
            np.testing.assert_array_equal(codes[:, level * n_subspaces + s], expected)
            of_level[:, part] = words[expected]
        left, decoded = left - of_level, decoded + of_level
    np.testing.assert_array_equal(book.dequantize(codes), decoded)


def test_more_levels_and_subspaces_err_less(rng):
    rows = normal(rng, 3000, 16)

    def error(**shape):
        book = Codebook(16, 16, **shape)
        book.fit(rows, seed=0)
        return ((rows - book.dequantize(book.quantize(rows))) ** 2).mean()

    errors = [error(), error(n_subspaces=2), error(n_subspaces=4), error(n_subspaces=8)]
    assert errors == sorted(errors, reverse=True)
    errors = [error(n_levels=n) for n in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)


def test_quantising_what_was_decoded_changes_nothing(rng):
    book = Codebook(32, 12, n_subspaces=3)
    book.fit(normal(rng, 900, 12), seed=1)
    codes = rng.integers(0, 32, (50, 3))
    decoded = book.dequantize(codes)
    np.testing.assert_array_equal(book.dequantize(book.quantize(decoded)), decoded)


def test_fit_is_determined_by_its_seed(rng):
    rows = normal(rng, 2000, 8)
    one, two, other = Codebook(30, 8), Codebook(30, 8), Codebook(30, 8)
    one.fit(rows, seed=5)
    two.fit(rows, seed=5)
    other.fit(rows, seed=6)
    np.testing.assert_array_equal(one.codewords, two.codewords)
    assert (one.codewords != other.codewords).any()


def test_fit_finds_the_clusters(rng):
    draw = clusters(rng, 64, 32, spread=0.05)
    book = Codebook(64, 32)
    book.fit(draw(6000), seed=0)
    rows = draw(2000)
    decoded = book.dequantize(book.quantize(rows))
    # Merged pairs of clusters cost 0.5 a component for their share of the rows.
    assert ((rows - decoded) ** 2).mean() < 0.1
    assert book.perplexity(book.quantize(rows)).item() > 50


def ema_by_formula(rows, codes, words, counts, sums, decay, smoothing):
    """The step of van den Oord et al. (2017, A.1) with Laplace smoothing, in float64."""
    one_hot = np.eye(len(words))[codes]
    counts = decay * counts + (1 - decay) * one_hot.sum(0)
    sums = decay * sums + (1 - decay) * one_hot.T @ rows.astype(np.float64)
    total = counts.sum()
    smoothed = (counts + smoothing) / (total + len(words) * smoothing) * total
    return sums / smoothed[:, None], counts, sums


def test_ema_is_the_formula(rng):
    draw = clusters(rng, 20, 10, spread=0.5)
    book = Codebook(24, 10, decay=0.8, reset=None)
    book.fit(draw(400), seed=0)
    words = book.codewords[0, 0].astype(np.float64)
    counts, sums = book.usage[0, 0], book.state.sums[0, 0].astype(np.float64)
    for _ in range(30):
        rows = draw(96)
        codes = book.update(rows)[:, 0]
        words, counts, sums = ema_by_formula(rows, codes, words, counts, sums, 0.8, 1e-5)
        np.testing.assert_allclose(book.usage[0, 0], counts, rtol=1e-12)
        np.testing.assert_allclose(book.codewords[0, 0], words, rtol=2e-4, atol=2e-5)


def test_gradient_moves_used_codes_to_their_means(rng):
    book = Codebook(8, 5, learn="gradient", rate=0.25, reset=None)
    book.fit(normal(rng, 100, 5), seed=0)
    before = book.codewords[0, 0].copy()
    rows = normal(rng, 40, 5)
    codes = book.update(rows)[:, 0]
    for code in range(8):
        own = rows[codes == code]
        moved = before[code] + 0.25 * (own.mean(0) - before[code]) if len(own) else before[code]
        np.testing.assert_allclose(book.codewords[0, 0, code], moved, rtol=1e-4, atol=1e-6)


def test_update_seeds_an_empty_book(rng):
    rows = normal(rng, 50, 6)
    book = Codebook(30, 6, reset=None)
    book.update(rows[:20])
    assert book.state.n_seeded.tolist() == [20]
    assert book.quantize(rows).max() < 20
    codes = book.update(rows[20:])
    assert book.state.n_seeded.tolist() == [30]
    # The first ten rows of the second batch were taken as they are.
    assert codes[:10, 0].tolist() == list(range(20, 30))


def test_update_seeds_level_after_level(rng):
    rows = normal(rng, 200, 6)
    book = Codebook(40, 6, n_levels=3)
    book.update(rows[:30])
    assert book.state.n_seeded.tolist() == [30, 0, 0]
    book.update(rows[30:120])
    assert book.state.n_seeded.tolist() == [40, 40, 40]
    for _ in range(30):
        book.update(rows)
    decoded = book.dequantize(book.quantize(rows))
    assert ((decoded - rows) ** 2).mean() < 0.1


def run_stream(book, rng, n_codes=512, dim=64, batch=384, before=600, after=1200):
    """Perplexity after each phase of a stream whose distribution shifts once."""
    found = []
    for offset, n_steps in ((0.0, before), (4.0, after)):
        centres = normal(rng, n_codes, dim) + np.float32(offset)
        for _ in range(n_steps):
            chosen = rng.integers(0, n_codes, batch)
            book.update((centres[chosen] + 0.1 * normal(rng, batch, dim)).astype(np.float32))
        found.append(book.perplexity().item())
    return found


def test_reset_keeps_the_book_alive_after_a_shift(rng):
    _, after = run_stream(Codebook(512, 64), rng)
    assert after >= 450


def test_without_reset_a_shift_is_the_end(rng):
    _, after = run_stream(Codebook(512, 64, reset=None), rng)
    assert after <= 5


def test_reset_of_mbc_by_name(rng):
    book = Codebook(64, 8, decay=0.5, reset="mbc")
    book.update(normal(rng, 64, 8))
    far = normal(rng, 32, 8) + 50
    for _ in range(40):
        book.update(far)
    # Usage of the others has fallen below 1e-4: all were replaced by rows of the batch.
    assert (book.codewords[0, 0].mean(1) > 40).all()
    none = Codebook(64, 8, decay=0.5, reset=None)
    none.update(normal(rng, 64, 8))
    for _ in range(5):
        none.update(far)
    assert (none.codewords[0, 0].mean(1) < 40).sum() > 30


def test_worst_rows_replace_dead_codes_up_to_the_quota(rng):
    book = Codebook(10, 3, decay=0.9, reset_quota=2)
    base = np.arange(10, dtype=np.float32)[:, None] * np.ones(3, np.float32) * 10
    book.update(base)
    rows = np.repeat(base[:5], 8, 0)
    rows[3], rows[11] = 1000, 2000
    dead = []
    for _ in range(40):
        before = book.codewords[0, 0].copy()
        book.update(rows)
        dead.append(int((np.abs(book.codewords[0, 0] - before).max(1) > 5).sum()))
    # The outliers were taken exactly; no step replaced more than two, nor moved others so far.
    assert {1000.0, 2000.0} <= set(book.codewords[0, 0, :, 0].round().tolist())
    assert max(dead[1:]) <= 4


def test_perplexity_and_counts(rng):
    book = Codebook(4, 2)
    book.fit(np.array([[0, 0], [0, 9], [9, 0], [9, 9]], np.float32), seed=0)
    codes = np.array([[0], [0], [1], [1], [2], [2]])
    assert book.counts(codes).tolist() == [[[2, 2, 2, 0]]]
    np.testing.assert_allclose(book.perplexity(codes), [[3.0]])
    np.testing.assert_allclose(book.perplexity(), [[4.0]])
    assert Codebook(4, 2).perplexity().tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("n_codes", "n_bits"), [(1, 1), (2, 1), (3, 2), (256, 8), (257, 9), (512, 9)]
)
def test_packed_codes(n_codes, n_bits, rng):
    book = Codebook(n_codes, 8, n_subspaces=2)
    assert book.n_bits == n_bits
    codes = rng.integers(0, n_codes, (77, 2))
    packed = book.pack(codes)
    assert packed.nbytes == -(-77 * 2 * n_bits // 8)
    np.testing.assert_array_equal(book.unpack(packed, 77), codes)


def test_the_byte_law():
    """512 codes of 4,096 components and 24 codes a document: 0.3 % of float32 at 7,278 of them."""
    book = Codebook(512, 4096)

    def share(n_documents):
        codes = np.zeros((24 * n_documents, 1), np.int64)
        return (book.nbytes + book.pack(codes).nbytes) / (24 * n_documents * 4096 * 4)

    assert share(7278) <= 0.003 < share(7277)


@pytest.mark.parametrize(("n_subspaces", "n_levels"), SHAPES)
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_search_over_codes(n_subspaces, n_levels, metric, rng):
    rows, queries = normal(rng, 900, 16), normal(rng, 7, 16)
    book = Codebook(20, 16, n_subspaces, n_levels)
    book.fit(rows, seed=0)
    codes = book.quantize(rows)
    hits = book.search(queries, codes, 30, metric=metric)
    scores = reference.score(queries, book.dequantize(codes), metric)
    np.testing.assert_allclose(
        hits.scores, np.take_along_axis(scores, hits.ids, 1), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(hits.scores, -np.sort(-scores, 1)[:, :30], rtol=1e-4, atol=1e-4)
    again = book.search(queries, codes.astype(book.code_dtype), 30, metric=metric)
    np.testing.assert_array_equal(hits.ids, again.ids)


def test_copies_and_pickles_go_their_own_ways(rng):
    book = Codebook(16, 4, reset="mbc", seed=9)
    book.update(normal(rng, 64, 4))
    copies = [book.copy(), copy.copy(book), copy.deepcopy(book), pickle.loads(pickle.dumps(book))]
    before, rows = state_of(book), normal(rng, 64, 4)
    for other in copies:
        assert_same_state(other, before)
        other.update(rows)
        assert_same_state(book, before)
    book.update(rows)
    for other in copies:
        assert_same_state(other, state_of(book))


def test_version_counts_changes(rng):
    book = Codebook(8, 4)
    versions = [book.version]
    for change in (
        lambda: book.update(normal(rng, 20, 4)),
        lambda: book.quantize(normal(rng, 20, 4)),
        lambda: book.fit(normal(rng, 20, 4)),
        lambda: book.update(normal(rng, 0, 4)),
    ):
        change()
        versions.append(book.version)
    assert versions == [0, 1, 1, 2, 2]


def test_start_from_given_codewords(rng):
    book, words = Codebook(8, 4), normal(rng, 1, 1, 8, 4)
    book.start_from(words, 3.0)
    np.testing.assert_array_equal(book.codewords, words)
    assert book.quantize(words[0, 0])[:, 0].tolist() == list(range(8))
    assert (book.usage == 3).all()
    # A batch of the codewords themselves, three of each, moves nothing.
    book.update(np.tile(words[0, 0], (3, 1)))
    np.testing.assert_allclose(book.codewords, words, rtol=1e-4)
    before = state_of(book)
    with pytest.raises(ShapeError, match="start_from: codewords has shape"):
        book.start_from(words[0])
    with pytest.raises(InputError, match="start_from: codewords is not finite"):
        book.start_from(words * np.inf)
    with pytest.raises(InputError, match="start_from: usage is 0"):
        book.start_from(words, 0)
    assert_same_state(book, before)


def test_bits_do_not_depend_on_threads_or_isa(rng):
    batches = [normal(rng, 500, 20) for _ in range(4)]
    before, states = memcore.threads(), []
    first = memcore.isa()
    try:
        for isa in memcore.isas():
            for threads in (1, 3):
                memcore.set_isa(isa)
                memcore.set_threads(threads)
                book = Codebook(300, 20, n_levels=2)
                for batch in batches:
                    book.update(batch)
                states.append(state_of(book))
    finally:
        memcore.set_threads(before)
        memcore.set_isa(first)
    for state in states[1:]:
        for ours, theirs in zip(state[:4], states[0][:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float16", "int8", "float64"])
def test_other_dtypes(dtype, rng):
    rows = (normal(rng, 300, 8) * 10).astype(dtype)
    one, two = Codebook(20, 8), Codebook(20, 8)
    one.fit(rows, seed=0)
    two.fit(rows.astype(np.float32), seed=0)
    np.testing.assert_array_equal(one.codewords, two.codewords)
    one.update(rows)
    two.update(rows.astype(np.float32))
    np.testing.assert_array_equal(one.codewords, two.codewords)
    np.testing.assert_array_equal(one.quantize(rows), two.quantize(rows.astype(np.float32)))


@pytest.mark.parametrize("verb", ["fit", "update", "quantize"])
@pytest.mark.parametrize("n_levels", [1, 2])
def test_bad_vectors_change_nothing(verb, n_levels, rng):
    book = Codebook(8, 4, n_levels=n_levels)
    book.update(normal(rng, 30, 4))
    before, run = state_of(book), getattr(book, verb)
    bad = normal(rng, 10, 4)
    bad[6, 2] = np.nan
    with pytest.raises(InputError, match=f"{verb}: vectors row 6 is not finite"):
        run(bad)
    with pytest.raises(ShapeError, match=rf"{verb}: vectors has shape \(3, 5\), should be"):
        run(np.ones((3, 5)))
    with pytest.raises(DtypeError, match=f"{verb}: vectors"):
        run(["a"])
    assert_same_state(book, before)


def test_other_bad_input(rng):
    book = Codebook(8, 4)
    with pytest.raises(InputError, match="quantize: the book is empty"):
        book.quantize(normal(rng, 3, 4))
    with pytest.raises(InputError, match="fit: vectors has no rows"):
        book.fit(normal(rng, 0, 4))
    book.fit(normal(rng, 30, 4))
    with pytest.raises(InputError, match=r"dequantize: codes\[1, 0\] is 8"):
        book.dequantize([[0], [8]])
    with pytest.raises(ShapeError, match="dequantize: codes has shape"):
        book.dequantize([0, 1])
    with pytest.raises(DtypeError, match="counts: codes has dtype"):
        book.counts([[0.5]])
    with pytest.raises(InputError, match="search: metric is 'cosine'"):
        book.search(normal(rng, 1, 4), [[0]], metric="cosine")
    with pytest.raises(InputError, match="search: k is -1"):
        book.search(normal(rng, 1, 4), [[0]], -1)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"n_codes": 0}, "n_codes is 0, should be at least 1"),
        ({"n_subspaces": 3}, "n_subspaces is 3, should divide dim, 4"),
        ({"n_levels": -1}, "n_levels is -1"),
        ({"learn": "adam"}, "learn is 'adam'"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"decay": float("nan")}, "decay is nan"),
        ({"rate": -1}, "rate is -1"),
        ({"smoothing": 0}, "smoothing is 0"),
        ({"reset": "lucidrains"}, "reset is 'lucidrains'"),
        ({"reset_quota": -1}, "reset_quota is -1"),
        ({"reset_threshold": -1}, "reset_threshold is -1"),
    ],
)
def test_bad_options(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        Codebook(**{"n_codes": 8, "dim": 4, **wrong})
    with pytest.raises(DtypeError, match=r"dim is 4\.0"):
        Codebook(8, 4.0)

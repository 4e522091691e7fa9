"""The kernels of codebooks against the definition, by equality: interpreted, or on a GPU."""

import pickle

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore import InputError, ShapeError, arrays, reference
from memcore.ops import codebook as ops

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from memcore import kernels  # noqa: E402
from on_device import DEVICE, host, tensor  # noqa: E402


def assert_assigned(rows, words):
    found = host(ops.assign(tensor(rows), tensor(words), backend="triton"))
    for ours, theirs in zip(found, reference.assign(rows, words), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("n", "n_codes", "dim"),
    [(0, 3, 4), (1, 1, 1), (7, 5, 3), (40, 33, 16), (130, 150, 17), (60, 200, 130)],
)
def test_assign_is_the_definition(n, n_codes, dim, rng):
    assert_assigned(normal(rng, n, dim), normal(rng, n_codes, dim))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_assign_of_every_dtype_and_stride(dtype, rng):
    rows = (tensor(normal(rng, 280, 40)) * 20).to(getattr(torch, dtype))[::2, ::2]
    words = normal(rng, 30, 20)
    codes, scores = host(ops.assign(rows, tensor(words), backend="triton"))
    expected = reference.assign(rows.float().cpu().numpy(), words)
    np.testing.assert_array_equal(codes, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


def test_assign_gives_ties_to_the_smaller_code(rng):
    words = np.repeat(normal(rng, 50, 32), 3, axis=0)
    assert_assigned(words[rng.integers(0, 150, 60)], words)


@pytest.mark.parametrize("kind", ["zero", "tiny", "small", "large", "copies", "mixed"])
def test_assign_at_the_edges_of_the_bound(kind, rng):
    rows, words = normal(rng, 40, 40), normal(rng, 70, 40)
    rows[3], words[7] = 0, 0
    if kind == "tiny":
        rows, words = rows * np.float32(1e-38), words * np.float32(1e-38)
    if kind == "small":
        rows[::2] *= np.float32(1e-30)
        words[::3] *= np.float32(1e-12)
    if kind == "large":
        rows, words = rows * np.float32(1e17), words * np.float32(1e16)
        words[5] *= 10
    if kind == "copies":
        words = words[rng.integers(0, 4, 70)]
        rows[::2] = words[rng.integers(0, 70, 20)]
    if kind == "mixed":
        words *= (10.0 ** rng.uniform(-6, 6, (70, 1))).astype(np.float32)
    # Few rows, and so many that rows stay and codewords pass by.
    assert_assigned(rows[:12], words)
    assert_assigned(np.concatenate([rows[12:24], np.zeros((120, 40), np.float32)]), words)


@pytest.mark.parametrize("n", [20, 140])
def test_assign_leaves_out_what_has_no_answer(n, rng):
    rows, words = normal(rng, n, 8), normal(rng, 30, 8)
    rows[3], rows[11] = np.nan, 1e30
    words[5, 2], words[9, 1] = np.nan, np.inf
    sound = np.delete(np.arange(n), [3, 11])
    codes, scores = host(ops.assign(tensor(rows), tensor(words), backend="triton"))
    expected = reference.assign(rows[sound], words)
    np.testing.assert_array_equal(codes[sound], expected[0])
    np.testing.assert_array_equal(scores[sound], expected[1])
    assert codes[[3, 11]].tolist() == [-1, -1]
    codes, _ = host(ops.assign(tensor(rows), tensor(words * np.nan), backend="triton"))
    assert (codes == -1).all()


def test_the_first_pass_decides_most_rows_and_only_what_it_may(monkeypatch, rng):
    rows, words = normal(rng, 256, 64), normal(rng, 256, 64)
    doubts = []

    class Settle:
        def __getitem__(self, grid):
            return lambda *given, **named: doubts.append(given[6].cpu().numpy() != 0)

    monkeypatch.setattr(kernels.codebook.nearest, "settle_kernel", Settle())
    codes, _ = host(ops.assign(tensor(rows), tensor(words), backend="triton"))
    expected, _ = reference.assign(rows, words)
    np.testing.assert_array_equal(codes[~doubts[0]], expected[~doubts[0]])
    assert doubts[0].mean() < 0.05


@pytest.mark.parametrize(("n", "n_codes", "dim"), [(0, 3, 4), (90, 100, 8), (100, 7, 130)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_codebook_sums_are_the_definition(n, n_codes, dim, dtype, rng):
    rows = (tensor(normal(rng, n, dim + 3)) * 30).to(getattr(torch, dtype))[:, 1 : dim + 1]
    codes = rng.integers(0, max(1, n_codes // 2), n)
    counts, sums = host(ops.codebook_sums(rows, tensor(codes), n_codes, backend="triton"))
    expected = reference.codebook_sums(rows.float().cpu().numpy(), codes, n_codes)
    np.testing.assert_array_equal(counts, expected[0])
    np.testing.assert_array_equal(sums, expected[1])


def test_codebook_sums_leave_out_what_is_no_code(rng):
    rows, codes = normal(rng, 20, 5), rng.integers(-2, 9, 20)
    counts, sums = host(ops.codebook_sums(tensor(rows), tensor(codes), 7, backend="triton"))
    inside = (codes >= 0) & (codes < 7)
    expected = reference.codebook_sums(rows[inside], codes[inside], 7)
    np.testing.assert_array_equal(counts, expected[0])
    np.testing.assert_array_equal(sums, expected[1])


def test_codebook_ema_is_the_definition(rng):
    batch, sums = normal(rng, 70, 19), normal(rng, 70, 19)
    divisors = rng.random(70).astype(np.float32) + 0.1
    given = [tensor(each) for each in (batch, sums, divisors)]
    found = host(ops.codebook_ema(given[0], given[1], 0.9, given[2], backend="triton"))
    expected = reference.codebook_ema(batch, sums, 0.9, divisors)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("n_levels", "n_subspaces"), [(1, 1), (1, 4), (2, 3)])
def test_decode_is_the_definition(n_levels, n_subspaces, rng):
    words = normal(rng, n_levels * n_subspaces * 9, 5).reshape(n_levels, n_subspaces, 9, 5)
    words[0, 0, 3] = -0.0
    codes = rng.integers(0, 9, (31, n_levels * n_subspaces))
    found = ops.decode(tensor(codes), tensor(words), backend="triton").cpu().numpy()
    expected = reference.decode(codes.reshape(-1, n_levels, n_subspaces), words)
    np.testing.assert_array_equal(found.view(np.int32), expected.view(np.int32))
    codes[4], codes[5, 0] = -1, 9
    found = ops.decode(tensor(codes), tensor(words), backend="triton").cpu().numpy()
    assert (found[4] == 0).all()
    np.testing.assert_array_equal(found[6:], expected[6:])


@pytest.mark.parametrize(
    ("n_codes", "dtype", "n_levels", "n_subspaces", "metric", "k"),
    [
        (9, "uint8", 1, 4, "dot", 20),
        (9, "uint8", 2, 3, "l2", 20),
        (300, "uint16", 1, 1, "l2", np.array([0, 5, 17])),
        (300, "uint32", 3, 1, "dot", 3),
        (9, "uint8", 2, 3, "l2", 260),
    ],
)
def test_search_codes_is_the_definition(n_codes, dtype, n_levels, n_subspaces, metric, k, rng):
    n_parts = n_levels * n_subspaces
    words = normal(rng, n_parts * n_codes, 5).reshape(n_levels, n_subspaces, n_codes, 5)
    codes = rng.integers(0, n_codes, (503, n_parts)).astype(dtype)
    queries = normal(rng, 3, n_subspaces * 5)
    rows = reference.decode(codes.astype(np.int64).reshape(-1, n_levels, n_subspaces), words)
    squares = reference.squares(rows) if n_levels > 1 else None
    options = {"metric": metric, "squares": squares if squares is None else tensor(squares)}
    hits = ops.search_codes(
        tensor(queries), tensor(codes), tensor(words), k, backend="triton", **options
    )
    expected = reference.search_codes(queries, codes, words, k, metric=metric, squares=squares)
    assert_hits(host(hits), expected)


def test_search_codes_of_nothing_and_of_a_query_that_may_not_be_asked(rng):
    words, codes = normal(rng, 4, 3).reshape(1, 1, 4, 3), np.zeros((5, 1), np.uint8)
    queries = normal(rng, 2, 3)
    queries[0, 1] = np.inf
    for n, k in ((0, 2), (0, 300), (5, 2), (5, 300)):
        given = tensor(queries), tensor(codes[:n]), tensor(words)
        scores, ids = host(ops.search_codes(*given, k, backend="triton"))
        assert (ids[0] == -1).all()
        assert (ids[1, : min(n, k)] >= 0).all()
        assert (ids[1, n:] == -1).all()
        assert (scores[ids < 0] == -np.inf).all()


def test_what_they_refuse(rng):
    rows, words = tensor(normal(rng, 3, 4)), tensor(normal(rng, 2, 4))
    with pytest.raises(ShapeError, match=r"assign: codewords has shape \(2, 3\), should be"):
        ops.assign(rows, words[:, :3], backend="triton")
    with pytest.raises(ShapeError, match="assign: rows has shape"):
        ops.assign(rows[0], words, backend="triton")
    with pytest.raises(ShapeError, match="codebook_sums: codes has shape"):
        ops.codebook_sums(rows, tensor(np.zeros(2, int)), 4, backend="triton")
    book = words.reshape(1, 1, 2, 4)
    with pytest.raises(ShapeError, match="decode: codes has shape"):
        ops.decode(tensor(np.zeros((3, 2), int)), book, backend="triton")
    codes = torch.zeros((3, 1), dtype=torch.uint8, device=DEVICE)
    with pytest.raises(memcore.DtypeError, match=r"codes has dtype torch\.int64"):
        ops.search_codes(rows, codes.long(), book, backend="triton")
    with pytest.raises(InputError, match="search_codes: metric is 'cosine'"):
        ops.search_codes(rows, codes, book, metric="cosine", backend="triton")
    with pytest.raises(ShapeError, match="search_codes: queries has shape"):
        ops.search_codes(rows[:, :3], codes, book, backend="triton")
    with pytest.raises(memcore.BackendError, match="needs a gradient, should be detached"):
        ops.assign(rows.requires_grad_(), words, backend="triton")


def assert_same_book(theirs, ours):
    """A book on the device knows what one on the host does, to the bit."""
    for name in ("codewords", "sums", "usage"):
        found, expected = getattr(theirs.state, name), getattr(ours.state, name)
        assert found.device.type == DEVICE
        np.testing.assert_array_equal(found.cpu().numpy(), expected)
    np.testing.assert_array_equal(theirs.state.n_seeded, ours.state.n_seeded)
    assert theirs.version == ours.version


@pytest.mark.parametrize(
    ("n_subspaces", "n_levels", "options"),
    [
        (1, 1, {}),
        (2, 2, {"decay": 0.7, "reset_threshold": 0.5, "reset_quota": 3}),
        (2, 1, {"reset": "mbc", "reset_threshold": 0.3}),
        (1, 2, {"learn": "gradient", "decay": 0.5}),
        (3, 1, {"reset": None}),
    ],
)
def test_a_book_on_a_device_is_the_one_of_the_host(n_subspaces, n_levels, options, rng):
    dim = 4 * n_subspaces
    ours, theirs = (
        memcore.Codebook(13, dim, n_subspaces, n_levels, device=device, **options)
        for device in ("cpu", "cuda")
    )
    # The first batches do not fill the book; then the distribution moves, so that codes die.
    for i, n in enumerate((8, 20, 16, 5)):
        batch = normal(rng, n, dim) + np.float32(4 * i)
        batch[::4] = batch[0]
        codes = ours.update(batch)
        found = theirs.update(tensor(batch))
        assert found.device.type == DEVICE
        np.testing.assert_array_equal(found.cpu().numpy(), codes)
        assert_same_book(theirs, ours)
    assert theirs.perplexity().shape == (n_levels, n_subspaces)


class Twins:
    """The exchange of two ranks that have the same batch."""

    def sum(self, array):
        return array + array

    def gather(self, array):
        return [array, array]


@pytest.mark.parametrize("reset", ["worst", "mbc"])
def test_ranks_learn_on_a_device_as_on_the_host(reset, rng):
    options = {"reset": reset, "reset_threshold": 0.4, "reset_quota": 3}
    ours, theirs = (memcore.Codebook(7, 3, device=each, **options) for each in ("cpu", "cuda"))
    for i in range(3):
        batch = normal(rng, 5, 3) + np.float32(5 * i)
        ours.update(batch, exchange=Twins())
        theirs.update(tensor(batch), exchange=Twins())
        assert_same_book(theirs, ours)


def test_a_book_on_a_device_reads_what_the_host_reads(rng):
    ours = memcore.Codebook(9, 8, 2, 2)
    rows = normal(rng, 60, 8)
    ours.update(rows)
    theirs = ours.to("cuda")
    codes = ours.quantize(rows)
    found = theirs.quantize(tensor(rows))
    np.testing.assert_array_equal(found.cpu().numpy(), codes)
    np.testing.assert_array_equal(theirs.quantize(rows[3]), codes[3:4])
    near = ours.dequantize(codes)
    np.testing.assert_array_equal(theirs.dequantize(found).cpu().numpy(), near)
    np.testing.assert_array_equal(theirs.dequantize(codes), near)
    for metric in ("dot", "l2"):
        expected = ours.search(rows[:2], codes, 3, metric=metric)
        assert_hits(host(theirs.search(tensor(rows[:2]), found, 3, metric=metric)), expected)
        assert_hits(theirs.search(rows[:2], codes, 3, metric=metric), expected)
    np.testing.assert_array_equal(theirs.counts(found).cpu().numpy(), ours.counts(codes))
    for given in ((None, None), (codes, found)):
        perplexity = theirs.perplexity(given[1]).cpu().numpy()
        np.testing.assert_allclose(perplexity, ours.perplexity(given[0]), rtol=1e-12)
    assert not memcore.Codebook(4, 2, device="cuda").perplexity().any()
    copies = [theirs.copy(), pickle.loads(pickle.dumps(theirs)), ours.to("cuda")]
    expected = ours.update(rows[:5])
    for each in copies:
        # From the host, and back.
        np.testing.assert_array_equal(each.update(rows[:5]), expected)
        assert_same_book(each, ours)
    assert theirs.version < ours.version
    np.testing.assert_array_equal(copies[0].to("cpu").codewords, ours.codewords)
    bank = memcore.Bank(codebook=theirs)
    bank.add(rows[:5])
    np.testing.assert_array_equal(bank.get([2]).vectors, near[2:3])
    for book in (ours, copies[0]):
        book.start_from(near[: 9 * 4].reshape(2, 2, 9, -1)[..., :4], usage=2.0)
    assert_same_book(copies[0], ours)


@pytest.mark.parametrize(("n_codes", "n_distinct", "n_levels"), [(4, 40, 2), (7, 5, 1)])
def test_a_book_is_fitted_on_a_device(n_codes, n_distinct, n_levels, monkeypatch, rng):
    from memcore.ops import kmeans

    monkeypatch.setattr(kmeans, "_SEEN_AT_LEAST", 30)
    rows = np.tile(normal(rng, n_distinct, 3), (40 // n_distinct, 1))
    books = [memcore.Codebook(n_codes, 3, 1, n_levels, device=each) for each in ("cpu", "cuda")]
    books[0].fit(rows, seed=4, n_iterations=4)
    books[1].fit(tensor(rows), seed=4, n_iterations=4)
    assert_same_book(books[1], books[0])
    before = books[1].state
    rows[2, 1] = np.inf
    with pytest.raises(InputError, match="fit: vectors row 2 is not finite"):
        books[1].fit(tensor(rows))
    assert books[1].state is before


def test_an_update_on_a_device_brings_nothing_to_the_host(monkeypatch, rng):
    book, rows = memcore.Codebook(4, 3, device="cuda"), normal(rng, 20, 3)
    rows[5, 1] = np.nan
    with pytest.raises(InputError, match="update: vectors row 5 is not finite"):
        book.update(tensor(rows))
    assert not book.is_seeded
    sound = np.delete(rows, 5, axis=0)
    book.update(tensor(sound))
    other = book.to("cpu")

    def never(*given):
        raise AssertionError("the device is waited for")

    monkeypatch.setattr(memcore.tensors, "host", never)
    monkeypatch.setattr(ops, "check_sound", never)
    for _ in range(3):
        codes = book.update(tensor(rows))
    monkeypatch.undo()
    # What is not finite teaches nothing.
    assert codes[5].tolist() == [-1]
    for _ in range(3):
        other.update(sound)
    assert_same_book(book, other)
    with pytest.raises(ShapeError, match=r"update: vectors has shape \(19, 2\), should be"):
        book.update(tensor(sound[:, :2]))


@pytest.fixture
def device(monkeypatch):
    """Tensors count as on a device, wherever they lie: verbs have no word for the engine."""
    place = arrays.place
    monkeypatch.setattr(
        arrays, "place", lambda each: "cuda" if isinstance(each, torch.Tensor) else place(each)
    )


@pytest.mark.parametrize(("n_subspaces", "n_levels", "learn"), [(1, 1, "gradient"), (2, 2, "ema")])
def test_a_book_of_the_host_learns_from_rows_on_a_device(n_subspaces, n_levels, learn, device, rng):
    books = [memcore.Codebook(12, 8, n_subspaces, n_levels, learn=learn) for _ in range(2)]
    for i in range(2):
        # The distribution moves, so that codes die.
        batch = normal(rng, 16, 8) + np.float32(4 * i)
        codes = books[0].update(batch)
        found = books[1].update(tensor(batch))
        assert found.device.type == DEVICE
        np.testing.assert_array_equal(found.cpu().numpy(), codes)
        for name in ("codewords", "sums", "usage", "n_seeded"):
            ours, theirs = (getattr(book.state, name) for book in books)
            np.testing.assert_array_equal(ours, theirs)
    book, rows = books[0], normal(rng, 9, 8)
    codes = book.quantize(rows)
    found = book.quantize(tensor(rows))
    np.testing.assert_array_equal(found.cpu().numpy(), codes)
    near = book.dequantize(found).cpu().numpy()
    np.testing.assert_array_equal(near, book.dequantize(codes))
    for metric in ("dot", "l2"):
        hits = book.search(tensor(rows[:2]), found, 3, metric=metric)
        assert_hits(host(hits), book.search(rows[:2], codes, 3, metric=metric))
    fitted = [memcore.Codebook(4, 8) for _ in range(2)]
    fitted[0].fit(rows, seed=1)
    fitted[1].fit(tensor(rows), seed=1)
    np.testing.assert_array_equal(fitted[0].codewords, fitted[1].codewords)


def test_a_book_changes_nothing_for_a_bad_row_on_a_device(device, rng):
    book, rows = memcore.Codebook(4, 3), normal(rng, 9, 3)
    book.update(tensor(rows))
    before = book.state
    rows[5, 1] = np.nan
    with pytest.raises(InputError, match="update: vectors row 5 is not finite"):
        book.update(tensor(rows))
    assert book.state is before
    assert book.quantize(tensor(rows))[:, 0].cpu().tolist()[5] == -1
    with pytest.raises(ShapeError, match=r"quantize: vectors has shape \(9, 2\), should be"):
        book.quantize(tensor(rows)[:, :2])


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_the_layer_runs_on_a_device(learn, device, monkeypatch, rng):
    from memcore.nn import VectorQuantizer

    layers = [VectorQuantizer(8, 4, learn=learn) for _ in range(2)]
    layers[1].to(DEVICE)
    rows = normal(rng, 24, 4).reshape(2, 12, 4)
    for is_training in (True, False):
        results = []
        for layer, x in zip(layers, (torch.from_numpy(rows), tensor(rows)), strict=True):
            with monkeypatch.context() as patch:
                if layer is layers[0]:
                    patch.setattr(arrays, "place", lambda each: "cpu")
                layer.train(is_training)
                x.requires_grad_()
                values, codes, loss = layer(x)
                (values.square().sum() + loss).backward()
            results.append([each.detach().cpu() for each in (values, codes, loss, x.grad)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("learn", ["ema", "gradient"])
def test_a_layer_has_its_book_on_the_device(learn, rng):
    from memcore.nn import VectorQuantizer

    here, there = (VectorQuantizer(8, 4, learn=learn, device=each) for each in ("cpu", "cuda"))
    there.to(DEVICE)
    rows = normal(rng, 24, 4)
    for is_training in (True, True, False):
        results = []
        for layer, x in ((here, torch.from_numpy(rows)), (there, tensor(rows))):
            layer.train(is_training)
            x.requires_grad_()
            values, codes, loss = layer(x)
            (values.square().sum() + loss).backward()
            results.append([each.detach().cpu() for each in (values, codes, loss, x.grad)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        assert_same_book(there.book, here.book)
    knows = there.state_dict()
    again = VectorQuantizer(8, 4, learn=learn, device="cuda")
    again.load_state_dict(knows)
    assert_same_book(again.book, here.book)
    with pytest.raises(memcore.BackendError, match="forward: x is on meta, should be on"):
        there(torch.empty(3, 4, device="meta"))

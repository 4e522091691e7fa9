"""VectorQuantizer: gradients, learning, state, and two ranks that learn together."""

import copy
import doctest

import numpy as np
import pytest

from cases import normal
from memcore import BackendError, Codebook, DtypeError, InputError, ShapeError

torch = pytest.importorskip("torch")

from memcore.nn import VectorQuantizer, quantizer  # noqa: E402
from ranks import learn_together  # noqa: E402


def test_docstring_example():
    result = doctest.testmod(quantizer)
    assert result.attempted > 0
    assert result.failed == 0


def test_values_codes_and_loss_are_those_of_the_book(rng):
    layer = VectorQuantizer(20, 8, n_subspaces=2, n_levels=2, commitment=0.5)
    rows = normal(rng, 6, 10, 8)
    layer.book.fit(rows.reshape(60, 8), seed=0)
    layer.eval()
    values, codes, loss = layer(torch.from_numpy(rows))
    expected = layer.book.quantize(rows.reshape(60, 8))
    assert codes.shape == (6, 10, 4)
    np.testing.assert_array_equal(codes.numpy().reshape(60, 4), expected)
    decoded = layer.book.dequantize(expected).reshape(6, 10, 8)
    np.testing.assert_allclose(values.numpy(), decoded, atol=1e-6)
    np.testing.assert_allclose(loss.item(), 0.5 * ((rows - decoded) ** 2).mean(), rtol=1e-5)


def test_gradient_goes_straight_through(rng):
    layer = VectorQuantizer(16, 4, commitment=0.25)
    layer.book.fit(normal(rng, 100, 4), seed=0)
    x = torch.from_numpy(normal(rng, 12, 4)).requires_grad_()
    before = layer.book.codewords
    values, codes, loss = layer(x)
    given = torch.from_numpy(normal(rng, 12, 4))
    ((values * given).sum() + loss).backward()
    decoded = torch.from_numpy(before[0, 0][codes[:, 0].numpy()])
    expected = given + 0.25 * 2 * (x.detach() - decoded) / x.numel()
    torch.testing.assert_close(x.grad, expected)


def test_training_is_update(rng):
    layer, book = VectorQuantizer(16, 4, decay=0.9), Codebook(16, 4, decay=0.9)
    for _ in range(5):
        rows = normal(rng, 40, 4)
        codes = layer(torch.from_numpy(rows)).codes
        np.testing.assert_array_equal(codes.numpy(), book.update(rows))
    np.testing.assert_array_equal(layer.book.codewords, book.codewords)
    layer.eval()
    layer(torch.from_numpy(rows))
    assert layer.book.version == book.version == 5


def test_gradient_mode_has_the_gradient_of_both_losses(rng):
    layer = VectorQuantizer(16, 6, n_subspaces=2, learn="gradient", reset=None)
    rows = torch.from_numpy(normal(rng, 30, 6))
    layer(rows)
    x = rows.clone().requires_grad_()
    words = layer.codewords.detach().clone()
    values, codes, loss = layer(x)
    loss.backward()
    expected = torch.zeros_like(words)
    decoded = torch.cat([words[0, s, codes[:, s]] for s in range(2)], 1)
    for s in range(2):
        own = slice(3 * s, 3 * s + 3)
        step = 2 * (decoded - rows)[:, own] / rows.numel()
        expected[0, s].index_add_(0, codes[:, s], step)
    torch.testing.assert_close(layer.codewords.grad, expected)
    torch.testing.assert_close(x.grad, 0.25 * 2 * (rows - decoded) / rows.numel())
    torch.testing.assert_close(values.detach(), decoded)


def test_gradient_mode_learns_and_resets(rng):
    layer = VectorQuantizer(32, 4, learn="gradient", decay=0.9)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    centres = normal(rng, 32, 4) * 3
    losses = []
    for offset in (0, 20):
        for _ in range(150):
            rows = centres[rng.integers(0, 32, 64)] + 0.05 * normal(rng, 64, 4) + offset
            optimizer.zero_grad()
            loss = layer(torch.from_numpy(rows.astype(np.float32))).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert np.mean(losses[-10:]) < 0.6
        assert layer.book.perplexity().item() > 16
    # Right after the shift all was far away.
    assert losses[150] > 5


def test_state_dict_brings_the_book(rng):
    layer, other = VectorQuantizer(16, 4), VectorQuantizer(16, 4)
    for _ in range(3):
        layer(torch.from_numpy(normal(rng, 40, 4)))
    saved = copy.deepcopy(layer.state_dict())
    other.load_state_dict(saved)
    rows = torch.from_numpy(normal(rng, 40, 4))
    assert torch.equal(layer(rows).codes, other(rows).codes)
    np.testing.assert_array_equal(layer.book.codewords, other.book.codewords)
    assert layer.book.version == other.book.version == 4
    with pytest.raises(ShapeError, match="load_state_dict: codewords has shape"):
        VectorQuantizer(8, 4).load_state_dict(saved)
    clone = copy.deepcopy(layer)
    clone(rows)
    assert layer.book.version == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype, rng):
    layer = VectorQuantizer(16, 4)
    x = torch.from_numpy(normal(rng, 40, 4)).to(dtype).requires_grad_()
    values, codes, _ = layer(x)
    values.sum().backward()
    assert values.dtype == x.grad.dtype == dtype
    # The first rows are the codewords.
    assert codes[:16, 0].tolist() == list(range(16))
    assert torch.equal(values[:16], x[:16])
    assert torch.equal(layer.eval()(x).codes[:16], codes[:16])


def test_torch_compile_runs_the_layer_between_what_it_compiles(rng):
    batches = [torch.from_numpy(normal(rng, 40, 4)) for _ in range(12)]
    found = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 6), VectorQuantizer(8, 6, decay=0.5))
        run = torch.compile(model, backend="aot_eager") if is_compiled else model
        for rows in batches:
            values, codes, loss = run(rows)
            (values.square().sum() + loss).backward()
        book = model[1].book
        assert book.version == len(batches)
        found.append((values.detach(), codes, loss.detach(), model[0].weight.grad, book.codewords))
    for eager, compiled in zip(*found, strict=True):
        np.testing.assert_array_equal(np.asarray(eager), np.asarray(compiled))
    with pytest.raises(Exception, match=r"VectorQuantizer\.forward"):
        torch.compile(VectorQuantizer(8, 4), fullgraph=True, backend="eager")(batches[0])


def test_bad_input_changes_nothing(rng):
    layer = VectorQuantizer(16, 4)
    rows = torch.from_numpy(normal(rng, 40, 4))
    with pytest.raises(InputError, match="forward: the book is empty"):
        layer.eval()(rows)
    layer.train()(rows)
    state = layer.book.state
    rows[7, 1] = float("nan")
    with pytest.raises(InputError, match="forward: vectors row 7 is not finite"):
        layer(rows)
    with pytest.raises(ShapeError, match=r"forward: x has shape \(40, 3\)"):
        layer(rows[:, :3])
    for other in (rows.numpy(), rows.long()):
        with pytest.raises(DtypeError, match=r"^forward: x is of .*, should be a tensor"):
            layer(other)
    assert layer.book.state is state
    with pytest.raises(InputError, match="commitment is -1"):
        VectorQuantizer(16, 4, commitment=-1)


def test_a_device_without_kernels_is_refused(rng):
    pytest.importorskip("triton")
    layer, rows = VectorQuantizer(16, 4), torch.from_numpy(normal(rng, 40, 4))
    layer(rows)
    with pytest.raises(BackendError, match="is on meta, should be on a GPU"):
        layer(rows.to("meta"))


def test_two_ranks_learn_as_one(tmp_path, rng):
    centres = normal(rng, 30, 6)
    batches = [centres[rng.integers(0, 30, 90)] + 0.1 * normal(rng, 90, 6) for _ in range(12)]
    batches = [batch.astype(np.float32) for batch in batches]
    torch.multiprocessing.spawn(learn_together, (2, str(tmp_path), batches), nprocs=2)
    one, two = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    for name in one.files:
        np.testing.assert_array_equal(one[name], two[name])
    # A single process that sees the batches whole; seeding takes rows in the same order.
    book = Codebook(24, 6, n_levels=1, decay=0.9)
    for batch in batches:
        book.update(batch)
    np.testing.assert_allclose(one["usage"][0], book.usage[0], rtol=1e-9)
    np.testing.assert_allclose(one["codewords"][0], book.codewords[0], rtol=1e-3, atol=1e-4)
    assert one["n_seeded"].tolist() == [24, 24]

"""nce, disperse and gather over NumPy arrays: the definition, the gates, and bad input."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from containers import to_bfloat16
from memcore.errors import DtypeError, InputError, ShapeError
from memcore.ops.queue import disperse, gather, nce
from memcore.reference import queue as reference

SHAPES = [(1, 1, 1), (3, 7, 5), (50, 300, 64), (7, 9000, 16)]


def normal(rng, *shape, real=np.float32):
    return rng.standard_normal(shape).astype(real)


def close(got, expected, real):
    tolerance = 1e-12 if real == np.float64 else 3e-6
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_nce(rng, backend, shape, real, has_bias):
    n, n_negatives, dim = shape
    queries, positives = normal(rng, n, dim, real=real), normal(rng, n, dim, real=real)
    negatives = normal(rng, n_negatives, dim, real=real)
    bias = normal(rng, n_negatives, real=real) if has_bias else None
    temperature = float(np.sqrt(dim))
    options = {"temperature": temperature, "bias": bias, "backend": backend}
    got = nce(queries, positives, negatives, reduction="none", **options)
    expected = reference.nce(queries, positives, negatives, temperature, bias)[0]
    assert got.dtype == real
    close(got, expected, real)
    close(nce(queries, positives, negatives, **options), expected.mean(), real)


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_disperse(rng, backend, shape, real, has_bias):
    n, n_negatives, dim = shape
    rows, negatives = normal(rng, n, dim, real=real), normal(rng, n_negatives, dim, real=real)
    bias = normal(rng, n_negatives, real=real) if has_bias else None
    options = {"bias": bias, "backend": backend}
    got = disperse(rows, negatives, reduction="none", **options)
    expected = reference.disperse(rows, negatives, dim, bias)[0]
    close(got, expected, real)
    close(disperse(rows, negatives, **options), expected.mean(), real)
    pairs = np.log(np.exp(expected).mean())
    close(disperse(rows, negatives, reduction="pairs", **options), pairs, real)


def test_disperse_within_the_batch_is_the_published_loss(rng):
    rows = normal(rng, 40, 12)
    apart = ((rows[:, None].astype(float) - rows) ** 2).sum(-1)
    expected = np.log(np.exp(-apart / 12).mean())
    assert disperse(rows) == pytest.approx(expected, rel=1e-6)
    assert disperse(rows, tau=3.0) == pytest.approx(np.log(np.exp(-apart / 3).mean()), rel=1e-6)


def test_types_of_arrays_may_differ(rng):
    queries, positives, negatives = normal(rng, 4, 8), normal(rng, 4, 8), normal(rng, 30, 8)
    half = negatives.astype(np.float16)
    got = nce(queries, positives.tolist(), half, temperature=1.0)
    expected = reference.nce(queries, positives, half, 1.0)[0].mean()
    assert got == pytest.approx(expected, rel=1e-6)
    mixed = nce(queries.astype(np.float64), positives, half, temperature=1.0)
    assert mixed.dtype == np.float64
    assert mixed == pytest.approx(expected, rel=1e-12)
    torch = pytest.importorskip("torch")
    short = torch.from_numpy(to_bfloat16(negatives).view(np.int16)).view(torch.bfloat16)
    got = disperse(torch.from_numpy(queries), short)
    assert isinstance(got, torch.Tensor)
    assert float(got) == pytest.approx(
        reference.disperse(queries, short.float().numpy(), 8)[0].mean(), rel=1e-6
    )


def test_leading_axes_broadcast(rng):
    queries, positives = normal(rng, 2, 3, 5, 8), normal(rng, 2, 3, 5, 8)
    negatives, bias = normal(rng, 3, 20, 8), normal(rng, 20)
    got = nce(queries, positives, negatives, temperature=2.0, bias=bias, reduction="none")
    assert got.shape == (2, 3, 5)
    for i in range(2):
        for j in range(3):
            given = (queries[i, j], positives[i, j], negatives[j])
            close(got[i, j], reference.nce(*given, 2.0, bias)[0], np.float32)
    shared = disperse(queries[0, 0], negatives, reduction="none")
    for j in range(3):
        close(shared[j], reference.disperse(queries[0, 0], negatives[j], 8)[0], np.float32)


def test_a_bias_leaves_out_and_counts(rng):
    rows, negatives = normal(rng, 6, 4), normal(rng, 9, 4)
    bias = np.zeros(9, np.float32)
    bias[5:] = -np.inf
    bias[0] = np.log(3)
    repeated = negatives[[0, 0, 0, 1, 2, 3, 4]]
    for loss in (disperse, lambda r, n, **b: nce(r, r, n, **b)):
        assert loss(rows, negatives, bias=bias) == pytest.approx(loss(rows, repeated), rel=1e-6)


def test_against_nothing_the_loss_is_zero(rng):
    queries = normal(rng, 3, 4)
    none = np.zeros((0, 4), np.float32)
    assert nce(queries, queries, none, reduction="none").tolist() == [0, 0, 0]
    left_out = np.full(2, -np.inf, np.float32)
    assert nce(queries, queries, queries[:2], bias=left_out) == 0


@pytest.mark.parametrize("spread", [1.0, 5.0])
def test_the_loss_of_a_large_queue_is_exact(rng, spread):
    queries, negatives = normal(rng, 256, 128), normal(rng, 65_536, 128)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    negatives /= np.linalg.norm(negatives, axis=1, keepdims=True)
    got = nce(queries, queries, negatives, temperature=0.07 * spread)
    logits = queries.astype(float) @ negatives.T.astype(float) / (0.07 * spread)
    own = (queries.astype(float) ** 2).sum(1) / (0.07 * spread)
    expected = np.logaddexp(own, np.log(np.exp(logits).sum(1))) - own
    assert got == pytest.approx(expected.mean(), rel=1e-6)
    scaled = disperse(queries * 11 * spread, negatives * 11 * spread)
    # |q|^2 + |n|^2 - 2 q n, of rows of length 11 times spread, over dim.
    apart = (121 * spread**2) * (
        (queries.astype(float) ** 2).sum(1, keepdims=True)
        + (negatives.astype(float) ** 2).sum(1)
        - 2 * 0.07 * spread * logits
    )
    values = np.log(np.exp(-apart / 128).mean(1))
    assert scaled == pytest.approx(values.mean(), rel=1e-6)


MEMORY = """
import sys
import numpy as np
from memcore.ops.queue import nce, disperse
def status(name):
    text = open("/proc/self/status").read()
    return int(text.split(name + ":")[1].split()[0]) * 1024
rng = np.random.default_rng(0)
negatives = rng.standard_normal((65536, 128), np.float32)
queries = rng.standard_normal((256, 128), np.float32)
if sys.argv[1] == "torch":
    import torch
    negatives = torch.from_numpy(negatives)
    queries = torch.from_numpy(queries).requires_grad_()
    def step(n):
        nce(queries, queries.detach(), negatives[:n], temperature=10.0).backward()
        disperse(queries, negatives[:n]).backward()
else:
    def step(n):
        nce(queries, queries, negatives[:n], temperature=10.0)
        disperse(queries, negatives[:n])
step(2048)
# Resets the peak to what is held now.
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
step(65536)
print(status("VmHWM") - before)
"""


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_memory_is_a_tenth_of_the_logits(library):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs /proc/self/clear_refs")
    if library == "torch":
        pytest.importorskip("torch")
    done = subprocess.run(
        [sys.executable, "-I", "-c", MEMORY, library], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 256 * 65_536 * 4 / 10


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.bool_])
def test_gather(rng, dtype):
    values = (normal(rng, 9, 4, 2, 3) * 3).astype(dtype)
    ids = rng.integers(-1, 9, (5, 6))
    got = gather(values, ids)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, reference.gather(values, ids))
    np.testing.assert_array_equal(gather(values, -1), np.zeros((4, 2, 3), dtype))
    np.testing.assert_array_equal(gather(values[:0], [-1]), np.zeros((1, 4, 2, 3), dtype))


ROWS = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: nce(ROWS, ROWS, ROWS, temperature=0), InputError, "nce: temperature is 0"),
        (lambda: nce(ROWS, ROWS, ROWS, temperature=-1.0), InputError, "temperature is -1.0"),
        (lambda: nce(ROWS, ROWS, ROWS, temperature=np.nan), InputError, "temperature is nan"),
        (lambda: nce(ROWS, ROWS, ROWS, temperature="x"), DtypeError, "temperature is 'x'"),
        (lambda: nce(ROWS, ROWS, ROWS, reduction="sum"), InputError, "reduction is 'sum'"),
        (lambda: nce(ROWS, ROWS[:1], ROWS), ShapeError, "nce: positives has shape"),
        (lambda: nce(ROWS, ROWS, ROWS[:, :2]), ShapeError, "nce: negatives has dim 2"),
        (lambda: nce(ROWS[0], ROWS[0], ROWS), ShapeError, "nce: queries has shape"),
        (lambda: nce(ROWS, ROWS, ROWS, bias=np.zeros(3)), ShapeError, "nce: bias has shape"),
        (lambda: nce(ROWS, ROWS, np.zeros((3, 2, 3)), bias=np.zeros((2, 2))), ShapeError, "broadc"),
        (lambda: nce(ROWS + np.inf, ROWS, ROWS), InputError, "nce: queries row 0 is not finite"),
        (lambda: nce(ROWS, ROWS, ROWS, backend="cuda"), Exception, "backend is 'cuda'"),
        (lambda: disperse(ROWS, ROWS, tau=0), InputError, "disperse: tau is 0"),
        (lambda: disperse(ROWS, ROWS[:0]), InputError, "disperse: negatives has 0 rows"),
        (lambda: disperse(ROWS, reduction="sum"), InputError, "reduction is 'sum'"),
        (lambda: disperse([["a"]]), DtypeError, "disperse: rows has dtype"),
        (lambda: gather(ROWS, [2]), InputError, "gather: ids has 2, should be from -1 to 1"),
        (lambda: gather(ROWS, [-2]), InputError, "gather: ids has -2"),
        (lambda: gather(ROWS, [0.5]), DtypeError, "gather: ids has dtype"),
    ],
)
def test_bad_input(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()

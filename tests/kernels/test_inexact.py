"""What promises bits gives them, however inexact a GPU's arithmetic is: see `inexact`."""

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore import reference
from memcore.ops import codebook as ops
from memcore.ops.lsh import lsh_encode, lsh_planes

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from inexact import MODES, arithmetic  # noqa: E402
from memcore.kernels import lsh  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about the interpreter")
# How near a tie is, in what the first pass may be wrong by.
GAPS = np.array([0, 0.01, 0.3, 0.9, 0.99, 1.01, 1.1, 2, 2.02, 3, 30], np.float64)


@pytest.fixture
def products(monkeypatch, rng):
    """One of the modes, drawn by each run."""
    with arithmetic(monkeypatch, rng.choice(MODES), int(rng.integers(2**32))) as count:
        yield count


def near_planes(rng, planes, n, dtype):
    """Rows whose products with one plane each are some part of the bound, of either sign."""
    dim = planes.shape[1]
    rows, plane = normal(rng, n, dim).astype(np.float64), planes[rng.integers(len(planes), size=n)]
    plane = plane.astype(np.float64)
    square = np.einsum("ij,ij->i", plane, plane)
    rows -= (np.einsum("ij,ij->i", rows, plane) / square)[:, None] * plane
    bound = lsh.slack(dim, dtype == "bfloat16", np.issubdtype(planes.dtype, np.integer))
    bound *= np.abs(rows).sum(1) * np.abs(plane).max(1)
    wanted = bound * rng.choice(GAPS, n) * rng.choice([-1, 1], n)
    return (rows + (wanted / square)[:, None] * plane).astype(np.float32)


def test_hashes_near_the_bound(products, rng):
    planes, dtype = rng.choice(["signs", "gaussian"]), rng.choice(["float32", "bfloat16"])
    directions = lsh_planes(64, 100, seed=2, kind=planes)
    rows = torch.tensor(near_planes(rng, directions, 130, dtype)).to(getattr(torch, dtype))
    for kind, n_bits in (("sign", 32), ("cross_polytope", 6)):
        codes = lsh_encode(rows, directions, n_bits, kind=kind, backend="triton")
        expected = reference.lsh_encode(rows.float().numpy(), directions, n_bits, kind)
        np.testing.assert_array_equal(codes.numpy(), expected)
    assert products["dots"] > 0


@pytest.mark.parametrize(("n", "dim"), [(130, 64), (20, 150)])
def test_codewords_that_are_as_near(products, n, dim, rng):
    words, pairs = normal(rng, 40, dim), rng.integers(0, 40, (n, 2))
    left, right = (words[each].astype(np.float64) for each in pairs.T)
    # In the middle, but for some part of the bound.
    bound = (lsh.slack(dim, False, False) / 4 + (dim / 16 + 40) * 2.0**-23) * 4 * dim
    step = bound * rng.choice(GAPS, n) * rng.choice([-1, 1], n)
    square = np.einsum("ij,ij->i", left - right, left - right)
    step = np.divide(step, square, out=np.zeros(n), where=square > 0)
    rows = ((left + right) / 2 + step[:, None] * (left - right)).astype(np.float32)
    found = ops.assign(torch.tensor(rows), torch.tensor(words), backend="triton")
    for ours, theirs in zip(found, reference.assign(rows, words), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)
    assert products["dots"] > 0


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_keys_that_score_as_much(products, metric, rng):
    # Keys a few units in the last place apart, so that bounds say nothing between them.
    base = normal(rng, 4, 40)
    keys = base[rng.integers(0, 4, 300)]
    keys = (keys.view(np.int32) + rng.integers(-2, 3, keys.shape).astype(np.int32)).view(np.float32)
    queries = np.concatenate([base[:2], normal(rng, 2, 40)])
    weights = {"bias": normal(rng, 300) * np.float32(1e-6)} if rng.integers(2) else {}
    given = {name: torch.tensor(each) for name, each in weights.items()}
    scores = torch.empty(4, 6), torch.empty(4, 6, dtype=torch.int64)
    bounds = (-torch.inf, torch.inf, True)
    weighs = (None, None, None, given.get("bias"))
    asked = (torch.tensor(queries), torch.tensor(keys))
    memcore.kernels.search(*asked, None, None, 6, metric, *weighs, *bounds, *scores)
    expected = reference.search(queries, keys, 6, metric=metric, **weights)
    assert_hits([each.numpy() for each in scores], expected)

"""topk's kernels against the definition, by equality: interpreted, or on a GPU."""

import numpy as np
import pytest

import memcore
from cases import rows_of_scores
from compare import assert_hits
from memcore import reference

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from on_device import DEVICE  # noqa: E402


def found(scores, k):
    hits = memcore.topk(torch.from_numpy(scores).to(DEVICE), k, backend="triton")
    assert hits.ids.device.type == DEVICE
    return tuple(each.cpu().numpy() for each in hits)


@pytest.mark.parametrize("n", [0, 1, 17, 1023, 1024, 1025, 5000])
def test_every_width(n, rng):
    scores = rows_of_scores(rng, 3, n)
    for k in (0, 1, 10, 64, max(n - 1, 0), n, n + 5):
        assert_hits(found(scores, k), reference.topk(scores, k), f"n={n}, k={k}")


def test_rows_that_take_several_launches(rng):
    scores = rows_of_scores(rng, 1, 70_000)
    # Ties from end to end: only their order by id tells which are among the best.
    scores[:, ::3] = 4
    assert_hits(found(scores, 30), reference.topk(scores, 30))


def test_nothing_but_nan_and_infinities():
    scores = np.full((3, 2000), np.nan, np.float32)
    scores[1] = -np.inf
    scores[2, 1500:] = np.inf
    assert_hits(found(scores, 40), reference.topk(scores, 40))


@pytest.mark.parametrize("largest", [60, 600])
def test_k_per_query(largest, rng):
    scores, k = rows_of_scores(rng, 5, 1100), np.array([0, 3, 50, largest, 1])
    assert_hits(found(scores, k), reference.topk(scores, k))
    assert_hits(found(scores, k.tolist()), reference.topk(scores, k))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_every_dtype(dtype, rng):
    scores = (torch.from_numpy(rng.standard_normal((3, 90))) * 5).to(dtype).to(DEVICE)
    hits = memcore.topk(scores, 7, backend="triton")
    expected = reference.topk(scores.cpu().to(torch.float32).numpy(), 7)
    assert_hits([each.cpu() for each in hits], expected)


def test_strides(rng):
    scores = rows_of_scores(rng, 600, 8)
    given = torch.from_numpy(scores).to(DEVICE)
    for k in (5, 190):
        hits = memcore.topk(given.T[::2, 1::3], k, backend="triton")
        expected = reference.topk(np.ascontiguousarray(scores.T[::2, 1::3]), k)
        assert_hits([each.cpu() for each in hits], expected)
    one = memcore.topk(given[0], 4, backend="triton")
    assert_hits([each.cpu() for each in one], reference.topk(scores[:1], 4))


def test_gradients(rng):
    scores, slopes = rows_of_scores(rng, 3, 40), rng.standard_normal((3, 6))
    scores[1, 3:] = np.nan
    scores[2, 7] = np.inf
    for backend, place in ((None, "cpu"), ("triton", DEVICE)):
        given = torch.tensor(scores, device=place, requires_grad=True)
        hits = memcore.topk(given, np.array([6, 6, 4]), backend=backend)
        assert_hits([each.detach().cpu() for each in hits], reference.topk(scores, [6, 6, 4]))
        valid = torch.where(torch.isfinite(hits.scores), hits.scores, 0)
        (valid * torch.tensor(slopes, device=place)).sum().backward()
        expected = np.zeros_like(scores)
        rows, ranks = np.nonzero(np.isfinite(hits.scores.detach().cpu().numpy()))
        expected[rows, hits.ids.cpu().numpy()[rows, ranks]] = slopes[rows, ranks]
        assert (given.grad.cpu().numpy() == expected).all()


def test_what_it_refuses():
    scores = torch.zeros(2, 8, device=DEVICE)
    with pytest.raises(memcore.ShapeError, match=r"^topk: scores has shape \(1, 2, 8\), should be"):
        memcore.topk(scores[None], 3, backend="triton")
    with pytest.raises(memcore.InputError, match=r"^topk: k is -1, should be at least 0"):
        memcore.topk(scores, -1, backend="triton")
    with pytest.raises(memcore.BackendError, match="backend is 'cpu', should be 'triton'"):
        memcore.topk(torch.zeros(2, 8, device="meta"), 3, backend="cpu")

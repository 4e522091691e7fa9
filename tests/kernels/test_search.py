"""The kernels of search against the definition, by equality: interpreted, or on a GPU."""

import zlib

import numpy as np
import pytest

import memcore
from cases import CASES, METRICS, normal
from compare import assert_hits
from memcore import reference

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from memcore import kernels  # noqa: E402
from on_device import DEVICE, host, tensor  # noqa: E402

# What takes minutes to interpret: the same in fewer rows.
MOST_QUERIES, MOST_KEYS, MOST_DIM = 6, 150, 272


def run(queries, keys, k, first_pass, metric="dot", offsets=None, segments=None, **options):
    """The launcher, with its first pass forced on or off, into poisoned results."""
    width = int(np.max(k, initial=0))
    scores = torch.full((len(queries), width), torch.nan, device=DEVICE)
    ids = torch.full((len(queries), width), -7777, device=DEVICE)
    names = ("mask", "candidates", "scale", "bias")
    given = [tensor(options[name]) if name in options else None for name in names]
    bounds = options.get("min_score", -np.inf), options.get("max_score", np.inf)
    ragged = [None if each is None else tensor(each) for each in (offsets, segments)]
    widths = k if isinstance(k, int) else tensor(k)
    kernels.search(queries, keys, *ragged, widths, metric, *given, *bounds, first_pass, scores, ids)
    return host((scores, ids))


def shortened(case):
    """The same case with at most so many queries, keys and components."""
    n_queries, n_keys = min(len(case.queries), MOST_QUERIES), min(len(case.keys), MOST_KEYS)
    if np.max(case.k) > 32:
        # Ranking many is slow where every comparison is interpreted.
        n_queries = 1
    options = {}
    for name, value in case.options.items():
        if name == "candidates":
            value = np.where(value < n_keys, value, -1)[:n_queries]
        elif np.ndim(value):
            value = value[..., :n_keys]
            value = value[:n_queries] if value.ndim == 2 else value
        options[name] = value
    k = case.k if np.ndim(case.k) == 0 else case.k[:n_queries]
    queries, keys = case.queries[:n_queries, :MOST_DIM], case.keys[:n_keys, :MOST_DIM]
    return queries, keys, k, options


@pytest.mark.parametrize("name", CASES)
def test_every_case(name, rng):
    queries, keys, k, options = shortened(CASES[name](rng))
    # One of two ways, drawn anew by each run, with one metric each: all would take half an hour.
    first_pass = bool(rng.integers(2))
    metric = METRICS[(zlib.crc32(name.encode()) + first_pass) % len(METRICS)]
    expected = reference.search(queries, keys, k, metric=metric, **options)
    found = run(tensor(queries), tensor(keys), k, first_pass, metric, **options)
    assert_hits(found, expected, f"{name}, {metric}, {first_pass}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("first_pass", [True, False], ids=["first_pass", "scan"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_every_dtype_of_keys(dtype, first_pass, metric, rng):
    queries = tensor(normal(rng, 5, 40))
    keys = (tensor(normal(rng, 150, 40)) * 20).to(getattr(torch, dtype))
    wide = keys.float().cpu().numpy()
    expected = reference.search(queries.cpu().numpy(), wide, 3, metric=metric)
    assert_hits(run(queries, keys, 3, first_pass, metric), expected)


@pytest.mark.parametrize("first_pass", [True, False], ids=["first_pass", "scan"])
def test_strides(first_pass, rng):
    queries, keys = normal(rng, 10, 66), normal(rng, 300, 66)
    asked, rows = tensor(queries)[::2, ::3], tensor(keys)[::2, ::3]
    expected = reference.search(queries[::2, ::3], keys[::2, ::3], 4)
    assert_hits(run(asked, rows, 4, first_pass), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [3, 300])
def test_segments(k, metric, rng):
    queries, keys = normal(rng, 5, 20), normal(rng, 200, 20)
    offsets, segments = np.array([0, 0, 7, 120, 200]), np.array([3, 1, 2, 0, 3])
    expected = reference.search_ragged(queries, keys, offsets, segments, k, metric=metric)
    found = run(tensor(queries), tensor(keys), k, None, metric, offsets, segments)
    assert_hits(found, expected)


@pytest.mark.parametrize("name", ["mask_of_each_query", "many_candidates", "everything_at_once"])
def test_a_k_that_is_sorted(name, rng):
    case = CASES[name](rng)
    k = np.full(len(case.queries), 280)
    expected = reference.search(case.queries, case.keys, k, **case.options)
    found = run(tensor(case.queries), tensor(case.keys), k, None, **case.options)
    assert_hits(found, expected)


@pytest.mark.parametrize(("metric", "dim"), [("dot", 70), ("cosine", 40)])
def test_programs_that_take_many_tiles_each(metric, dim, rng, monkeypatch):
    monkeypatch.setattr(kernels.first_pass, "_PROGRAMS", 1)
    monkeypatch.setattr(kernels.first_pass, "_TILES", 2)
    queries, keys = normal(rng, 3, dim), normal(rng, 300, dim)
    # The last page is not full, and all scores of its keys are below zero.
    queries[0] = np.abs(queries[0])
    keys[288:] = -np.abs(keys[288:])
    keys[5], keys[40, 3], keys[41, 3] = 0, np.nan, 1e20
    for rows in (keys, keys[288:]):
        expected = reference.search(queries, rows, 5, metric=metric)
        assert_hits(run(tensor(queries), tensor(rows), 5, True, metric), expected)


def test_a_query_that_may_not_be_asked_finds_nothing(rng):
    queries, keys = normal(rng, 20, 30), normal(rng, 200, 30)
    queries[3, 5], queries[7, 0], queries[11, 2] = np.nan, np.inf, 1e19
    sound = [q for q in range(20) if q not in (3, 7, 11)]
    expected = reference.search(queries[sound], keys, 4)
    for first_pass in (True, False):
        scores, ids = run(tensor(queries), tensor(keys), 4, first_pass)
        assert_hits((scores[sound], ids[sound]), expected)
        assert (ids[[3, 7, 11]] == -1).all()
        assert (scores[[3, 7, 11]] == -np.inf).all()


def test_candidates_outside_the_keys_are_skipped(rng):
    queries, keys = normal(rng, 3, 20), normal(rng, 50, 20)
    named = rng.integers(-5, 60, (3, 30))
    inside = np.where((named >= 0) & (named < 50), named, -1)
    expected = reference.search(queries, keys, 5, candidates=inside)
    assert_hits(run(tensor(queries), tensor(keys), 5, None, candidates=named), expected)


def test_the_public_search_takes_tensors_where_they_lie(rng):
    case = CASES["everything_at_once"](rng)
    options = {
        name: tensor(value) if np.ndim(value) else value for name, value in case.options.items()
    }
    given = tensor(case.queries), tensor(case.keys), case.k
    hits = memcore.search(*given, metric="cosine", backend="triton", **options)
    assert hits.ids.device.type == DEVICE
    expected = reference.search(case.queries, case.keys, case.k, metric="cosine", **case.options)
    assert_hits(host(hits), expected)
    one = memcore.search(given[0][0], given[1], 3, backend="triton")
    assert one.ids.shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"keys": (10, 7)}, memcore.ShapeError, r"queries has shape \(2, 8\) and keys \(10, 7\)"),
        ({"mask": (9,)}, memcore.ShapeError, r"mask has shape \(9,\), should be \(10,\)"),
        ({"scale": (9,)}, memcore.ShapeError, r"scale has shape \(9,\), should be \(10,\)"),
        ({"candidates": (3, 2)}, memcore.ShapeError, r"candidates has shape \(3, 2\)"),
        ({"k": -1}, memcore.InputError, "k is -1, should be at least 0"),
        ({"k": 1.5}, memcore.DtypeError, "k is 1.5, should be an int"),
        ({"metric": "cos"}, memcore.InputError, "metric is 'cos', should be one of"),
        ({"backend": "reference"}, None, ""),
    ],
)
def test_what_it_refuses(arguments, error, sentence):
    given = {"k": 3, "backend": "triton"}
    for name, value in arguments.items():
        given[name] = torch.zeros(value, device=DEVICE) if isinstance(value, tuple) else value
    if "mask" in given:
        given["mask"] = given["mask"].bool()
    if "candidates" in given:
        given["candidates"] = given["candidates"].long()
    keys = given.pop("keys", torch.zeros(10, 8, device=DEVICE))
    queries = torch.zeros(2, 8, device=DEVICE)
    if error is None:
        hits = memcore.search(queries.cpu(), keys.cpu(), **given)
        assert hits.ids.tolist() == [[0, 1, 2]] * 2
        return
    with pytest.raises(error, match=f"^search: {sentence}"):
        memcore.search(queries, keys, **given)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_scores_have_the_gradients_of_the_cpu(metric, rng, by_kernels):
    queries, keys = normal(rng, 2, 20), normal(rng, 12, 20)
    scale, bias, slopes = normal(rng, 12), normal(rng, 12), normal(rng, 2, 5)
    grads = []
    for place, backend in (("cpu", None), (by_kernels, "triton")):
        leaves = [torch.tensor(x, device=place) for x in (queries, keys, scale, bias)]
        asked, rows, *weights = [each.requires_grad_() for each in leaves]
        weighted = {"scale": weights[0], "bias": weights[1]}
        hits = memcore.search(asked, rows, 5, metric=metric, backend=backend, **weighted)
        found = tuple(each.detach().cpu().numpy() for each in hits)
        assert_hits(
            found, reference.search(queries, keys, 5, metric=metric, scale=scale, bias=bias)
        )
        loss = (hits.scores * torch.tensor(slopes, device=place)).sum()
        segments = torch.tensor([1, 0], device=place)
        offsets = torch.tensor([0, 5, 12], device=place)
        given = {"segments": segments, "metric": metric, "backend": backend}
        hits = memcore.search_ragged(asked, rows, offsets, 2, **given)
        loss = loss + hits.scores.sum()
        grads.append([each.cpu() for each in torch.autograd.grad(loss, leaves)])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_arrays_that_a_kernel_cannot_read(monkeypatch):
    queries = torch.zeros(2, 8)
    with pytest.raises(memcore.BackendError, match=r"^search: keys is not a tensor"):
        memcore.search(queries, np.zeros((3, 8), np.float32), backend="triton")
    with pytest.raises(memcore.BackendError, match=r"should be on cpu as the others"):
        memcore.search(queries, torch.zeros(3, 8, device="meta"), backend="triton")
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(memcore.BackendError, match="should be on a GPU where triton runs"):
        memcore.search(torch.zeros(2, 8), torch.zeros(3, 8), backend="triton")

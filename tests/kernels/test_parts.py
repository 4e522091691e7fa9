"""Calls that go over their queries, vectors or rows in parts: the same bits, in more steps."""

import numpy as np
import pytest

from cases import normal
from memcore.ops.lsh import lsh_planes

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from triton.runtime import interpreter  # noqa: E402

from device_banks import Both  # noqa: E402
from memcore import kernels  # noqa: E402
from memcore.kernels import workspace  # noqa: E402
from on_device import host, tensor  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about the interpreter")

INF = float("inf")
INT64 = torch.int64


def room(n_queries, width):
    return torch.empty(n_queries, width), torch.empty(n_queries, width, dtype=INT64)


def found(rng, n_queries, n_keys, k, first_pass=None, **options):
    names = ("offsets", "segments", "mask", "candidates", "scale", "bias")
    offsets, segments, *limits = (options.get(name) for name in names)
    hits = room(n_queries, k)
    queries, keys = (torch.tensor(normal(rng, n, 7)) for n in (n_queries, n_keys))
    keys[n_keys // 2 :] = keys[: n_keys - n_keys // 2].clone()
    kernels.search(
        queries, keys, offsets, segments, k, "cosine", *limits, -INF, INF, first_pass, *hits
    )
    return hits


# Calls of little memory, and a cap under which they go in several parts.
SMALL = {}


def small(cap):
    def add(run):
        SMALL[run.__name__.strip("_")] = (run, cap)
        return run

    return add


@small(1000)
def scan(rng):
    mask = torch.tensor(rng.random((11, 40)) < 0.7)
    return found(rng, 11, 40, 5, mask=mask, scale=torch.tensor(normal(rng, 40)))


@small(2000)
def scan_of_the_segments(rng):
    offsets, segments = torch.tensor([0, 9, 9, 40]), torch.tensor(rng.integers(0, 3, 9))
    return found(rng, 9, 40, 5, offsets=offsets, segments=segments)


@small(4000)
def scan_of_candidates(rng):
    return found(rng, 9, 40, 5, candidates=torch.tensor(rng.integers(-1, 40, (9, 12))))


@small(20_000)
def groups(rng):
    return found(rng, 5, 40, 3, True, mask=torch.tensor(rng.random((5, 40)) < 0.7))


@small(30_000)
def split(rng):
    return found(rng, 3, 330, 300, mask=torch.tensor(rng.random((3, 330)) < 0.7))


@small(8000)
def split_of_columns(rng):
    # Most of a page of keys is there twice: ties are between parts.
    bias = torch.tensor(normal(rng, 1000))
    return found(rng, 2, 1000, 257, bias=bias)


@small(8000)
def split_of_columns_of_a_segment(rng):
    offsets = torch.tensor([0, 60, 1000])
    return found(rng, 2, 1000, 257, offsets=offsets, segments=torch.tensor([1, 0]))


@small(8000)
def split_of_columns_of_candidates(rng):
    candidates = torch.tensor(rng.integers(-1, 200, (2, 700)))
    return found(rng, 2, 200, 257, candidates=candidates)


@small(1 << 13)
def topk_counted(rng):
    hits = room(5, 20)
    kernels.topk(torch.tensor(rng.integers(0, 50, (5, 3000))).float(), 20, *hits)
    return hits


@small(1 << 13)
def topk_sorted_in_parts(rng):
    scores = torch.tensor(rng.integers(0, 50, (2, 3000))).float()
    scores[:, ::7], scores[:, ::11] = float("nan"), -INF
    hits = room(2, 600)
    kernels.topk(scores, torch.tensor([600, 20]), *hits)
    return hits


@small(3000)
def topk_with_widths(rng):
    hits = room(6, 9)
    kernels.topk(torch.tensor(normal(rng, 6, 1100)), torch.arange(3, 9), *hits)
    return hits


@small(200)
def signs(rng):
    planes = torch.tensor(lsh_planes(80, 20, seed=1))
    codes = torch.empty(40, 2, dtype=INT64)
    kernels.lsh_encode(torch.tensor(normal(rng, 40, 20)), planes, None, 40, "sign", codes)
    return (codes,)


@small(200)
def places(rng):
    planes = torch.tensor(lsh_planes(16, 20, seed=1, kind="gaussian"))
    codes = torch.empty(40, 2, dtype=INT64)
    given = torch.tensor(normal(rng, 40, 20)), planes, None, 4, "cross_polytope", codes
    kernels.lsh_encode(*given)
    return (codes,)


@small(150)
def assign(rng):
    codes, scores = torch.empty(24, dtype=INT64), torch.empty(24)
    words = torch.tensor(normal(rng, 9, 20))
    words[3] = INF
    kernels.assign(torch.tensor(normal(rng, 24, 20)), words, codes, scores)
    return codes, scores


@small(600)
def sums_of_codes(rng):
    counts, sums = torch.empty(5, dtype=INT64), torch.empty(5, 20)
    codes = torch.tensor(rng.integers(-1, 6, 70))
    kernels.codebook_sums(torch.tensor(normal(rng, 70, 20)), codes, 5, counts, sums)
    return counts, sums


def of_codes(rng, k, widths=None):
    codes = torch.tensor(rng.integers(0, 8, (800, 2)).astype(np.uint8))
    words = torch.tensor(normal(rng, 2, 1, 8, 5))
    hits, squares = room(5, k), torch.tensor(np.abs(normal(rng, 800)))
    given = torch.tensor(normal(rng, 5, 5)), codes, words, k if widths is None else widths
    kernels.search_codes(*given, "l2", squares, *hits)
    return hits


@small(1000)
def search_of_codes(rng):
    return of_codes(rng, 5)


@small(5000)
def search_of_codes_sorted(rng):
    return of_codes(rng, 300, torch.tensor([300, 1, 0, 299, 7]))


@small(4000)
def hamming(rng):
    hits = room(11, 4)
    queries, keys = (torch.tensor(rng.integers(0, 4, (n, 2)).astype(np.int32)) for n in (11, 300))
    mask = torch.tensor(rng.random((11, 300)) < 0.7)
    kernels.hamming_search(queries, keys, 4, mask, 64, *hits)
    return hits


def likeliest(rng, n_bits, kind, n_planes):
    planes = torch.tensor(lsh_planes(n_planes, 20, seed=1))
    out = torch.empty(9, 2, 5, dtype=INT64)
    kernels.lsh_probes(torch.tensor(normal(rng, 9, 20)), planes, n_bits, kind, 5, out)
    return (out,)


@small(8000)
def probes_of_signs(rng):
    return likeliest(rng, 6, "sign", 12)


@small(4000)
def probes_of_places(rng):
    return likeliest(rng, 4, "cross_polytope", 16)


def table(rng, is_random):
    slots, counts = torch.full((2, 3, 4), -1), torch.zeros(2, 3, dtype=INT64)
    codes = torch.tensor(rng.integers(-1, 4, (40, 2)))
    kernels.bucket_add(slots, counts, torch.arange(40), codes, is_random, 7)
    return slots, counts


@small(1500)
def newest_of_buckets(rng):
    return table(rng, False)


@small(1500)
def random_of_buckets(rng):
    return table(rng, True)


@small(3000)
def search_of_buckets(rng):
    slots, _ = table(rng, False)
    probes = torch.tensor(rng.integers(-1, 3, (9, 2, 2)))
    every = kernels.bucket_search(slots, probes, 2, None)
    return *kernels.bucket_search(slots, probes, 1, 3), *every


@small(2500)
def sketch(rng):
    sums = torch.zeros(2, 3, 5)
    values = torch.tensor(normal(rng, 40, 5))
    values[7, 2] = float("nan")
    kernels.sketch_add(sums, torch.tensor(rng.integers(-1, 4, (40, 2))), values)
    return (sums,)


def selected(rng, lead, n_queries, k):
    ids = torch.empty(*lead, n_queries, k, dtype=INT64)
    queries, keys = (torch.tensor(normal(rng, *lead, n, 7)) for n in (n_queries, 30))
    beta = torch.tensor(np.abs(normal(rng, *lead)))
    bias, mask = torch.tensor(normal(rng, *lead, 30)), rng.random((*lead, n_queries, 30)) < 0.7
    kernels.select(queries, keys, k, beta, bias, torch.tensor(mask), ids)
    return (ids,)


@small(2000)
def select_of_batches(rng):
    return selected(rng, (3, 2), 3, 5)


@small(800)
def select_of_queries(rng):
    return selected(rng, (3, 2), 3, 5)


@small(2000)
def select_of_one_batch(rng):
    return selected(rng, (), 20, 5)


def scattered(rng, lead):
    sums = torch.empty(*lead, 6, 7)
    ids = torch.tensor(rng.integers(-1, 7, (*lead, 8, 3)))
    weights, rows = torch.tensor(normal(rng, *lead, 8, 3)), torch.tensor(normal(rng, *lead, 8, 7))
    kernels.scatter(weights, rows, ids, 6, sums)
    return (sums,)


@small(3000)
def scatter_of_queries(rng):
    return scattered(rng, (2, 2))


@small(6000)
def scatter_of_batches(rng):
    return scattered(rng, (4,))


def of_banks(rng, k, **options):
    both = Both(rng)
    queries = normal(rng, len(both.banks), 20)
    found = both.arenas[1].search(tensor(both.banks), tensor(queries), k, **options)
    return found.scores, found.ids


@small(700)
def banks(rng):
    candidates = tensor(rng.integers(0, 60, (7, 9)))
    return of_banks(rng, 5, candidates=candidates, where={"time": {"lt": 30}})


@small(4000)
def banks_sorted(rng):
    return of_banks(rng, 300)


@pytest.mark.parametrize("name", SMALL)
def test_parts_have_the_same_bits(name, rng, monkeypatch):
    run, cap = SMALL[name]
    seed, n_steps, launch = int(rng.integers(1 << 30)), [0], interpreter.GridExecutor.__call__

    def counting(step):
        def counted(*given, **named):
            n_steps[-1] += 1
            return step(*given, **named)

        return counted

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", counting(launch))
    monkeypatch.setattr(torch.Tensor, "sort", counting(torch.Tensor.sort))
    whole = run(np.random.default_rng(seed))
    n_steps.append(0)
    monkeypatch.setattr(workspace, "WORKSPACE", cap)
    parts = run(np.random.default_rng(seed))
    assert n_steps[1] > n_steps[0]
    for expected, each in zip(host(whole), host(parts), strict=True):
        assert each.tobytes() == expected.tobytes()

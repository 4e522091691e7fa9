"""Launches at sizes beyond 2^31 components, 65,535 tiles and millions of rows: see `scale`."""

import numpy as np
import pytest

import memcore
from cases import normal, rows_of_scores
from compare import assert_hits
from memcore import reference
from memcore.ops import codebook as ops
from memcore.ops.lsh import lsh_encode, lsh_planes

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from device_banks import Both  # noqa: E402
from memcore import kernels  # noqa: E402
from memcore.kernels import layout  # noqa: E402
from memcore.kernels.lsh import Planes  # noqa: E402
from scale import TooLargeError, check_grid, outermost, sparse  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about the interpreter")


@pytest.fixture
def grids(monkeypatch):
    with outermost(monkeypatch) as grids:
        yield grids


def hits(n_queries, width):
    return torch.empty(n_queries, width), torch.empty(n_queries, width, dtype=torch.int64)


def search(queries, keys, k, metric="dot", first_pass=None, **options):
    names = ("mask", "candidates", "scale", "bias")
    given = [options.get(name) for name in names]
    bounds = (-torch.inf, torch.inf, first_pass)
    kernels.search(queries, keys, None, None, k, metric, *given, *bounds, *hits(len(queries), k))


def test_a_grid_that_no_gpu_takes_is_refused():
    check_grid("kernel", (2**31 - 1, 1, 1))
    for grid in ((1, 65_536), (1, 1, 65_536), (2**31,), (2**16, 2**15)):
        with pytest.raises(TooLargeError):
            check_grid("kernel", grid)


def test_tiles_that_an_axis_does_not_take_go_over_two():
    for n_tiles in (1, 65_535, 65_536, 65_537, 131_071, 10**7):
        grid = layout.grid_of(2, n_tiles)
        check_grid("kernel", grid)
        assert 0 <= grid[1] * grid[2] - n_tiles < grid[2]


def test_results_where_tiles_go_over_two_axes(monkeypatch, rng):
    monkeypatch.setattr(layout, "_MOST_ON_AXIS", 2)
    queries, keys = normal(rng, 2, 5), normal(rng, 350, 5)
    found = memcore.search(torch.tensor(queries), torch.tensor(keys), 300, backend="triton")
    assert_hits([each.numpy() for each in found], reference.search(queries, keys, 300))
    scores = rows_of_scores(rng, 2, 5000)
    found = memcore.topk(torch.tensor(scores), 20, backend="triton")
    assert_hits([each.numpy() for each in found], reference.topk(scores, 20))
    planes = lsh_planes(12, 5, seed=1, kind="signs")
    codes = lsh_encode(torch.tensor(keys), planes, 12, backend="triton")
    expected = reference.lsh_encode(keys, planes, 12, "sign")
    np.testing.assert_array_equal(codes.numpy(), expected)
    words, codes = normal(rng, 1, 1, 8, 5), rng.integers(0, 8, 700).astype(np.uint8)
    codes = codes.reshape(700, 1)
    given = (torch.tensor(queries), torch.tensor(codes), torch.tensor(words))
    found = ops.search_codes(*given, 300, backend="triton")
    expected = reference.search_codes(queries, codes, words, 300)
    assert_hits([each.numpy() for each in found], expected)


def test_results_of_banks_where_tiles_go_over_two_axes(monkeypatch, rng):
    monkeypatch.setattr(layout, "_MOST_ON_AXIS", 1)
    both = Both(rng)
    queries = normal(rng, len(both.banks), 20)
    both.search(queries, 300, "tensors")
    cpu, device = both.arenas
    ids = cpu.search(both.banks, queries, 40).ids
    scores = device.score(both.banks, torch.tensor(queries), torch.tensor(ids))
    np.testing.assert_array_equal(scores.numpy(), cpu.score(both.banks, queries, ids))


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2"])
def test_keys_of_many_gigabytes(grids, metric):
    search(torch.ones(3, 1024), sparse(2**26, 1024), 3, metric)
    search(torch.ones(17, 1024), sparse(2**21, 1024), 3, metric)
    assert {name for name, _ in grids} >= {"scan_kernel", "maxima_kernel"}


def test_queries_and_hits_of_many_gigabytes(grids):
    # In parts, each of as many queries as one may have.
    search(sparse(2**18, 300, dtype=torch.bfloat16), torch.ones(40, 300), 256)
    search(sparse(2**21, 2100, dtype=torch.bfloat16), torch.ones(40, 2100), 2)


def test_a_large_k_of_many_keys(grids):
    search(torch.ones(1, 1), sparse(2**22 + 1, 1), 300)
    assert ("pairs_kernel", (1, 32_769, 2)) in grids


def test_the_best_of_many_scores(grids):
    kernels.topk(sparse(1, 2**26 + 1, dtype=torch.float16), 3, *hits(1, 3))
    kernels.topk(sparse(2**16, 2**17, dtype=torch.float16), 3, *hits(2**16, 3))


@pytest.mark.parametrize("kind", ["sign", "cross_polytope"])
def test_hashes_of_many_vectors_by_many_planes(grids, kind):
    vectors, dim = sparse(2**23 + 200, 1024, dtype=torch.float16), 1024
    n_bits, n_tables = (64, 4) if kind == "sign" else (20, 5)
    slot = 32 if kind == "sign" else 1 << 19
    high = sparse(n_tables * (64 if kind == "sign" else slot), dim, dtype=torch.bfloat16)
    sizes = torch.ones(1 if kind == "sign" else n_tables)
    planes = Planes(sparse(*high.shape, dtype=torch.int8), high, None, sizes, slot)
    codes = sparse(len(vectors), n_tables, dtype=torch.int64)
    kernels.lsh_encode(vectors, None, planes, n_bits, kind, codes)


def apart(n, dim):
    """Rows (n, dim) whose components lie further apart than 32 bits count."""
    return sparse((dim - 1) * 2**26 + n).as_strided((n, dim), (1, 2**26))


def test_components_that_lie_far_apart(grids):
    rows, dim = apart(20, 40), 40
    words = torch.ones(30, dim)
    search(rows, rows, 3, "cosine", True)
    search(rows[:2], rows, 3)
    kernels.assign(rows, words, torch.empty(20, dtype=torch.int64), torch.empty(20))
    codes, counts = torch.zeros(20, dtype=torch.int64), torch.empty(30, dtype=torch.int64)
    kernels.codebook_sums(rows, codes, 30, counts, torch.empty(30, dim))
    books = torch.ones(1, 2, 8, dim // 2)
    few = torch.zeros(60, 2, dtype=torch.uint8)
    kernels.search_codes(rows[:5], few, books, 3, "dot", None, *hits(5, 3))
    kernels.sketch_add(torch.zeros(2, 8, dim), torch.zeros(20, 2, dtype=torch.int64), rows)
    for kind, n_planes in (("sign", 24), ("cross_polytope", 64)):
        n_bits = 12 if kind == "sign" else 6
        planes = torch.ones(n_planes, dim, dtype=torch.int8)
        codes = torch.empty(20, 2, dtype=torch.int64)
        kernels.lsh_encode(rows, planes, None, n_bits, kind, codes)
        kernels.lsh_probes(rows[:6], planes, n_bits, kind, 3, codes.new_empty(6, 2, 3))


def test_buckets_and_sums_of_many_gigabytes(grids):
    slots = sparse(2, 2**25, 64, dtype=torch.int64)
    rows = torch.full((9, 2), 2**25 - 1)
    kernels.bucket_search(slots, rows[:1, :, None].contiguous(), 1, 5)
    counts = sparse(2, 2**25, dtype=torch.int64)
    for is_random in (False, True):
        kernels.bucket_add(slots, counts, torch.arange(9), rows, is_random, 7)
    kernels.sketch_add(sparse(2, 2**25, 64), rows, torch.ones(9, 64))
    values, ids = sparse(2**22, 1024, dtype=torch.bfloat16), torch.full((2, 3), 2**22 - 1)
    sums, queries = sparse(2**22, 1024), torch.ones(2, 1024)
    kernels.aggregate(torch.ones(2, 3), values, ids, torch.empty(2, 1024))
    kernels.dots(queries, values, ids, torch.empty(2, 3))
    # It would touch all of them.
    sums.zero_ = lambda: sums
    for atomic in (False, True):
        kernels.scatter(torch.ones(2, 3), queries, ids, len(sums), sums, atomic=atomic)


def test_attention_of_many_gigabytes(grids):
    n = 2**26
    keys = sparse(1, 1, n, 64, dtype=torch.bfloat16)
    beta, lse, out = torch.ones(1, 1, dtype=torch.float64), sparse(1, 1, n), sparse(*keys.shape)
    weights = (beta, sparse(1, 1, n), None, None)
    kernels.attend(keys, keys, keys, *weights, out, lse)
    grads = [sparse(*keys.shape) for _ in range(3)]
    grads += [sparse(1, 1, n), torch.empty(1, 1, dtype=torch.float64)]
    kernels.attend_backward(keys, keys, keys, *weights, lse, out, lse, *grads)

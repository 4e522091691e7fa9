"""What launchers take besides their results: see `scratch`, and docs/gpu.md, "Workspace"."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from torch.utils._python_dispatch import _disable_current_modes  # noqa: E402

import memcore  # noqa: E402
from memcore import kernels  # noqa: E402
from memcore.kernels import workspace  # noqa: E402
from memcore.kernels.runs import Run  # noqa: E402
from scratch import Scratch, meta, scratch  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about the interpreter")

WORKSPACE = workspace.WORKSPACE
INF = float("inf")
INT8, INT32, INT64, BOOL = torch.int8, torch.int32, torch.int64, torch.bool
HALF, DOUBLE = torch.bfloat16, torch.float64

CASES = {}


def case(extra=0):
    """A launch, and the bytes that it may take beyond the cap."""

    def add(run):
        CASES[run.__name__.strip("_")] = (run, extra)
        return run

    return add


def hits(n_queries, width):
    return meta(n_queries, width), meta(n_queries, width, dtype=INT64)


def search(n_queries, n_keys, k, dim=128, metric="dot", first_pass=None, **options):
    names = ("offsets", "segments", "mask", "candidates", "scale", "bias")
    offsets, segments, mask, candidates, scale, bias = (options.get(name) for name in names)
    kernels.search(
        meta(n_queries, dim, dtype=HALF), meta(n_keys, dim, dtype=HALF), offsets, segments, k,
        metric, mask, candidates, scale, bias, -INF, INF, first_pass, *hits(n_queries, k),
    )  # fmt: skip


@case()
def scan_for_many_queries():
    search(1 << 20, 2000, 256)


@case()
def scan_of_segments():
    offsets, segments = meta(8193, dtype=INT64), meta(1 << 20, dtype=INT64)
    search(1 << 20, 1 << 20, 256, offsets=offsets, segments=segments)


@case()
def scan_of_many_candidates():
    search(1 << 16, 10_000_000, 256, candidates=meta(1 << 16, 4096, dtype=INT64))


@case(8 * 10_000_000)
def scan_of_ten_million_keys():
    search(1 << 16, 10_000_000, 32, metric="cosine")


@case()
def groups_for_a_large_k():
    search(1 << 16, 5000, 256)


@case((128 + 9) << 20)
def groups_of_a_million_keys():
    search(1 << 16, 1 << 20, 32)


@case()
def split_of_ten_million_keys():
    search(3, 10_000_000, 4096)


@case()
def split_of_candidates():
    search(1 << 14, 1 << 20, 300, candidates=meta(1 << 14, 4096, dtype=INT64))


@case()
def select_for_all_heads():
    lead = (2, 32, 2000)
    ids = meta(*lead, 256, dtype=INT64)
    kernels.select(meta(*lead, 128), meta(*lead, 128), 256, meta(2, 32), None, None, ids)


@case()
def select_for_many_banks():
    ids = meta(1 << 20, 1, 256, dtype=INT64)
    given = meta(1 << 20, 1, 64), meta(1 << 20, 300, 64)
    kernels.select(*given, 256, meta(1 << 20), None, None, ids)


@case()
def select_for_one_long_head():
    ids = meta(2, 65_536, 256, dtype=INT64)
    given = meta(2, 65_536, 128), meta(2, 65_536, 128)
    kernels.select(*given, 256, meta(2), None, None, ids)


@case()
def topk_of_many_rows():
    kernels.topk(meta(1 << 16, 131_072), 256, *hits(1 << 16, 256))


@case()
def topk_sorted():
    kernels.topk(meta(64, 10_000_000), 4096, *hits(64, 4096))


@case()
def topk_of_one_long_row():
    kernels.topk(meta(1, 1 << 27), 512, *hits(1, 512))


def planes(n_bits, n_tables, dim):
    return kernels.lay_out(meta(n_bits * n_tables, dim, dtype=INT8), n_bits, "sign")


@case()
def encode_signs():
    codes = meta(1 << 22, 16, dtype=INT64)
    kernels.lsh_encode(meta(1 << 22, 128), None, planes(64, 16, 128), 64, "sign", codes)


@case()
def encode_places():
    laid = kernels.lay_out(meta(16 * 128, 128, dtype=INT8), 8, "cross_polytope")
    codes = meta(1 << 22, 16, dtype=INT64)
    kernels.lsh_encode(meta(1 << 22, 128), None, laid, 8, "cross_polytope", codes)


@case()
def assign_many_rows():
    n = 100_000_000
    kernels.assign(meta(n, 16, dtype=HALF), meta(1024, 16), meta(n, dtype=INT64), meta(n))


@case()
def assign_to_many_words():
    n, words = 1 << 20, meta(65_536, 256)
    kernels.assign(meta(n, 256), words, meta(n, dtype=INT64), meta(n))


@case()
def sums_of_many_rows():
    n = 100_000_000
    given = meta(n, 16, dtype=HALF), meta(n, dtype=INT64)
    kernels.codebook_sums(*given, 1024, meta(1024, dtype=INT64), meta(1024, 16))


def search_codes(n_queries, n, k):
    book, codes = meta(1, 16, 256, 8), meta(n, 16, dtype=torch.uint8)
    kernels.search_codes(meta(n_queries, 128), codes, book, k, "dot", None, *hits(n_queries, k))


@case()
def codes_for_many_queries():
    search_codes(1 << 16, 1 << 20, 256)


@case()
def codes_with_a_large_k():
    search_codes(16, 10_000_000, 4096)


def hamming(n_queries, n_keys, n_words, k):
    codes = (meta(n, 2 * n_words, dtype=INT32) for n in (n_queries, n_keys))
    kernels.hamming_search(*codes, k, None, 64 * n_words, *hits(n_queries, k))


@case()
def hamming_for_many_queries():
    hamming(1 << 16, 1 << 20, 4, 256)


@case()
def hamming_with_a_large_k():
    hamming(1 << 12, 10_000_000, 255, 4096)


@case()
def probes_of_many_tables():
    out = meta(1 << 16, 16, 64, dtype=INT64)
    kernels.lsh_probes(meta(1 << 16, 128), meta(16 * 64, 128), 64, "sign", 64, out)


@case()
def probes_of_places():
    out = meta(1 << 16, 16, 64, dtype=INT64)
    kernels.lsh_probes(meta(1 << 16, 128), meta(16 * 128, 128), 8, "cross_polytope", 64, out)


@case()
def bucket_add():
    table = meta(16, 4096, 64, dtype=INT64), meta(16, 4096, dtype=INT64)
    rows = meta(1 << 20, dtype=INT64), meta(1 << 20, 16, dtype=INT64)
    kernels.bucket_add(*table, *rows, False, 0)


@case()
def sketch_add():
    given = meta(16, 4096, 128), meta(1 << 20, 16, dtype=INT64), meta(1 << 20, 128)
    kernels.sketch_add(*given)


# The results.
@case((1 << 13) * 256 * 12)
def bucket_search():
    probes = meta(1 << 13, 16, 16, dtype=INT64)
    kernels.bucket_search(meta(16, 4096, 64, dtype=INT64), probes, 1, 256)


def attend(n_heads, n_queries, n_keys, dim=128, mask=None):
    lead = (n_heads, n_queries)
    keys = (meta(n_heads, n_keys, dim, dtype=HALF) for _ in range(2))
    given = meta(*lead, dim, dtype=HALF), *keys, meta(n_heads, dtype=DOUBLE), None, mask
    return given, meta(*lead, dim), meta(*lead)


@case()
def attend_with_splits():
    given, out, lse = attend(1, 16, 10_000_000)
    kernels.attend(*given, None, out, lse)


@case()
def attend_for_all_heads():
    given, out, lse = attend(32, 131_072, 131_072)
    kernels.attend(*given, None, out, lse)


@case()
def attend_gradients():
    given, out, lse = attend(32, 131_072, 131_072)
    grads = [meta(*each.shape) for each in given[:3]]
    kernels.attend_backward(*given, None, lse, out, lse, *grads, None, meta(32, dtype=DOUBLE))


@case()
def attend_gradients_with_splits():
    given, out, lse = attend(1, 256, 1024)
    grads = [meta(*each.shape) for each in given[:3]]
    kernels.attend_backward(*given, None, lse, out, lse, *grads, None, meta(1, dtype=DOUBLE))


@case()
def scatter_of_all_heads():
    ids = meta(32, 131_072, 32, dtype=INT64)
    rows, sums = meta(32, 131_072, 128, dtype=HALF), meta(32, 131_072, 128)
    kernels.scatter(meta(*ids.shape, dtype=HALF), rows, ids, 131_072, sums)


@case()
def aggregate_of_all_heads():
    ids = meta(32, 131_072, 32, dtype=INT64)
    kernels.aggregate(meta(*ids.shape), meta(32, 131_072, 128), ids, meta(32, 131_072, 128))


@case()
def dots_of_all_heads():
    ids = meta(32, 131_072, 32, dtype=INT64)
    kernels.dots(meta(32, 131_072, 128), meta(32, 131_072, 128), ids, meta(*ids.shape))


def banks(n_queries, longest, k, handles=None, limits=None, runs=()):
    with _disable_current_modes():
        layout = memcore.Arena(128, device="cuda")._store.mirror.layout
    pages = kernels.Pages(layout, meta(4, dtype=INT64), meta(0, dtype=INT64), longest)
    handles = meta(n_queries, dtype=INT64) if handles is None else handles
    asked = meta(n_queries, 128), meta(n_queries)
    limits = limits or kernels.Limits()
    kernels.search_pages(
        pages, handles, *asked, k, "cosine", limits, *hits(n_queries, k), False, runs
    )


@case()
def banks_of_many_queries():
    banks(1 << 20, 300, 256)


@case()
def banks_with_many_candidates():
    banks(1 << 16, 300, 256, limits=kernels.Limits(candidates=meta(1 << 16, 4096, dtype=INT64)))


@case()
def banks_with_a_large_k():
    banks(1 << 16, 5000, 300)


@case()
def a_bank_of_ten_million_rows_with_a_large_k():
    banks(3, 8_000_000, 4096)


@case()
def lists_of_many_queries():
    banks(1 << 18, 300, 256, meta(1 << 18, 8, dtype=INT64))


@case((128 + 9) << 20)
def a_long_bank_and_many_queries():
    banks(1 << 16, 1 << 20, 32, meta(1, dtype=INT64), runs=[Run(0, 1 << 16, 1 << 20)])


@case()
def a_bank_and_many_queries_with_a_large_k():
    banks(1 << 16, 5000, 256, meta(1, dtype=INT64), runs=[Run(0, 1 << 16, 5000)])


def test_scratch_is_counted_as_long_as_it_lives():
    given = meta(1000)
    with Scratch() as counted:
        given.view(10, 100)[0].zero_()
        assert counted.peak == 0
        for _ in range(3):
            other = given.new_empty(500)
        # One is there while the next is made.
        assert counted.peak == 4000
        del other
        made = given.new_empty(500)
        assert counted.peak == 4000
        made.sort()
        assert counted.peak == 2000 + 3 * (2000 + 4000)


@pytest.mark.parametrize("name", CASES)
def test_a_launch_takes_no_more_than_the_cap(name, monkeypatch):
    run, extra = CASES[name]
    with scratch(monkeypatch) as counted:
        run()
    assert counted.peak <= WORKSPACE + extra

"""The kernels of buckets, sketches and probes against the definition, by equality."""

import pickle

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from memcore import reference
from memcore.ops.lsh import lsh_planes, lsh_probes

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from on_device import DEVICE, host, tensor  # noqa: E402


def tables(n_bits, n_tables, n_slots, **options):
    """The same empty table on the host and on the device."""
    return [
        memcore.BucketTable(n_bits, n_tables, n_slots, device=device, **options)
        for device in ("cpu", "cuda")
    ]


def assert_same(ours, theirs):
    np.testing.assert_array_equal(theirs.slots.cpu().numpy(), ours.slots)
    np.testing.assert_array_equal(theirs.counts.cpu().numpy(), ours.counts)


@pytest.mark.parametrize("evict", ["random", "fifo"])
@pytest.mark.parametrize(
    ("n_bits", "n_tables", "n_slots", "seed"), [(3, 3, 7, 11), (0, 1, 1, 1), (6, 5, 2, 2**63 + 5)]
)
def test_any_batches_leave_what_the_host_has(evict, n_bits, n_tables, n_slots, seed, rng):
    ours, theirs = tables(n_bits, n_tables, n_slots, evict=evict, seed=seed)
    for n in (1, 90, 0, 300):
        ids = rng.integers(0, 1 << 40, n)
        # Some buckets get far more than others.
        codes = (rng.random((n, n_tables)) ** 3 * 2**n_bits).astype(np.uint64)
        ours.add(ids, codes)
        theirs.add(tensor(ids), tensor(codes))
        assert_same(ours, theirs)
    assert theirs.nbytes == ours.nbytes
    again = pickle.loads(pickle.dumps(theirs))
    ours.add([3], codes[:1])
    again.add([3], codes[:1])
    assert_same(ours, again)
    again.clear()
    assert (again.slots == -1).all()
    assert not again.counts.any()


def test_a_search_finds_what_the_host_finds(monkeypatch, rng):
    ours, theirs = tables(3, 4, 5, seed=3)
    # Few ids, so that a bucket holds some twice.
    ids, codes = rng.integers(0, 60, 200), rng.integers(0, 8, (200, 4)).astype(np.uint64)
    ours.add(ids, codes)
    theirs.add(ids, codes)
    probes = rng.integers(0, 8, (5, 4, 2)).astype(np.uint64)
    for least in (1, 2, 4):
        for k in (None, 3, 50) if least == 2 else (0, None):
            expected = ours.search(probes, k, min_hits=least)
            hits = theirs.search(tensor(probes), k, min_hits=least)
            assert hits.ids.device.type == DEVICE
            assert_hits(host(hits), expected)
    expected = ours.search(probes[:, :, 0])
    assert_hits(theirs.search(probes[:, :, 0]), expected)
    from memcore import kernels

    monkeypatch.setattr(kernels.workspace, "WORKSPACE", 100)
    assert_hits(host(theirs.search(tensor(probes[:, :, :1]))), expected)
    assert theirs.search(probes[:0], 2).ids.shape == (0, 2)
    assert theirs.search(probes[:0]).ids.shape == (0, 0)
    theirs.clear()
    assert theirs.search(tensor(probes)).ids.shape == (5, 0)


def test_what_is_no_bucket_and_no_id_is_left_out_on_a_device(rng):
    ours, theirs = tables(3, 2, 4)
    codes = rng.integers(0, 8, (20, 2)).astype(np.uint64)
    ids = np.arange(20)
    bad_codes, bad_ids = codes.copy(), ids.copy()
    bad_codes[3], bad_codes[4], bad_ids[5] = 8, 2**64 - 1, -1
    sound = np.delete(ids, [3, 4, 5])
    ours.add(sound, codes[sound])
    theirs.add(tensor(bad_ids), tensor(bad_codes))
    assert_same(ours, theirs)
    codes[0] = 2**63
    assert (theirs.search(tensor(codes[:2]), 3).ids[0] == -1).all()
    assert_hits(host(theirs.search(tensor(codes[1:2]), 3)), ours.search(codes[1:2], 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("width", [1, 3, 40])
def test_a_sketch_has_the_sums_of_the_host(dtype, width, rng):
    ours, theirs = (
        memcore.SketchTable(3, 5, width, dtype=dtype, device=each) for each in ("cpu", "cuda")
    )
    for n in (40, 0, 1, 17):
        codes = rng.integers(0, 8, (n, 5)).astype(np.uint64)
        values = rng.standard_normal((n, width)) * 10.0 ** rng.integers(-6, 6, (n, 1))
        ours.add(codes, values)
        theirs.add(tensor(codes), tensor(np.repeat(values, 2, 1))[:, ::2])
        assert theirs.sums.cpu().numpy().tobytes() == ours.sums.tobytes()
    for table in (ours, theirs):
        table.scale(0.3)
    assert theirs.sums.cpu().numpy().tobytes() == ours.sums.tobytes()
    assert theirs.nbytes == ours.nbytes
    found = theirs.read(tensor(codes))
    assert found.cpu().numpy().tobytes() == ours.read(codes).tobytes()
    assert theirs.read(codes).tobytes() == ours.read(codes).tobytes()
    # What is refused on the host is left out.
    values[5, 0], codes[7] = np.nan, 8
    sound = np.delete(np.arange(17), [5, 7])
    ours.add(codes[sound], values[sound])
    theirs.add(tensor(codes), tensor(values))
    assert theirs.sums.cpu().numpy().tobytes() == ours.sums.tobytes()
    assert not theirs.read(tensor(codes[7:8])).any()


def test_tables_on_a_device_refuse_what_they_do_not_take(rng):
    table = memcore.BucketTable(3, 2, 4, device="cuda")
    sketch = memcore.SketchTable(3, 2, 2, device="cuda")
    codes, ids = np.ones((2, 2), np.uint64), np.arange(2)
    for call, error, words in (
        (lambda: table.add([-1, 2], codes), memcore.InputError, "add: ids has -1"),
        (lambda: table.add(ids, codes * 8), memcore.InputError, "add: codes has 8"),
        (
            lambda: table.add(tensor(ids), tensor(codes[:, :1])),
            memcore.ShapeError,
            r"add: codes has shape \(2, 1\), should be \(n, 2\)",
        ),
        (
            lambda: table.add(tensor(ids[:1]), tensor(codes)),
            memcore.ShapeError,
            "add: codes has 2 rows, should have 1 as ids",
        ),
        (lambda: table.add(tensor(ids) + 0.5, codes), memcore.DtypeError, "add: ids has dtype"),
        (
            lambda: table.search(codes, backend="cpu"),
            memcore.BackendError,
            "search: backend is 'cpu', should be 'triton' on a device",
        ),
        (
            lambda: sketch.add(codes, tensor(np.ones((2, 3)))),
            memcore.ShapeError,
            r"add: values has shape \(2, 3\), should be \(2, 2\)",
        ),
        (
            lambda: sketch.add(codes, tensor(np.ones((2, 2), np.complex64))),
            memcore.DtypeError,
            r"add: values has dtype torch\.complex64",
        ),
        (lambda: sketch.add(codes, [[np.inf] * 2] * 2), memcore.InputError, "add: values has NaN"),
    ):
        with pytest.raises(error, match=f"^{words}"):
            call()
    assert (table.slots == -1).all()
    assert not sketch.sums.any()


def probed(rows, planes, n_bits, kind, n_probes):
    given = rows, planes, n_bits
    return lsh_probes(*given, kind=kind, n_probes=n_probes, backend="triton").cpu().numpy()


@pytest.mark.parametrize("planes", ["signs", "gaussian"])
@pytest.mark.parametrize(
    ("kind", "n_bits", "n_tables", "n_probes"),
    [
        ("sign", 1, 3, 2),
        ("sign", 5, 2, 32),
        ("sign", 12, 3, 20),
        ("sign", 64, 1, 70),
        ("cross_polytope", 1, 2, 2),
        ("cross_polytope", 5, 3, 7),
    ],
)
def test_probes_are_the_definition(planes, kind, n_bits, n_tables, n_probes, rng):
    each = n_bits if kind == "sign" else 1 << (n_bits - 1)
    directions = lsh_planes(each * n_tables, 20, seed=4, kind=planes)
    rows = normal(rng, 12, 20)
    # Nothing, whole numbers with margins that are equal, and sizes far apart.
    rows[0], rows[1:5] = 0, np.rint(rows[1:5])
    rows[5] *= np.float32(1e15)
    rows[6] *= np.float32(1e-30)
    found = probed(tensor(rows), tensor(directions), n_bits, kind, n_probes)
    assert found.dtype == np.uint64
    np.testing.assert_array_equal(
        found, reference.lsh_probes(rows, directions, n_bits, kind, n_probes)
    )


def test_probes_of_any_dtype_and_of_what_may_not_be_hashed(monkeypatch, rng):
    from memcore import kernels

    # A row at a time.
    monkeypatch.setattr(kernels.workspace, "WORKSPACE", 1)
    hashes = memcore.LSH(16, 6, 2, seed=9)
    rows = tensor(normal(rng, 10, 32)).bfloat16()[::2, ::2]
    found = hashes.probes(rows, 5, backend="triton").cpu().numpy()
    np.testing.assert_array_equal(found, hashes.probes(rows.float().cpu().numpy(), 5))
    bad = normal(rng, 3, 16)
    bad[0, 3], bad[2] = np.nan, 1e20
    found = hashes.probes(tensor(bad), 3, backend="triton").cpu().numpy()
    np.testing.assert_array_equal(found[1], hashes.probes(bad[1], 3)[0])
    assert not found[[0, 2]].any()
    assert hashes.probes(tensor(bad[:0]), 3, backend="triton").shape == (0, 2, 3)


def test_the_sets_looked_at_hold_the_cheapest_of_any_margins(rng):
    from memcore.kernels.probing import _n_before, _sets
    from memcore.reference.lsh import _cheapest_sets

    for n_bits, n in ((1, 2), (7, 9), (9, 512), (40, 100)):
        sets = _sets(n_bits, n)
        assert len(sets) <= 9 * n
        for _ in range(20):
            costs = np.sort(rng.random(n_bits) ** rng.integers(1, 30)).tolist()
            assert set(_cheapest_sets(costs, n)) <= set(sets)
    # Of {0, 2}: nothing, {0}, {1}, {2}, {0, 1}.
    assert _n_before(0b101) == 5


def test_from_codes_to_scores_on_a_device(rng):
    hashes, keys = memcore.LSH(16, 4, 6, seed=2), normal(rng, 80, 16)
    queries = keys[:5] + np.float32(0.05) * normal(rng, 5, 16)
    ours, theirs = tables(4, 6, 16)
    ours.add(np.arange(80), hashes.encode(keys))
    theirs.add(np.arange(80), hashes.encode(tensor(keys), backend="triton"))
    near = theirs.search(hashes.probes(tensor(queries), 2, backend="triton"), 30, min_hits=2)
    expected = ours.search(hashes.probes(queries, 2), 30, min_hits=2)
    assert_hits(host(near), expected)
    given = {"k": 3, "backend": "triton", "candidates": near.ids}
    hits = memcore.search(tensor(queries), tensor(keys), **given)
    assert_hits(host(hits), memcore.search(queries, keys, k=3, candidates=expected.ids))

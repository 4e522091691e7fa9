"""Hashes on every engine against the definition, bit for bit."""

import numpy as np
import pytest

import memcore
from cases import normal
from memcore import reference
from memcore.backends import lsh_pack
from memcore.ops import lsh

DIMS = (1, 3, 4, 7, 8, 9, 16, 17, 100, 128, 385, 1016, 1017, 2100)


def planes_of(kind, n_planes, dim, seed=3):
    return lsh.lsh_planes(n_planes, dim, seed=seed, kind=kind)


def hard_rows(rng, planes, n):
    """Rows with sums at and near zero, at the limits of float32, and of very unequal sizes."""
    dim = planes.shape[1]
    rows = normal(rng, n, dim)
    # Orthogonal to a plane, as nearly as float32 has it.
    chosen = planes[rng.integers(len(planes), size=n)].astype(np.float64)
    flat = rows - (np.einsum("ij,ij->i", rows, chosen) / dim)[:, None] * chosen
    rows[: n // 2] = flat[: n // 2]
    rows[0] = 0
    rows[1::7] *= np.float32(1e15 / np.sqrt(dim))
    rows[2::7] *= np.float32(1e-30)
    rows[3::7] *= np.float32(2e-40)
    rows[4::7, :1] *= np.float32(1e6)
    rows[5::7] = np.rint(rows[5::7])
    rows[6::7] = np.float32(0.1)
    return rows


@pytest.mark.parametrize("dim", DIMS)
def test_sign_bits_are_those_of_the_canonical_scores(backend, dim, rng):
    for kind in lsh.PLANES:
        for n_planes, n_bits in ((5, 5), (64, 64), (60, 12), (256, 64), (70, 1)):
            planes = planes_of(kind, n_planes, dim)
            rows = hard_rows(rng, planes, 80)
            codes = lsh.lsh_encode(rows, planes, n_bits, backend=backend)
            expected = reference.lsh_encode(rows, planes, n_bits, "sign")
            assert codes.dtype == np.uint64
            assert np.array_equal(codes, expected), (kind, n_planes)


@pytest.mark.parametrize("dim", DIMS)
def test_cross_polytope_codes(backend, dim, rng):
    for kind in lsh.PLANES:
        for n_bits, n_tables in ((1, 3), (4, 5), (7, 2)):
            planes = planes_of(kind, n_tables << (n_bits - 1), dim)
            rows = hard_rows(rng, planes, 70)
            codes = lsh.lsh_encode(rows, planes, n_bits, kind="cross_polytope", backend=backend)
            expected = reference.lsh_encode(rows, planes, n_bits, "cross_polytope")
            assert np.array_equal(codes, expected), kind


def test_cross_polytope_equals_the_oracle_on_1e5_vectors(rng):
    # b = 128 buckets: argmax([xR; -xR]) with R (dim, 64).
    planes = planes_of("signs", 64, 48)
    rows = normal(rng, 100_000, 48)
    codes = lsh.lsh_encode(rows, planes, 7, kind="cross_polytope")[:, 0]
    dots = reference.lsh_scores(rows, planes)
    assert np.array_equal(codes, np.concatenate([dots, -dots], 1).argmax(1).astype(np.uint64))


def test_every_container(backend, container, rng):
    planes = planes_of("signs", 24, 33)
    rows = normal(rng, 90, 33)
    wrapped = container.wrap(rows)
    expected = reference.lsh_encode(container.numbers(rows), planes, 12, "sign")
    codes = lsh.lsh_encode(wrapped, planes, 12, backend=backend)
    assert (type(codes).__module__ == "torch") == container.is_torch
    assert np.array_equal(np.asarray(codes), expected)


def test_any_int8_planes(backend, rng):
    # Not +-1: no sums by look-up.
    planes = rng.integers(-128, 128, (30, 50)).astype(np.int8)
    assert lsh_pack(planes) is None
    rows = normal(rng, 100, 50)
    codes = lsh.lsh_encode(rows, planes, 10, backend=backend)
    assert np.array_equal(codes, reference.lsh_encode(rows, planes, 10, "sign"))


def test_threads_and_batches_change_nothing(isa, threads, rng):
    planes = planes_of("signs", 96, 65)
    rows = normal(rng, 3000, 65)
    expected = reference.lsh_encode(rows, planes, 12, "sign")
    packed = lsh_pack(planes)
    for n_threads in (1, 2, 5):
        threads(n_threads)
        assert np.array_equal(lsh.lsh_encode(rows, planes, 12), expected)
    for i in range(0, 200):
        assert np.array_equal(
            lsh.lsh_encode(rows[i], planes, 12, packed=packed), expected[i : i + 1]
        )


def test_no_rows(backend):
    planes = planes_of("signs", 6, 5)
    codes = lsh.lsh_encode(np.empty((0, 5), np.float32), planes, 3, backend=backend)
    assert codes.shape == (0, 2)
    probes = lsh.lsh_probes(np.empty((0, 5), np.float32), planes, 3, n_probes=2, backend=backend)
    assert probes.shape == (0, 2, 2)


def test_planes_of_a_seed_stay_the_same():
    signs = lsh.lsh_planes(3, 50, seed=7)
    assert signs.dtype == np.int8
    assert set(np.unique(signs)) == {-1, 1}
    # The first bits of PCG64(7), lowest first.
    first = int(np.random.PCG64(7).random_raw())
    assert [int(v > 0) for v in signs[0, :10]] == [first >> i & 1 for i in range(10)]
    assert np.array_equal(signs, lsh.lsh_planes(3, 50, seed=7))
    assert not np.array_equal(signs, lsh.lsh_planes(3, 50, seed=8))
    assert np.array_equal(
        lsh.lsh_planes(3, 5, seed=7, kind="gaussian"),
        np.random.Generator(np.random.PCG64(7)).standard_normal((3, 5)).astype(np.float32),
    )


@pytest.mark.parametrize("kind", lsh.HASHES)
def test_probes(backend, kind, rng):
    for planes_kind in lsh.PLANES:
        for n_bits, n_tables in ((1, 4), (3, 2), (7, 2)):
            planes = planes_of(planes_kind, n_tables * lsh.table_planes(n_bits, kind), 20)
            rows = hard_rows(rng, planes, 40)
            for n_probes in (1, 2, 1 << n_bits):
                probes = lsh.lsh_probes(
                    rows, planes, n_bits, kind=kind, n_probes=n_probes, backend=backend
                )
                expected = reference.lsh_probes(rows, planes, n_bits, kind, n_probes)
                assert np.array_equal(probes, expected)
                assert np.array_equal(
                    probes[:, :, 0], reference.lsh_encode(rows, planes, n_bits, kind)
                )


def test_probes_of_long_codes(backend, rng):
    planes = planes_of("signs", 128, 30)
    rows = normal(rng, 20, 30)
    probes = lsh.lsh_probes(rows, planes, 64, n_probes=200, backend=backend)
    assert np.array_equal(probes, reference.lsh_probes(rows, planes, 64, "sign", 200))


def test_probes_come_in_the_order_of_their_cost(rng):
    planes = planes_of("gaussian", 8, 12)
    rows = normal(rng, 10, 12)
    probes = lsh.lsh_probes(rows, planes, 8, n_probes=256)[:, 0]
    dots = reference.lsh_scores(rows, planes)
    own = reference.lsh_encode(rows, planes, 8, "sign")
    flips = (probes ^ own)[:, :, None] >> np.arange(8, dtype=np.uint64) & np.uint64(1)
    costs = (flips * (dots.astype(np.float64) ** 2)[:, None]).sum(2)
    assert (np.diff(costs, axis=1) >= -1e-12).all()
    assert all(len(set(row)) == 256 for row in probes.tolist())


def test_bad_vectors_are_named(backend, rng):
    planes = planes_of("signs", 8, 6)
    rows = normal(rng, 500, 6)
    for bad in (np.nan, np.inf, 2e18):
        rows[321, 2] = rows[400, 0] = bad
        with pytest.raises(memcore.InputError, match=r"^lsh_encode: vectors row 321 is not finite"):
            lsh.lsh_encode(rows, planes, 8, backend=backend)


@pytest.mark.parametrize("column", [0, 15, 63, 64, 130, 199])
def test_one_bad_component_is_found_wherever_it_is(column, rng):
    planes = planes_of("signs", 64, 200)
    rows = normal(rng, 9, 200)
    for bad in (np.nan, -np.nan, np.inf, -np.inf, 1.1e18):
        rows[7, column] = bad
        with pytest.raises(memcore.InputError, match=r"vectors row 7 is not finite"):
            lsh.lsh_encode(rows, planes, 64)


def test_rows_of_any_size_have_the_signs_of_their_scores(rng):
    # From rows that are too small to be rounded to the largest that are taken.
    planes = planes_of("signs", 64, 200)
    sizes = np.array([0, 1e-30, 1e-18, 1, 1e15, 2e15, 3e15, 1e16, 6e16], np.float32)
    rows = normal(rng, 9, 200) * sizes[:, None]
    wanted = reference.lsh_encode(rows, planes, 64, "sign")
    assert np.array_equal(lsh.lsh_encode(rows, planes, 64), wanted)


def test_bad_arguments(backend):
    planes, row = planes_of("signs", 8, 6), np.ones(6)
    for options, error, words in (
        ({"n_bits": 0}, memcore.InputError, "n_bits is 0, should be at least 1"),
        ({"n_bits": 65}, memcore.InputError, "n_bits is 65, should be at most 64"),
        ({"n_bits": 3}, memcore.ShapeError, "planes has 8 rows, should have a multiple of 3"),
        ({"n_bits": 2.0}, memcore.DtypeError, "n_bits is 2.0, should be an int"),
        ({"kind": "x"}, memcore.InputError, "kind is 'x', should be one of sign, cross_polytope"),
    ):
        with pytest.raises(error, match=f"^lsh_encode: {words}"):
            lsh.lsh_encode(row, planes, **{"n_bits": 8, "backend": backend, **options})
    with pytest.raises(memcore.ShapeError, match=r"^lsh_encode: planes has shape \(8, 6\), should"):
        lsh.lsh_encode(np.ones(5), planes, 8, backend=backend)
    with pytest.raises(memcore.InputError, match="planes has NaN"):
        lsh.lsh_encode(row, np.full((8, 6), np.nan), 8, backend=backend)
    for n_probes in (0, 257):
        with pytest.raises(
            memcore.InputError, match=f"^lsh_probes: n_probes is {n_probes}, should"
        ):
            lsh.lsh_probes(row, planes, 8, n_probes=n_probes, backend=backend)

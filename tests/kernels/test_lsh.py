"""The kernels of hashes against the definition, by equality: interpreted, or on a GPU."""

import pickle

import numpy as np
import pytest

import memcore
from cases import normal
from memcore import reference
from memcore.ops.lsh import lsh_encode, lsh_planes

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from memcore import kernels  # noqa: E402
from on_device import DEVICE, tensor  # noqa: E402

KINDS = ("sign", "cross_polytope")


def planes_of(planes, kind, n_bits, n_tables, dim, seed=3):
    each = n_bits if kind == "sign" else 1 << (n_bits - 1)
    return lsh_planes(n_tables * each, dim, seed=seed, kind=planes)


def hard_rows(rng, planes, n):
    """Rows with sums at and near zero, at the limits of float32, and of very unequal sizes."""
    dim = planes.shape[1]
    rows = normal(rng, n, dim)
    chosen = planes[rng.integers(len(planes), size=n)].astype(np.float64)
    square = np.einsum("ij,ij->i", chosen, chosen)
    flat = rows - (np.einsum("ij,ij->i", rows, chosen) / square)[:, None] * chosen
    rows[: n // 2] = flat[: n // 2]
    rows[0] = 0
    rows[1::7] *= np.float32(1e15 / np.sqrt(dim))
    rows[2::7] *= np.float32(1e-30)
    rows[3::7] *= np.float32(2e-40)
    rows[4::7, :1] *= np.float32(1e6)
    rows[5::7] = np.rint(rows[5::7])
    rows[6::7] = np.float32(0.1)
    return rows


def encoded(rows, planes, n_bits, kind):
    return lsh_encode(rows, planes, n_bits, kind=kind, backend="triton").cpu().numpy()


@pytest.mark.parametrize("planes", ["signs", "gaussian"])
@pytest.mark.parametrize(
    ("kind", "n_bits", "n_tables", "dim", "n"),
    [
        ("sign", 1, 9, 1, 5),
        ("sign", 12, 5, 33, 20),
        ("sign", 31, 1, 7, 30),
        ("sign", 40, 2, 100, 20),
        ("sign", 64, 2, 70, 130),
        ("cross_polytope", 1, 3, 9, 20),
        ("cross_polytope", 4, 5, 16, 30),
        ("cross_polytope", 7, 2, 70, 130),
        ("cross_polytope", 9, 1, 20, 20),
    ],
)
def test_every_shape(planes, kind, n_bits, n_tables, dim, n, rng):
    directions = planes_of(planes, kind, n_bits, n_tables, dim)
    rows = normal(rng, n, dim)
    # Few where there are many: all of their sums are canonical.
    rows[:20] = hard_rows(rng, directions, min(n, 20))
    codes = encoded(tensor(rows), tensor(directions), n_bits, kind)
    assert codes.dtype == np.uint64
    expected = reference.lsh_encode(rows, directions, n_bits, kind)
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_every_dtype_of_rows_and_any_stride(dtype, kind, rng):
    directions = planes_of("signs", kind, 6, 3, 40)
    rows = (tensor(normal(rng, 40, 80)) * 20).to(getattr(torch, dtype))[::2, ::2]
    wide = rows.float().cpu().numpy()
    expected = reference.lsh_encode(wide, directions, 6, kind)
    np.testing.assert_array_equal(encoded(rows, tensor(directions), 6, kind), expected)


def test_any_int8_planes(rng):
    planes = rng.integers(-128, 128, (30, 50)).astype(np.int8)
    rows = normal(rng, 20, 50)
    expected = reference.lsh_encode(rows, planes, 10, "sign")
    np.testing.assert_array_equal(encoded(tensor(rows), tensor(planes), 10, "sign"), expected)


@pytest.mark.parametrize("size", [1e-30, 1e19])
def test_planes_of_any_size(size, rng):
    planes = lsh_planes(20, 30, seed=1, kind="gaussian")
    planes[::3] *= np.float32(size)
    rows = normal(rng, 20, 30)
    for kind, n_bits in (("sign", 10), ("cross_polytope", 3)):
        expected = reference.lsh_encode(rows, planes, n_bits, kind)
        codes = encoded(tensor(rows), tensor(planes), n_bits, kind)
        np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize(
    ("dtype", "n_bits", "n_tables", "dim"),
    [("bfloat16", 64, 3, 100), ("int8", 33, 3, 128), ("bfloat16", 12, 2, 40)],
)
def test_rows_that_pass_by_planes_that_stay(dtype, n_bits, n_tables, dim, monkeypatch, rng):
    # More tiles of rows than programs, and the last of them not full.
    programs = 2 * -(-n_bits * n_tables // 100)
    monkeypatch.setattr(kernels.lsh, "_resident_programs", lambda _: programs)
    monkeypatch.delattr(kernels.lsh.encode, "sign_kernel")
    directions = planes_of("signs", "sign", n_bits, n_tables, dim)
    rows = (tensor(normal(rng, 300, dim)) * 20).to(getattr(torch, dtype))
    if dtype == "bfloat16":
        rows[250, 3], rows[299, 0], rows[7] = torch.nan, torch.inf, 0
        rows[131] *= 1e-25
    wide = rows.float().cpu().numpy()
    wide[~np.isfinite(wide).all(1)] = 0
    expected = reference.lsh_encode(wide, directions, n_bits, "sign")
    if dtype == "bfloat16":
        expected[[250, 299]] = 0
    np.testing.assert_array_equal(encoded(rows, tensor(directions), n_bits, "sign"), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_rows_and_planes_are_ties(kind, rng):
    # Whole numbers, so that sums are exact and many of them equal.
    planes = rng.integers(-1, 2, (16, 12)).astype(np.float32)
    rows = rng.integers(-2, 3, (40, 12)).astype(np.float32)
    n_bits = 4 if kind == "sign" else 5
    expected = reference.lsh_encode(rows, planes, n_bits, kind)
    np.testing.assert_array_equal(encoded(tensor(rows), tensor(planes), n_bits, kind), expected)


@pytest.mark.parametrize("planes", ["signs", "gaussian"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_first_pass_decides_most_bits_and_only_what_it_may(planes, dtype, monkeypatch, rng):
    directions = planes_of(planes, "sign", 64, 2, 128)
    rows = tensor(normal(rng, 128, 128)).to(getattr(torch, dtype))
    dots = reference.lsh_scores(rows.float().cpu().numpy(), directions)
    settled = []

    class Settle:
        def __getitem__(self, grid):
            return lambda *given, **named: settled.append(given[5])

    monkeypatch.setattr(kernels.lsh.encode, "settle_signs_kernel", Settle())
    codes = encoded(rows, tensor(directions), 64, "sign")
    doubts = settled[0].cpu().numpy().astype(np.uint32).view("<u8").reshape(codes.shape)
    apart = codes ^ reference.lsh_encode(rows.float().cpu().numpy(), directions, 64, "sign")
    assert not (apart & ~doubts).any()
    share = np.unpackbits(doubts.view(np.uint8)).mean()
    assert share < 0.005
    assert dots.size == 64 * codes.size


def test_vectors_that_may_not_be_hashed_get_zeros(rng):
    rows = normal(rng, 20, 30)
    rows[3, 5], rows[7, 0], rows[11, 2] = np.nan, np.inf, 1e20
    bad = [3, 7, 11]
    sound = [i for i in range(20) if i not in bad]
    for kind in KINDS:
        planes = planes_of("signs", kind, 5, 2, 30)
        codes = encoded(tensor(rows), tensor(planes), 5, kind)
        np.testing.assert_array_equal(codes[bad], 0)
        np.testing.assert_array_equal(
            codes[sound], reference.lsh_encode(rows[sound], planes, 5, kind)
        )


@pytest.mark.parametrize("planes", ["signs", "gaussian"])
def test_the_class_encodes_where_vectors_lie(planes, rng):
    hashes = memcore.LSH(24, 7, 3, planes=planes, seed=5)
    rows = normal(rng, 30, 24)
    for each in (hashes, pickle.loads(pickle.dumps(hashes))):
        for _ in range(2):
            codes = each.encode(tensor(rows), backend="triton")
            assert codes.device.type == DEVICE
            np.testing.assert_array_equal(codes.cpu().numpy(), hashes.encode(rows))
    one = hashes.encode(tensor(rows[4]), backend="triton")
    np.testing.assert_array_equal(one.cpu().numpy(), hashes.encode(rows[4]))
    none = hashes.encode(tensor(rows[:0]), backend="triton")
    assert none.shape == (0, 3)


def test_what_it_refuses(rng):
    rows, planes = tensor(normal(rng, 4, 6)), planes_of("signs", "sign", 4, 2, 6)
    for given, options, error, words in (
        (rows[:, :5], {}, memcore.ShapeError, r"planes has shape \(8, 6\), should be"),
        (rows[None], {}, memcore.ShapeError, r"vectors has shape \(1, 4, 6\), should be"),
        (rows, {"n_bits": 3}, memcore.ShapeError, "planes has 8 rows, should have a multiple of 3"),
        (rows, {"n_bits": 65}, memcore.InputError, "n_bits is 65, should be at most 64"),
        (rows + 1j, {}, memcore.DtypeError, "vectors has dtype torch.complex64"),
    ):
        with pytest.raises(error, match=f"^lsh_encode: {words}"):
            lsh_encode(given, planes, **{"n_bits": 4, "backend": "triton", **options})
    with pytest.raises(memcore.BackendError, match="needs a gradient, should be detached"):
        lsh_encode(rows.requires_grad_(), planes, 4, backend="triton")

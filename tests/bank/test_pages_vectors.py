"""Vectors on their way into pages: rounding, strides, threads, instruction sets."""

import numpy as np
import pytest

import memcore
from memcore import _core
from pages_oracle import STORED, PagesOracle, draw_cells, draw_vectors


def float16_bits(values):
    with np.errstate(over="ignore"):
        return values.astype(np.float16).view(np.uint16)


def bfloat16_bits(values):
    """Round to nearest even, in integers, as NumPy has no bfloat16."""
    bits = values.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_conversion_rounds_to_nearest_even(rng, dtype):
    bits = rng.integers(0, 2**32, 200_000, np.uint32)
    edges = [0, 1, 0x33000000, 0x33000001, 0x387FC000, 0x387FF000, 0x38800000, 0x477FEFFF]
    values = np.concatenate(
        [bits, np.array(edges, np.uint32), rng.integers(0x32000000, 0x48000000, 200_000, np.uint32)]
    )
    values = values.view(np.float32)
    limit = 65519.0 if dtype == "float16" else 1e17
    values = values[np.abs(values) < limit]
    expected = (float16_bits if dtype == "float16" else bfloat16_bits)(values)
    pages = _core.Pages(1, dtype, "dot", [])
    bank = pages.new(1)
    ids = pages.add(bank, None, values[:, None], [])
    stored = np.zeros((len(values), 1), STORED[dtype])
    pages.get(bank, ids, False, stored, [])
    np.testing.assert_array_equal(stored[:, 0].view(np.uint16), expected)


@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_strides_and_dtypes(rng, source, dtype):
    rows = draw_vectors(rng, 70, 6, source)
    layouts = [
        np.asfortranarray(rows),
        np.repeat(rows, 2, axis=1)[:, ::2],
        rows[::-1, ::-1].copy()[::-1, ::-1],
        np.ndarray(rows.shape, rows.dtype, bytearray(rows.nbytes + 1), offset=1),
    ]
    layouts[-1][:] = rows
    plain = PagesOracle(6, dtype, [])
    [expected] = plain.new(1)
    plain.pages.add(np.array([expected]), None, rows, [])
    want = np.zeros((70, 6), STORED[dtype])
    plain.pages.get(np.array([expected]), np.arange(70), False, want, [])
    for layout in layouts:
        kept = layout.copy()
        layout.flags.writeable = False
        bank = plain.pages.new(1)
        ids = plain.pages.add(bank, None, layout, [])
        got = np.zeros((70, 6), STORED[dtype])
        plain.pages.get(bank, ids, False, got, [])
        np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))
        np.testing.assert_array_equal(layout, kept)


def test_one_thread_and_many_write_the_same(rng, threads):
    contents = []
    vectors, cells = draw_vectors(rng, 2000, 24, "float32"), draw_cells(rng, 2000)
    for n in (1, 4):
        threads(n)
        both = PagesOracle(24)
        banks = both.new(50)
        handles = np.tile(banks, 40).tolist()
        both.add(handles, None, vectors, cells)
        both.delete(handles[:900], np.repeat(np.arange(18), 50).tolist())
        both.check()
        contents.append([both.pages.page_content(page) for page in range(both.pages.n_pages)])
    assert contents[0] == contents[1]


def test_calls_on_instruction_sets_agree(rng):
    before = memcore.isa()
    vectors = draw_vectors(rng, 40, 37, "float32")
    contents = set()
    try:
        for isa in memcore.isas():
            memcore.set_isa(isa)
            pages = _core.Pages(37, "float32", "dot", [])
            pages.add(pages.new(1), None, vectors, [])
            contents.add(b"".join(pages.page_content(page) for page in range(3)))
    finally:
        memcore.set_isa(before)
    assert len(contents) == 1

"""The kernels of hashes, as they are launched."""

from variants.variant import BF16, FLOATS, HALVES, INTS, LONGS, NO_FUSION, Variant

_ROWS = {"rows_ptr": FLOATS, "row_stride": "i32!", "column_stride": "1"}
_FIRST = {
    **_ROWS,
    "high_ptr": HALVES,
    "low_ptr": None,
    "slack": "fp32",
    "most": "fp32",
    "doubts_ptr": INTS,
    "n_rows": "i32!",
    "dim": "i32!",
    "dim_padded": "i32!",
}
_SETTLE = {
    **_ROWS,
    "planes_ptr": "*i8!",
    "doubts_ptr": INTS,
    "scratch_ptr": INTS,
    "n_entries": "i32!",
    "dim": "i32!",
}
_SIGNS = {
    "size_ptr": FLOATS,
    "codes_ptr": INTS,
    "n_slots": "i32",
    "n_words": "i32",
    "n_bits": "i32",
}
_RESIDENT = ("slack", "most", "doubts_ptr", "n_rows", "dim")
_PLACES = {"codes_ptr": LONGS, "n_tables": "i32", "half": "i32!"}


def _variants() -> dict[str, Variant]:
    found = {}
    kinds = {
        "float32 x signs": (FLOATS, False, None),
        "bfloat16 x signs": (HALVES, True, None),
        "float32 x gaussian": (FLOATS, False, HALVES),
    }
    for name, (rows, is_exact, low) in kinds.items():
        for n_rows, n_warps in ((16, 4), (128, 8)):
            # The wide multiplies take 64 rows at least.
            multiplies = BF16 if n_rows > 16 else {**BF16, 90: "HMMA", 100: "HMMA"}
            tile = {"ROWS_ARE_EXACT": is_exact, "M": n_rows, "P": 128, "D": 64 if is_exact else 32}
            given = {**_FIRST, "rows_ptr": rows, "low_ptr": low}
            found[f"signs of {n_rows} rows, {name}"] = Variant(
                "encode.sign_kernel",
                {**given, **_SIGNS},
                {**tile, "WORDS": 2, "SLOT": 32},
                {"num_warps": n_warps},
                255,
                multiplies=multiplies,
            )
            found[f"places of {n_rows} rows, {name}"] = Variant(
                "encode.place_kernel",
                {**given, **_PLACES, "sizes_ptr": FLOATS, "half_padded": "i32!"},
                {**tile, "P": 64},
                {"num_warps": n_warps},
                255,
                multiplies=multiplies,
            )
    found["signs of few components, bfloat16 x signs"] = Variant(
        "encode.resident_sign_kernel",
        {
            **_ROWS,
            "rows_ptr": HALVES,
            **_SIGNS,
            **{name: _FIRST[name] for name in _RESIDENT},
            "words_ptr": HALVES,
        },
        {"M": 128, "P": 128, "DIM": 128, "WORDS": 2, "SLOT": 32},
        {"num_warps": 8},
        180,
        multiplies=BF16,
    )
    for planes, kind in (("*i8!", "signs"), (FLOATS, "gaussian")):
        found[f"settle signs, {kind}"] = Variant(
            "encode.settle_signs_kernel",
            {**_SETTLE, **_SIGNS, "planes_ptr": planes},
            {"WORDS": 2, "SLOT": 32, "N": 512, "R": 16},
            {"num_warps": 4, **NO_FUSION},
            64,
            is_canonical=True,
        )
        found[f"settle places, {kind}"] = Variant(
            "encode.settle_places_kernel",
            {**_SETTLE, **_PLACES, "planes_ptr": planes},
            {"N": 512, "P": 64},
            {"num_warps": 4, **NO_FUSION},
            96,
            is_canonical=True,
        )
    return found


VARIANTS = _variants()

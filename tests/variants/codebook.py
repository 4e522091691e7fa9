"""The kernels of codebooks, as they are launched."""

from variants.variant import BF16, FLOATS, HALVES, INTS, LONGS, NO_FUSION, Variant

_ROWS = {"rows_ptr": FLOATS, "row_stride": "i32!", "column_stride": "1", "dim": "i32!"}
_ASSIGN = {
    **_ROWS,
    "words_ptr": FLOATS,
    "codes_ptr": LONGS,
    "scores_ptr": FLOATS,
    "doubts_ptr": INTS,
    "n_rows": "i32!",
    "n_words": "i32!",
}
_NEAREST = {
    **_ASSIGN,
    "high_ptr": HALVES,
    "low_ptr": HALVES,
    "halves_ptr": FLOATS,
    "largest_ptr": FLOATS,
    "slack": "fp32",
    "n_padded": "i32!",
    "dim_padded": "i32!",
}
_LOOKUP = {
    "tables_ptr": FLOATS,
    "query_squares_ptr": FLOATS,
    "codes_ptr": "*u8!",
    "squares_ptr": FLOATS,
    "n_rows": "i32!",
    "n_parts": "i32",
    "n_codes": "i32!",
}


def _variants() -> dict[str, Variant]:
    found = {}
    for n_rows, n_warps in ((16, 4), (128, 8)):
        # The wide multiplies take 64 rows at least.
        multiplies = BF16 if n_rows > 16 else {**BF16, 90: "HMMA", 100: "HMMA"}
        for dtype, rows, is_exact in (("float32", FLOATS, False), ("bfloat16", HALVES, True)):
            found[f"nearest of {n_rows} rows, {dtype}"] = Variant(
                "nearest.nearest_kernel",
                {**_NEAREST, "rows_ptr": rows},
                {"ROWS_ARE_EXACT": is_exact, "M": n_rows, "N": 64, "D": 64 if is_exact else 32},
                {"num_warps": n_warps, **NO_FUSION},
                255,
                multiplies=multiplies,
            )
            if n_rows > 16:
                names = ("n_words", "dim_padded")
                found[f"nearest of few components, {dtype}"] = Variant(
                    "nearest.resident_nearest_kernel",
                    {k: v for k, v in {**_NEAREST, "rows_ptr": rows}.items() if k not in names},
                    {"ROWS_ARE_EXACT": is_exact, "M": 128, "N": 64, "DIM": 128},
                    {"num_warps": 8, **NO_FUSION},
                    255,
                    multiplies=multiplies,
                )
    found["settle nearest"] = Variant(
        "nearest.settle_kernel",
        {**_ASSIGN, "scratch_ptr": INTS},
        {"N": 512, "P": 64},
        {"num_warps": 4, **NO_FUSION},
        96,
        is_canonical=True,
    )
    found["sums of codes"] = Variant(
        "segments.sums_kernel",
        {**_ROWS, "order_ptr": LONGS, "begins_ptr": LONGS, "sums_ptr": FLOATS},
        {"D": 128, "AHEAD": 16},
        {"num_warps": 1},
        160,
        is_canonical=True,
    )
    found["moving average"] = Variant(
        "segments.ema_kernel",
        {
            **dict.fromkeys(("batch_ptr", "sums_ptr", "divisors_ptr"), FLOATS),
            **dict.fromkeys(("running_ptr", "words_ptr"), FLOATS),
            "kept": "fp32",
            "new": "fp32",
            "n": "i32!",
            "dim": "i32!",
        },
        {"N": 1024},
        {"num_warps": 4, **NO_FUSION},
        64,
        is_canonical=True,
        divides=True,
    )
    found["vectors of codes"] = Variant(
        "segments.decode_kernel",
        {
            "codes_ptr": LONGS,
            "words_ptr": FLOATS,
            "rows_ptr": FLOATS,
            **dict.fromkeys(("n_rows", "n_codes"), "i32!"),
            **dict.fromkeys(("n_levels", "n_subspaces", "sub_dim"), "i32"),
        },
        {"R": 16, "D": 128},
        {"num_warps": 4},
        128,
        is_canonical=True,
    )
    for metric in ("dot", "l2"):
        found[f"table of scores, {metric}"] = Variant(
            "lookup.table_kernel",
            {
                "queries_ptr": FLOATS,
                "row_stride": "i32!",
                "column_stride": "1",
                "words_ptr": FLOATS,
                "tables_ptr": FLOATS,
                **dict.fromkeys(("n_parts", "n_subspaces", "sub_dim"), "i32"),
                "n_codes": "i32!",
            },
            {"IS_L2": metric == "l2", "P": 64},
            {"num_warps": 4, **NO_FUSION},
            96,
            is_canonical=True,
        )
    for codes in ("*u8!", "*u16!"):
        found[f"scan of codes, {codes[1:-1]}"] = Variant(
            "lookup.scan_codes_kernel",
            {
                **_LOOKUP,
                "codes_ptr": codes,
                "parts_ptr": INTS,
                "part_ids_ptr": LONGS,
                "n_splits": "i32",
            },
            {"N": 256, "K": 16},
            {"num_warps": 4, **NO_FUSION},
            128,
            is_canonical=True,
        )
    found["all scores of codes"] = Variant(
        "lookup.all_codes_kernel",
        {**_LOOKUP, "pairs_ptr": INTS},
        {"N": 256},
        {"num_warps": 4, **NO_FUSION},
        96,
        is_canonical=True,
    )
    return found


VARIANTS = _variants()

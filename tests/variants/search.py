"""The kernels of search, as they are launched."""

from dataclasses import replace

from variants.variant import ARCHITECTURES, BYTES, FLOATS, INT8, INTS, LONGS, NO_FUSION, Variant

_ROWS = {"row_stride": "i32!", "column_stride": "1"}
_SIZES = {"dim": "i32!", "dim_padded": "i32!"}
_PAIRS = {
    "queries_ptr": FLOATS,
    "query_row_stride": "i32!",
    "query_stride": "1",
    "query_squares_ptr": FLOATS,
    "keys_ptr": FLOATS,
    "key_row_stride": "i32!",
    "key_stride": "1",
    "key_norms_ptr": FLOATS,
    "mask_ptr": None,
    "mask_row_stride": "i32",
    "mask_stride": "i32",
    "scale_ptr": None,
    "bias_ptr": None,
    "low": "fp32",
    "high": "fp32",
    "n_keys": "i32",
    "dim": "i32!",
}
_RANGES = {"begins_ptr": None, "ends_ptr": None, "named_ptr": None, "n_named": "i32"}
_WEIGHTS = {"mask_ptr": "*i1!", "scale_ptr": FLOATS, "bias_ptr": FLOATS}
_SCAN = {
    **_PAIRS,
    **_RANGES,
    "needed_ptr": BYTES,
    "parts_ptr": INTS,
    "part_ids_ptr": LONGS,
    "n_queries": "i32",
    "n_splits": "i32",
}


def _variants() -> dict[str, Variant]:
    found = {}
    for metric in ("dot", "cosine", "l2"):
        divides = metric == "cosine"
        for n_queries, n_keys in ((1, 128), (4, 32)):
            found[f"scan {metric} {n_queries} x {n_keys}"] = Variant(
                "scan.scan_kernel",
                _SCAN,
                {"METRIC": metric, "Q": n_queries, "N": n_keys, "K": 16},
                {"num_warps": 4, **NO_FUSION},
                128,
                is_canonical=True,
                divides=divides,
            )
        found[f"rescore {metric}"] = Variant(
            "groups.rescore_kernel",
            {**_PAIRS, "page_ids_ptr": INTS, "finals_ptr": INTS, "n_pages": "i32!"},
            {"METRIC": metric, "PAGES": 8},
            {"num_warps": 4, **NO_FUSION},
            96,
            is_canonical=True,
            divides=divides,
        )
        found[f"shadow of keys {metric}"] = Variant(
            "shadow.keys_kernel",
            {
                **_ROWS,
                **_SIZES,
                **dict.fromkeys(("keys_ptr", "factor_ptr", "beta_ptr"), FLOATS),
                **dict.fromkeys(("epsilon_ptr", "nu_ptr"), FLOATS),
                "codes_ptr": BYTES,
                "mask_ptr": None,
                "mask_stride": "i32",
                "scale_ptr": None,
                "bias_ptr": None,
                "n_keys": "i32",
            },
            {"METRIC": metric, "IS_WEIGHED": metric == "l2"},
            {"num_warps": 4, **NO_FUSION},
            64,
        )
        found[f"shadow of queries {metric}"] = Variant(
            "shadow.queries_kernel",
            {
                **_ROWS,
                **_SIZES,
                **dict.fromkeys(("queries_ptr", "slope_ptr", "a_ptr", "c_ptr"), FLOATS),
                **dict.fromkeys(("base_ptr", "squares_ptr"), FLOATS),
                "codes_ptr": BYTES,
                "is_bounded_ptr": BYTES,
                "n_queries": "i32",
            },
            {"METRIC": metric, "N": 16},
            {"num_warps": 4, **NO_FUSION},
            96,
        )
    for name in ("keys", "queries"):
        of_many = found[f"shadow of {name} cosine"]
        sizes = {"dim": "1", "row_stride": "1", f"n_{name}": "1"}
        found[f"shadow of one of {name}, of one component"] = replace(
            of_many, types={**of_many.types, **sizes}
        )
    found["scan, weighted, of segments"] = Variant(
        "scan.scan_kernel",
        {**_SCAN, **_WEIGHTS, "begins_ptr": LONGS, "ends_ptr": LONGS},
        {"METRIC": "dot", "Q": 1, "N": 128, "K": 32},
        {"num_warps": 4, **NO_FUSION},
        128,
        is_canonical=True,
    )
    found["scan of candidates"] = Variant(
        "scan.scan_kernel",
        {**_SCAN, "named_ptr": LONGS},
        {"METRIC": "dot", "Q": 1, "N": 128, "K": 256},
        {"num_warps": 4, **NO_FUSION},
        128,
        is_canonical=True,
    )
    found["all pairs"] = Variant(
        "scan.pairs_kernel",
        {**_PAIRS, **_RANGES, "pairs_ptr": INTS, "n_columns": "i32"},
        {"METRIC": "dot", "N": 64},
        {"num_warps": 4, **NO_FUSION},
        96,
        is_canonical=True,
    )
    found["norms"] = Variant(
        "scan.norms_kernel",
        {
            "rows_ptr": FLOATS,
            **_ROWS,
            "squares_ptr": FLOATS,
            "norms_ptr": FLOATS,
            "n_rows": "i32",
            "dim": "i32!",
        },
        {"ROWS": 64},
        {"num_warps": 4, **NO_FUSION},
        64,
    )
    found["merge"] = Variant(
        "scan.merge_kernel",
        {
            "parts_ptr": INTS,
            "part_ids_ptr": LONGS,
            "needed_ptr": None,
            "widths_ptr": None,
            "scores_ptr": FLOATS,
            "ids_ptr": LONGS,
            "n_parts": "i32!",
            "width": "i32",
        },
        {"N": 64},
        {"num_warps": 4},
        240,
    )
    maxima = {
        **dict.fromkeys(("slope_ptr", "a_ptr", "c_ptr", "base_ptr", "factor_ptr"), FLOATS),
        **dict.fromkeys(("beta_ptr", "epsilon_ptr", "nu_ptr"), FLOATS),
        **dict.fromkeys(("query_codes_ptr", "key_codes_ptr"), BYTES),
        **dict.fromkeys(("pages_ptr", "tiles_ptr"), INTS),
        **dict.fromkeys(("n_queries", "n_tiles"), "i32"),
    }
    for is_weighed in (False, True):
        for n_queries, n_warps, n_tiles in ((16, 4, 1), (128, 8, 1), (128, 8, 16)):
            if is_weighed and n_tiles > 1:
                continue
            # Hopper's wide multiply takes 64 rows at least.
            multiplies = INT8 if n_queries > 16 else {**INT8, 90: "IMMA"}
            for dim in (128, 384):
                name = f"maxima of {n_queries} queries, dim {dim}" + ", weighted" * is_weighed
                found[name + ", tile by tile" * (n_tiles > 1)] = Variant(
                    "groups.maxima_kernel",
                    maxima,
                    {
                        "DIM": dim,
                        "IS_WEIGHED": is_weighed,
                        "Q": n_queries,
                        "PAGES": 8,
                        "D": 128 if dim == 128 else 64,
                        "TILES": n_tiles,
                    },
                    {"num_warps": n_warps},
                    # Two programs fit.
                    136 if n_tiles == 1 else 128,
                    multiplies=multiplies,
                    architectures=ARCHITECTURES if n_tiles == 1 else (90,),
                )
    for n_tiles, n_pages in ((1024, 64), (8192, 128)):
        found[f"select {n_pages} pages of {n_tiles} tiles"] = Variant(
            "groups.select_kernel",
            {
                **dict.fromkeys(("tiles_ptr", "pages_ptr", "tile_ids_ptr"), INTS),
                **dict.fromkeys(("page_ids_ptr", "rest_ptr"), INTS),
                **dict.fromkeys(("a_ptr", "c_ptr", "base_ptr"), FLOATS),
                **dict.fromkeys(("epsilon_ptr", "nu_ptr"), FLOATS),
                "n_keys": "i32",
                "n_tiles": "i32!",
                "k": "i32",
                "dim": "i32!",
            },
            {"METRIC": "dot", "IS_OPEN": True, "PAGES": 8, "TILES": n_tiles, "P": n_pages},
            {"num_warps": 8, **NO_FUSION},
            200,
        )
    for name, ids, kept in (
        ("finish", None, 32),
        ("finish, by ids", LONGS, 32),
        ("finish, by ids, a part for 256", LONGS, 256),
    ):
        found[name] = Variant(
            "groups.finish_kernel",
            {
                **dict.fromkeys(("finals_ptr", "page_ids_ptr", "rest_ptr", "parts_ptr"), INTS),
                "ids_ptr": ids,
                "is_bounded_ptr": BYTES,
                "low": "fp32",
                "part_ids_ptr": LONGS,
                "needed_ptr": BYTES,
                "k": "i32",
            },
            {"P": 128, "K": kept},
            {"num_warps": 8},
            160,
        )
    return found


VARIANTS = _variants()

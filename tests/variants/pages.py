"""The kernels of pages, as they are launched."""

from memcore.kernels.arguments import LimitsView, Matrix, PagesView, ProgramsView
from variants.variant import BYTES, FLOATS, HALVES, INTS, LONGS, NO_FUSION, Variant

ROWS = Matrix(FLOATS, "i32!", "1")
PAGES = PagesView(LONGS, "i32!", LONGS, None, None)
OPEN = LimitsView(None, None, "i32!", None, None, "fp32", "fp32")
FILTERED = OPEN._replace(programs=ProgramsView(LONGS, LONGS, LONGS, LONGS))
WEIGHTED = FILTERED._replace(candidates=LONGS, scale="i32", bias="i32")
SEARCH = {
    "pages": PAGES,
    "handles_ptr": LONGS,
    "handle_stride": "1",
    "queries": ROWS,
    "query_squares_ptr": FLOATS,
    "limits": OPEN,
    "dim": "i32!",
}
KEPT = {
    **SEARCH,
    "needed_ptr": None,
    "parts_ptr": INTS,
    "part_ids_ptr": LONGS,
    "n_queries": "i32",
    "n_splits": "i32",
}


def _variants() -> dict[str, Variant]:
    import triton.language as tl

    canonical = {"is_canonical": True}
    options = {"num_warps": 4, **NO_FUSION}
    found = {}
    for metric in ("dot", "cosine", "l2"):
        for n_queries, n_rows in ((1, 64), (4, 32)):
            found[f"paged search {metric} {n_queries} x {n_rows}"] = Variant(
                "paged.paged_kernel",
                {**KEPT, "handle_stride": "1" if n_queries == 1 else "i32!"},
                {"METRIC": metric, "ITEM": tl.float32, "Q": n_queries, "N": n_rows, "K": 16},
                options,
                128,
                divides=metric == "cosine",
                **canonical,
            )
    for metric in ("dot", "cosine"):
        found[f"paged search of forks {metric} 4 x 32"] = Variant(
            "paged.paged_kernel",
            KEPT,
            {"METRIC": metric, "ITEM": tl.float32, "Q": 4, "N": 32, "K": 16, "ARE_FORKS": True},
            options,
            128,
            divides=metric == "cosine",
            **canonical,
        )
        found[f"paged search of what is left in doubt, {metric}"] = Variant(
            "paged.paged_kernel",
            {**KEPT, "handle_stride": "i32!", "needed_ptr": BYTES},
            {"METRIC": metric, "ITEM": tl.float32, "Q": 4, "N": 32, "K": 32},
            options,
            128,
            divides=metric == "cosine",
            **canonical,
        )
    for metric, item in (("dot", tl.float32), ("cosine", tl.bfloat16), ("l2", tl.float32)):
        limits = FILTERED if metric == "cosine" else OPEN
        found[f"shadow of a bank's rows, {metric}"] = Variant(
            "paged_groups.paged_keys_kernel",
            {
                "pages": PAGES,
                "handles_ptr": LONGS,
                "limits": limits,
                "codes_ptr": BYTES,
                **dict.fromkeys(("factor_ptr", "beta_ptr", "epsilon_ptr", "nu_ptr"), FLOATS),
                **dict.fromkeys(("dim", "dim_padded"), "i32!"),
            },
            {"METRIC": metric, "ITEM": item, "IS_WEIGHED": metric != "dot"},
            options,
            80,
        )
        found[f"rescore of a bank's pages, {metric}"] = Variant(
            "paged_groups.paged_rescore_kernel",
            {
                **SEARCH,
                "limits": limits,
                **dict.fromkeys(("places_ptr", "finals_ptr"), INTS),
                "ids_ptr": LONGS,
                "n_places": "i32!",
            },
            {"METRIC": metric, "ITEM": item, "PAGES": 8},
            options,
            128,
            divides=metric == "cosine",
            **canonical,
        )
    found["shadow of a bank's rows, weighted"] = Variant(
        "paged_groups.paged_keys_kernel",
        {
            **found["shadow of a bank's rows, cosine"].types,
            "limits": FILTERED._replace(scale="i32", bias="1"),
        },
        {"METRIC": "dot", "ITEM": tl.float16, "IS_WEIGHED": True},
        options,
        80,
    )
    narrow = {"METRIC": "dot", "ITEM": tl.bfloat16, "Q": 1, "N": 64}
    found["paged search, filtered, of bfloat16"] = Variant(
        "paged.paged_kernel",
        {**KEPT, "limits": FILTERED},
        {**narrow, "K": 32},
        options,
        128,
        **canonical,
    )
    found["paged search, weighted, of candidates"] = Variant(
        "paged.paged_kernel",
        {**KEPT, "limits": WEIGHTED},
        {**narrow, "K": 256},
        options,
        160,
        **canonical,
    )
    found["paged pairs"] = Variant(
        "paged.paged_pairs_kernel",
        {**SEARCH, "pairs_ptr": INTS, "pair_ids_ptr": LONGS, "n_columns": "i32"},
        {"METRIC": "dot", "ITEM": tl.float32, "N": 32},
        options,
        128,
        **canonical,
    )
    lists = {
        **KEPT,
        "handle_row_stride": "i32",
        **dict.fromkeys(("n_lists", "n_segments"), "i32"),
    }
    for metric, limits in (("dot", OPEN), ("cosine", OPEN), ("l2", WEIGHTED)):
        found[f"search of lists, {metric}{', filtered' if limits is WEIGHTED else ''}"] = Variant(
            "search_lists.lists_kernel",
            {**lists, "limits": limits},
            {"METRIC": metric, "ITEM": tl.float32, "N": 64, "K": 16},
            options,
            128,
            divides=metric == "cosine",
            **canonical,
        )
    for name, each in (("of all", False), ("of each", True)):
        found[f"lists to visit, {name}"] = Variant(
            "visits.visits_kernel",
            {
                "scores_ptr": FLOATS,
                **dict.fromkeys(("places_ptr", "handles_ptr", "visits_ptr"), LONGS),
                "norms_ptr": FLOATS if each else None,
                "counts_ptr": LONGS if each else None,
                "gaps_ptr": FLOATS if each else None,
                **dict.fromkeys(("count", "n_chosen"), "i32"),
                **dict.fromkeys(("widest_gap", "least_norm"), "fp32"),
            },
            {"N": 128},
            options,
            64,
            divides=each,
            **canonical,
        )
    for name, rows, item in (("float32", FLOATS, tl.float32), ("bfloat16", HALVES, tl.bfloat16)):
        found[f"rows of pages, {name}"] = Variant(
            "pages.write_kernel",
            {
                **dict.fromkeys(("origin_ptr", "directory_ptr", "slots_ptr", "ids_ptr"), LONGS),
                "rows_ptr": rows,
                "cells_ptr": LONGS,
                **dict.fromkeys(("n_rows", "n_slots", "n_columns"), "i32"),
                "dim": "i32!",
                "ids_at": "i32!",
            },
            {"ITEM": item, "N": 16},
            options,
            64,
            # Of the square root.
            divides=True,
            **canonical,
        )
    places = {"pages": PAGES, "places_ptr": LONGS}
    for metric, item in (("dot", tl.float32), ("cosine", tl.bfloat16), ("l2", tl.float32)):
        found[f"scores of named rows, {metric}"] = Variant(
            "named_pages.score_kernel",
            {
                **places,
                "queries": ROWS,
                **dict.fromkeys(("query_squares_ptr", "scores_ptr"), FLOATS),
                **dict.fromkeys(("n_named", "dim"), "i32!"),
            },
            {"METRIC": metric, "ITEM": item, "N": 16},
            options,
            64,
            divides=metric == "cosine",
            **canonical,
        )
    found["places of named rows"] = Variant(
        "named_pages.find_kernel",
        {
            **dict.fromkeys(("root_ptr", "handles_ptr", "ids_ptr", "places_ptr"), LONGS),
            "handle_row_stride": "i32",
            "handle_stride": "1",
            **dict.fromkeys(("n_named", "n_lists", "n_segments", "n_splits"), "i32"),
            "ids_at": "i32!",
        },
        {"N": 64, "M": 16},
        {"num_warps": 4},
        96,
    )
    found["named rows"] = Variant(
        "named_pages.gather_kernel",
        {"origin_ptr": LONGS, "places_ptr": LONGS, "out_ptr": FLOATS, "n": "i32", "dim": "i32!"},
        {"ITEM": tl.bfloat16, "N": 16, "D": 64},
        {"num_warps": 4},
        64,
    )
    found["numbers of named rows"] = Variant(
        "named_pages.numbers_kernel",
        {
            **places,
            "out_ptr": FLOATS,
            **dict.fromkeys(("n", "column"), "i32"),
            "missing": "fp32",
        },
        {"N": 128},
        {"num_warps": 4},
        64,
    )
    found["moves of rows"] = Variant(
        "pages.move_kernel",
        {
            **dict.fromkeys(("origin_ptr", "directory_ptr", "moves_ptr"), LONGS),
            **dict.fromkeys(("n_moves", "n_columns"), "i32"),
            "dim": "i32!",
            "ids_at": "i32!",
        },
        {"ITEM": tl.bfloat16, "N": 16},
        {"num_warps": 4},
        96,
    )
    fetched = dict.fromkeys(("origin_ptr", "places_ptr"), LONGS)
    found["pages of the host"] = Variant(
        "fetch.fetch_kernel",
        {**fetched, "nulls_ptr": LONGS, "n_units": "i32!", "n_columns": "i32", "ids_at": "i32!"},
        {"N": 512},
        {"num_warps": 4},
        64,
    )
    for name, item in (("float32", tl.float32), ("bfloat16", tl.bfloat16)):
        found[f"norms of pages, {name}"] = Variant(
            "fetch.norm_kernel",
            {**fetched, "dim": "i32!", "ids_at": "i32!"},
            {"ITEM": item},
            options,
            64,
            # Of the square root.
            divides=True,
            **canonical,
        )
    found["copies of pages"] = Variant(
        "pages.copy_kernel",
        {**dict.fromkeys(("origin_ptr", "directory_ptr", "copies_ptr"), LONGS), "n_words": "i32!"},
        {"N": 1024},
        {"num_warps": 4},
        64,
    )
    return found


VARIANTS = _variants()

"""The kernels of pages whose rows are codes, as they are launched."""

from variants.pages import KEPT, PAGES, ROWS, SEARCH, WEIGHTED
from variants.variant import FLOATS, INTS, LONGS, NO_FUSION, Variant

_PAGES = {"pages": PAGES._replace(books=LONGS, book_column="i32")}


def _options(registers: int) -> dict[str, object]:
    return {"num_warps": 4, **NO_FUSION, "maxnreg": registers}


def _variants() -> dict[str, Variant]:
    import triton.language as tl

    canonical = {"is_canonical": True}
    found = {}
    for metric, n_queries, n_rows, are_forks in (
        ("cosine", 1, 64, False),
        ("l2", 4, 32, False),
        ("dot", 4, 32, True),
    ):
        kind = "search of forks" if are_forks else "search"
        sizes = {"Q": n_queries, "N": n_rows, "K": 16, "ARE_FORKS": are_forks}
        registers = 168 if are_forks else 128
        found[f"paged {kind} of codes, {metric} {n_queries} x {n_rows}"] = Variant(
            "paged.paged_kernel",
            {**KEPT, **_PAGES, "handle_stride": "i32!" if n_queries > 1 else "1"},
            {"METRIC": metric, "ITEM": tl.float16, **sizes},
            _options(registers),
            registers,
            divides=metric == "cosine",
            **canonical,
        )
    for metric, n_queries, n_rows in (("cosine", 1, 64), ("l2", 4, 32)):
        found[f"paged search of codes by tables, {metric} {n_queries} x {n_rows}"] = Variant(
            "paged.paged_kernel",
            {
                **KEPT,
                **_PAGES,
                "handle_stride": "i32!" if n_queries > 1 else "1",
                "queries": ROWS._replace(stride=None),
            },
            {"METRIC": metric, "ITEM": tl.float16, "Q": n_queries, "N": n_rows, "K": 16},
            _options(128),
            128,
            divides=metric == "cosine",
            **canonical,
        )
    found["paged search of codes, weighted, of candidates"] = Variant(
        "paged.paged_kernel",
        {**KEPT, **_PAGES, "limits": WEIGHTED},
        {"METRIC": "dot", "ITEM": tl.float16, "Q": 1, "N": 64, "K": 256},
        _options(128),
        128,
        **canonical,
    )
    found["paged pairs of codes"] = Variant(
        "paged.paged_pairs_kernel",
        {**SEARCH, **_PAGES, "pairs_ptr": INTS, "pair_ids_ptr": LONGS, "n_columns": "i32"},
        {"METRIC": "dot", "ITEM": tl.float16, "N": 32},
        _options(64),
        64,
        **canonical,
    )
    places = {**_PAGES, "places_ptr": LONGS, "dim": "i32!"}
    found["norms of codes"] = Variant(
        "coded.norms_kernel",
        {**places, "n_rows": "i32"},
        {"N": 16},
        _options(64),
        64,
        # Of the square root.
        divides=True,
        **canonical,
    )
    found["scores of named codes"] = Variant(
        "named_pages.score_kernel",
        {
            **places,
            "queries": ROWS,
            **dict.fromkeys(("query_squares_ptr", "scores_ptr"), FLOATS),
            "n_named": "i32!",
        },
        {"METRIC": "cosine", "ITEM": tl.float16, "N": 16},
        _options(64),
        64,
        divides=True,
        **canonical,
    )
    found["what named codes stand for"] = Variant(
        "named_pages.gather_codes_kernel",
        {**places, "out_ptr": FLOATS, "n": "i32"},
        {"N": 16, "D": 64},
        {"num_warps": 4},
        64,
        **canonical,
    )
    return found


VARIANTS = _variants()

"""The kernels of products over named rows, as they are launched."""

from triton import language as tl

from variants.variant import FLOATS, HALVES, LONGS, NO_FUSION, Variant


def _rows(name: str, kind: str) -> dict[str, str]:
    strides = dict.fromkeys((f"{name}_outer", f"{name}_inner", f"{name}_stride"), "i32!")
    return {**strides, ("queries_ptr" if name == "query" else f"{name}s_ptr"): kind}


_SIZES = dict.fromkeys(("inner", "n_queries", "n_ids", "n_keys", "n_values", "n_sums"), "i32")
_NAMED = {**_SIZES, "dim": "i32!", "ids_ptr": LONGS, "weights_ptr": FLOATS, "sums_ptr": FLOATS}
_PAIRS = {"begins_ptr": LONGS, "names_ptr": LONGS, "pairs_ptr": LONGS, "n_pairs": "i32"}
_OPTIONS = {"num_warps": 4, **NO_FUSION}


def _variants() -> dict[str, Variant]:
    found = {}
    for name, kind in (("float32", FLOATS), ("bfloat16", HALVES)):
        found[f"dots of {name} rows"] = Variant(
            "named.dots_kernel",
            {**_NAMED, **_rows("query", FLOATS), **_rows("key", kind), "dots_ptr": FLOATS},
            {"REAL": tl.float32, "N": 32},
            _OPTIONS,
            96,
            is_canonical=True,
        )
        for n_columns in (64, 1024):
            found[f"aggregate of {n_columns} columns, {name}"] = Variant(
                "named.aggregate_kernel",
                {**_NAMED, **_rows("value", kind)},
                {"REAL": tl.float32, "D": n_columns, "J": 8},
                _OPTIONS,
                128,
                is_canonical=True,
            )
            found[f"scatter of {n_columns} columns, {name}"] = Variant(
                "named.scatter_kernel",
                {**_NAMED, **_PAIRS, **_rows("row", kind)},
                {"REAL": tl.float32, "D": n_columns, "J": 4},
                _OPTIONS,
                128,
                is_canonical=True,
            )
    found["scatter by atomics"] = Variant(
        "named.scatter_atomic_kernel",
        {**_NAMED, **_rows("row", FLOATS)},
        {"REAL": tl.float32, "D": 64},
        _OPTIONS,
        64,
    )
    return found


VARIANTS = _variants()

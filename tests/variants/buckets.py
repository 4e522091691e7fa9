"""The kernels of buckets, sketches and probes, as they are launched."""

from variants.variant import FLOATS, HALVES, LONGS, NO_FUSION, Variant

_ENTRIES = {"keys_ptr": LONGS, "begins_ptr": LONGS, "ends_ptr": LONGS, "n_entries": "i32"}
_ADD = {
    **_ENTRIES,
    "slots_ptr": LONGS,
    "counts_ptr": LONGS,
    "ids_ptr": LONGS,
    "order_ptr": LONGS,
    "draws_ptr": LONGS,
    "n_tables": "i32!",
    "n_buckets": "i32!",
    "n_keys": "i32!",
    "n_slots": "i32!",
}
_GATHER = {
    "slots_ptr": LONGS,
    "probes_ptr": LONGS,
    "found_ptr": LONGS,
    "n_found": "i64",
    "n_tables": "i32!",
    "n_buckets": "i32!",
    "n_probes": "i32",
    "n_slots": "i32!",
}
_HITS = {
    "ids_ptr": LONGS,
    "places_ptr": LONGS,
    "scores_ptr": FLOATS,
    "n_found": "i64",
    "width": "i32!",
    "of_table": "i32!",
    "min_hits": "i32",
}
_MARGINS = {
    "row_stride": "i32!",
    "column_stride": "1",
    "margins_ptr": FLOATS,
    "n_rows": "i32!",
    "n_planes": "i32!",
    "dim": "i32!",
}
_COSTS = {
    "sizes_ptr": FLOATS,
    "bits_ptr": LONGS,
    "sets_ptr": LONGS,
    "costs_ptr": "*fp64!",
    "flips_ptr": LONGS,
    "n": "i32!",
    "n_bits": "i32",
    "n_sets": "i32",
    "n_ranks": "i32",
}


def _variants() -> dict[str, Variant]:
    four = {"num_warps": 4}
    found = {
        f"bucket add, {'random' if is_random else 'fifo'}": Variant(
            "slots.add_kernel", _ADD, {"IS_RANDOM": is_random, "N": 128}, four, 96
        )
        for is_random in (True, False)
    }
    counts = {**_ENTRIES, "counts_ptr": LONGS, "n_keys": "i32!"}
    found["bucket count"] = Variant("slots.count_kernel", counts, {"N": 128}, four, 40)
    found["bucket gather"] = Variant("slots.gather_kernel", _GATHER, {"N": 128}, four, 64)
    found["bucket hits"] = Variant("slots.hits_kernel", _HITS, {"N": 128}, four, 64)
    for name, numbers in (("float32", FLOATS), ("float64", "*fp64!")):
        for width, n_rows in ((4, 64), (32, 16)):
            found[f"sketch add, {width} {name}"] = Variant(
                "slots.sketch_kernel",
                {
                    "sums_ptr": numbers,
                    "values_ptr": numbers,
                    "row_stride": "i32",
                    "column_stride": "1",
                    "keys_ptr": LONGS,
                    "order_ptr": LONGS,
                    "n_entries": "i32",
                    "n_tables": "i32!",
                    "n_keys": "i32!",
                    "width": "i32",
                },
                {"N": n_rows, "D": width},
                four,
                96,
            )
    for rows, planes, name in ((FLOATS, "*i8!", "float32 x signs"), (HALVES, FLOATS, "bfloat16")):
        found[f"probe margins, {name}"] = Variant(
            "probes.margins_kernel",
            {**_MARGINS, "rows_ptr": rows, "planes_ptr": planes},
            {"M": 16, "P": 16},
            {**four, **NO_FUSION},
            128,
            is_canonical=True,
        )
    found["probe costs"] = Variant(
        "probes.costs_kernel", _COSTS, {"R": 4, "N": 64}, {**four, **NO_FUSION}, 64
    )
    return found


VARIANTS = _variants()

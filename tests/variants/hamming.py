"""The kernels of Hamming search, as they are launched."""

from variants.variant import INTS, LONGS, Variant

_CODES = {
    "queries_ptr": INTS,
    "keys_ptr": INTS,
    "mask_ptr": None,
    "mask_row_stride": "i32",
    "mask_stride": "i32",
    "n_queries": "i32",
    "n_keys": "i32!",
    "n_words": "i32",
    "n_splits": "i32!",
}
_SHARES = {"begins_ptr": INTS, "rooms_ptr": INTS, "ends_ptr": INTS, "farthest_ptr": INTS}


def _variants() -> dict[str, Variant]:
    found = {}
    for n_queries, n_bits, bins in ((1, 256, 512), (8, 256, 512), (8, 64, 128)):
        tile = {"Q": n_queries, "N": 256, "WORDS": min(8, n_bits // 32), "BINS": bins}
        name = f"codes by {n_queries}, {n_bits} bits"
        found[f"count of {name}"] = Variant(
            "distances.count_kernel",
            {**_CODES, "counts_ptr": INTS},
            tile,
            {"num_warps": 4},
            160,
        )
        found[f"keep of {name}"] = Variant(
            "distances.keep_kernel",
            {**_CODES, **_SHARES, "parts_ptr": INTS, "part_ids_ptr": LONGS, "width": "i32"},
            tile,
            {"num_warps": 4},
            160,
        )
    found["keep of codes by 1, 256 bits, masked"] = Variant(
        "distances.keep_kernel",
        {
            **_CODES,
            **_SHARES,
            "parts_ptr": INTS,
            "part_ids_ptr": LONGS,
            "width": "i32",
            "mask_ptr": "*i1!",
        },
        {"Q": 1, "N": 256, "WORDS": 8, "BINS": 512},
        {"num_warps": 4},
        160,
    )
    found["share of codes of 256 bits"] = Variant(
        "distances.share_kernel",
        {
            **_SHARES,
            "counts_ptr": INTS,
            "widths_ptr": None,
            "k": "i32",
            "max_distance": "i32!",
            "n_splits": "i32!",
        },
        {"S": 16, "BINS": 512},
        {"num_warps": 8},
        168,
    )
    return found


VARIANTS = _variants()

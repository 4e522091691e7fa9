"""The kernel of topk, as it is launched."""

from variants.variant import FLOATS, INTS, LONGS, Variant

_KEPT = {"kept_ptr": INTS, "kept_ids_ptr": LONGS, "n": "i32!", "n_splits": "i32"}
_FIRST = {"scores_ptr": FLOATS, "row_stride": "i32!", "column_stride": "1"}
_LATER = {"row_stride": "i32!", "column_stride": "1", "keys_ptr": INTS, "key_ids_ptr": LONGS}

VARIANTS = {
    f"keep {n_kept} of {n_read}{name}": Variant(
        "keep.keep_kernel",
        {**given, **_KEPT},
        {"K": n_kept, "N": n_read},
        {"num_warps": 4},
        160,
    )
    for n_kept, n_read in ((16, 1024), (512, 2048))
    for name, given in (("", _FIRST), (", later", _LATER))
}

"""The kernels of attend over all keys, as they are launched."""

from typing import Any

from triton import language as tl

from memcore.kernels.attend import tile_for
from memcore.kernels.layout import AttentionView, Batches
from variants.variant import BF16, FLOATS, HALVES, INTS, LONGS, NO_FUSION, Variant

_OUTPUTS = ("reads", "lses", "lse", "out_grad", "shift", "query_grads", "beta_grads")
_OUTPUTS += ("key_grads", "value_grads", "bias_grads")
_ROWS = Batches(FLOATS, "i32!", "i32!", "i32!")
_GIVEN = AttentionView(
    *(_ROWS, _ROWS, _ROWS, "*fp64!", None, None, None),
    *("i32", "i32", "i32", "i32"),
    *("i32!", "i32!"),
)
_WEIGHED = _GIVEN._replace(
    bias=Batches(FLOATS, "i32", "i32", "i32"), mask=Batches("*i1!", "i32", "i32", "i32")
)
_PLAIN = {"given": _GIVEN, "n_splits": "i32", **{f"{name}_ptr": FLOATS for name in _OUTPUTS}}
_MASKED = {**_PLAIN, "given": _WEIGHED}
# Kind of the rows: their type, the kind of computed numbers beside them, and the width of both.
_KINDS = {
    "bf16": (HALVES, "bf16", "half"),
    "fp16": ("*fp16!", "tf32", "half"),
    "fp32": (FLOATS, "fp32", "fp32"),
    "fp64": ("*fp64!", "fp64", "fp64"),
}
# Tiles of fewer rows than the wide multiplies take.
_SMALL = {80: "HMMA", 90: "HMMA", 100: "HMMA"}


def _of(given: AttentionView, rows: str) -> AttentionView:
    """The same over rows of a type."""
    names = ("queries", "keys", "contents")
    parts = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    return given._replace(**{name: part._replace(ptr=rows) for name, part in parts.items()})


def _variant(kernel: str, name: str, kind: str, types: dict[str, Any], **more: Any) -> Variant:
    """One of the three kernels, with its tile."""
    rows, _, width = _KINDS[kind]
    real = tl.float64 if kind == "fp64" else tl.float32
    over = _of(types["given"], rows)
    given = {**types, "given": over}
    if kind == "fp64":
        given |= {f"{each}_ptr": rows for each in _OUTPUTS}
        if over.mask is not None:
            given["given"] = over._replace(mask=over.mask._replace(ptr=INTS))
    tile = tile_for(name, kind, width, is_masked=over.mask is not None)
    sizes = {"Q": tile.Q, "N": tile.N, **dict.fromkeys(("D", "V"), tile.columns)}
    sizes |= dict.fromkeys(("DIM", "VALUE_DIM"), tile.columns)
    is_wide = {**sizes, **more}["Q"] >= 64
    return Variant(
        kernel,
        given,
        {"KIND": kind, "VALUE_KIND": kind, "REAL": real, "IS_CAREFUL": False, **sizes, **more},
        {"num_warps": 4 if more.get("IS_CAREFUL") else tile.n_warps, "num_stages": tile.n_stages},
        255,
        multiplies={} if kind == "fp64" else BF16 if is_wide else _SMALL,
    )


def _variants() -> dict[str, Variant]:
    found = {}
    for kind, (_, computed, _) in _KINDS.items():
        for name in ("forward", "few"):
            found[f"attend, {name}, {kind}"] = _variant(
                "stream.attend_kernel", name, kind, _PLAIN, IS_L2=False
            )
        for words, types in (("attend", _PLAIN), ("attend, masked", _MASKED)):
            backward = {"VALUE_KIND": computed, "KEY_KIND": computed}
            found[f"{words}, gradients of queries, {kind}"] = _variant(
                "stream_backward.attend_queries_kernel", "queries", kind, types, **backward
            )
            backward = {"VALUE_KIND": computed, "QUERY_KIND": computed, "IS_L2": False}
            found[f"{words}, gradients of keys, {kind}"] = _variant(
                "stream_backward.attend_keys_kernel", "keys", kind, types, **backward
            )
        found[f"attend, masked, {kind}"] = _variant(
            "stream.attend_kernel", "forward", kind, _MASKED, IS_L2=False
        )
    careful = {"Q": 32, "D": 64, "V": 64, "DIM": 128, "IS_L2": False, "IS_CAREFUL": True}
    found["attend, masked, careful"] = _variant(
        "stream.attend_kernel", "forward", "bf16", _MASKED, **careful
    )
    selecting = {"parts_ptr": INTS, "part_ids_ptr": LONGS, "n_splits": "i32"}
    for name, rows, over in (
        ("float32", FLOATS, _GIVEN),
        ("bfloat16, masked and biased", HALVES, _WEIGHED),
    ):
        over = _of(over._replace(contents=None, beta=FLOATS), rows)
        for n_queries, n_keys in ((1, 128), (4, 64)):
            found[f"k best of batches, {n_queries} x {n_keys}, {name}"] = Variant(
                "batches.scan_kernel",
                {**selecting, "given": over},
                {"Q": n_queries, "N": n_keys, "K": 32},
                {"num_warps": 4, **NO_FUSION},
                128,
                is_canonical=True,
            )
    alone = {**_PLAIN, **dict.fromkeys(("reads_ptr", "out_grad_ptr"))}
    alone["given"] = _GIVEN._replace(contents=None)
    found["log-sum-exp of distances"] = _variant(
        "stream.attend_kernel", "forward", "bf16", alone, IS_L2=True
    )
    found["log-sum-exp of distances, gradients of keys"] = _variant(
        "stream_backward.attend_keys_kernel",
        "keys",
        "bf16",
        {**alone, "value_grads_ptr": None},
        IS_L2=True,
        QUERY_KIND="bf16",
    )
    return found


VARIANTS = _variants()

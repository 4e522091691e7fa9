"""The definitions in NumPy as an engine: behind the parameters of `_core`, whose outputs come last.

They are slow, and run only what asks for them.
"""

from collections.abc import Callable
from typing import Any

from memcore import reference
from memcore.errors import InputError

Runner = Callable[..., Any]


def _writing(define: Callable[..., Any], n_outputs: int) -> Runner:
    """A definition behind the parameters of its namesake in `_core`, whose outputs come last."""

    def run(*given: Any) -> None:
        found = define(*given[:-n_outputs])
        found = found if isinstance(found, tuple) else (found,)
        for out, value in zip(given[-n_outputs:], found, strict=True):
            if out is not None:
                out[...] = value

    return run


def _checking(op: str, name: str, n_outputs: int) -> Runner:
    """As `_writing`, of rows that are checked, the first argument."""
    run = _writing(getattr(reference, op), n_outputs)

    def checked(rows: Any, *given: Any) -> None:
        _check(op, name, rows)
        run(rows, *given)

    return checked


def _check(op: str, name: str, rows: Any) -> None:
    # False for NaN too.
    sound = reference.squares(reference.widen(rows)) <= reference.MAX_SQUARE
    if not sound.all():
        raise InputError(
            f"{op}: {name} row {sound.argmin()} is not finite or too large, "
            "should be finite with a squared norm of at most 1e36"
        )


def _search(queries: Any, keys: Any, offsets: Any, segments: Any, k: Any, *options: Any) -> None:
    """`reference.search` behind the parameters of `_core.search`."""
    *values, _, scores, ids = options
    names = ("metric", "mask", "candidates", "scale", "bias", "min_score", "max_score")
    named = dict(zip(names, values, strict=True))
    _check("search" if offsets is None else "search_ragged", "queries", queries)
    if offsets is None:
        hits = reference.search(queries, keys, k, **named)
    else:
        hits = reference.search_ragged(queries, keys, offsets, segments, k, **named)
    scores[...], ids[...] = hits


def _search_codes(
    queries: Any, codes: Any, codewords: Any, k: Any, metric: str, squares: Any, *hits: Any
) -> None:
    """`reference.search_codes` behind the parameters of `_core.search_codes`."""
    _check("search_codes", "queries", queries)
    scores, ids = hits
    scores[...], ids[...] = reference.search_codes(
        queries, codes, codewords, k, metric=metric, squares=squares
    )


def _lsh_encode(vectors: Any, planes: Any, _: Any, n_bits: int, kind: str, codes: Any) -> None:
    """`reference.lsh_encode` behind the parameters of `_core.lsh_encode`."""
    _check("lsh_encode", "vectors", vectors)
    codes[...] = reference.lsh_encode(vectors, planes, n_bits, kind)


def _bucket_search(slots: Any, counts: Any, probes: Any, min_hits: int) -> Any:
    """`reference.bucket_search` behind the parameters of `_core.bucket_search`."""
    return reference.bucket_search(slots, probes, min_hits)


OPS: dict[str, Runner] = {
    "search": _search,
    "search_ragged": _search,
    "topk": _writing(reference.topk, 2),
    "assign": _checking("assign", "rows", 2),
    "codebook_ema": _writing(reference.codebook_ema, 2),
    "codebook_sums": _writing(reference.codebook_sums, 2),
    "decode": _writing(reference.decode, 1),
    "pack_codes": _writing(reference.pack_codes, 1),
    "search_codes": _search_codes,
    "unpack_codes": _writing(reference.unpack_codes, 1),
    "attend": _writing(reference.attend, 2),
    "attend_backward": _writing(reference.attend_backward, 5),
    "dots": _writing(reference.dots, 1),
    "aggregate": _writing(reference.aggregate, 1),
    "scatter": _writing(reference.scatter, 1),
    "lsh_encode": _lsh_encode,
    "lsh_probes": _checking("lsh_probes", "vectors", 1),
    "hamming_search": _writing(reference.hamming_search, 2),
    "bucket_add": reference.bucket_add,
    "bucket_search": _bucket_search,
    "sketch_add": reference.sketch_add,
}

"""The only file that names the engines: which one runs an op, and why the others do not.

"cpu" is the compiled engine, and runs everything in host memory. "triton" runs what lies on a GPU.
"reference" is the definition in NumPy: slow, and never chosen unless it is asked for. The
environment variable MEMCORE_BACKEND names the engine of calls that name none.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memcore import _core, arrays, reference
from memcore._core import isa, isas, lsh_pack, set_isa, set_threads, threads
from memcore.errors import BackendError, InputError
from memcore.hits import Hits

__all__ = [
    "Explanation",
    "check_readable",
    "engine",
    "explain",
    "isa",
    "isas",
    "lay_out",
    "lsh_pack",
    "search_plain",
    "set_isa",
    "set_threads",
    "threads",
]

Runner = Callable[..., Any]


def _search_reference(
    queries: Any, keys: Any, offsets: Any, segments: Any, k: Any, *options: Any
) -> None:
    """`reference.search` behind the parameters of `_core.search`."""
    *values, _, scores, ids = options
    names = ("metric", "mask", "candidates", "scale", "bias", "min_score", "max_score")
    named = dict(zip(names, values, strict=True))
    _check_queries("search" if offsets is None else "search_ragged", queries)
    if offsets is None:
        hits = reference.search(queries, keys, k, **named)
    else:
        hits = reference.search_ragged(queries, keys, offsets, segments, k, **named)
    scores[...], ids[...] = hits


def _check_queries(op: str, queries: Any) -> None:
    # False for NaN too.
    sound = reference.squares(reference.widen(queries)) <= reference.MAX_SQUARE
    if not sound.all():
        raise InputError(
            f"{op}: queries row {sound.argmin()} is not finite or too large, "
            "should be finite with a squared norm of at most 1e36"
        )


def _topk_reference(scores_in: Any, k: Any, scores: Any, ids: Any) -> None:
    """`reference.topk` behind the parameters of `_core.topk`."""
    scores[...], ids[...] = reference.topk(scores_in, k)


def _assign_reference(rows: Any, codewords: Any, codes: Any, scores: Any) -> None:
    """`reference.assign` behind the parameters of `_core.assign`."""
    _check_queries("assign", rows)
    codes[...], scores[...] = reference.assign(rows, codewords)


def _codebook_sums_reference(rows: Any, codes: Any, n_codes: int, counts: Any, sums: Any) -> None:
    """`reference.codebook_sums` behind the parameters of `_core.codebook_sums`."""
    counts[...], sums[...] = reference.codebook_sums(rows, codes, n_codes)


def _codebook_ema_reference(
    batch_sums: Any, sums: Any, decay: float, divisors: Any, running: Any, codewords: Any
) -> None:
    """`reference.codebook_ema` behind the parameters of `_core.codebook_ema`."""
    running[...], codewords[...] = reference.codebook_ema(batch_sums, sums, decay, divisors)


def _decode_reference(codes: Any, codewords: Any, rows: Any) -> None:
    """`reference.decode` behind the parameters of `_core.decode`."""
    rows[...] = reference.decode(codes, codewords)


def _pack_codes_reference(codes: Any, n_bits: int, packed: Any) -> None:
    """`reference.pack_codes` behind the parameters of `_core.pack_codes`."""
    packed[...] = reference.pack_codes(codes, n_bits)


def _unpack_codes_reference(packed: Any, n: int, n_bits: int, codes: Any) -> None:
    """`reference.unpack_codes` behind the parameters of `_core.unpack_codes`."""
    codes[...] = reference.unpack_codes(packed, n, n_bits)


def _search_codes_reference(
    queries: Any, codes: Any, codewords: Any, k: Any, metric: str, squares: Any, *hits: Any
) -> None:
    """`reference.search_codes` behind the parameters of `_core.search_codes`."""
    _check_queries("search_codes", queries)
    scores, ids = hits
    scores[...], ids[...] = reference.search_codes(
        queries, codes, codewords, k, metric=metric, squares=squares
    )


def _writing(define: Callable[..., Any], n_outputs: int) -> Runner:
    """A definition behind the parameters of its namesake in `_core`, whose outputs come last."""

    def run(*given: Any) -> None:
        found = define(*given[:-n_outputs])
        found = found if isinstance(found, tuple) else (found,)
        for out, value in zip(given[-n_outputs:], found, strict=True):
            if out is not None:
                out[...] = value

    return run


def _lsh_encode_reference(
    vectors: Any, planes: Any, packed: Any, n_bits: int, kind: str, codes: Any
) -> None:
    """`reference.lsh_encode` behind the parameters of `_core.lsh_encode`."""
    _check_vectors("lsh_encode", "vectors", vectors)
    codes[...] = reference.lsh_encode(vectors, planes, n_bits, kind)


def _lsh_probes_reference(
    vectors: Any, planes: Any, n_bits: int, kind: str, n_probes: int, probes: Any
) -> None:
    """`reference.lsh_probes` behind the parameters of `_core.lsh_probes`."""
    _check_vectors("lsh_probes", "vectors", vectors)
    probes[...] = reference.lsh_probes(vectors, planes, n_bits, kind, n_probes)


def _hamming_reference(
    queries: Any, keys: Any, k: Any, mask: Any, max_distance: int, scores: Any, ids: Any
) -> None:
    """`reference.hamming_search` behind the parameters of `_core.hamming_search`."""
    scores[...], ids[...] = reference.hamming_search(queries, keys, k, mask, max_distance)


def _bucket_search_reference(slots: Any, counts: Any, probes: Any, min_hits: int) -> Any:
    """`reference.bucket_search` behind the parameters of `_core.bucket_search`."""
    return reference.bucket_search(slots, probes, min_hits)


def _check_vectors(op: str, name: str, rows: Any) -> None:
    # False for NaN too.
    sound = reference.squares(reference.widen(rows)) <= reference.MAX_SQUARE
    if not sound.all():
        raise InputError(
            f"{op}: {name} row {sound.argmin()} is not finite or too large, "
            "should be finite with a squared norm of at most 1e36"
        )


_CPU: dict[str, Runner] = {
    "search": _core.search,
    "search_ragged": _core.search,
    "topk": _core.topk,
    "assign": _core.assign,
    "codebook_ema": _core.codebook_ema,
    "codebook_sums": _core.codebook_sums,
    "decode": _core.decode,
    "pack_codes": _core.pack_codes,
    "search_codes": _core.search_codes,
    "unpack_codes": _core.unpack_codes,
    "attend": _core.attend,
    "attend_backward": _core.attend_backward,
    "dots": _core.dots,
    "aggregate": _core.aggregate,
    "scatter": _core.scatter,
    "lsh_encode": _core.lsh_encode,
    "lsh_probes": _core.lsh_probes,
    "hamming_search": _core.hamming_search,
    "bucket_add": _core.bucket_add,
    "bucket_search": _core.bucket_search,
    "sketch_add": _core.sketch_add,
}
_REFERENCE: dict[str, Runner] = {
    "search": _search_reference,
    "search_ragged": _search_reference,
    "topk": _topk_reference,
    "assign": _assign_reference,
    "codebook_ema": _codebook_ema_reference,
    "codebook_sums": _codebook_sums_reference,
    "decode": _decode_reference,
    "pack_codes": _pack_codes_reference,
    "search_codes": _search_codes_reference,
    "unpack_codes": _unpack_codes_reference,
    "attend": _writing(reference.attend, 2),
    "attend_backward": _writing(reference.attend_backward, 5),
    "dots": _writing(reference.dots, 1),
    "aggregate": _writing(reference.aggregate, 1),
    "scatter": _writing(reference.scatter, 1),
    "lsh_encode": _lsh_encode_reference,
    "lsh_probes": _lsh_probes_reference,
    "hamming_search": _hamming_reference,
    "bucket_add": reference.bucket_add,
    "bucket_search": _bucket_search_reference,
    "sketch_add": reference.sketch_add,
}


def _kernels(op: str) -> Any:
    """The module `memcore.kernels`, which is imported by its first call."""
    try:
        return importlib.import_module("memcore.kernels")
    except ImportError as error:
        raise BackendError(f"{op}: {error.name} is not installed, should be") from None


def _launcher(op: str) -> Runner:
    """A launcher of `memcore.kernels`."""

    def run(*given: Any, **options: Any) -> Any:
        kernels = check_readable(op, given[0])
        with kernels.place(given[0]):
            return getattr(kernels, op)(*given, **options)

    return run


def lay_out(op: str, planes: Any, n_bits: int, kind: str) -> Any:
    """What `lsh_pack` is to the compiled engine, for planes (n_planes, dim) on a device."""
    return _kernels(op).lay_out(planes, n_bits, kind)


def check_readable(op: str, array: Any) -> Any:
    """Raise BackendError unless kernels can read an array where it lies; else their module."""
    kernels = _kernels(op)
    kernels.check(op, BackendError, array)
    return kernels


_TRITON: dict[str, Runner] = {
    op: _launcher(op)
    for op in (
        "search",
        "search_ragged",
        "lsh_encode",
        "topk",
        "hamming_search",
        "assign",
        "codebook_ema",
        "codebook_sums",
        "decode",
        "search_codes",
        "attend",
        "attend_backward",
        "dots",
        "aggregate",
        "scatter",
        "select",
        "lsh_probes",
        "bucket_add",
        "bucket_search",
        "sketch_add",
    )
}
_ENGINES: dict[str, dict[str, Runner]] = {
    "cpu": _CPU,
    "reference": _REFERENCE,
    "triton": _TRITON,
}
_ABSENT = ("cuda",)
_DEFAULT = os.environ.get("MEMCORE_BACKEND") or "cpu"


def _never(*_: Any) -> None:
    """No call is plain to an engine that has no short way for one."""


# The Hits of a search of float32 NumPy arrays with an int k and no options; None where the
# arguments are anything else, and `engine("search")` is to be called.
search_plain: Callable[[Any, Any, Any, Any], Hits | None] = (
    _core.search_plain if _DEFAULT == "cpu" else _never
)


@dataclass(frozen=True)
class Explanation:
    """Which engine would run a call; prints as one line per engine.

    Attributes:
        op: the op's name.
        engine: the engine that would run, or None.
        reasons: of each engine, why it would or would not.
    """

    op: str
    engine: str | None
    reasons: dict[str, str]

    def __repr__(self) -> str:
        """The answer, then a line for each engine."""
        lines = [f"{self.op}: {self.engine or 'no engine'} would run"]
        return "\n".join(lines + [f"  {name:<10} {why}" for name, why in self.reasons.items()])


def engine(op: str, backend: str | None = None) -> Runner:
    """The function that runs an op, with the parameters of its namesake in `_core`.

    Raises:
        BackendError: the engine that was asked for is not part of this build.
    """
    try:
        return _ENGINES[backend or _DEFAULT][op]
    except KeyError:
        known = ", ".join(name for name, ops in _ENGINES.items() if op in ops)
        name = repr(backend or _DEFAULT)
        raise BackendError(f"{op}: backend is {name}, should be one of {known}") from None


def explain(op: str, *args: Any, backend: str | None = None) -> Explanation:
    """Say which engine would run `op(*args, backend=backend)`, and why the others would not.

    Example:
        >>> import memcore
        >>> memcore.explain("search", backend="reference").reasons["cpu"]
        'could run, but reference was chosen'
    """
    if op not in _CPU:
        known = ", ".join(_CPU)
        raise InputError(f"explain: op is {op!r}, should be one of {known}")
    asked = backend or _DEFAULT
    elsewhere = next((place for place in map(arrays.place, args) if place != "cpu"), None)
    if backend is None and elsewhere:
        asked = "triton"
    reasons = {
        name: _reason(op, name, asked, elsewhere)
        for name in dict.fromkeys((*_ENGINES, *_ABSENT, asked))
    }
    runs = reasons[asked].startswith("runs")
    return Explanation(op, asked if runs else None, reasons)


def _reason(op: str, name: str, asked: str, elsewhere: str | None) -> str:
    if name not in _ENGINES:
        return "not part of this build"
    if name == "triton":
        missing = [each for each in ("torch", "triton") if not importlib.util.find_spec(each)]
        if op not in _TRITON:
            return "has no kernel for this op"
        if missing:
            return f"{missing[0]} is not installed"
        if not elsewhere:
            return "reads GPU memory, but the arrays are on the cpu"
    elif elsewhere:
        return f"reads host memory, but an array is on {elsewhere}"
    if name != asked:
        return f"could run, but {asked} was chosen"
    if name == "cpu":
        return f"runs, with {isa()}, threads: {threads()}"
    if name == "triton":
        return f"runs, on {elsewhere}"
    return "runs, in NumPy and without a first pass"

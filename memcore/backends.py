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

from memcore import _core, arrays, reference_engine, scalars
from memcore._core import isa, isas, lsh_pack, threads
from memcore.errors import BackendError, DtypeError, in_room
from memcore.hits import Hits

__all__ = [
    "Explanation",
    "check_device",
    "check_readable",
    "engine",
    "explain",
    "is_triton",
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
        with in_room(op), kernels.place(given[0]):
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
    "reference": reference_engine.OPS,
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


def set_threads(n: int) -> None:
    """Let calls from here on use n threads at most; 0 for as many as the machine has."""
    _core.set_threads(scalars.whole("set_threads", "n", n, 0, 1024))


def set_isa(name: str) -> None:
    """Have calls from here on use an instruction set, one of `isas`."""
    given: Any = name
    if not isinstance(given, str):
        raise DtypeError(f"set_isa: name is {scalars.shown(name)}, should be a str")
    _core.set_isa(name)


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
        return _ENGINES[_DEFAULT if backend is None else backend][op]
    except Exception:
        # Whatever an array, say, raises when it is asked whether it is there.
        known = ", ".join(name for name, ops in _ENGINES.items() if op in ops)
        name = scalars.shown(_DEFAULT if backend is None else backend)
        raise BackendError(f"{op}: backend is {name}, should be one of {known}") from None


def check_device(op: str, backend: Any) -> None:
    """Raise BackendError unless the engine that was asked for, if any, is that of a device."""
    if backend is not None and not is_triton(backend):
        raise BackendError(
            f"{op}: backend is {scalars.shown(backend)}, should be 'triton' on a device"
        )


def is_triton(backend: Any) -> bool:
    """Whether kernels were asked for by name."""
    return scalars.is_word(backend, "triton")


def explain(op: str, *args: Any, backend: str | None = None) -> Explanation:
    """Say which engine would run `op(*args, backend=backend)`, and why the others would not.

    Example:
        >>> import memcore
        >>> memcore.explain("search", backend="reference").reasons["cpu"]
        'could run, but reference was chosen'
    """
    scalars.word("explain", "op", op, [*_CPU])
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

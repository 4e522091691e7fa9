"""Search and score: what each call's arguments mean, conditions included, and one native call."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, tensors
from memcore import index as index_
from memcore.bank import device_reads, shapes
from memcore.bank import fields as fields_
from memcore.bank.store import Store
from memcore.bank.where import Program, compile_all
from memcore.errors import BackendError, DtypeError, InputError, ShapeError, in_room
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops.device import outputs

Ints = NDArray[np.int64]

_INF = float("inf")
_MAX_TRIES = 3


class Limits(NamedTuple):
    """What else a search is told, as `Arena.search` says."""

    candidates: Any = None
    scale: str | None = None
    bias: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    n_probes: Any = None
    recall: Any = None


NO_LIMITS = Limits()


def search(
    store: Store, banks: Any, queries: Any, k: Any, where: Any = None, limits: Limits = NO_LIMITS
) -> Hits:
    """`Arena.search`."""
    if store.mirror is not None and store.mirror.has(queries):
        with in_room("search"):
            return _search_there(store, banks, queries, k, where, limits)
    candidates, n_probes, recall = limits.candidates, limits.n_probes, limits.recall
    asked, shape = store.queries("search", queries)
    flat = shapes.fit("search", shapes.handles("search", banks), shape, "queries")
    n_queries = len(asked)
    each, width = _widths(k, shape, n_queries)
    if candidates is not None:
        candidates = shapes.candidates("search", "candidates", candidates, shape)
    scale = weight(store, "scale", limits.scale)
    bias = weight(store, "bias", limits.bias)
    low, high = _bounds(limits)
    effort = index_.effort("search", store.index, n_probes, recall, shape)
    scores, ids = arguments.outputs("search", n_queries, width)
    rest = (candidates, scale, bias, low, high, None, scores, ids, *effort)
    _run(store, flat, asked, each, where, shape, rest)
    shape = (*shape, width)
    return Hits(
        arrays.like(queries, scores.reshape(shape)), arrays.like(queries, ids.reshape(shape))
    )


def _search_there(
    store: Store, banks: Any, queries: Any, k: Any, where: Any, limits: Limits
) -> Hits:
    """Search with queries on the device of the rows; the hits are there too."""
    mirror: Any = store.mirror
    asked, shape, flat = _asked_there("search", mirror, banks, queries)
    for name, each in (("k", k), ("n_probes", limits.n_probes), ("recall", limits.recall)):
        if not isinstance(each, (int, float)) and arrays.place(each) != "cpu":
            raise BackendError(f"search: {name} is on {arrays.place(each)}, should be on the host")
    each, width = _widths(k, shape, len(asked))
    candidates = limits.candidates
    if candidates is not None:
        candidates = _named_there("search", mirror, "candidates", candidates, shape)
    scale = weight(store, "scale", limits.scale)
    bias = weight(store, "bias", limits.bias)
    low, high = _bounds(limits)
    effort = index_.effort("search", store.index, limits.n_probes, limits.recall, shape)
    scores, ids = outputs("search", len(asked), width, mirror.device)
    rest = (candidates, scale, bias, low, high, None, scores, ids, *effort)
    _run(store, flat, asked, each, where, shape, rest)
    shape = (*shape, width)
    return Hits(
        tensors.like(queries, scores.reshape(shape)), tensors.like(queries, ids.reshape(shape))
    )


def score(store: Store, banks: Any, queries: Any, ids: Any) -> Any:
    """`Arena.score`."""
    if store.mirror is not None and store.mirror.has(queries):
        with in_room("score"):
            return _score_there(store, banks, queries, ids)
    asked, shape = store.queries("score", queries)
    flat = shapes.fit("score", shapes.handles("score", banks), shape, "queries")
    named = shapes.candidates("score", "ids", ids, shape)
    scores = np.empty(named.shape, np.float32)
    store.pages.score(flat, asked, named, scores)
    return arrays.like(queries, scores.reshape(*shape, named.shape[1]))


def _score_there(store: Store, banks: Any, queries: Any, ids: Any) -> Any:
    """Scores of queries on the device of the rows; an id that is not there has -inf."""
    mirror: Any = store.mirror
    asked, shape, flat = _asked_there("score", mirror, banks, queries)
    if asked.shape[1] != store.dim:
        raise ShapeError(f"score: queries has dim {asked.shape[1]}, should be {store.dim}")
    named = _named_there("score", mirror, "ids", ids, shape)
    scores = device_reads.score(store, flat, asked, mirror.sent(named))
    return tensors.like(queries, scores.reshape(*shape, named.shape[1]))


def _asked_there(
    op: str, mirror: Any, banks: Any, queries: Any
) -> tuple[Any, tuple[int, ...], Any]:
    """Queries on the device as (n, dim), their shape, and one handle for each or for all."""
    asked = tensors.vectors(op, "queries", queries)
    if not asked.ndim:
        raise ShapeError(f"{op}: queries is one number, should be (…, dim)")
    if not asked.is_floating_point():
        asked = asked.float()
    shape = tuple(asked.shape[:-1]) or (1,)
    asked = asked.reshape(math.prod(shape), asked.shape[-1])
    handles = tensors.ints(op, "banks", banks) if mirror.has(banks) else shapes.handles(op, banks)
    return asked, shape, shapes.fit(op, handles, shape, "queries")


def _named_there(op: str, mirror: Any, name: str, ids: Any, shape: tuple[int, ...]) -> Any:
    """Ids (…, m) of rows for each query of a shape, as (n, m), wherever they lie."""
    if not mirror.has(ids):
        return shapes.candidates(op, name, ids, shape)
    named = tensors.ints(op, name, ids)
    if named.ndim == 1 and shape == (1,):
        named = named[None]
    if tuple(named.shape[:-1]) != shape:
        raise ShapeError(
            f"{op}: {name} has shape {tuple(named.shape)}, should be "
            f"{(*shape, 'm')} with any m".replace("'", "")
        )
    return named.reshape(math.prod(shape), named.shape[-1])


def _filtered(
    store: Store,
    flat: Any,
    asked: Any,
    k: Any,
    conditions: Any,
    rest: tuple[Any, ...],
) -> None:
    """Search where conditions hold, with programs that know every word in the rows."""
    tables = store.tables
    n_queries = len(asked)

    def compiled() -> tuple[list[Program], Ints, set[int], int]:
        if isinstance(conditions, Mapping):
            programs, _, words = compile_all([conditions], store.schema, tables)
            index = np.zeros(n_queries, np.int64)
        else:
            programs, index, words = compile_all(conditions, store.schema, tables)
        return programs, index, words, tables.version(words)

    for _ in range(_MAX_TRIES):
        programs, index, words, version = tables.hold(compiled)
        if words and store.mirror is not None and store.mirror.is_capturing:
            # The number of a word is that of another once no row has it.
            raise BackendError(
                "search: where asks for words while a CUDA graph is captured, should be for numbers"
            )
        store.pages.search(flat, asked, k, programs, index, *rest)
        # A word that came since may be in a row that the search has seen.
        if tables.version(words) == version:
            return
    tables.hold(lambda: store.pages.search(flat, asked, k, *compiled()[:2], *rest))


def _run(
    store: Store,
    flat: Any,
    asked: Any,
    k: Any,
    where: Any,
    shape: tuple[int, ...],
    rest: tuple[Any, ...],
) -> None:
    """The native search, under the condition of all queries, of each, or none."""
    if where is None:
        store.pages.search(flat, asked, k, None, None, *rest)
        return
    if not isinstance(where, Mapping):
        where = fields_.flatten("search", "where", where, shape)
    _filtered(store, flat, asked, k, where, rest)


def _widths(k: Any, shape: tuple[int, ...], n_queries: int) -> tuple[Any, int]:
    if len(shape) > 1 and not isinstance(k, (int, float)):
        each = arrays.ints("search", "k", k)
        k = each.reshape(-1) if each.shape == shape else each
    return arguments.widths("search", k, n_queries)


def _bounds(limits: Limits) -> tuple[float, float]:
    low, high = limits.min_score, limits.max_score
    return (
        -_INF if low is None else arguments.bound("search", "min_score", low),
        _INF if high is None else arguments.bound("search", "max_score", high),
    )


def weight(store: Store, name: str, field: str | None) -> int | None:
    """The column of a numeric field."""
    if field is None:
        return None
    if not isinstance(field, str):
        raise DtypeError(f"search: {name} is a {type(field).__name__}, should be a field's name")
    named = store.schema.field("search", name, field)
    if named.kind not in ("int64", "float64"):
        raise InputError(f"search: {name} is {field!r}, a {named.kind}, should be a number")
    return named.column

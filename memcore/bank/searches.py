"""Search and score: what each call's arguments mean, conditions included, and one native call."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore import arrays
from memcore import index as index_
from memcore.bank import fields as fields_
from memcore.bank import shapes
from memcore.bank.store import Store
from memcore.bank.where import Program, compile_all
from memcore.errors import DtypeError, InputError
from memcore.hits import Hits
from memcore.ops import arguments

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
    candidates, _, _, min_score, max_score, n_probes, recall = limits
    asked, shape = store.queries("search", queries)
    flat = shapes.fit("search", shapes.handles("search", banks), shape, "queries")
    n_queries = len(asked)
    if np.ndim(k) > 1 and np.shape(k) == shape:
        k = arrays.ints("search", "k", k).reshape(-1)
    each, width = arguments.widths("search", k, n_queries)
    if candidates is not None:
        candidates = shapes.candidates("search", "candidates", candidates, shape)
    scale = _weight(store, "scale", limits.scale)
    bias = _weight(store, "bias", limits.bias)
    low = -_INF if min_score is None else arguments.bound("search", "min_score", min_score)
    high = _INF if max_score is None else arguments.bound("search", "max_score", max_score)
    effort = index_.effort("search", store.index, n_probes, recall, shape)
    scores, ids = arguments.outputs("search", n_queries, width)
    rest = (candidates, scale, bias, low, high, None, scores, ids, *effort)
    if where is None:
        store.pages.search(flat, asked, each, None, None, *rest)
    else:
        if not isinstance(where, Mapping):
            where = fields_.flatten("search", "where", where, shape)
        _filtered(store, flat, asked, each, where, rest)
    shape = (*shape, width)
    return Hits(
        arrays.like(queries, scores.reshape(shape)), arrays.like(queries, ids.reshape(shape))
    )


def score(store: Store, banks: Any, queries: Any, ids: Any) -> Any:
    """`Arena.score`."""
    asked, shape = store.queries("score", queries)
    flat = shapes.fit("score", shapes.handles("score", banks), shape, "queries")
    named = shapes.candidates("score", "ids", ids, shape)
    scores = np.empty(named.shape, np.float32)
    store.pages.score(flat, asked, named, scores)
    return arrays.like(queries, scores.reshape(*shape, named.shape[1]))


def _filtered(
    store: Store,
    flat: Ints,
    asked: NDArray[Any],
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
        store.pages.search(flat, asked, k, programs, index, *rest)
        # A word that came since may be in a row that the search has seen.
        if tables.version(words) == version:
            return
    tables.hold(lambda: store.pages.search(flat, asked, k, *compiled()[:2], *rest))


def _weight(store: Store, name: str, field: str | None) -> int | None:
    """The column of a numeric field."""
    if field is None:
        return None
    if not isinstance(field, str):
        raise DtypeError(f"search: {name} is a {type(field).__name__}, should be a field's name")
    named = store.schema.field("search", name, field)
    if named.kind not in ("int64", "float64"):
        raise InputError(f"search: {name} is {field!r}, a {named.kind}, should be a number")
    return named.column

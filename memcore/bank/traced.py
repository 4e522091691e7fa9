"""Searches of banks as an op of torch.library, so that torch.compile takes them whole.

Banks are no tensors: the op is told the number of a store, and looks its rows up when it runs. A
graph calls it each time it runs, and what it saves for a backward are the rows that it found.
"""

import ast
from typing import Any

import torch

from memcore import autograd
from memcore.bank import gradients, searches
from memcore.bank.searches import Limits
from memcore.bank.store import STORES, Store
from memcore.errors import BackendError
from memcore.hits import Hits
from memcore.ops.traced import tensor

Tensor = Any

_LIBRARY = torch.library.Library("memcore", "FRAGMENT")
# What it finds hangs on more than its arguments, so that it is never run anew for a backward, nor
# once for two calls.
_LIBRARY.define(
    "search_banks(Tensor queries, Tensor banks, SymInt store, SymInt k, str where,"
    " SymInt[] ints, float[] floats, Tensor? candidates, str? scale, str? bias,"
    " float? min_score, float? max_score, SymInt? n_probes, float? recall, bool with_rows)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def search(store: Store, banks: Any, queries: Any, k: Any, where: Any, limits: Limits) -> Hits:
    """`searches.search` while torch traces; the scores have the gradient of the queries."""
    with_rows = queries.requires_grad and torch.is_grad_enabled()
    scores, ids, keys, scale, bias = _run(store, banks, queries, k, where, limits, with_rows)
    hits = Hits(scores, ids)
    if not with_rows:
        return hits
    places = gradients.places(hits)
    asked = queries.reshape(places.shape[0], queries.shape[-1])
    weights = (
        None if limits.scale is None else scale,
        None if limits.bias is None else bias,
    )
    flat = scores.reshape(places.shape)
    attached = autograd.attach(flat, places, asked, keys, store.metric, *weights)
    return Hits(attached.reshape(scores.shape), ids)


def rows(store: Store, banks: Any, queries: Any, k: int, where: Any) -> tuple[Hits, Tensor]:
    """The hits, and the rows (n, dim) float32 of all of them one after the other."""
    scores, ids, keys, _, _ = _run(store, banks, queries, k, where, searches.NO_LIMITS, True)
    return Hits(scores, ids), keys


def spelled(condition: Any, ints: list[Any], floats: list[Any]) -> str:
    """A condition as text, by what torch traces; its numbers may change, and go to the lists."""
    if isinstance(condition, dict):
        pairs = []
        for key, value in condition.items():
            pairs.append(f"{key!r}:{spelled(value, ints, floats)}")
        return "{" + ",".join(pairs) + "}"
    if isinstance(condition, (list, tuple)):
        return "[" + ",".join([spelled(each, ints, floats) for each in condition]) + "]"
    if condition is None or isinstance(condition, (bool, str)):
        return repr(condition)
    is_float = isinstance(condition, (float, torch.SymFloat))
    numbers = floats if is_float else ints
    numbers.append(condition)
    return f"({is_float},{len(numbers) - 1})"


def read(text: str, ints: list[int], floats: list[float]) -> Any:
    """The condition that was spelled."""

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: filled(value) for key, value in part.items()}
        if isinstance(part, list):
            return [filled(each) for each in part]
        if isinstance(part, tuple):
            is_float, place = part
            return (floats if is_float else ints)[place]
        return part

    return filled(ast.literal_eval(text))


def _run(
    store: Store, banks: Any, queries: Any, k: Any, where: Any, limits: Limits, with_rows: bool
) -> Any:
    ints: list[Any] = []
    floats: list[Any] = []
    text = spelled(where, ints, floats)
    return torch.ops.memcore.search_banks(
        queries.detach(),
        tensor(banks),
        store.number,
        k,
        text,
        ints,
        floats,
        tensor(limits.candidates),
        *limits[1:],
        with_rows,
    )


def _search_banks(
    queries: Tensor,
    banks: Tensor,
    number: int,
    k: int,
    where: str,
    ints: list[int],
    floats: list[float],
    candidates: Tensor | None,
    scale: str | None,
    bias: str | None,
    min_score: float | None,
    max_score: float | None,
    n_probes: int | None,
    recall: float | None,
    with_rows: bool,
) -> tuple[Tensor, ...]:
    store = STORES.get(number)
    if store is None:
        raise BackendError("search: the arena that was compiled is gone, should still be there")
    limits = Limits(candidates, scale, bias, min_score, max_score, n_probes, recall)
    given = (store, banks, queries, int(k), read(where, ints, floats), limits)
    if with_rows:
        hits, keys, weights = gradients.found(*given)
        parts = (keys, weights.get("scale"), weights.get("bias"))
    else:
        hits, parts = searches.search(*given), (None, None, None)
    none = queries.new_empty(0, dtype=torch.float32)
    return *hits, *(none.clone() if part is None else part for part in parts)


def _search_banks_fake(
    queries: Tensor, banks: Tensor, number: int, k: int, *rest: Any
) -> tuple[Tensor, ...]:
    scale, bias, with_rows = rest[4], rest[5], rest[-1]
    shape = tuple(queries.shape[:-1]) or (1,)
    scores = queries.new_empty((*shape, k), dtype=torch.float32)
    n = scores.numel() if with_rows else 0
    return (
        scores,
        torch.empty_like(scores, dtype=torch.int64),
        scores.new_empty((n, queries.shape[-1]) if with_rows else 0),
        scores.new_empty(0 if scale is None else n),
        scores.new_empty(0 if bias is None else n),
    )


_LIBRARY.impl("search_banks", _search_banks, "CompositeExplicitAutograd")
torch.library.register_fake("memcore::search_banks", _search_banks_fake, lib=_LIBRARY)

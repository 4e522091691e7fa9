"""search, search_ragged and topk as ops of torch.library, so that torch.compile takes them whole.

Hits have no gradient here: the callers attach one, by ops that have.
"""

from typing import Any

import torch

from memcore.hits import Hits
from memcore.ops import plain

Tensor = Any

_LIBRARY = torch.library.Library("memcore", "FRAGMENT")
_LIBRARY.define(
    "search(Tensor queries, Tensor keys, Tensor? offsets, Tensor? segments, SymInt k, str? metric,"
    " Tensor? mask, Tensor? candidates, Tensor? scale, Tensor? bias, float? min_score,"
    " float? max_score, str? backend) -> (Tensor, Tensor)"
)
_LIBRARY.define("topk(Tensor scores, SymInt k, str? backend) -> (Tensor, Tensor)")


def search(
    queries: Tensor,
    keys: Any,
    offsets: Any,
    segments: Any,
    k: Any,
    metric: str | None,
    limits: tuple[Any, ...],
    backend: str | None,
) -> Hits:
    """`plain.search` of either op while torch traces; what is no tensor is a constant."""
    given = [plain_tensor(each) for each in (keys, offsets, segments)]
    arrays = [plain_tensor(each) for each in limits[:4]]
    found = torch.ops.memcore.search(
        queries.detach(), *given, k, metric, *arrays, *limits[4:], backend
    )
    return Hits(*found)


def topk(scores: Tensor, k: Any, backend: str | None) -> Hits:
    """`plain.topk` while torch traces."""
    return Hits(*torch.ops.memcore.topk(scores.detach(), k, backend))


def tensor(array: Any) -> Any:
    """Any array as a tensor; None as it is."""
    return None if array is None else torch.as_tensor(array)


def plain_tensor(array: Any) -> Any:
    """Any array as a tensor without a gradient; None as it is."""
    return None if array is None else torch.as_tensor(array).detach()


def _search(
    queries: Tensor,
    keys: Tensor,
    offsets: Tensor | None,
    segments: Tensor | None,
    k: int,
    metric: str | None,
    mask: Tensor | None,
    candidates: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    min_score: float | None,
    max_score: float | None,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    op = "search" if offsets is None else "search_ragged"
    limits = (mask, candidates, scale, bias, min_score, max_score)
    hits = plain.search(op, queries, keys, offsets, segments, int(k), metric, limits, backend)
    return hits.scores, hits.ids


def _search_fake(queries: Tensor, keys: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _hits_fake(queries, rest[2])


def _topk(scores: Tensor, k: int, backend: str | None) -> tuple[Tensor, Tensor]:
    hits = plain.topk(scores, int(k), backend)
    return hits.scores, hits.ids


def _topk_fake(scores: Tensor, k: int, backend: str | None) -> tuple[Tensor, Tensor]:
    return _hits_fake(scores, k)


def _hits_fake(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    n_queries = rows.shape[0] if rows.ndim > 1 else 1
    scores = rows.new_empty((n_queries, k), dtype=torch.float32)
    return scores, torch.empty_like(scores, dtype=torch.int64)


for _name, _impl, _fake in (("search", _search, _search_fake), ("topk", _topk, _topk_fake)):
    _LIBRARY.impl(_name, _impl, "CompositeExplicitAutograd")
    torch.library.register_fake(f"memcore::{_name}", _fake, lib=_LIBRARY)

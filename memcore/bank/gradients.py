"""Searches of banks as torch differentiates them: gradients are for queries, rows are data.

The rows are those of one moment: a search and the copy of what it found see a fork of the banks,
or hold the lock between them on a device, where a fork would be a write.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from memcore import arrays
from memcore.bank import device_reads, searches, shapes
from memcore.bank.named import Numbers, named
from memcore.bank.searches import Limits
from memcore.bank.store import Store
from memcore.errors import in_room
from memcore.hits import Hits


def search(store: Store, banks: Any, queries: Any, k: Any, where: Any, limits: Limits) -> Hits:
    """`searches.search` for tensors of queries that need a gradient: the same values and ids."""
    from memcore import autograd

    hits, keys, weights = found(store, banks, queries, k, where, limits)
    ids = places(hits)
    scores = autograd.attach(
        hits.scores.reshape(ids.shape),
        ids,
        queries.reshape(len(ids), queries.shape[-1]),
        keys,
        store.metric,
        weights.get("scale"),
        weights.get("bias"),
    )
    return Hits(scores.reshape(hits.scores.shape), hits.ids)


def found(
    store: Store, banks: Any, queries: Any, k: Any, where: Any, limits: Limits
) -> tuple[Hits, Any, dict[str, Any]]:
    """The hits, their rows as `rows_of` gives them, and the scale and bias of each where asked."""
    wanted = {}
    for name, field, missing in (("scale", limits.scale, 1.0), ("bias", limits.bias, 0.0)):
        column = searches.weight(store, name, field)
        if column is not None:
            wanted[name] = Numbers(column, missing)
    with in_room("search"), moment(store, "search", banks, queries) as at:
        hits = searches.search(store, at, queries, k, where, limits)
        keys, numbers = rows_of(store, "search", at, hits, [*wanted.values()])
    return hits, keys, dict(zip(wanted, numbers, strict=True))


@contextmanager
def moment(store: Store, op: str, banks: Any, queries: Any) -> Iterator[Any]:
    """Handles of these banks as they are now, for as long as this lasts."""
    if store.mirror is not None and store.mirror.has(queries):
        with store.tables.held(), store.mirror.section():
            yield banks
        return
    with store.frozen(op, shapes.handles(op, banks)) as frozen:
        yield frozen


def rows_of(
    store: Store, op: str, banks: Any, hits: Hits, columns: Sequence[Numbers] = ()
) -> tuple[Any, list[Any]]:
    """Tensors of the rows (n, dim) float32 of all hits one after the other, and their numbers (n,).

    Padding has a row of zeros.
    """
    mirror = store.mirror
    ids = _flat(hits.ids)
    if mirror is not None and mirror.has(ids):
        handles = banks if mirror.has(banks) else shapes.handles(op, banks)
        given = (handles.reshape(-1), ids.contiguous(), "float32", columns)
        keys, numbers = device_reads.read(store, op, *given)
    else:
        import torch

        wanted = arrays.ints(op, "ids", ids)
        owners = np.broadcast_to(banks.reshape(-1, 1), wanted.shape)
        found = named(store, owners, wanted, wanted >= 0, columns)
        keys, numbers = torch.from_numpy(found[0]), [torch.from_numpy(each) for each in found[1]]
    return keys.reshape(ids.numel(), keys.shape[-1]), [each.reshape(-1) for each in numbers]


def places(hits: Hits) -> Any:
    """Which row of `rows_of` each hit is, (n_queries, k); -1 for padding."""
    import torch

    ids = _flat(hits.ids)
    every = torch.arange(ids.numel(), device=ids.device).reshape(ids.shape)
    return torch.where(ids >= 0, every, -1)


def _flat(ids: Any) -> Any:
    """Ids (…, k) as (n_queries, k)."""
    return ids.reshape(math.prod(ids.shape[:-1]), ids.shape[-1])

"""Rows of a store on a device by their ids: vectors, numbers of fields and scores, without a wait.

An id that is not in its bank is padding here, and so is a handle on the device that names no bank:
the host would have to wait to see. Banks beyond the budget are read on the host, and sent.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, tensors
from memcore.bank.named import Numbers, named
from memcore.bank.store import Store
from memcore.reference import MAX_SQUARE, squares, widen

Ints = NDArray[np.int64]


def read(
    store: Store, op: str, handles: Any, ids: Any, dtype: str, columns: Sequence[Numbers] = ()
) -> tuple[Any, list[Any]]:
    """Vectors and numbers of rows.

    Args:
        store: on a device.
        op: the op's verb, for errors.
        handles: one for each row of ids, or one for all, on the host or there.
        ids: (n, m) int64 on the device; -1 pads.
        dtype: of the vectors, by its name in torch.
        columns: which numbers.

    Returns:
        (n, m, dim) on the device, zeros for padding; and the numbers of each column, (n, m)
        float32, `missing` for padding.

    Raises:
        NotFoundError: a handle on the host names no bank.
    """
    mirror: Any = store.mirror
    kind = getattr(tensors.library(op), dtype)
    with _places(store, op, handles, ids) as find:
        if find is None:
            wanted = arrays.near(ids).numpy()
            owners, found = _found(store, handles, wanted)
            rows, numbers = named(store, owners, wanted, found, columns)
            return mirror.sent(rows).to(kind), [mirror.sent(each) for each in numbers]
        kernels, layout, root = mirror.kernels.named_pages, mirror.layout, mirror.root
        places = find(slice(None))
        there = [kernels.numbers(layout, root, mirror.kinds, places, *each) for each in columns]
        return kernels.gather(layout, root, places, kind), there


def score(store: Store, handles: Any, queries: Any, ids: Any) -> Any:
    """The canonical scores (n, m) float32 of queries (n, dim) and named rows, on the device.

    Args:
        store: on a device.
        handles: one for each query, or one for all, on the host or there.
        queries: tensors on the device; one that is not finite, or too large, has -inf.
        ids: (n, m) int64 on the device; -1 pads.

    Raises:
        NotFoundError: a handle on the host names no bank.
    """
    mirror: Any = store.mirror
    with _places(store, "score", handles, ids) as find:
        if find is not None:
            kernels, float32 = mirror.kernels, tensors.library("score").float32
            scores = ids.new_empty(ids.shape, dtype=float32)
            for part in kernels.workspace.parts(len(ids), 12 * ids.shape[1] + 8):
                asked = queries[part]
                given = (find(part), asked, kernels.norms(asked)[0], store.metric)
                scores[part] = kernels.named_pages.score(mirror.layout, mirror.root, *given)
            return scores
        wanted = arrays.near(ids).numpy()
        asked = arrays.vectors("score", "queries", arrays.near(queries))[0]
        owners, is_found = _found(store, handles, wanted)
        found = np.full(wanted.shape, -np.inf, np.float32)
        some = is_found.any(1) & (squares(widen(asked)) <= MAX_SQUARE)
        if some.any():
            scores = np.empty_like(found[some])
            held = np.where(is_found, wanted, -1)[some]
            store.pages.score(owners[some, 0], asked[some], held, scores)
            found[some] = scores
        return mirror.sent(found)


@contextmanager
def _places(store: Store, op: str, handles: Any, ids: Any) -> Iterator[Any]:
    """What finds some rows on the device, for as long as it is read; None to read them here."""
    mirror: Any = store.mirror
    with mirror.section():
        there = store.pages.there(op, handles)
        if there is None:
            yield None
            return
        with mirror.turns.reading(op):

            def find(part: slice) -> Any:
                banks = there if len(there) == 1 else there[part]
                given = mirror.layout, mirror.root, mirror.longest, banks, ids[part]
                return mirror.kernels.named_pages.find(*given)

            yield find


def _found(store: Store, handles: Any, ids: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The handle of each of ids (n, m), and which are in their banks."""
    flat = arrays.near(handles)
    flat = flat if isinstance(flat, np.ndarray) else flat.numpy()
    owners = np.repeat(np.broadcast_to(flat, len(ids))[:, None], ids.shape[1], 1)
    found = store.pages.alive(owners.reshape(-1)).reshape(ids.shape) & (ids >= 0)
    found[found] = store.pages.contains(owners[found], ids[found])
    return owners, found

"""Named rows of a store by the host: their vectors and the numbers of their fields."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore.bank import fields as fields_
from memcore.bank.store import Store
from memcore.reference import widen

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Numbers(NamedTuple):
    """A column of numbers, and what null counts as."""

    column: int
    missing: float


def named(
    store: Store, handles: Ints, ids: Ints, found: NDArray[np.bool_], columns: Sequence[Numbers]
) -> tuple[Floats, list[Floats]]:
    """Vectors and numbers of the rows that are marked as found, which they must be.

    Args:
        store: the rows.
        handles: (n, m).
        ids: (n, m).
        found: (n, m).
        columns: which numbers.

    Returns:
        (n, m, dim) float32, zeros elsewhere; and the numbers of each column, (n, m), `missing`
        elsewhere.
    """
    vectors: Any = store.room(int(found.sum()))
    cells: list[Ints | None] = list(store.no_cells)
    for each in columns:
        cells[each.column] = np.zeros(len(vectors), np.int64)
    store.pages.get(handles[found], ids[found], False, vectors, cells)
    rows = np.zeros((*ids.shape, vectors.shape[1]), np.float32)
    rows[found] = widen(vectors)
    numbers = []
    for column, missing in columns:
        own: Any = cells[column]
        if store.schema.columns[column] == "float64":
            own = own.view(np.float64)
            is_null = np.isnan(own)
        else:
            is_null = own == fields_.NULL
        numbers.append(np.full(ids.shape, missing, np.float32))
        numbers[-1][found] = np.where(is_null, np.float32(missing), own.astype(np.float32))
    return rows, numbers

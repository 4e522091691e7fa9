"""The compiled engine. Private: NumPy arrays, bfloat16 travels as uint16, outputs come last."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
# A condition as a postfix program: its steps (n, 4) and the constants that they point into.
Program = tuple[Ints, Ints]

def isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def threads() -> int: ...
def set_threads(n: int) -> None: ...
def float_flags() -> int: ...
def set_float_flags(flags: int) -> None: ...
def search(
    queries: NDArray[Any],
    keys: NDArray[Any],
    offsets: Ints | None,
    segments: Ints | None,
    k: int | Ints,
    metric: str,
    mask: Bools | None,
    candidates: Ints | None,
    scale: Floats | None,
    bias: Floats | None,
    min_score: float,
    max_score: float,
    first_pass: bool | None,
    scores: Floats,
    ids: Ints,
) -> None: ...
def topk(scores: NDArray[Any], k: int | Ints, best: Floats, ids: Ints) -> None: ...
def hash_texts(texts: tuple[str, ...], vectors: Floats) -> None: ...

class Pages:
    def __init__(
        self, dim: int | None, dtype: str, metric: str, columns: Sequence[str]
    ) -> None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def page_rows(self) -> int: ...
    @property
    def n_pages(self) -> int: ...
    @property
    def n_free_pages(self) -> int: ...
    def new(self, n: int) -> Ints: ...
    def drop(self, handles: Ints) -> None: ...
    def alive(self, handles: Ints) -> Bools: ...
    def add(
        self,
        handles: Ints,
        ids: Ints | None,
        vectors: NDArray[Any] | None,
        columns: Sequence[Ints | None],
    ) -> Ints: ...
    def update(
        self,
        handles: Ints,
        ids: Ints,
        vectors: NDArray[Any] | None,
        columns: Sequence[Ints | None],
        skip: bool,
    ) -> Bools: ...
    def delete(self, handles: Ints, ids: Ints, skip: bool) -> Bools: ...
    def get(
        self,
        handles: Ints,
        ids: Ints,
        skip: bool,
        vectors_out: NDArray[Any] | None,
        columns_out: Sequence[Ints],
    ) -> Bools: ...
    def contains(self, handles: Ints, ids: Ints) -> Bools: ...
    def count(self, handles: Ints) -> Ints: ...
    def ids(self, handle: int) -> Ints: ...
    def fork(self, handles: Ints, n: int) -> Ints: ...
    def copy_from(self, handles: Ints, sources: Ints) -> None: ...
    def search(
        self,
        handles: Ints,
        queries: NDArray[Any],
        k: int | Ints,
        where: Sequence[Program] | None,
        where_index: Ints | None,
        candidates: Ints | None,
        scale: int | None,
        bias: int | None,
        min_score: float,
        max_score: float,
        first_pass: bool | None,
        scores: Floats,
        ids: Ints,
    ) -> None: ...
    def score(
        self, handles: Ints, queries: NDArray[Any], ids: Ints, scores_out: Floats
    ) -> None: ...
    def dead_refs(self, column: int) -> Ints: ...
    def compact(self) -> None: ...

"""The compiled engine. Private: NumPy arrays, bfloat16 travels as uint16, outputs come last."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.hits import Hits

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float32]
_Bools = NDArray[np.bool_]
# float32, or float64 where all rows are.
_Reals = NDArray[Any]
_Codes = NDArray[np.uint64]
# A condition as a postfix program: its steps (n, 4) and the constants that they point into.
_Program = tuple[_Ints, _Ints]

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
    offsets: _Ints | None,
    segments: _Ints | None,
    k: int | _Ints,
    metric: str,
    mask: _Bools | None,
    candidates: _Ints | None,
    scale: _Floats | None,
    bias: _Floats | None,
    min_score: float,
    max_score: float,
    first_pass: bool | None,
    scores: _Floats,
    ids: _Ints,
) -> None: ...
def search_plain(queries: Any, keys: Any, k: Any, metric: Any) -> Hits | None: ...
def topk(scores: NDArray[Any], k: int | _Ints, best: _Floats, ids: _Ints) -> None: ...
def assign(rows: NDArray[Any], codewords: NDArray[Any], codes: _Ints, scores: _Floats) -> None: ...
def codebook_sums(
    rows: NDArray[Any], codes: _Ints, n_codes: int, counts: _Ints, sums: _Floats
) -> None: ...
def codebook_ema(
    batch_sums: _Floats,
    sums: _Floats,
    decay: float,
    divisors: _Floats,
    running: _Floats,
    codewords: _Floats,
) -> None: ...
def decode(codes: _Ints, codewords: _Floats, rows: _Floats) -> None: ...
def pack_codes(codes: _Ints, n_bits: int, packed: NDArray[np.uint8]) -> None: ...
def unpack_codes(packed: NDArray[np.uint8], n: int, n_bits: int, codes: _Ints) -> None: ...
def search_codes(
    queries: NDArray[Any],
    codes: NDArray[Any],
    codewords: _Floats,
    k: int | _Ints,
    metric: str,
    squares: _Floats | None,
    scores: _Floats,
    ids: _Ints,
) -> None: ...
def attend(
    queries: NDArray[Any],
    keys: NDArray[Any],
    values: NDArray[Any] | None,
    beta: NDArray[np.float64],
    bias: _Reals | None,
    mask: _Bools | None,
    exclude: _Ints | None,
    out: _Reals | None,
    lse: _Reals,
) -> None: ...
def attend_backward(
    queries: NDArray[Any],
    keys: NDArray[Any],
    values: NDArray[Any] | None,
    beta: NDArray[np.float64],
    bias: _Reals | None,
    mask: _Bools | None,
    exclude: _Ints | None,
    lse: _Reals,
    out_grad: NDArray[Any] | None,
    shift: _Reals,
    query_grad: _Reals | None,
    key_grad: _Reals | None,
    value_grad: _Reals | None,
    bias_grad: _Reals | None,
    beta_grad: NDArray[np.float64] | None,
) -> None: ...
def dots(queries: NDArray[Any], keys: NDArray[Any], ids: _Ints, scores: _Reals) -> None: ...
def aggregate(weights: _Reals, values: NDArray[Any], ids: _Ints, out: _Reals) -> None: ...
def scatter(weights: _Reals, rows: NDArray[Any], ids: _Ints, n_sums: int, sums: _Reals) -> None: ...
def lsh_pack(planes: NDArray[np.int8]) -> NDArray[np.uint8] | None: ...
def lsh_encode(
    vectors: NDArray[Any],
    planes: NDArray[Any],
    packed: NDArray[np.uint8] | None,
    n_bits: int,
    kind: str,
    codes: _Codes,
) -> None: ...
def lsh_probes(
    vectors: NDArray[Any],
    planes: NDArray[Any],
    n_bits: int,
    kind: str,
    n_probes: int,
    probes: _Codes,
) -> None: ...
def hamming_search(
    queries: _Codes,
    keys: _Codes,
    k: int | _Ints,
    mask: _Bools | None,
    max_distance: int,
    scores: _Floats,
    ids: _Ints,
) -> None: ...
def bucket_add(
    slots: _Ints, counts: _Ints, ids: _Ints, codes: _Codes, is_random: bool, seed: int
) -> None: ...
def bucket_search(
    slots: _Ints, counts: _Ints, probes: _Codes, min_hits: int
) -> tuple[_Ints, _Ints, _Ints]: ...
def sketch_add(sums: NDArray[Any], codes: _Codes, values: NDArray[Any]) -> None: ...
def lists_link(
    keys: _Codes, links: NDArray[np.int32], heads: NDArray[np.int32], begin: int, end: int
) -> None: ...
def lists_remove(
    keys: _Codes, links: NDArray[np.int32], heads: NDArray[np.int32], n_rows: int, ids: _Ints
) -> int: ...
def lists_find(
    keys: _Codes,
    links: NDArray[np.int32],
    heads: NDArray[np.int32],
    n_rows: int,
    probes: _Codes,
    min_hits: int,
) -> tuple[_Ints, _Ints, _Ints]: ...
def hash_texts(texts: tuple[str, ...], vectors: _Floats) -> None: ...
def probe_isa() -> str: ...
def probe_read(data: NDArray[np.uint8], seconds: float) -> float: ...
def probe_gather(
    data: NDArray[np.uint8], offsets: _Ints, chunk_bytes: int, seconds: float
) -> float: ...
def probe_float32(seconds: float) -> float: ...
def probe_int8(seconds: float) -> float: ...
def probe_first_pass(n_blocks: int, dim: int, n_queries: int, seconds: float) -> float: ...

# pybind11 classes have a metaclass of their own.
class _pybind11_type(type): ...

class Pages(metaclass=_pybind11_type):
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
    def new(self, n: int, are_lists: bool = False) -> _Ints: ...
    def drop(self, handles: _Ints) -> None: ...
    def alive(self, handles: _Ints) -> _Bools: ...
    def check(
        self, op: str, vectors: NDArray[Any] | None, columns: Sequence[_Ints | None]
    ) -> None: ...
    def add(
        self,
        handles: _Ints,
        ids: _Ints | None,
        vectors: NDArray[Any] | None,
        columns: Sequence[_Ints | None],
    ) -> _Ints: ...
    def update(
        self,
        handles: _Ints,
        ids: _Ints,
        vectors: NDArray[Any] | None,
        columns: Sequence[_Ints | None],
        skip: bool,
    ) -> _Bools: ...
    def delete(self, handles: _Ints, ids: _Ints, skip: bool) -> _Bools: ...
    def get(
        self,
        handles: _Ints,
        ids: _Ints,
        skip: bool,
        vectors: NDArray[Any] | None,
        columns: Sequence[_Ints | None],
    ) -> _Bools: ...
    def contains(self, handles: _Ints, ids: _Ints) -> _Bools: ...
    def count(self, handles: _Ints) -> _Ints: ...
    def ids(self, handle: int) -> _Ints: ...
    def fork(self, handles: _Ints, n: int) -> _Ints: ...
    def copy_from(self, handles: _Ints, sources: _Ints) -> None: ...
    def search(
        self,
        handles: _Ints,
        queries: NDArray[Any],
        k: int | _Ints,
        where: Sequence[_Program] | None,
        where_index: _Ints | None,
        candidates: _Ints | None,
        scale: int | None,
        bias: int | None,
        min_score: float,
        max_score: float,
        first_pass: bool | None,
        scores: _Floats,
        ids: _Ints,
    ) -> None: ...
    def search_plain(self, handles: Any, queries: Any, k: Any) -> Hits | None: ...
    def search_routed(
        self,
        lists: _Ints,
        centroids: Pages,
        bank: int,
        n_probes: int,
        gap: float,
        queries: Any,
        k: Any,
    ) -> Hits | None: ...
    def search_lists(
        self,
        lists: _Ints,
        probes: _Ints,
        queries: NDArray[Any],
        k: int | _Ints,
        where: Sequence[_Program] | None,
        where_index: _Ints | None,
        candidates: _Ints | None,
        scale: int | None,
        bias: int | None,
        min_score: float,
        max_score: float,
        first_pass: bool | None,
        scores: _Floats,
        ids: _Ints,
    ) -> None: ...
    def score(self, handles: _Ints, queries: NDArray[Any], ids: _Ints, scores: _Floats) -> None: ...
    def dead_refs(self, column: int) -> _Ints: ...
    def holds(self, column: int, numbers: _Ints) -> NDArray[np.bool_]: ...
    def start_journal(self) -> None: ...
    def take_changes(self) -> dict[str, Any]: ...
    def mark_changed(self, pages: _Ints) -> None: ...
    def read_slots(
        self, slots: _Ints, rows: NDArray[np.uint8], ids: _Ints, cells: _Ints
    ) -> None: ...
    def page_tables(self, handles: _Ints) -> tuple[_Ints, _Ints]: ...
    def compact(self) -> None: ...
    def page_table(self, handle: int) -> _Ints: ...
    def page_content(self, page: int) -> bytes: ...

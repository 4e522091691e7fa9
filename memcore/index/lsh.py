"""Rows found through the buckets of their codes: `Bank(index="lsh")`.

Beside a page store stand, for each bank, chains of the rows of each bucket. A search gathers the
rows of the probed buckets, and the store scores those. Rows are never copied. Indyk and Motwani
1998, "Approximate Nearest Neighbors"; probes as in Lv et al. 2007, "Multi-Probe LSH".
"""

from collections.abc import Callable
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import _core, reference, tensors
from memcore.errors import BackendError, InputError
from memcore.lsh import LSH

Ints = NDArray[np.int64]

_FEW_ROWS = 16
_PROBES = 4
# Queries whose candidates are gathered, padded to the longest, and scored together.
_CHUNK = 64


class Chains:
    """Lists of rows per bucket: chains through arrays, changed in constant time per table.

    A row has one key for each list that it is in: its codes, and last its id, by which it is found
    when it goes. Rows lie densely; the last one moves into a hole. Forks share the arrays until one
    of them is changed.
    """

    def __init__(self, lsh: LSH) -> None:
        """Make an index of no rows over these hashes."""
        self.lsh = lsh
        self._n_rows = 0
        self._is_shared = False
        n_keys = lsh.n_tables + 1
        self._keys: NDArray[np.uint64] = np.empty((_FEW_ROWS, n_keys), np.uint64)
        self._links: NDArray[np.int32] = np.empty((_FEW_ROWS, n_keys, 2), np.int32)
        self._heads: NDArray[np.int32] = np.full((n_keys, _FEW_ROWS), -1, np.int32)

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All that it holds; forks that have not changed hold the same."""
        return self._keys, self._links, self._heads

    def reserve(self, n: int) -> None:
        """Arrays of our own, with room for n more rows: nothing can fail after that."""
        if self._is_shared:
            arrays = self._keys.copy(), self._links.copy(), self._heads.copy()
            self._keys, self._links, self._heads = arrays
            self._is_shared = False
        self._reserve(self._n_rows + n)

    def add(self, ids: Ints, codes: NDArray[np.uint64]) -> None:
        """Chain rows (n,) by their codes (n, n_tables)."""
        begin, end = self._n_rows, self._n_rows + len(ids)
        self._keys[begin:end, :-1] = codes
        self._keys[begin:end, -1] = ids
        _core.lists_link(self._keys, self._links, self._heads, begin, end)
        self._n_rows = end

    def remove(self, ids: Ints) -> None:
        """Take rows out of their chains."""
        lists = self._keys, self._links, self._heads
        self._n_rows = _core.lists_remove(*lists, self._n_rows, np.ascontiguousarray(ids))

    @property
    def lists(self) -> tuple[NDArray[np.uint64], NDArray[np.int32], NDArray[np.int32], int]:
        """What a search looks at: keys, links, heads, and the number of rows."""
        return self._keys, self._links, self._heads, self._n_rows

    def fork(self) -> "Chains":
        """The same rows and hashes; the arrays are copied when either changes."""
        fork = object.__new__(Chains)
        self._is_shared = True
        fork.__dict__.update(self.__dict__)
        return fork

    def _reserve(self, n_rows: int) -> None:
        """Room for n_rows rows, about one chain for each."""
        capacity = len(self._keys)
        if n_rows <= capacity:
            return
        if n_rows > np.iinfo(np.int32).max:
            raise InputError(f"add: the bank would have {n_rows} rows, an LSH index holds 2^31 - 1")
        # A power of two, so that the chains stay short whatever the codes are.
        capacity = 1 << (n_rows - 1).bit_length()
        n_keys = self._keys.shape[1]
        keys = np.empty((capacity, n_keys), np.uint64)
        links = np.empty((capacity, n_keys, 2), np.int32)
        heads = np.full((n_keys, capacity), -1, np.int32)
        keys[: self._n_rows] = self._keys[: self._n_rows]
        _core.lists_link(keys, links, heads, 0, self._n_rows)
        self._keys, self._links, self._heads = keys, links, heads


class LshOptions:
    """The options of an index by hashes: "lsh" is 16 tables of 12 bits, an `LSH` is itself."""

    def __init__(self, lsh: LSH | None = None) -> None:
        """Remember the hashes, if they are given."""
        self._lsh = lsh

    def pages(
        self, dim: int, dtype: str, metric: str, kinds: list[str], rows: Any = None
    ) -> "LshPages":
        """A store of banks whose rows are found through buckets; `rows` is on a device, or None."""
        lsh = self._lsh or LSH(dim, n_bits=12, n_tables=16)
        if lsh.dim != dim:
            raise InputError(f"Arena: index has dim {lsh.dim}, should be {dim}")
        return LshPages(lsh, dim, dtype, metric, kinds, rows)


class LshPages:
    """A page store whose searches look into buckets, with the methods of `_core.Pages`."""

    def __init__(
        self, lsh: LSH, dim: int, dtype: str, metric: str, kinds: list[str], rows: Any = None
    ) -> None:
        """Make a store without banks; `rows` is the page store, where it is on a device too."""
        self._lsh = lsh
        self._pages: _core.Pages = _core.Pages(dim, dtype, metric, kinds) if rows is None else rows
        self._host: _core.Pages = self._pages if rows is None else rows.host
        self._mirror: Any = None if rows is None else rows.mirror
        self._chains: dict[int, Chains] = {}
        self._no_rows = Chains(lsh)
        # Chains are changed in place: a search gathers its candidates between two changes. What
        # reads a device is inside the section of its mirror already.
        lock = Lock()
        self._alone: Callable[[], Any] = (lambda: lock) if rows is None else rows.mirror.section

    def __getattr__(self, name: str) -> Any:
        """What does not touch the buckets is the page store's."""
        return getattr(self._pages, name)

    @property
    def nbytes(self) -> int:
        """Bytes of all pages in use, their tables, and the chains, those that forks share once."""
        with self._alone():
            arrays = {id(x): x.nbytes for chains in self._chains.values() for x in chains.arrays}
        return self._pages.nbytes + sum(arrays.values())

    def new(self, n: int) -> Ints:
        """Handles of n empty banks."""
        with self._alone():
            handles = self._pages.new(n)
            self._chains.update((handle, Chains(self._lsh)) for handle in handles.tolist())
            return handles

    def drop(self, handles: Ints) -> None:
        """Let banks go."""
        with self._alone():
            self._pages.drop(handles)
            for handle in np.ravel(handles).tolist():
                del self._chains[handle]

    def fork(self, handles: Ints, n: int) -> Ints:
        """(len(handles), n) handles of copies."""
        with self._alone():
            forks = self._pages.fork(handles, n)
            for handle, row in zip(np.ravel(handles).tolist(), forks.tolist(), strict=True):
                self._chains.update((fork, self._chains[handle].fork()) for fork in row)
            return forks

    def copy_from(self, handles: Ints, sources: Ints) -> None:
        """Make banks equal to others."""
        with self._alone():
            self._pages.copy_from(handles, sources)
            pairs = zip(np.ravel(handles).tolist(), np.ravel(sources).tolist(), strict=True)
            self._chains.update([(to, self._chains[from_].fork()) for to, from_ in pairs])

    def add(self, handles: Ints, ids: Ints | None, vectors: Any, columns: Any) -> Ints:
        """Add rows, and chain them."""
        with self._alone():
            n = 0 if vectors is None else len(vectors)
            codes = self._stage("add", handles, vectors, n)
            added = self._pages.add(handles, ids, vectors, columns)
            if codes is not None:
                for chains, rows in self._of(handles, n):
                    chains.add(added[rows], codes[rows])
            return added

    def update(self, handles: Ints, ids: Ints, vectors: Any, columns: Any, skip: bool) -> Any:
        """Change rows; those with new vectors move to their new buckets."""
        if vectors is None:
            return self._pages.update(handles, ids, vectors, columns, skip)
        with self._alone():
            codes = self._stage("update", handles, vectors, len(ids))
            found = self._pages.update(handles, ids, vectors, columns, skip)
            if codes is not None:
                for chains, rows in self._of(handles, len(ids)):
                    there = rows[found[rows]]
                    chains.remove(ids[there])
                    chains.add(ids[there], codes[there])
            return found

    def delete(self, handles: Ints, ids: Ints, skip: bool) -> Any:
        """Delete rows, and unchain them."""
        with self._alone():
            self._stage("delete", handles, None, len(ids))
            found = self._pages.delete(handles, ids, skip)
            for chains, rows in self._of(handles, len(ids)):
                chains.remove(ids[rows[found[rows]]])
            return found

    def search_plain(self, handles: Any, queries: Any, k: Any, *effort: Any) -> None:
        """No call is plain here: each goes to `search`."""

    def search(
        self,
        handles: Any,
        queries: Any,
        k: Any,
        where: Any,
        where_index: Ints | None,
        candidates: Any,
        scale: int | None,
        bias: int | None,
        min_score: float,
        max_score: float,
        first_pass: bool | None,
        scores: Any,
        ids: Any,
        n_probes: Any = None,
        recall: Any = None,
    ) -> None:
        """The k best of the rows in the probed buckets; of all rows with recall 1."""
        limits = (scale, bias, min_score, max_score, first_pass)
        if candidates is not None or (recall is not None and np.all(np.asarray(recall) == 1)):
            self._pages.search(
                handles, queries, k, where, where_index, candidates, *limits, scores, ids
            )
            return
        if self._mirror is not None and self._mirror.is_capturing:
            raise BackendError("search: a CUDA graph is captured, should not be: buckets change")
        if recall is not None:
            raise InputError(f"search: recall is {recall}, should be 1 or None with hashes")
        if n_probes is not None and np.ndim(n_probes):
            raise InputError(
                "search: n_probes has one for each query, should be an int with hashes"
            )
        n = len(queries)
        owners, probes = handles, None
        if isinstance(queries, np.ndarray):
            # Finds nothing, and looks at every argument.
            nothing = np.empty((n, 0), np.float32), np.empty((n, 0), np.int64)
            nobody = np.full((n, 1), -1)
            self._host.search(handles, queries, 0, where, where_index, nobody, *limits, *nothing)
        else:
            # The one wait: chains are on the host.
            owners, probes = tensors.host(handles), self._probes(queries, n_probes, "triton")
        for begin in range(0, n, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            banks, of = (x if len(x) == 1 else x[part] for x in (handles, owners))
            each = k if np.ndim(k) == 0 else k[part]
            index = None if where_index is None else where_index[part]
            near = self._probes(queries[part], n_probes) if probes is None else probes[part]
            named = self._named(of, near)
            self._pages.search(
                banks, queries[part], each, where, index, named, *limits, scores[part], ids[part]
            )

    def _probes(
        self, queries: Any, n_probes: int | None, backend: str | None = None
    ) -> NDArray[np.uint64]:
        """The codes that queries look for: (n_queries, n_tables, n_probes)."""
        wanted = min(_PROBES, self._lsh.n_buckets) if n_probes is None else n_probes
        probes: NDArray[np.uint64] = tensors.host(
            self._lsh.probes(queries, wanted, backend=backend)
        )
        return probes

    def _named(self, handles: Ints, probes: NDArray[np.uint64]) -> Ints:
        """The candidates of queries as (n, m), -1 where padded."""
        # For all banks together: a call for each costs more than its hashing.
        banks, owners = np.unique(handles, return_inverse=True)
        owners = np.ascontiguousarray(np.broadcast_to(owners, len(probes)))
        with self._alone():
            lists = [self._chains.get(bank, self._no_rows).lists for bank in banks.tolist()]
            return _core.lists_find(lists, owners, probes)

    def _of(self, handles: Ints, n: int) -> list[tuple[Chains, Ints]]:
        """The chains that n rows or queries go to, and which of them; none of unknown banks."""
        if len(handles) == 1:
            chains = self._chains.get(int(handles[0]))
            return [] if chains is None or n == 0 else [(chains, np.arange(n))]
        order = np.argsort(handles, kind="stable")
        banks, begins = np.unique(handles[order], return_index=True)
        cuts = pairwise([*begins.tolist(), n])
        groups = [order[begin:end] for begin, end in cuts]
        pairs = zip(map(self._chains.get, banks.tolist()), groups, strict=True)
        return [(chains, rows) for chains, rows in pairs if chains is not None]

    def _stage(self, op: str, handles: Ints, vectors: Any, n: int) -> NDArray[np.uint64] | None:
        """The codes of rows to come, and room in the chains; the store says what is wrong."""
        codes = None
        if vectors is not None:
            rows = reference.widen(vectors) if vectors.dtype == np.uint16 else vectors
            if rows.ndim != 2 or rows.shape[1] != self._lsh.dim or len(rows) != n:
                return None
            try:
                codes = self._lsh.encode(rows)
            except InputError as error:
                raise InputError(str(error).replace("encode", op, 1)) from None
        if len(handles) not in (1, n):
            return None
        for chains, rows in self._of(handles, n):
            chains.reserve(0 if codes is None else len(rows))
        return codes

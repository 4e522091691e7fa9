"""Locality-sensitive hashing with state: planes, buckets of fixed size, sums per bucket."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, tensors
from memcore.backends import engine, lsh_pack
from memcore.errors import InputError, ShapeError
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops.lsh import check_hash, lsh_encode, lsh_planes, lsh_probes, table_planes
from memcore.ops.lsh_device import planes_on

Codes = NDArray[np.uint64]

EVICTIONS = ("random", "fifo")

# A table of 2^28 buckets is as large as one can mean.
_MAX_TABLE_BITS = 28


class LSH:
    """Hashes of vectors in several tables: drawn once from a seed, and never changed.

    Similar vectors get equal codes more often. Two vectors at an angle t share the code of a sign
    table with the probability (1 - t / pi)^n_bits: Charikar (2002), "Similarity Estimation
    Techniques from Rounding Algorithms". Cross-polytope codes: Andoni, Indyk, Laarhoven,
    Razenshteyn, Schmidt (2015), "Practical and Optimal LSH for Angular Distance", arXiv:1509.02897.

    Attributes:
        planes: (n_tables * planes of a table, dim) int8 of +-1, or float32.
        dim: components of a vector.
        n_bits: bits of a code.
        n_tables: codes of a vector.
        kind: "sign" or "cross_polytope".

    Example:
        >>> import memcore, numpy as np
        >>> lsh = memcore.LSH(dim=4, n_bits=8, n_tables=2, seed=1)
        >>> codes = lsh.encode(np.eye(4, dtype=np.float32))
        >>> codes.shape, codes.dtype
        ((4, 2), dtype('uint64'))
        >>> lsh.probes([1.0, 0.0, 0.0, 0.0], n_probes=3)[0, 0, 0] == codes[0, 0]
        np.True_
    """

    def __init__(
        self,
        dim: int,
        n_bits: int = 64,
        n_tables: int = 1,
        *,
        kind: str = "sign",
        planes: str = "signs",
        seed: int = 0,
    ) -> None:
        """Draw the planes.

        Args:
            dim: components of a vector.
            n_bits: bits of a code: up to 64, or 20 for "cross_polytope".
            n_tables: codes of a vector.
            kind: "sign": one plane a bit. "cross_polytope": 2^(n_bits - 1) planes a table, the code
                is the place of the largest of [scores; -scores].
            planes: "signs" (components of +-1, which hash fastest) or "gaussian".
            seed: the same seed gives the same hashes.
        """
        self.n_bits = check_hash("LSH", n_bits, kind)
        self.n_tables = arguments.whole("LSH", "n_tables", n_tables, 1)
        self.dim = arguments.whole("LSH", "dim", dim, 1)
        self.kind = kind
        n_planes = self.n_tables * table_planes(self.n_bits, kind)
        self.planes = lsh_planes(n_planes, self.dim, seed=seed, kind=planes)
        self.planes.flags.writeable = False
        self._packed = lsh_pack(self.planes) if planes == "signs" else None
        # The same for each device that vectors came from.
        self._packed_on: dict[str, Any] = {}

    @property
    def n_buckets(self) -> int:
        """Codes that a table tells apart: 2^n_bits."""
        return 1 << self.n_bits

    def encode(self, vectors: Any, *, backend: str | None = None) -> Any:
        """The codes of vectors (n, dim), or of one (dim,): (n, n_tables) uint64, where they lie.

        Raises:
            ShapeError: vectors of another dim.
            InputError: a vector with NaN, Inf or a norm above 1e18 (the first such row is named; on
                a device such a vector gets zeros instead).
        """
        packed = self._packed
        if backend == "triton" or arrays.place(vectors) != "cpu":
            packed = self._laid_out(vectors)
        return lsh_encode(
            vectors, self.planes, self.n_bits, kind=self.kind, packed=packed, backend=backend
        )

    def _laid_out(self, vectors: Any) -> Any:
        place = arrays.place(vectors)
        if place not in self._packed_on:
            device = tensors.device_of("encode", ("vectors", vectors))
            self._packed_on[place] = planes_on(device, self.planes, self.n_bits, self.kind)
        return self._packed_on[place]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_packed_on": {}}

    def probes(self, vectors: Any, n_probes: int, *, backend: str | None = None) -> Any:
        """The likeliest codes of each table, likeliest first: (n, n_tables, n_probes) uint64.

        The first is the vector's own; then those that the least margins could turn it into.
        """
        return lsh_probes(
            vectors, self.planes, self.n_bits, kind=self.kind, n_probes=n_probes, backend=backend
        )

    def collision(self, cosine: Any, min_hits: int = 1) -> Any:
        """The probability that two vectors share the code of at least min_hits tables.

        Args:
            cosine: their cosine; any shape.
            min_hits: tables, as in `BucketTable.search`.

        Returns:
            float64 of the shape of cosine.

        Raises:
            InputError: for "cross_polytope", whose probability has no closed form.
        """
        if self.kind != "sign":
            raise InputError(f"collision: kind is {self.kind!r}, should be 'sign'")
        angle = np.arccos(np.clip(np.asarray(cosine, np.float64), -1, 1))
        one = (1 - angle / np.pi) ** self.n_bits
        n = self.n_tables
        fewer = range(min(arguments.whole("collision", "min_hits", min_hits, 0), n + 1))
        return 1 - sum(math.comb(n, i) * one**i * (1 - one) ** (n - i) for i in fewer)

    def __repr__(self) -> str:
        return (
            f"LSH(dim={self.dim}, n_bits={self.n_bits}, n_tables={self.n_tables}, "
            f"kind={self.kind!r})"
        )


class BucketTable:
    """Hash tables whose buckets have a fixed number of slots: constant memory, constant time.

    A full bucket gives up a slot of its own choice in every table ("random": the tables forget
    different rows, so that most rows stay in some table), or its oldest ("fifo": every table
    forgets the same rows). Rows can be asked to share several tables, as MagicPIG does: Chen et al.
    (2024), "MagicPIG: LSH Sampling for Efficient LLM Generation", arXiv:2410.16179.

    Attributes:
        slots: (n_tables, n_buckets, n_slots) int64 ids, -1 where empty.
        counts: (n_tables, n_buckets) int64: rows ever put there.

    Example:
        >>> import memcore, numpy as np
        >>> lsh = memcore.LSH(dim=3, n_bits=2, n_tables=4, seed=0)
        >>> table = memcore.BucketTable(n_bits=2, n_tables=4, n_slots=8)
        >>> rows = np.eye(3, dtype=np.float32)
        >>> table.add([10, 11, 12], lsh.encode(rows))
        >>> table.search(lsh.encode(rows[:1]), k=1).ids
        array([[10]])
    """

    def __init__(
        self, n_bits: int, n_tables: int, n_slots: int, *, evict: str = "random", seed: int = 0
    ) -> None:
        """Make empty tables of 2^n_bits buckets.

        Args:
            n_bits: bits of a code, up to 28.
            n_tables: codes of a row.
            n_slots: ids that a bucket holds.
            evict: what a full bucket gives up: "random" or "fifo".
            seed: of the random choices.
        """
        if evict not in EVICTIONS:
            raise InputError(
                f"BucketTable: evict is {evict!r}, should be one of {', '.join(EVICTIONS)}"
            )
        shape = _table_shape("BucketTable", n_bits, n_tables)
        self.evict = evict
        self.seed = arguments.whole("BucketTable", "seed", seed, 0)
        self.slots = np.full(
            (*shape, arguments.whole("BucketTable", "n_slots", n_slots, 1)), -1, np.int64
        )
        self.counts = np.zeros(shape, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of the tables: they never change."""
        return self.slots.nbytes + self.counts.nbytes

    def add(self, ids: Any, codes: Any, *, backend: str | None = None) -> None:
        """Put rows into their buckets, one after the other: a batch leaves what its rows would.

        Args:
            ids: (n,) int64, at least 0.
            codes: (n, n_tables), as `LSH.encode` gives them.
            backend: "cpu" or "reference".
        """
        named = np.require(arrays.ints("add", "ids", ids).reshape(-1), requirements=["C", "A"])
        if named.size and named.min() < 0:
            raise InputError(f"add: ids has {named.min()}, should be at least 0")
        hashed = _codes("add", codes, self.counts.shape)
        if len(hashed) != len(named):
            raise ShapeError(f"add: codes has {len(hashed)} rows, should have {len(named)} as ids")
        engine("bucket_add", backend)(
            self.slots, self.counts, named, hashed, self.evict == "random", self.seed % 2**64
        )

    def search(
        self, codes: Any, k: int | None = None, *, min_hits: int = 1, backend: str | None = None
    ) -> Hits:
        """The rows that share buckets with each query.

        Args:
            codes: (n_queries, n_tables), or (n_queries, n_tables, n_probes), as `LSH.encode` and
                `LSH.probes` give them.
            k: the most rows of a query; without it, as many as the largest answer has.
            min_hits: tables that a row must share.
            backend: "cpu" or "reference".

        Returns:
            Hits of shape (n_queries, k): scores are the numbers of tables shared, equal ones by the
            smaller id; then -inf and -1.
        """
        probes = _codes("search", codes, self.counts.shape, probes=True)
        least = arguments.whole("search", "min_hits", min_hits, 1)
        run = engine("bucket_search", backend)
        offsets, ids, tables = run(self.slots, self.counts, probes, least)
        each = np.diff(offsets)
        width = int(each.max(initial=0)) if k is None else arguments.whole("search", "k", k, 0)
        scores, found = arguments.outputs("search", len(probes), width)
        scores.fill(-np.inf)
        found.fill(-1)
        there = np.arange(width) < each[:, None]
        taken = (offsets[:-1, None] + np.arange(width))[there]
        found[there], scores[there] = ids[taken], tables[taken]
        return Hits(scores, found)

    def clear(self) -> None:
        """Empty every bucket."""
        self.slots.fill(-1)
        self.counts.fill(0)

    def __repr__(self) -> str:
        n_tables, n_buckets, n_slots = self.slots.shape
        return f"BucketTable({n_tables} tables x {n_buckets} buckets x {n_slots} slots)"


class SketchTable:
    """Running sums per bucket in several tables: constant memory whatever was added.

    The memory of Zhu et al. (2023), "ReLoop2: Building Self-Adaptive Recommendation Models via
    Responsive Error Compensation Loop", arXiv:2306.08808. There a row adds (1, y, prediction) to
    one bucket of each table.

    Attributes:
        sums: (n_tables, n_buckets, width) float32 or float64.

    Example:
        >>> import memcore
        >>> sketch = memcore.SketchTable(n_bits=1, n_tables=1, width=2)
        >>> sketch.add([[0], [1], [0]], [[1.0, 5.0], [1.0, 7.0], [1.0, 2.0]])
        >>> sketch.read([[0]]).tolist()
        [[[2.0, 7.0]]]
    """

    def __init__(self, n_bits: int, n_tables: int, width: int, *, dtype: str = "float32") -> None:
        """Make sums of zero for 2^n_bits buckets a table.

        Args:
            n_bits: bits of a code, up to 28.
            n_tables: codes of a row.
            width: sums of a bucket.
            dtype: "float32" (counts are exact up to 2^24) or "float64".
        """
        if dtype not in ("float32", "float64"):
            raise InputError(f"SketchTable: dtype is {dtype!r}, should be 'float32' or 'float64'")
        shape = _table_shape("SketchTable", n_bits, n_tables)
        self.sums: NDArray[Any] = np.zeros(
            (*shape, arguments.whole("SketchTable", "width", width, 1)), dtype
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the sums: they never change."""
        return self.sums.nbytes

    def add(self, codes: Any, values: Any, *, backend: str | None = None) -> None:
        """Add values (n, width) to the buckets of codes (n, n_tables).

        Rows are added one after the other: a batch leaves the bits that its rows would.

        Raises:
            InputError: a value that is NaN or Inf; nothing is added then.
        """
        hashed = _codes("add", codes, self.sums.shape[:2])
        given = np.asarray(values)
        rows = np.require(given, self.sums.dtype, ["C", "A"])
        if rows.shape != (len(hashed), self.sums.shape[2]):
            shape = (len(hashed), self.sums.shape[2])
            raise ShapeError(f"add: values has shape {rows.shape}, should be {shape}")
        if not np.isfinite(rows).all():
            raise InputError("add: values has NaN or Inf, should be finite")
        engine("sketch_add", backend)(self.sums, hashed, rows)

    def read(self, codes: Any) -> NDArray[Any]:
        """The sums of the buckets of codes (n, n_tables): (n, n_tables, width)."""
        hashed = _codes("read", codes, self.sums.shape[:2]).astype(np.int64)
        found: NDArray[Any] = self.sums[np.arange(len(self.sums)), hashed]
        return found

    def scale(self, factor: float) -> None:
        """Multiply all sums: a factor below 1 forgets, 0 starts anew."""
        if not math.isfinite(factor):
            raise InputError(f"scale: factor is {factor}, should be finite")
        self.sums *= self.sums.dtype.type(factor)

    def __repr__(self) -> str:
        n_tables, n_buckets, width = self.sums.shape
        return f"SketchTable({n_tables} tables x {n_buckets} buckets x {width} sums)"


def _table_shape(op: str, n_bits: Any, n_tables: Any) -> tuple[int, int]:
    bits = arguments.whole(op, "n_bits", n_bits, 0)
    if bits > _MAX_TABLE_BITS:
        raise InputError(f"{op}: n_bits is {bits}, should be at most {_MAX_TABLE_BITS}")
    return arguments.whole(op, "n_tables", n_tables, 1), 1 << bits


def _codes(op: str, given: Any, shape: tuple[int, ...], *, probes: bool = False) -> Codes:
    """Codes (n, n_tables), or (n, n_tables, n_probes), all below n_buckets."""
    n_tables, n_buckets = shape
    codes = arrays.codes(op, "codes", given)
    if probes and codes.ndim == 2:
        codes = codes[:, :, None]
    if codes.ndim != (3 if probes else 2) or codes.shape[1] != n_tables:
        raise ShapeError(f"{op}: codes has shape {codes.shape}, should be (n, {n_tables})")
    if codes.size and int(codes.max()) >= n_buckets:
        raise InputError(f"{op}: codes has {codes.max()}, should be below {n_buckets}")
    return np.require(codes, requirements=["C", "A"])

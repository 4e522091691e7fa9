"""Tables of buckets: ids in slots of a fixed number, and running sums."""

import math
from typing import Any

import numpy as np

from memcore import arrays, scalars, slots
from memcore.backends import engine
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops import buckets as ops
from memcore.ops import buckets_device as on_device

EVICTIONS = ("random", "fifo")

# A table of 2^28 buckets is as large as one can mean.
_MAX_TABLE_BITS = 28


class BucketTable:
    """Hash tables whose buckets have a fixed number of slots: constant memory, constant time.

    A full bucket gives up a slot of its own choice in every table ("random": the tables forget
    different rows, so that most rows stay in some table), or its oldest ("fifo": every table
    forgets the same rows). Rows can be asked to share several tables, as MagicPIG does: Chen et al.
    (2024), "MagicPIG: LSH Sampling for Efficient LLM Generation", arXiv:2410.16179.

    A table lies on the host or on a device and holds the same on either; batches and queries may
    come from both. Arrays on the device are not looked at: ids below 0 and codes beyond the
    buckets, which the host refuses, are left out there.

    Attributes:
        slots: (n_tables, n_buckets, n_slots) int64 ids, -1 where empty; torch's on a device.
        counts: (n_tables, n_buckets) int64: rows ever put there; likewise.

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
        self,
        n_bits: int,
        n_tables: int,
        n_slots: int,
        *,
        evict: str = "random",
        seed: "int | np.random.Generator" = 0,
        device: str = "cpu",
    ) -> None:
        """Make empty tables of 2^n_bits buckets.

        Args:
            n_bits: bits of a code, up to 28.
            n_tables: codes of a row.
            n_slots: ids that a bucket holds.
            evict: what a full bucket gives up: "random" or "fifo".
            seed: of the random choices: an int from 0, or a NumPy Generator, drawn from once.
            device: where the table lies: "cpu", or torch's name of a GPU.

        Raises:
            InputError: a number out of its range.
            BackendError: no such device, or no torch or Triton for it.
        """
        scalars.word("BucketTable", "evict", evict, EVICTIONS)
        shape = _table_shape("BucketTable", n_bits, n_tables)
        self.evict = evict
        self.seed = scalars.seed("BucketTable", seed)
        whole = (*shape, scalars.whole("BucketTable", "n_slots", n_slots, 1))
        self.slots = _zeros("BucketTable", whole, "int64", device)
        self.counts = _zeros("BucketTable", shape, "int64", device)
        self.clear()

    @property
    def nbytes(self) -> int:
        """Bytes of the tables: they never change."""
        return int(self.slots.nbytes + self.counts.nbytes)

    @slots.untraced
    def add(self, ids: Any, codes: Any, *, backend: str | None = None) -> None:
        """Put rows into their buckets, one after the other: a batch leaves what its rows would.

        Args:
            ids: (n,) int64, at least 0.
            codes: (n, n_tables), as `LSH.encode` gives them.
            backend: "cpu" or "reference", of a table on the host.
        """
        is_random, seed = self.evict == "random", self.seed % 2**64
        if not isinstance(self.slots, np.ndarray):
            on_device.add((self.slots, self.counts, is_random, seed), ids, codes, backend)
            return
        named = ops.ids_of("add", ids)
        hashed = ops.codes_of("add", codes, self.counts.shape)
        ops.check_lengths("add", hashed, named)
        engine("bucket_add", backend)(self.slots, self.counts, named, hashed, is_random, seed)

    @slots.untraced
    def search(
        self, codes: Any, k: int | None = None, *, min_hits: int = 1, backend: str | None = None
    ) -> Hits:
        """The rows that share buckets with each query.

        Args:
            codes: (n_queries, n_tables), or (n_queries, n_tables, n_probes), as `LSH.encode` and
                `LSH.probes` give them.
            k: the most rows of a query; without it, as many as the largest answer has, for which a
                device is waited for.
            min_hits: tables that a row must share.
            backend: "cpu" or "reference", of a table on the host.

        Returns:
            Hits of shape (n_queries, k), in the library of codes: scores are the numbers of tables
            shared, equal ones by the smaller id; then -inf and -1.
        """
        least = scalars.whole("search", "min_hits", min_hits, 1)
        most = None if k is None else scalars.whole("search", "k", k, 0)
        if not isinstance(self.slots, np.ndarray):
            return on_device.search(self.slots, codes, most, least, backend)
        probes = ops.codes_of("search", codes, self.counts.shape, probes=True)
        run = engine("bucket_search", backend)
        offsets, ids, tables = run(self.slots, self.counts, probes, least)
        each = np.diff(offsets)
        width = int(each.max(initial=0)) if most is None else most
        scores, found = arguments.outputs("search", len(probes), width)
        scores.fill(-np.inf)
        found.fill(-1)
        there = np.arange(width) < each[:, None]
        taken = (offsets[:-1, None] + np.arange(width))[there]
        found[there], scores[there] = ids[taken], tables[taken]
        return Hits(arrays.like(codes, scores), arrays.like(codes, found))

    @slots.untraced
    def clear(self) -> None:
        """Empty every bucket."""
        self.slots[...] = -1
        self.counts[...] = 0

    def __repr__(self) -> str:
        n_tables, n_buckets, n_slots = self.slots.shape
        return f"BucketTable({n_tables} tables x {n_buckets} buckets x {n_slots} slots)"


class SketchTable:
    """Running sums per bucket in several tables: constant memory whatever was added.

    The memory of Zhu et al. (2023), "ReLoop2: Building Self-Adaptive Recommendation Models via
    Responsive Error Compensation Loop", arXiv:2306.08808. There a row adds (1, y, prediction) to
    one bucket of each table.

    It lies on the host or on a device, as a `BucketTable` does; there a row of values that is not
    finite is left out.

    Attributes:
        sums: (n_tables, n_buckets, width) float32 or float64; torch's on a device.

    Example:
        >>> import memcore
        >>> sketch = memcore.SketchTable(n_bits=1, n_tables=1, width=2)
        >>> sketch.add([[0], [1], [0]], [[1.0, 5.0], [1.0, 7.0], [1.0, 2.0]])
        >>> sketch.read([[0]]).tolist()
        [[[2.0, 7.0]]]
    """

    def __init__(
        self,
        n_bits: int,
        n_tables: int,
        width: int,
        *,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        """Make sums of zero for 2^n_bits buckets a table.

        Args:
            n_bits: bits of a code, up to 28.
            n_tables: codes of a row.
            width: sums of a bucket.
            dtype: "float32" (counts are exact up to 2^24) or "float64".
            device: where the sums lie: "cpu", or torch's name of a GPU.

        Raises:
            InputError, BackendError: as `BucketTable`.
        """
        scalars.word("SketchTable", "dtype", dtype, ("float32", "float64"))
        shape = _table_shape("SketchTable", n_bits, n_tables)
        whole = (*shape, scalars.whole("SketchTable", "width", width, 1))
        self.sums = _zeros("SketchTable", whole, dtype, device)

    @property
    def nbytes(self) -> int:
        """Bytes of the sums: they never change."""
        return int(self.sums.nbytes)

    @slots.untraced
    def add(self, codes: Any, values: Any, *, backend: str | None = None) -> None:
        """Add values (n, width) to the buckets of codes (n, n_tables).

        Rows are added one after the other: a batch leaves the bits that its rows would.

        Raises:
            InputError: a value that is NaN or Inf; nothing is added then.
        """
        if not isinstance(self.sums, np.ndarray):
            on_device.sketch_add(self.sums, codes, values, backend)
            return
        hashed = ops.codes_of("add", codes, self.sums.shape[:2])
        rows = ops.values_of("add", values, self.sums.dtype)
        ops.check_values("add", rows.shape, (len(hashed), self.sums.shape[2]))
        engine("sketch_add", backend)(self.sums, hashed, rows)

    @slots.untraced
    def read(self, codes: Any) -> Any:
        """The sums of the buckets of codes (n, n_tables), (n, n_tables, width) in their library."""
        if not isinstance(self.sums, np.ndarray):
            return on_device.read(self.sums, codes)
        hashed = ops.codes_of("read", codes, self.sums.shape[:2]).astype(np.int64)
        return arrays.like(codes, self.sums[np.arange(len(self.sums)), hashed])

    @slots.untraced
    def scale(self, factor: float) -> None:
        """Multiply all sums: a factor below 1 forgets, 0 starts anew."""
        factor = scalars.number("scale", "factor", factor, -math.inf)
        # In the dtype of the sums, in either library.
        self.sums *= (
            factor if not isinstance(self.sums, np.ndarray) else self.sums.dtype.type(factor)
        )

    def __repr__(self) -> str:
        n_tables, n_buckets, width = self.sums.shape
        return f"SketchTable({n_tables} tables x {n_buckets} buckets x {width} sums)"


def _table_shape(op: str, n_bits: Any, n_tables: Any) -> tuple[int, int]:
    bits = scalars.whole(op, "n_bits", n_bits, 0, _MAX_TABLE_BITS)
    return scalars.whole(op, "n_tables", n_tables, 1), 1 << bits


def _zeros(op: str, shape: tuple[int, ...], dtype: str, device: str) -> Any:
    n_tables, n_buckets, width = (*shape, 1)[:3]
    n_bytes = np.dtype(dtype).itemsize * n_tables * n_buckets * width
    scalars.check_memory(op, n_bytes, n_tables=n_tables, width=width)
    if scalars.is_word(device, "cpu"):
        return np.zeros(shape, dtype)
    return on_device.zeros(op, shape, dtype, device)

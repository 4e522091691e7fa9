"""Locality-sensitive hashing with state: planes that are drawn once."""

import math
from typing import Any

import numpy as np

from memcore import arrays, scalars, tensors
from memcore.backends import is_triton, lsh_pack
from memcore.errors import InputError, ShapeError, in_name_of
from memcore.ops.lsh import check_hash, lsh_encode, lsh_planes, lsh_probes, table_planes
from memcore.ops.lsh_device import planes_on


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
        seed: "int | np.random.Generator" = 0,
    ) -> None:
        """Draw the planes.

        Args:
            dim: components of a vector.
            n_bits: bits of a code: up to 64, or 20 for "cross_polytope".
            n_tables: codes of a vector.
            kind: "sign": one plane a bit. "cross_polytope": 2^(n_bits - 1) planes a table, the code
                is the place of the largest of [scores; -scores].
            planes: "signs" (components of +-1, which hash fastest) or "gaussian".
            seed: the same int gives the same hashes; a NumPy Generator is drawn from once.
        """
        self.n_bits = check_hash("LSH", n_bits, kind)
        self.n_tables = scalars.whole("LSH", "n_tables", n_tables, 1)
        self.dim = scalars.whole("LSH", "dim", dim, 1)
        self.kind = kind
        n_planes = self.n_tables * table_planes(self.n_bits, kind)
        scalars.check_memory("LSH", n_planes * self.dim, n_tables=self.n_tables, dim=self.dim)
        with in_name_of("LSH", kind="planes"):
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
        if is_triton(backend) or arrays.place(vectors) != "cpu":
            packed = self._laid_out(vectors)
        with in_name_of("encode"):
            self._check_dim("encode", vectors)
            return lsh_encode(
                vectors, self.planes, self.n_bits, kind=self.kind, packed=packed, backend=backend
            )

    def _check_dim(self, op: str, vectors: Any) -> None:
        """Planes are ours: what does not fit them is wrong itself."""
        shape = getattr(vectors, "shape", None)
        shape = np.shape(arrays.vectors(op, "vectors", vectors)[0]) if shape is None else shape
        if len(shape) not in (1, 2) or shape[-1] != self.dim:
            raise ShapeError(f"{op}: vectors has shape {tuple(shape)}, should be (n, {self.dim})")

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

        The first is the vector's own; then those that the least margins could turn it into. They
        are where the vectors lie.
        """
        planes = self.planes
        self._check_dim("probes", vectors)
        if is_triton(backend) or arrays.place(vectors) != "cpu":
            planes = self._laid_out(vectors).given
        with in_name_of("probes"):
            return lsh_probes(
                vectors, planes, self.n_bits, kind=self.kind, n_probes=n_probes, backend=backend
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
        given = arrays.reals("collision", "cosine", cosine)
        angle = np.arccos(np.clip(given.astype(np.float64), -1, 1))
        one = (1 - angle / np.pi) ** self.n_bits
        n = self.n_tables
        fewer = range(min(scalars.whole("collision", "min_hits", min_hits, 0), n + 1))
        return 1 - sum(math.comb(n, i) * one**i * (1 - one) ** (n - i) for i in fewer)

    def __repr__(self) -> str:
        return (
            f"LSH(dim={self.dim}, n_bits={self.n_bits}, n_tables={self.n_tables}, "
            f"kind={self.kind!r})"
        )

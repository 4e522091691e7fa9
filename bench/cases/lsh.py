"""Hashing vectors to sign bits, exact search over codes, and both in one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import numpy as np

import memcore
from memcore import reference
from memcore.ops.lsh import lsh_planes

from .. import data
from ..case import Case, Inputs, Prepare, expect, speedup
from ..machine import Limits
from ..rivals import lsh as rivals
from ..rows import Figure
from ..timing import Samples, Step

# Multiples of FAISS: by the number of bits, for encoding; for search in batches.
ENCODE_FLOOR = {64: 2.0, 256: 3.0}
BATCH_FLOOR = 8.0
# Share of the bandwidth that one query should reach, in percent.
READ_FLOOR = 70.0
# Rows whose bits are compared with the definition.
CHECKED_ROWS = 200


@dataclass(frozen=True, kw_only=True)
class Encode(Case):
    """`n` vectors to `n_bits` sign bits by planes of +-1."""

    op: ClassVar[str] = "lsh_encode"
    n: int = 100_000
    dim: int
    n_bits: int

    @property
    def name(self) -> str:
        """lsh_encode/rows x dim/bits."""
        return f"lsh_encode/{self.n // 1000}k x {self.dim}/{self.n_bits} bits"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_bits."""
        return {"n": self.n, "dim": self.dim, "n_bits": self.n_bits}

    def inputs(self) -> Inputs:
        """Vectors (n, dim) and planes (n_bits, dim)."""
        return {
            "vectors": data.keys("mix", self.n, self.dim, self.seed),
            "planes": lsh_planes(self.n_bits, self.dim, seed=self.seed),
        }

    def engines(self) -> dict[str, Prepare]:
        """LSH.encode, with planes that were packed once."""
        return {"LSH.encode": encode}

    def rivals(self) -> dict[str, Prepare]:
        """FAISS IndexLSH and NumPy, with the same planes."""
        return rivals.encoders()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """A sample, bit for bit; rivals are held to the share of signs that they get right."""
        rows = np.linspace(0, self.n - 1, CHECKED_ROWS).astype(int)
        wanted = reference.lsh_encode(inputs["vectors"][rows], inputs["planes"], 64, "sign")
        expect(bool((result[rows] == wanted).all()), "a bit is not the sign of the canonical score")
        return np.ones((1, 1), np.float32)

    def bounds(self, limits: Limits) -> dict[str, float]:
        """The float32 roofline of the matrix product."""
        operations = 2.0 * self.n * self.dim * self.n_bits
        return {"float32 roofline": limits.float32_s(4.0 * self.n * self.dim, operations)}

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against FAISS, and against the best rival."""
        return _against_faiss(samples, "LSH.encode", ENCODE_FLOOR[self.n_bits], best_rival)


@dataclass(frozen=True, kw_only=True)
class Hamming(Case):
    """`n_queries` queries over `n` codes of `n_bits`."""

    op: ClassVar[str] = "hamming_search"
    n: int
    n_bits: int
    n_queries: int

    @property
    def name(self) -> str:
        """hamming_search/codes x bits/Q."""
        n = f"{self.n // 1_000_000}M" if self.n >= 1_000_000 else f"{self.n // 1000}k"
        return f"hamming_search/{n} x {self.n_bits} bits/Q={self.n_queries}"

    @property
    def shape(self) -> dict[str, int]:
        """n, n_bits, n_queries."""
        return {"n": self.n, "n_bits": self.n_bits, "n_queries": self.n_queries}

    def inputs(self) -> Inputs:
        """Codes (n, n_words) and those of the queries, at some distance from one of them."""
        rng = np.random.default_rng([self.seed, 8])
        n_words = self.n_bits // 64
        keys = rng.integers(0, 1 << 64, (self.n, n_words), dtype=np.uint64)
        noise = rng.integers(0, 1 << 64, (3, self.n_queries, n_words), dtype=np.uint64)
        # One bit in eight differs.
        queries = keys[rng.integers(self.n, size=self.n_queries)] ^ (noise[0] & noise[1] & noise[2])
        return {"keys": keys, "queries": queries}

    def engines(self) -> dict[str, Prepare]:
        """memcore.search over codes."""
        return {"memcore.search": hamming}

    def rivals(self) -> dict[str, Prepare]:
        """FAISS IndexBinaryFlat, and NumPy for a single query."""
        return rivals.scanners(self.n_queries)

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """The first query against the definition."""
        truth = reference.hamming_search(
            inputs["queries"][:1], inputs["keys"], self.k, None, self.n_bits
        )
        expect(bool((result.ids[:1] == truth[1]).all()), "the nearest codes are others")
        return np.asarray(result.scores)

    def bounds(self, limits: Limits) -> dict[str, float]:
        """Reading the codes once."""
        n_bytes = self.n * self.n_bits / 8
        return {"reading": n_bytes / limits.read(n_bytes)}

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """One query: the share of the bandwidth. Batches: the speed against FAISS."""
        if self.n_queries > 1 or "memcore.search" not in samples:
            return _against_faiss(samples, "memcore.search", BATCH_FLOOR, best_rival)
        share = 100 * self.bounds(limits)["reading"] / samples["memcore.search"].median()
        figure = Figure("reading", share, "% of bandwidth", READ_FLOOR)
        return {"memcore.search": [figure]}


@dataclass(frozen=True, kw_only=True)
class HashSearch(Case):
    """`n_queries` vectors against the codes of `n`: encode, then search by Hamming distance."""

    op: ClassVar[str] = "lsh_search"
    n: int = 100_000
    dim: int = 384
    n_bits: int = 256
    n_queries: int = 1000

    @property
    def name(self) -> str:
        """lsh_search/rows x dim/bits/Q."""
        return f"lsh_search/{self.n // 1000}k x {self.dim}/{self.n_bits} bits/Q={self.n_queries}"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_bits, n_queries."""
        return {
            "n": self.n, "dim": self.dim, "n_bits": self.n_bits, "n_queries": self.n_queries
        }  # fmt: skip

    def inputs(self) -> Inputs:
        """Vectors, queries and planes."""
        return {
            "vectors": data.keys("mix", self.n, self.dim, self.seed),
            "queries": data.queries("mix", self.n_queries, self.n, self.dim, self.seed),
            "planes": lsh_planes(self.n_bits, self.dim, seed=self.seed),
        }

    def engines(self) -> dict[str, Prepare]:
        """LSH.encode and memcore.search."""
        return {"LSH.encode + memcore.search": encode_and_search}

    def rivals(self) -> dict[str, Prepare]:
        """FAISS IndexLSH."""
        return {"faiss[IndexLSH]": rivals.index_lsh}

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """The first query against the definition; rivals are held to the mean distance."""
        keys = reference.lsh_encode(inputs["vectors"], inputs["planes"], 64, "sign")
        query = reference.lsh_encode(inputs["queries"][:1], inputs["planes"], 64, "sign")
        truth = reference.hamming_search(query, keys, self.k, None, self.n_bits)
        expect(bool((result.ids[:1] == truth[1]).all()), "the nearest codes are others")
        return np.array([[result.scores.mean()]], np.float32)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against FAISS."""
        return _against_faiss(samples, "LSH.encode + memcore.search", None, best_rival)


def _against_faiss(
    samples: dict[str, Samples], engine: str, floor: float | None, best_rival: str
) -> dict[str, list[Figure]]:
    faiss = [name for name in samples if name.startswith("faiss")]
    if engine not in samples or not faiss:
        return {}
    fastest = min(faiss, key=lambda name: samples[name].median())
    figures = [Figure("speed", speedup(samples, engine, fastest), "x FAISS", floor)]
    if best_rival and best_rival not in faiss:
        figures.append(Figure("speed", speedup(samples, engine, best_rival), "x best rival"))
    return {engine: figures}


def encode(case: Case, inputs: Inputs, threads: int) -> Step:
    """All vectors in one call."""
    hashes, vectors = _hashes(inputs["planes"]), inputs["vectors"]
    return Step(lambda: hashes.encode(vectors))


def hamming(case: Case, inputs: Inputs, threads: int) -> Step:
    """All queries in one call."""
    queries, keys = inputs["queries"], inputs["keys"]
    return Step(lambda: memcore.search(queries, keys, case.k, metric="hamming"))


def encode_and_search(case: Case, inputs: Inputs, threads: int) -> Step:
    """The queries are encoded each time, the vectors once."""
    hashes, queries = _hashes(inputs["planes"]), inputs["queries"]
    keys = hashes.encode(inputs["vectors"])
    return Step(lambda: memcore.search(hashes.encode(queries), keys, case.k, metric="hamming"))


def _hashes(planes: np.ndarray) -> memcore.LSH:
    """The hashes whose planes these are."""
    hashes = memcore.LSH(planes.shape[1], 64, len(planes) // 64, seed=0)
    expect(bool((hashes.planes == planes).all()), "LSH draws other planes from the same seed")
    return hashes


def sweep(level: str) -> list[Case]:
    """Quick: one of each. Default and full: those with goals."""
    if level == "quick":
        return [
            Encode(dim=128, n_bits=256, n=20_000),
            Hamming(n=1_000_000, n_bits=64, n_queries=1),
            Hamming(n=100_000, n_bits=64, n_queries=256),
        ]
    encodes = [Encode(dim=dim, n_bits=bits) for dim, bits in product((128, 384, 768), (64, 256))]
    scans = [Hamming(n=10_000_000, n_bits=bits, n_queries=1) for bits in (64, 256)]
    batches = [Hamming(n=100_000, n_bits=bits, n_queries=1000) for bits in (64, 128, 256)]
    return [*encodes, *scans, *batches, HashSearch()]

"""Codebooks: assignment, the online step, k-means, search over product codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import memcore
from memcore import reference
from memcore.ops import codebook as ops

from .. import data, gate
from ..case import Case, Inputs, Prepare, expect, speedup
from ..machine import Limits
from ..rivals import codebook as rivals
from ..rivals import library
from ..rows import Figure
from ..timing import Samples, Step


@dataclass(frozen=True, kw_only=True)
class Assign(Case):
    """`n` rows to their nearest of `n_codes` codewords."""

    op: ClassVar[str] = "codebook-assign"
    n: int = 100_000
    dim: int = 768
    n_codes: int = 4096
    k: int = 1
    metric: str = "l2"

    @property
    def name(self) -> str:
        """codebook-assign/rows x dim/codes."""
        return f"{self.op}/{self.n} x {self.dim}/{self.n_codes} codes"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_codes."""
        return {"n": self.n, "dim": self.dim, "n_codes": self.n_codes}

    def inputs(self) -> Inputs:
        """Rows (n, dim) and codewords (n_codes, dim), rows of the same kind."""
        n_places = max(self.n, self.n_codes)
        return {
            "rows": data.keys("mix", self.n, self.dim, self.seed),
            "codewords": data.queries("mix", self.n_codes, n_places, self.dim, self.seed),
        }

    def engines(self) -> dict[str, Prepare]:
        """memcore.ops.codebook.assign."""
        return {"memcore assign": assign}

    def rivals(self) -> dict[str, Prepare]:
        """FAISS flat, scikit-learn, torch."""
        return rivals.of_assign()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Against the float32 scan, and the reference in sampled rows."""
        codes, scores = result
        hits = memcore.Hits(scores[:, None], codes[:, None])
        return gate.check_search(hits, inputs["rows"], inputs["codewords"], 1, "l2", self.seed)

    def bounds(self, limits: Limits) -> dict[str, float]:
        """The float32 roofline."""
        work = 2.0 * self.n * self.n_codes * self.dim
        return {"float32 roofline": limits.float32_s(4.0 * self.n * self.dim, work)}

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against FAISS."""
        return _against(samples, "memcore assign", {"faiss": 3.0})


@dataclass(frozen=True, kw_only=True)
class EmaStep(Assign):
    """One online step of moving averages, without resets."""

    op: ClassVar[str] = "codebook-step"
    n: int = 4096

    def engines(self) -> dict[str, Prepare]:
        """Codebook.update."""
        return {"memcore Codebook.update": update}

    def rivals(self) -> dict[str, Prepare]:
        """Torch by hand, vector-quantize-pytorch."""
        return rivals.of_step()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Against the formula in float64, by the reference's codes."""
        book, codes = result
        rows, words = inputs["rows"], inputs["codewords"].astype(np.float64)
        some = slice(0, 64)
        wanted, _ = reference.assign(rows[some], inputs["codewords"])
        expect(bool((codes[some, 0] == wanted).all()), "codes are not the reference's")
        share = len(rows) / len(words)
        sums = np.zeros_like(words)
        np.add.at(sums, codes[:, 0], rows)
        fresh = np.bincount(codes[:, 0], minlength=len(words))
        counts = rivals.DECAY * share + (1 - rivals.DECAY) * fresh
        total = counts.sum()
        smoothed = counts + rivals.SMOOTHING
        smoothed *= total / (total + len(words) * rivals.SMOOTHING)
        words = (rivals.DECAY * share * words + (1 - rivals.DECAY) * sums) / smoothed[:, None]
        worst = np.abs(book.codewords[0, 0] - words).max()
        expect(bool(worst < 1e-4), f"codewords are {worst} off the formula")
        mean = rivals.distances(rows, book.codewords[0, 0], codes[:, 0]).mean()
        return np.full((1, 1), mean)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against torch by hand, and against vector-quantize-pytorch."""
        return _against(samples, "memcore Codebook.update", {"torch": 3.0, "vqtorch": 8.0})


@dataclass(frozen=True, kw_only=True)
class SearchCodes(Case):
    """`n_queries` over `n` rows known by their product codes."""

    op: ClassVar[str] = "codebook-search"
    n: int = 100_000
    dim: int = 768
    n_subspaces: int = 96
    n_codes: int = 256
    n_queries: int = 64
    metric: str = "l2"

    @property
    def name(self) -> str:
        """codebook-search/rows x dim/PQ subspaces x bits."""
        bits = self.n_codes.bit_length() - 1
        return f"{self.op}/{self.n} x {self.dim}/PQ{self.n_subspaces}x{bits}/Q={self.n_queries}"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_queries."""
        return {"n": self.n, "dim": self.dim, "n_queries": self.n_queries}

    def inputs(self) -> Inputs:
        """Rows, queries, the shape of the codes."""
        return {
            "rows": data.keys("mix", self.n, self.dim, self.seed),
            "queries": data.queries("mix", self.n_queries, self.n, self.dim, self.seed),
            "shape": (self.n_subspaces, self.n_codes),
        }

    def engines(self) -> dict[str, Prepare]:
        """Codebook.search."""
        return {"memcore Codebook.search": search_codes}

    def rivals(self) -> dict[str, Prepare]:
        """FAISS IndexPQ, with a codebook of its own."""
        return rivals.of_search()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Against the reference, a few queries; the rival's codebook is another."""
        book, codes, hits = result
        some = slice(0, 2)
        asked = inputs["queries"][some]
        truth = reference.search_codes(asked, codes, book.codewords, self.k, metric=self.metric)
        got = memcore.Hits(hits.scores[some], hits.ids[some])
        gate.expect_equal("the reference", np.arange(2), got, truth)
        return np.full((self.n_queries, self.k), np.nan)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against FAISS."""
        return _against(samples, "memcore Codebook.search", {"faiss": 1.0})


@dataclass(frozen=True, kw_only=True)
class KMeans(Case):
    """`n_codes` means of `n` rows."""

    op: ClassVar[str] = "codebook-fit"
    n: int = 100_000
    dim: int = 768
    n_codes: int = 512
    n_iterations: int = 10

    @property
    def name(self) -> str:
        """codebook-fit/rows x dim/codes."""
        return f"{self.op}/{self.n} x {self.dim}/{self.n_codes} codes"

    @property
    def shape(self) -> dict[str, int]:
        """n, dim, n_codes."""
        return {"n": self.n, "dim": self.dim, "n_codes": self.n_codes}

    def inputs(self) -> Inputs:
        """Rows, the number of codes and of iterations."""
        rows = data.keys("mix", self.n, self.dim, self.seed)
        return {"rows": rows, "n_codes": self.n_codes, "n_iterations": self.n_iterations}

    def engines(self) -> dict[str, Prepare]:
        """Codebook.fit."""
        return {"memcore Codebook.fit": fit}

    def rivals(self) -> dict[str, Prepare]:
        """FAISS Kmeans, scikit-learn MiniBatchKMeans."""
        return rivals.of_kmeans()

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Better than as many rows drawn at random; a rival's means are others."""
        rows = inputs["rows"]
        drawn = rows[np.random.default_rng(0).choice(len(rows), self.n_codes, replace=False)]
        ours, random = (-rivals.error(rows, words).item() for words in (result, drawn))
        expect(ours < random, f"the error is {ours}, that of random rows {random}")
        return np.full((1, 1), np.nan)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The speed against both."""
        return _against(samples, "memcore Codebook.fit", {"faiss": 1.0, "sklearn": 1.0})


def _against(
    samples: dict[str, Samples], ours: str, goals: dict[str, float]
) -> dict[str, list[Figure]]:
    """The speed against the best run of each of these libraries."""
    figures = []
    for name, goal in goals.items():
        found = [engine for engine in samples if library(engine) == name]
        if found and ours in samples:
            speed = min(speedup(samples, ours, engine) for engine in found)
            figures.append(Figure("speed", speed, f"x {name}", None, goal))
    return {ours: figures}


def assign(case: Case, inputs: Inputs, threads: int) -> Step:
    """The op."""
    return Step(lambda: ops.assign(inputs["rows"], inputs["codewords"]))


def update(case: Case, inputs: Inputs, threads: int) -> Step:
    """A book that starts from the codewords each time."""
    rows, words = inputs["rows"], inputs["codewords"]
    n_codes, dim = words.shape
    first = memcore.Codebook(n_codes, dim, decay=rivals.DECAY, reset=None)
    first.start_from(words[None, None], len(rows) / n_codes)
    book = first.copy()

    def reset() -> None:
        book.state = first.state

    return Step(
        lambda: book.update(rows), setup=reset, answer=lambda codes: (book, codes), repeatable=False
    )


def search_codes(case: Case, inputs: Inputs, threads: int) -> Step:
    """A book fitted once."""
    n_subspaces, n_codes = inputs["shape"]
    rows, queries = inputs["rows"], inputs["queries"]
    book = memcore.Codebook(n_codes, rows.shape[1], n_subspaces)
    book.fit(rows[:20_000], n_iterations=2)
    codes = book.quantize(rows).astype(book.code_dtype)
    return Step(
        lambda: book.search(queries, codes, case.k, metric=case.metric),
        answer=lambda hits: (book, codes, hits),
    )


def fit(case: Case, inputs: Inputs, threads: int) -> Step:
    """A book fitted anew each time."""
    rows = inputs["rows"]

    def run() -> Any:
        book = memcore.Codebook(inputs["n_codes"], rows.shape[1])
        book.fit(rows, n_iterations=inputs["n_iterations"])
        return book.codewords[0, 0]

    return Step(run)


def sweep(level: str) -> list[Case]:
    """The shapes with goals; small ones for a quick look."""
    if level == "quick":
        return [
            Assign(n=4096, n_codes=1024, dim=128),
            EmaStep(n=1024, n_codes=512, dim=64),
            SearchCodes(n=10_000, dim=64, n_subspaces=8),
            KMeans(n=10_000, dim=64, n_codes=64),
        ]
    goals: list[Case] = [Assign(), EmaStep(), SearchCodes(), KMeans()]
    # Few rows, and few codes, where what is done once a row counts most.
    goals += [
        Assign(n=10_000),
        Assign(n=10_000, n_codes=64),
        Assign(n=10_000, dim=64, n_codes=64),
        Assign(n=10_000, dim=64, n_codes=1024),
    ]
    if level == "default":
        return goals
    return [*goals, Assign(n_codes=512), EmaStep(n_codes=512), KMeans(n_codes=4096)]

"""How many short texts a second become vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from memcore.text import HashedEmbedder

from ..case import Case, Inputs, Prepare, expect
from ..machine import Limits
from ..rows import Figure
from ..timing import Samples, Step

FLOOR = 50.0
WORDS_PER_TEXT = 12
SYLLABLES = ("ka", "lo", "mi", "ren", "su", "ta", "vor", "del", "ix", "pa", "nu", "gre")


@dataclass(frozen=True, kw_only=True)
class Embed(Case):
    """`n_texts` texts of about a dozen words."""

    op: ClassVar[str] = "text"
    n_texts: int = 20_000

    @property
    def name(self) -> str:
        """text/texts."""
        return f"text/{self.n_texts} texts"

    @property
    def shape(self) -> dict[str, int]:
        """n_texts, words per text."""
        return {"n_texts": self.n_texts, "words": WORDS_PER_TEXT}

    def inputs(self) -> Inputs:
        """Texts of made-up words."""
        rng = np.random.default_rng([self.seed, 7])
        words = ["".join(SYLLABLES[i] for i in rng.integers(12, size=3)) for _ in range(5000)]
        chosen = rng.integers(5000, size=(self.n_texts, WORDS_PER_TEXT))
        return {"texts": [" ".join(words[i] for i in row) for row in chosen]}

    def engines(self) -> dict[str, Prepare]:
        """The embedder that ships with memcore."""
        return {"HashedEmbedder": hashed}

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Unit vectors, and each text alone gives the same bits as in the batch."""
        norms = np.sqrt(np.einsum("ij,ij->i", result, result))
        expect(bool(np.abs(norms - 1).max() < 1e-5), "a vector's length is not 1")
        alone = np.concatenate([HashedEmbedder()([text]) for text in inputs["texts"][:50]])
        expect(
            bool((alone == result[:50]).all()), "a text alone gives another vector than in a batch"
        )
        return np.zeros((1, 1), np.float32)

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """Thousands of texts a second."""
        if "HashedEmbedder" not in samples:
            return {}
        rate = self.n_texts / samples["HashedEmbedder"].median() / 1e3
        return {"HashedEmbedder": [Figure("rate", rate, "k texts/s", FLOOR)]}


def hashed(case: Case, inputs: Inputs, threads: int) -> Step:
    """All texts in one call."""
    embed, texts = HashedEmbedder(), inputs["texts"]
    return Step(lambda: embed(texts))


def sweep(level: str) -> list[Case]:
    """One size."""
    return [Embed()]

"""Exact search over the texts of a folder, by vectors of hashed words: real rows, not drawn ones.

The folder is what MEMCORE_TEXTS names; it holds corpus.jsonl and queries.jsonl, an object with a
"text" a line. Without it there is no such case.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from memcore.text import HashedEmbedder

from ..case import Inputs, Prepare
from .search import Search, arrays, bank

DIM = 512


@dataclass(frozen=True, kw_only=True)
class Corpus(Search):
    """`n_queries` of the texts' own queries over all `n` texts."""

    folder: str
    metric: str = "cosine"

    @property
    def name(self) -> str:
        """search/texts/folder's name/rows x dim/Q=."""
        texts = Path(self.folder).name
        return f"search/texts/{texts}/{self.n} x {self.dim}/Q={self.n_queries}"

    def inputs(self) -> Inputs:
        """The vectors of the texts and of the first queries."""
        keys, queries = _vectors(self.folder)
        return {"keys": keys, "queries": queries[: self.n_queries]}

    def engines(self) -> dict[str, Prepare]:
        """A Bank, and memcore.search over the array."""
        return {"memcore Bank": bank, "memcore.search": arrays}


@lru_cache(maxsize=1)
def _vectors(folder: str) -> tuple[np.ndarray, np.ndarray]:
    embed = HashedEmbedder(DIM)
    keys, queries = (embed(_texts(folder, name)) for name in ("corpus", "queries"))
    return keys, queries


def _texts(folder: str, name: str) -> list[str]:
    with (Path(folder) / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def sweep(level: str) -> list[Corpus]:
    """Nothing, unless there are texts."""
    folder = os.environ.get("MEMCORE_TEXTS", "")
    if level == "quick" or not (Path(folder) / "corpus.jsonl").is_file() or not folder:
        return []
    n = len(_texts(folder, "corpus"))
    return [Corpus(n=n, dim=DIM, n_queries=q, folder=folder) for q in (1, 16, 256)]

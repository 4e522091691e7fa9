"""Text in the place of vectors, through an embedder that the caller chose."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays
from memcore.errors import DtypeError, ShapeError

Embed = Callable[[list[str]], Any]


def are_texts(queries: Any) -> bool:
    """Whether queries are a str, or a sequence that begins with one."""
    if isinstance(queries, (list, tuple)) and queries:
        return isinstance(queries[0], str)
    return isinstance(queries, str)


def listed(op: str, texts: Any) -> list[str]:
    """A str, or a sequence of them, as a list."""
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        raise DtypeError(f"{op}: texts is {texts!r:.40}, should be a str or a list of str")
    return list(texts)


def embed(op: str, embedder: Embed | None, texts: list[str], dim: int | None) -> NDArray[Any]:
    """The vectors of n texts, (n, dim) floats."""
    if embedder is None:
        raise DtypeError(f"{op}: text is given, should come with Bank(embed=…)")
    if not texts:
        return np.empty((0, dim or 1), np.float32)
    vectors = arrays.floats(op, "embed(texts)", embedder(texts))
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise ShapeError(
            f"{op}: embed(texts) has shape {vectors.shape}, should be ({len(texts)}, dim)"
        )
    return vectors

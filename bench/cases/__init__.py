"""The cases, one module a family.

Each has `sweep(level)`: "quick", "default" (those with goals) or "full" (the grid).
"""

from __future__ import annotations

from ..case import Case
from . import (
    attend,
    banks,
    calls,
    codebook,
    corpus,
    filtered,
    firstpass,
    forks,
    ivf,
    lsh,
    memory,
    mutation,
    queue,
    search,
    text,
    topk,
)

FAMILIES = {
    "search": search,
    "texts": corpus,
    "filter": filtered,
    "firstpass": firstpass,
    "calls": calls,
    "banks": banks,
    "forks": forks,
    "mutation": mutation,
    "memory": memory,
    "queue": queue,
    "topk": topk,
    "attend": attend,
    "codebook": codebook,
    "text": text,
    "lsh": lsh,
    "ivf": ivf,
}


def sweep(level: str) -> list[Case]:
    """All cases of a level, those with the same inputs next to each other."""
    return [case for family in FAMILIES.values() for case in family.sweep(level)]

"""The retrieval engine under agent memory: exact search in one bank or in ten thousand."""

from typing import Any

from memcore.backends import explain, isa, isas, set_isa, set_threads, threads
from memcore.bank import Arena, Bank, Mark, Rows
from memcore.buckets import BucketTable, SketchTable
from memcore.codebook import Codebook
from memcore.errors import (
    BackendError,
    DtypeError,
    InputError,
    NotFoundError,
    ShapeError,
    StoreError,
)
from memcore.gate import Gate
from memcore.hits import Hits, Read
from memcore.lsh import LSH
from memcore.ops.attend import aggregate, attend, merge_lse
from memcore.ops.queue import disperse, gather, nce
from memcore.ops.search import search, search_ragged
from memcore.ops.topk import topk
from memcore.outer import OuterMemory
from memcore.queue import Queue

__all__ = [
    "LSH",
    "Arena",
    "BackendError",
    "Bank",
    "BucketTable",
    "Codebook",
    "DtypeError",
    "Gate",
    "Hits",
    "InputError",
    "Mark",
    "NotFoundError",
    "OuterMemory",
    "Queue",
    "Read",
    "Rows",
    "ShapeError",
    "SketchTable",
    "StoreError",
    "aggregate",
    "attend",
    "disperse",
    "explain",
    "gather",
    "isa",
    "isas",
    "merge_lse",
    "nce",
    "search",
    "search_ragged",
    "set_isa",
    "set_threads",
    "threads",
    "topk",
]


def __getattr__(name: str) -> Any:
    # None is needed to search, and all cost time to import.
    if name == "__version__":
        from importlib.metadata import version

        return version("memcore-engine")
    if name in ("nn", "text"):
        from importlib import import_module

        return import_module(f"memcore.{name}")
    raise AttributeError(f"module 'memcore' has no attribute {name!r}")

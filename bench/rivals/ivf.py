"""Rivals at inverted files: those of FAISS, each with the least effort that reaches the recall."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from .. import data
from ..case import Inputs, Prepare
from ..timing import Step

Array = np.ndarray

# Rows that centroids are trained on, for each list.
TRAINING_ROWS = 100
PROBES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 64)
# Candidates that are scored again, in multiples of k.
K_FACTORS = (2, 3, 4, 6, 8, 12, 16)
# What follows IVF<lists> in the name of an index, and whether the rows are kept beside the codes.
KINDS = {"Flat": False, "PQ{half}x4fs": True, "RaBitQfs": True}
LABELS = {"Flat": "IVF-Flat", "PQ{half}x4fs": "IVF-PQ fast-scan, refined", "RaBitQfs": "IVF-RaBitQ"}
# The lists of IVF-Flat beside four roots of the rows, in powers of two of that.
MORE_LISTS = {"half the lists": -1, "twice the lists": 1}


def indexes() -> dict[str, Prepare]:
    """Those that reach a recall: rows, in more or fewer lists, or codes and then rows."""
    found: dict[str, Prepare] = {f"faiss[{LABELS[k]}]": partial(search, kind=k) for k in KINDS}
    for label, power in MORE_LISTS.items():
        found[f"faiss[IVF-Flat, {label}]"] = partial(search, kind="Flat", power=power)
    return found


def n_lists(n: int) -> int:
    """Four roots of the rows, as a power of two."""
    return int(2 ** np.rint(np.log2(4 * np.sqrt(n))))


def row_bytes(case: Any) -> tuple[float, float]:
    """Bytes of a row of IVF-Flat; and of IVF-PQ with the rows for refinement."""
    flat = 4 * case.dim * (1 + n_lists(case.n) / case.n) + 8
    return flat, flat + case.dim / 4


def recall(ids: Array, truth: Array) -> float:
    """The share of the true rows that were found."""
    return float((ids[:, :, None] == truth[:, None]).any(axis=1).mean())


def search(case: Any, inputs: Inputs, threads: int, kind: str, power: int = 0) -> Step:
    """The fastest of a grid of probes, and of candidates where rows are scored again."""
    import faiss

    base = _index(kind, case, power)
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexRefine(base, _rows(case.n, case.dim, case.seed)) if KINDS[kind] else base
    if hasattr(base, "qb"):
        base.qb = 8
    queries, k = inputs["queries"], case.k
    best: tuple[float, int, int, float] | None = None
    for factor in K_FACTORS if KINDS[kind] else (1,):
        if KINDS[kind]:
            index.k_factor = factor
        for base.nprobe in PROBES:
            found = recall(index.search(queries, k)[1], inputs["truth"])
            if found >= case.recall:
                seconds = seconds_of(calls(case, index.search, queries))
                if best is None or seconds < best[0]:
                    best = (seconds, base.nprobe, factor, found)
                break
    if best is not None:
        base.nprobe = best[1]
        if KINDS[kind]:
            index.k_factor = best[2]
    # Where the recall is out of reach, this is no answer.
    reached = case.recall if best is not None else 0.0
    return Step(
        calls(case, index.search, queries), answer=lambda _: np.array([[reached]], np.float32)
    )


def calls(case: Any, search: Any, queries: Array) -> Any:
    """All queries in a call, or one after the other."""
    if case.n_queries > 1:
        return lambda: search(queries, case.k)
    turns = cycle([queries[i : i + 1] for i in range(len(queries))])
    return lambda: search(next(turns), case.k)


def seconds_of(run: Any) -> float:
    """Seconds of a call: the least of three, of as many as take a few milliseconds."""
    run()
    least = np.inf
    for _ in range(3):
        start, n = time.perf_counter(), 0
        while time.perf_counter() - start < 0.02:
            run()
            n += 1
        least = min(least, (time.perf_counter() - start) / n)
    return float(least)


@lru_cache(maxsize=1)
def _rows(n: int, dim: int, seed: int) -> Any:
    """The rows that candidates are scored again by."""
    import faiss

    rows = faiss.IndexFlatL2(dim)
    rows.add(data.keys("mix", n, dim, seed))
    return rows


def _index(kind: str, case: Any, power: int = 0) -> Any:
    """A trained and filled index; it is kept in a file, as training takes minutes."""
    import faiss

    folder = Path(tempfile.gettempdir()) / "memcore-bench"
    folder.mkdir(exist_ok=True)
    lists = int(n_lists(case.n) * 2.0**power)
    name = f"IVF{lists},{kind.format(half=case.dim // 2)}"
    path = folder / f"{name}-{case.n}x{case.dim}-{case.seed}-{faiss.__version__}.faiss"
    # The three have the same lists.
    flat = None if kind == "Flat" else _index("Flat", case)
    with _alone(path.with_suffix(".lock")):
        if not path.exists():
            faiss.omp_set_num_threads(os.cpu_count() or 1)
            keys = data.keys("mix", case.n, case.dim, case.seed)
            index = faiss.index_factory(case.dim, name)
            if flat is not None:
                index.quantizer.add(flat.quantizer.reconstruct_n(0, lists))
            chosen = np.random.default_rng(0).permutation(case.n)[: TRAINING_ROWS * lists]
            index.train(keys[np.sort(chosen)])
            index.add(keys)
            faiss.write_index(index, str(path))
    return faiss.read_index(str(path))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

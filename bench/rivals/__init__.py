"""The rivals, each at its best: NumPy, torch, FAISS, hnswlib and others, those that are installed.

Three traps that make a rival look slow are avoided here. BLAS libraries choose their kernels once,
when they load, from `OPENBLAS_CORETYPE`: rivals run in one process per choice and the faster one
counts. FAISS takes its matrix path only for large batches unless `distance_compute_blas_threshold`
says otherwise: both ways run. And all get the same number of threads.
"""

from __future__ import annotations

import importlib.util
import os

from ..machine import has_avx512

MODULES = {
    "numpy": "numpy",
    "torch": "torch",
    "faiss": "faiss",
    "hnswlib": "hnswlib",
    "usearch": "usearch",
    "sklearn": "sklearn",
    "vqtorch": "vector_quantize_pytorch",
}

# The rivals whose speed hangs on the kernels that OpenBLAS chose.
USES_BLAS = ("numpy", "faiss", "sklearn")


def installed() -> list[str]:
    """The rivals that can be imported here."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module)]


def library(engine: str) -> str:
    """The rival that an engine's name begins with: "faiss" of "faiss[blas]@Zen"."""
    return engine.partition("@")[0].partition("[")[0]


def core_types(is_quick: bool = False) -> list[str]:
    """The kernels of OpenBLAS worth trying on this processor, the most often best first."""
    if os.uname().machine not in ("x86_64", "AMD64"):
        return ["default"]
    found = ["SkylakeX", "Haswell"] if has_avx512() else ["Zen", "Haswell"]
    return found[:1] if is_quick else found


def environment(core_type: str, threads: int) -> dict[str, str]:
    """The variables that a rival's process starts with."""
    found = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        found[name] = str(threads)
    found.pop("OPENBLAS_CORETYPE", None)
    if core_type != "default":
        found["OPENBLAS_CORETYPE"] = core_type
    # A pool that spins after its work would take the core from whoever is timed next.
    found["OMP_WAIT_POLICY"] = "passive"
    return found


def set_threads(name: str, threads: int) -> None:
    """Tell a rival's library how many threads it has."""
    if name in ("torch", "vqtorch"):
        import torch

        torch.set_num_threads(threads)
    if name == "faiss":
        import faiss

        faiss.omp_set_num_threads(threads)

"""What this machine can do, measured: the limits that every share in the tables is a share of."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from memcore import _core

Probe = Callable[[], float]

PACKAGES = (
    "memcore-engine",
    "numpy",
    "torch",
    "faiss-cpu",
    "hnswlib",
    "usearch",
    "scikit-learn",
    "vector-quantize-pytorch",
)

# Bytes of a page's int8 rows, of four blocks' worth of rows, and of one float32 row, at 384
# dimensions.
CHUNKS = (24576, 6144, 1536)


@dataclass(frozen=True)
class Limits:
    """Measured rates: bytes and operations per second (a multiply-add is two)."""

    threads: int
    read_dram: float
    read_l3: float
    gather_24k: float
    gather_6k: float
    gather_1k5: float
    float32: float
    int8: float
    l3_bytes: int
    isa: str

    def read(self, n_bytes: float) -> float:
        """The read rate of a working set of so many bytes."""
        return self.read_l3 if n_bytes <= 0.75 * self.l3_bytes else self.read_dram

    def float32_s(self, n_bytes: float, operations: float) -> float:
        """The float32 roofline: the least seconds that any float32 engine needs."""
        return max(n_bytes / self.read(n_bytes), operations / self.float32)

    def numbers(self) -> dict[str, float]:
        """The rates in units of 10^9 per second, for a row."""
        return {
            name: round(value / 1e9, 2)
            for name, value in asdict(self).items()
            if isinstance(value, float)
        }


def measure(threads: int, *, seconds: float = 0.2, dram_bytes: int = 1 << 30) -> Limits:
    """Measure the limits in about ten times `seconds`; of three tries each, the best."""
    l3 = l3_bytes()
    data = np.ones(dram_bytes, np.uint8)
    part = dram_bytes // threads // 4096 * 4096
    parts = [data[i * part : (i + 1) * part] for i in range(threads)]
    # Together the threads read three quarters of the last cache.
    cached = [one[: 3 * l3 // 4 // threads // 4096 * 4096] for one in parts]
    span = seconds / 3

    def read(one: np.ndarray) -> Probe:
        return lambda: _core.probe_read(one, span)

    def gather(one: np.ndarray, chunk: int) -> Probe:
        n_chunks = (part - chunk) // chunk
        offsets = np.random.default_rng(0).permutation(n_chunks)[:20000] * chunk
        return lambda: _core.probe_gather(one, offsets, chunk, span)

    gathered = [_together([gather(one, chunk) for one in parts]) for chunk in CHUNKS]
    return Limits(
        threads=threads,
        read_dram=_together([read(one) for one in parts]),
        read_l3=_together([read(one) for one in cached]),
        gather_24k=gathered[0],
        gather_6k=gathered[1],
        gather_1k5=gathered[2],
        float32=_together([lambda: _core.probe_float32(span)] * threads),
        int8=_together([lambda: _core.probe_int8(span)] * threads),
        l3_bytes=l3,
        isa=_core.probe_isa(),
    )


def first_pass_rate(
    n: int, dim: int, n_queries: int, threads: int, *, seconds: float = 0.3
) -> float:
    """Int8 operations per second of the engine's first pass alone, with no row kept."""
    blocks = -(-n // 16)
    here = -(-blocks // threads)
    return _together([lambda: _core.probe_first_pass(here, dim, n_queries, seconds / 3)] * threads)


def cpu_name() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def l3_bytes() -> int:
    """Bytes of the last cache; 32 MiB where the system does not say."""
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    units = {"K": 1 << 10, "M": 1 << 20}
    found = []
    for size in sizes:
        text = size.read_text().strip()
        if text[-1:] in units and text[:-1].isdigit():
            found.append(int(text[:-1]) * units[text[-1]])
    return max(found, default=32 << 20)


def has_avx512() -> bool:
    """Whether BLAS libraries find AVX-512 here."""
    return _core.probe_isa().startswith("avx512")


def versions() -> dict[str, str]:
    """Versions of Python, of memcore and of the rivals that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the checkout that this file lies in, "+" if changed; empty outside one."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "--short", "HEAD")
        return head + ("+" if _git(here, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def today() -> str:
    """The date and the time, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def load() -> float:
    """Processes that want to run, averaged over the last minute."""
    return os.getloadavg()[0]


def _git(where: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(where), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _together(probes: list[Probe]) -> float:
    """The sum of the rates of all probes, each in its own thread; the best of three."""
    return max(_once(probes) for _ in range(3))


def _once(probes: list[Probe]) -> float:
    rates = [0.0] * len(probes)

    def run(i: int) -> None:
        rates[i] = probes[i]()

    workers = [threading.Thread(target=run, args=(i,)) for i in range(1, len(probes))]
    for worker in workers:
        worker.start()
    run(0)
    for worker in workers:
        worker.join()
    return sum(rates)

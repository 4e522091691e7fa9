"""Rows of the GPU: what is kept of an engine on a case, as a line, in a file, in a picture."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from . import machine
from .gpu_case import GpuCase


@dataclass(frozen=True)
class GpuRow:
    """One engine on one case; times in milliseconds of one call on the device."""

    op: str
    case: str
    engine: str
    device: str
    driver: str
    source: str
    p20_ms: float
    p50_ms: float
    p80_ms: float
    n_runs: int
    n_bytes: float
    operations: float
    share: float
    limits: dict[str, float]
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    date: str = ""


def row_of(
    case: GpuCase, engine: str, samples: Sequence[float], limits: Mapping[str, float]
) -> GpuRow:
    """A row of samples in milliseconds, with the share of what the measured limits allow.

    The share is NaN where a limit that it needs could not be measured.
    """
    p20, p50, p80 = (float(p) for p in np.percentile(samples, (20, 50, 80)))
    moves = case.n_bytes / limits.get("bytes", math.nan)
    computes = case.operations / limits.get(case.rate, math.nan) if case.operations else 0.0
    return GpuRow(
        op=case.op,
        case=case.name,
        engine=engine,
        device=device_name(),
        driver=driver(),
        source=source(),
        p20_ms=p20,
        p50_ms=p50,
        p80_ms=p80,
        n_runs=len(samples),
        n_bytes=case.n_bytes,
        operations=case.operations,
        share=float(np.maximum(moves, computes)) * 1e3 / p50,
        limits=dict(limits),
        versions=machine.versions(),
        commit=machine.commit(),
        date=machine.today(),
    )


def device_name() -> str:
    """The GPU's name, or that there is none."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "no GPU"


def driver() -> str:
    """The driver's version, or nothing where its tool is missing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    words = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(words, capture_output=True, text=True, check=False).stdout.split()
    return told[0] if told else ""


def source() -> str:
    """A hash of the kernels that ran."""
    from memcore import kernels

    folder = Path(kernels.__file__).parent
    texts = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


def write(rows: Sequence[GpuRow], path: Path) -> None:
    """Append rows to a file, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def read(path: Path) -> list[GpuRow]:
    """The rows of a file; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [GpuRow(**json.loads(each)) for each in lines]


def line(row: GpuRow) -> str:
    """A row for the reader."""
    return (
        f"{row.case:<60} {row.engine:<24} {row.p50_ms:9.3f} ms ({row.p20_ms:.3f} to "
        f"{row.p80_ms:.3f}), {100 * row.share:.0f} % of the limit"
    )


def roofline(rows: Sequence[GpuRow], path: Path) -> Path:
    """Draw operations a second over operations a byte, under the measured limits."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6))
    at = np.logspace(-2, 4, 100)
    limits = rows[-1].limits
    for rate in ("bf16", "int8"):
        if rate in limits and "bytes" in limits:
            axes.plot(at, np.minimum(at * limits["bytes"], limits[rate]), "k-", lw=0.7)
            axes.annotate(rate, (at[-1], limits[rate]), fontsize=7)
    for row in rows:
        # Where there are no products, each byte counts as one.
        operations = row.operations or row.n_bytes
        mark = "o" if row.engine == "memcore" else "x"
        intensity, speed = operations / row.n_bytes, operations / row.p50_ms * 1e3
        axes.plot(intensity, speed, mark, label=f"{row.case}: {row.engine}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("operations a second")
    axes.set_title(f"{rows[-1].device}, kernels {rows[-1].source}", fontsize=9)
    axes.legend(fontsize=4, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path

"""`memcore bench --device cuda`: tests, limits and times of the kernels on the GPU that is here.

Without a GPU it says so and returns 2. Rows go to a file of their own beside those of the
processor, and a roofline to a picture.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import machine
from .case import WrongAnswerError
from .gpu_case import GpuCase
from .gpu_cases import every

# Seconds of the tests, and milliseconds of each engine on each case.
_TESTS_S, _BUDGET_MS = 150, 1500.0
_N_WARM, _N_MOST, _N_LEAST = 3, 200, 5
# Inputs that are taken in turns, so that none is still in a cache.
_TURNS = 3


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


def main(out: Path, parts: Sequence[str] = (), *, is_testing: bool = True) -> int:
    """Test, measure and time; append rows to `out`, and draw a roofline beside it.

    Returns:
        0; 1 if a test failed or an answer was wrong; 2 if there is no GPU.
    """
    missing = [name for name in ("torch", "triton") if not importlib.util.find_spec(name)]
    if missing:
        return _say(f"bench: {missing[0]} is not installed, should be for --device cuda", 2)
    import torch

    if not torch.cuda.is_available():
        return _say("bench: there is no CUDA device, should be one for --device cuda", 2)
    failures = run_tests() if is_testing else []
    found = measured_limits()
    sys.stdout.write(f"{device_name()}: {json.dumps(found)}\n")
    rows = []
    for case in every():
        if parts and not any(part in case.name for part in parts):
            continue
        try:
            made = timed_case(case, found)
        except WrongAnswerError as error:
            failures.append(f"{case.name}: {error}")
            continue
        rows += made
        write(made, out)
        sys.stdout.write("".join(f"{line(row)}\n" for row in made))
    if rows and importlib.util.find_spec("matplotlib"):
        sys.stdout.write(f"{roofline(rows, out.with_suffix('.png'))}\n")
    for failure in failures:
        sys.stdout.write(f"failed: {failure}\n")
    return 1 if failures else 0


def run_tests() -> list[str]:
    """The tests of the kernels on this GPU, plain and under compute-sanitizer; what failed."""
    tests = Path(__file__).parent.parent / "tests"
    kernels = str(tests / "kernels")
    if not tests.is_dir():
        sys.stdout.write("tests: left out, they are not part of an installed package\n")
        return []
    plain = [sys.executable, "-m", "pytest", "-q", "-x", "-k"]
    few = [*plain, "every_width or is_the_definition", kernels]
    bank = ("device*", "graph", "given", "pinned", "ranges", "traced")
    names = ("index/test_index_device", *(f"bank/test_{each}" for each in bank))
    banks = sorted(str(path) for name in names for path in tests.glob(f"{name}.py"))
    calls = {"tests": [*plain, "not compiled", kernels, *banks]}
    sanitizer = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck") if sanitizer else ():
        calls[tool] = [str(sanitizer), "--tool", tool, "--error-exitcode", "3", *few]
    failures = []
    for name, words in calls.items():
        try:
            status = subprocess.run(words, check=False, timeout=_TESTS_S).returncode
        except subprocess.TimeoutExpired:
            sys.stdout.write(f"{name}: not done after {_TESTS_S} s, and stopped\n")
            continue
        if status:
            failures.append(f"{name}: exit code {status}")
    if not sanitizer:
        sys.stdout.write("compute-sanitizer: not found, left out\n")
    return failures


def measured_limits() -> dict[str, float]:
    """Read bandwidth in bytes, and bfloat16 and int8 products in operations, a second."""
    import torch

    many = torch.ones(1 << 29, device="cuda")
    left, right = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    whole = [each.to(torch.int8) for each in (left, right)]
    calls: dict[str, tuple[float, Callable[[], Any]]] = {
        "read": (4.0 * len(many), lambda: many.sum()),
        "bf16": (2.0 * 8192**3, lambda: left @ right),
        "int8": (2.0 * 8192**3, lambda: torch._int_mm(whole[0], whole[1].T)),
    }
    return {
        name: amount / (float(np.median(timed([run]))) / 1e3)
        for name, (amount, run) in calls.items()
    }


def timed(calls: Sequence[Callable[[], Any]]) -> list[float]:
    """Milliseconds of calls in turns, by events on the current stream, after a warm-up."""
    import torch

    for i in range(_N_WARM):
        calls[i % len(calls)]()
    torch.cuda.synchronize()
    samples: list[float] = []
    while len(samples) < _N_LEAST or (sum(samples) < _BUDGET_MS and len(samples) < _N_MOST):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        calls[len(samples) % len(calls)]()
        end.record()
        end.synchronize()
        samples.append(float(begin.elapsed_time(end)))
    return samples


def checked(case: GpuCase, seed: int, device: str) -> dict[str, Any]:
    """What one call takes, whose answer is right.

    Raises:
        WrongAnswerError: it is not.
    """
    import torch

    given = case.make(np.random.default_rng(seed))
    tensors = {name: torch.from_numpy(array).to(device) for name, array in given.items()}
    prepared: dict[str, Any] = case.prepare(**tensors)
    found = case.ours(**prepared)
    on_host = found if isinstance(found, tuple) else (found,)
    arrays = [(each.float() if each.dtype is torch.bfloat16 else each).cpu() for each in on_host]
    numbers = [each.numpy() for each in arrays]
    case.check(given, tuple(numbers) if isinstance(found, tuple) else numbers[0])
    return prepared


def timed_case(case: GpuCase, limits: dict[str, float]) -> list[GpuRow]:
    """The rows of a case: ours, checked first, and its rivals."""
    turns = [checked(case, seed, "cuda") for seed in range(_TURNS)]
    engines = {"memcore": case.ours, **case.rivals}
    if case.op == "search" and importlib.util.find_spec("cuvs"):
        engines["cuvs brute force"] = _cuvs
    rows = []
    for engine, run in engines.items():
        # The loop's names, as they are now.
        calls = [lambda run=run, given=given: run(**given) for given in turns]
        rows.append(row_of(case, engine, timed(calls), limits))
    return rows


def _cuvs(queries: Any, keys: Any) -> Any:
    brute_force = importlib.import_module("cuvs.neighbors.brute_force")
    return brute_force.search(brute_force.build(keys, metric="inner_product"), queries, 32)


def row_of(
    case: GpuCase, engine: str, samples: Sequence[float], limits: dict[str, float]
) -> GpuRow:
    """A row of samples in milliseconds, with the share of what the measured limits allow."""
    p20, p50, p80 = (float(p) for p in np.percentile(samples, (20, 50, 80)))
    least_s = max(case.n_bytes / limits["read"], case.operations / limits[case.rate])
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
        share=least_s * 1e3 / p50,
        limits=limits,
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
    limits = rows[0].limits
    for rate in ("bf16", "int8"):
        axes.plot(at, np.minimum(at * limits["read"], limits[rate]), "k-", lw=0.7)
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
    axes.set_title(f"{rows[0].device}, kernels {rows[0].source}", fontsize=9)
    axes.legend(fontsize=5)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _say(sentence: str, status: int) -> int:
    sys.stderr.write(f"{sentence}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(Path("bench/results") / f"{machine.today()[:10]}-gpu.jsonl", sys.argv[1:]))

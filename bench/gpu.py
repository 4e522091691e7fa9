"""`memcore bench --device cuda`: tests, limits and times of the kernels on the GPU that is here.

Without a GPU it says so and returns 2. It goes by stages, each with a process group and a limit of
its own, so that one that fails or hangs takes no other down. Rows go to a file of their own beside
those of the processor, and a roofline to a picture.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import gpu_rows, machine
from .gpu_cases import every
from .gpu_worker import FAILED, RIGHT, Request

# Seconds of all stages, and the most that each may take of them.
BUDGET_S = 540.0
STAGES = {"check": 140.0, "time": 240.0, "tests": 200.0, "sanitizer": 180.0}
# Processes that check, or test, at the same time: compiling is the larger part of it.
_N_AT_ONCE = 8
_TESTS = (
    "kernels",
    "bank/test_device*.py",
    "bank/test_errors.py",
    "bank/test_graph.py",
    "bank/test_given.py",
    "bank/test_pinned.py",
    "bank/test_ranges.py",
    "bank/test_traced.py",
    "index/test_index_device.py",
)


@dataclass
class _Run:
    """What the stages share: where rows go, what was asked for, and what has come of it."""

    rows: Path
    parts: Sequence[str]
    end_s: float
    device: str = "cuda"
    is_tiny: bool = False
    right: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def request(self, names: Sequence[str], **options: bool | int | float) -> Request:
        """What a worker is asked for."""
        limits = str(self.rows.with_suffix(".limits.json"))
        given: dict[str, Any] = {"device": self.device, "is_tiny": self.is_tiny, **options}
        return Request(tuple(names), rows=str(self.rows), limits=limits, **given)

    def say(self, text: str) -> None:
        """Tell the reader, and the log beside the rows."""
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
        with self.rows.with_suffix(".log").open("a", encoding="utf-8") as log:
            log.write(f"{text}\n")

    def fail(self, text: str) -> None:
        """Something went wrong; it is told again at the end."""
        self.failures.append(text)


def main(
    out: Path,
    parts: Sequence[str] = (),
    stages: Sequence[str] = tuple(STAGES),
    budget_s: float = BUDGET_S,
) -> int:
    """Go through stages; append rows to `out`, and draw a roofline beside it.

    Args:
        out: the file of rows; a log, the measured limits and the roofline stand beside it.
        parts: of the names of the cases that are checked and timed; none for all.
        stages: of STAGES.
        budget_s: seconds of all of them.

    Returns:
        0; 1 if a test failed or an answer was wrong; 2 if there is no GPU.
    """
    missing = [name for name in ("torch", "triton") if not importlib.util.find_spec(name)]
    if missing:
        return _say(f"bench: {missing[0]} is not installed, should be for --device cuda", 2)
    import torch

    if not torch.cuda.is_available():
        return _say("bench: there is no CUDA device, should be one for --device cuda", 2)
    return go(_Run(out, parts, time.monotonic() + budget_s), stages)


def go(run: _Run, stages: Sequence[str]) -> int:
    """The stages of a run, in their order."""
    run.rows.parent.mkdir(parents=True, exist_ok=True)
    run.say(f"{gpu_rows.device_name()}, driver {gpu_rows.driver()}, {json.dumps(_versions())}")
    todo: dict[str, Callable[[_Run, float], None]] = {
        "check": check,
        "time": take_times,
        "tests": run_tests,
        "sanitizer": sanitize,
    }
    for name in STAGES:
        left_s = min(STAGES[name], run.end_s - time.monotonic())
        if name not in stages:
            continue
        if left_s < 5:
            run.say(f"{name}: left out, the time is over")
            continue
        begin = time.monotonic()
        todo[name](run, left_s)
        run.say(f"{name}: {time.monotonic() - begin:.0f} s")
    rows = gpu_rows.read(run.rows)
    if rows and importlib.util.find_spec("matplotlib"):
        run.say(str(gpu_rows.roofline(rows, run.rows.with_suffix(".png"))))
    for failure in run.failures:
        run.say(failure)
    return 1 if run.failures else 0


def check(run: _Run, seconds: float) -> None:
    """Compare all answers with their definitions, some cases at once: it compiles the kernels."""
    names = _chosen(run)
    _work(run, run.request(names, n_at_once=_N_AT_ONCE, seconds=seconds), seconds)


def take_times(run: _Run, seconds: float) -> None:
    """Time the cases one after the other, those that have no rows of these kernels yet.

    What was not checked in this run is checked first.
    """
    have = {row.case for row in gpu_rows.read(run.rows) if row.source == gpu_rows.source()}
    names = [name for name in _chosen(run) if name not in have]
    if have:
        run.say(f"time: {len(have)} cases have rows in {run.rows} and are left out")
    wrong = {name for name in names if any(name in each for each in run.failures)}
    end_s = time.monotonic() + seconds
    for is_checked in (False, True):
        some = [name for name in names if (name in run.right) != is_checked and name not in wrong]
        left_s = end_s - time.monotonic()
        if some and left_s > 0:
            request = run.request(some, is_checked=is_checked, is_timed=True, seconds=60)
            _work(run, request, left_s)


def run_tests(run: _Run, seconds: float) -> None:
    """The tests that launch kernels."""
    words = test_words()
    if not words:
        return run.say("tests: left out, they are not in an installed package")
    status = _shown(run, words, seconds)
    if status:
        run.fail(f"{FAILED}tests: exit code {status}")


def test_words() -> list[str]:
    """The command that runs the tests of kernels, or nothing where there are none."""
    # Beside the sources; of an installed package, in the repository that it is run from.
    folders = (Path(__file__).parent.parent / "tests", Path("tests").resolve())
    tests = next((each for each in folders if (each / "kernels").is_dir()), None)
    if tests is None:
        return []
    files = sorted(str(path) for name in _TESTS for path in tests.glob(name))
    words = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--maxfail=40", *files]
    words.append(f"--ignore={tests / 'kernels' / 'test_compiled.py'}")
    # Of another version than the one they were written with: its warnings are not what is tested.
    words += ["-W", "default", "-o", "minversion=7"]
    if importlib.util.find_spec("pytest_timeout"):
        words += ["--timeout", "120"]
    if importlib.util.find_spec("xdist"):
        words += ["-n", str(min(_N_AT_ONCE, os.cpu_count() or 1))]
    return words


def sanitize(run: _Run, seconds: float) -> None:
    """Tiny cases under compute-sanitizer, once they are compiled; as many as there is time for."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return run.say("sanitizer: compute-sanitizer is not found, left out")
    end_s = time.monotonic() + seconds
    names = [case.name for case in every(is_tiny=True)]
    request = run.request(names, is_tiny=True, n_at_once=_N_AT_ONCE, seconds=60)
    _work(run, request, seconds / 3)
    alone = run.request(names, is_tiny=True, n_at_once=0)
    # Calls that are refused are asked again in another way, by torch and by us.
    quiet = ["--report-api-errors", "no"]
    for kind, part, more in (("memcheck", 0.5, quiet), ("racecheck", 1.0, [])):
        words = [tool, "--tool", kind, "--error-exitcode", "3", "--print-limit", "20", *more]
        # Memory of its own for each tensor, so that the first byte behind it is seen.
        memory = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        left_s = part * (end_s - time.monotonic())
        if _shown(run, [*words, *alone.words()], left_s, memory):
            run.fail(f"{FAILED}{kind}: see {run.rows.with_suffix('.log')}")


def _chosen(run: _Run) -> list[str]:
    names = [case.name for case in every(is_tiny=run.is_tiny)]
    return [name for name in names if not run.parts or any(part in name for part in run.parts)]


def _work(run: _Run, request: Request, seconds: float) -> None:
    """Have a worker do what is asked, and note what it says of the cases."""
    seen = len(run.failures) + len(run.right)
    status = _shown(run, request.words(), seconds)
    if status is not None and status not in (0, 1):
        run.fail(f"{FAILED}the worker ended with {status}")
    n_told = len(run.failures) + len(run.right) - seen
    if n_told < len(request.names):
        run.say(f"{len(request.names) - n_told} of {len(request.names)} cases: not done in time")


def _shown(
    run: _Run, words: Sequence[str], seconds: float, environment: dict[str, str] | None = None
) -> int | None:
    """Run a command in a process group of its own, which is ended after some seconds.

    What it says is shown as it comes, and what it says of cases is noted.

    Returns:
        Its exit code, or None if it was ended.
    """
    ended: list[bool] = []
    with subprocess.Popen(
        words,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        timer = threading.Timer(max(1.0, seconds), functools.partial(_end, process, ended))
        timer.start()
        for line in process.stdout or ():
            text = line.rstrip("\n")
            run.say(text)
            if text.startswith(FAILED):
                run.fail(text)
            elif text.startswith(RIGHT):
                run.right.append(text.removeprefix(RIGHT).rpartition(" (")[0])
        status = process.wait()
        timer.cancel()
    if ended:
        run.say(f"{words[0]}: ended after {seconds:.0f} s")
        return None
    return status


def _end(process: subprocess.Popen[str], ended: list[bool]) -> None:
    ended.append(True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _versions() -> dict[str, str]:
    return {**machine.versions(), "commit": machine.commit()}


def _say(sentence: str, status: int) -> int:
    sys.stderr.write(f"{sentence}\n")
    return status

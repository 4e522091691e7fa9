"""Cases of the GPU, each in a process of its own: one that fails or hangs takes no other down.

Run as `python -m memcore.bench.gpu_worker REQUEST`, with a `Request` in JSON. It imports once what
takes seconds to import and forks for each case, and says of each what came of it, a line each.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np

from . import gpu_rows
from .case import WrongAnswerError
from .gpu_case import GpuCase
from .gpu_cases import every

_BUDGET_S, _N_WARM, _N_MOST, _N_LEAST = 1.0, 3, 200, 5
# More than the last cache of any GPU.
_FLUSHED_BYTES = 1 << 28
RIGHT, FAILED = "right: ", "failed: "


@dataclass(frozen=True)
class Request:
    """What to do.

    Attributes:
        names: of cases; all if there are none.
        device: "cuda", or "cpu" where kernels are interpreted.
        is_tiny: at tiny shapes.
        is_checked: answers are compared with the definition.
        is_timed: rows are written.
        n_at_once: processes; 0 for this one alone, whatever the cases do to it.
        seconds: after which a case is stopped.
        rows: the file that rows are appended to.
        limits: the file of what was measured by `limits`, which is measured first where it lacks.
    """

    names: tuple[str, ...] = ()
    device: str = "cuda"
    is_tiny: bool = False
    is_checked: bool = True
    is_timed: bool = False
    n_at_once: int = 1
    seconds: float = 120.0
    rows: str = ""
    limits: str = ""

    def words(self) -> list[str]:
        """The command that does it."""
        return [sys.executable, "-m", "memcore.bench.gpu_worker", json.dumps(asdict(self))]


def main(request: Request) -> int:
    """Do what is asked; 1 if a case failed."""
    cases = {case.name: case for case in every(is_tiny=request.is_tiny)}
    names = request.names or tuple(cases)
    if request.is_timed and not Path(request.limits).exists():
        _each({"limits": lambda: _keep_limits(request)}, 1, request.seconds)
    tasks = {name: _task(cases[name], request) for name in names}
    return 1 if _each(tasks, request.n_at_once, request.seconds) else 0


def _task(case: GpuCase, request: Request) -> Callable[[], None]:
    def run() -> None:
        given = checked(case, 0, request.device, request.is_checked)
        if request.is_timed:
            path = Path(request.limits)
            limits = json.loads(path.read_text()) if path.exists() else {}
            for engine, samples in timed_engines(case, given, request.device):
                row = gpu_rows.row_of(case, engine, samples, limits)
                gpu_rows.write([row], Path(request.rows))
                _say(gpu_rows.line(row))

    return run


def _each(tasks: dict[str, Callable[[], None]], n_at_once: int, seconds: float) -> list[str]:
    """Run tasks, each in a process forked for it; the names of those that failed."""
    if not n_at_once:
        return [name for name, task in tasks.items() if not _outcome(name, task)]
    fork = multiprocessing.get_context("fork")
    waiting, failed = list(tasks), []
    running: dict[str, tuple[Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < n_at_once:
            name = waiting.pop(0)
            process = fork.Process(target=_in_child, args=(name, tasks[name]))
            process.start()
            running[name] = (process, time.monotonic() + seconds)
        first = min(end for _, end in running.values()) - time.monotonic()
        wait([process.sentinel for process, _ in running.values()], max(0.0, first))
        for name, (process, end) in list(running.items()):
            if process.exitcode is None and time.monotonic() < end:
                continue
            if process.exitcode is None:
                process.kill()
                _say(f"{FAILED}{name}: not done after {seconds:.0f} s")
            elif process.exitcode not in (0, 1):
                _say(f"{FAILED}{name}: the process ended with {process.exitcode}")
            process.join()
            if process.exitcode:
                failed.append(name)
            del running[name]
    return failed


def _in_child(name: str, task: Callable[[], None]) -> None:
    is_right = _outcome(name, task)
    # No destructor of a broken device may hold it up.
    os._exit(0 if is_right else 1)


def _outcome(name: str, task: Callable[[], None]) -> bool:
    """Run a task and say what came of it."""
    begin = time.monotonic()
    try:
        task()
    except WrongAnswerError as error:
        _say(f"{FAILED}{name}: {error}")
        return False
    except Exception as error:
        _say(f"{FAILED}{name}: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}")
        return False
    _say(f"{RIGHT}{name} ({time.monotonic() - begin:.1f} s)")
    return True


def _say(text: str) -> None:
    # One write: other processes write to the same pipe.
    os.write(1, f"{text}\n".encode())


def checked(case: GpuCase, seed: int, device: str, is_checked: bool = True) -> dict[str, Any]:
    """What one call takes, whose answer is right.

    Raises:
        WrongAnswerError: it is not.
    """
    import torch

    given = case.make(np.random.default_rng(seed))
    tensors = {name: torch.from_numpy(array).to(device) for name, array in given.items()}
    prepared: dict[str, Any] = case.prepare(**tensors)
    if not is_checked:
        return prepared
    found = case.ours(**prepared)
    on_host = found if isinstance(found, tuple) else (found,)
    arrays = [(each.float() if each.dtype is torch.bfloat16 else each).cpu() for each in on_host]
    numbers = [each.numpy() for each in arrays]
    case.check(given, tuple(numbers) if isinstance(found, tuple) else numbers[0])
    return prepared


def timed_engines(
    case: GpuCase, given: dict[str, Any], device: str
) -> list[tuple[str, list[float]]]:
    """Samples of ours and of each rival; one that fails says so and has none."""
    import torch

    flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.int8, device=device)
    found = [("memcore", timed(functools.partial(case.ours, **given), flushed))]
    for engine, run in case.rivals.items():
        try:
            found.append((engine, timed(functools.partial(run, **given), flushed)))
        except RuntimeError as error:
            _say(f"{case.name}, {engine}: {error}")
    return found


def timed(run: Callable[[], Any], flushed: Any) -> list[float]:
    """Milliseconds of calls, by events on the current stream, after a warm-up.

    Before each, a buffer larger than the last cache is written, so that no input is in it; the
    device does that while the host begins the call.
    """
    import torch

    for _ in range(_N_WARM):
        run()
    torch.cuda.synchronize()
    samples: list[float] = []
    end_s = time.monotonic() + _BUDGET_S
    while len(samples) < _N_LEAST or (time.monotonic() < end_s and len(samples) < _N_MOST):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flushed.zero_()
        begin.record()
        run()
        end.record()
        end.synchronize()
        samples.append(float(begin.elapsed_time(end)))
    return samples


def _keep_limits(request: Request) -> None:
    limits = measured_limits(request.device, request.is_tiny)
    Path(request.limits).parent.mkdir(parents=True, exist_ok=True)
    Path(request.limits).write_text(json.dumps(limits))
    _say(f"limits of {gpu_rows.device_name()}: {json.dumps(limits)}")


def measured_limits(device: str, is_tiny: bool = False) -> dict[str, float]:
    """Bytes a second (of a sum; of a copy, both ways; the larger), and operations of products.

    What cannot be measured is left out.
    """
    import torch

    n, n_rows = (1 << 12, 32) if is_tiny else (1 << 29, 8192)
    many = torch.ones(n, device=device)
    other = torch.empty_like(many)
    left, right = (torch.randn(n_rows, n_rows, device=device) for _ in range(2))
    halves = [each.bfloat16() for each in (left, right)]
    whole = [(32 * each).to(torch.int8) for each in (left, right)]
    operations = 2.0 * n_rows**3
    calls: dict[str, tuple[float, Callable[[], Any]]] = {
        "read": (4.0 * n, lambda: many.sum()),
        "copy": (8.0 * n, lambda: other.copy_(many)),
        "bf16": (operations, lambda: halves[0] @ halves[1]),
        "int8": (operations, lambda: torch._int_mm(whole[0], whole[1].T)),
    }
    flushed = torch.empty(1 if is_tiny else _FLUSHED_BYTES, dtype=torch.int8, device=device)
    found = {}
    for name, (amount, run) in calls.items():
        try:
            found[name] = amount / (float(np.median(timed(run, flushed))) / 1e3)
        except RuntimeError as error:
            _say(f"limits: {name}: {error}")
    rates = [found[name] for name in ("read", "copy") if name in found]
    return {**found, "bytes": max(rates)} if rates else found


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(Request(**json.loads(sys.argv[1]))))

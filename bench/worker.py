"""Rivals in a process of their own, one per choice of BLAS kernels, spoken to through pipes.

Run as `python -m memcore.bench.worker` it answers requests; `Worker` is the other end.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from . import rivals
from .case import Case
from .timing import Step


class Worker:
    """A process with rivals in it.

    Args:
        core_type: the kernels that OpenBLAS takes there.
        threads: the threads that each rival gets.
        names: the rivals that run there.
    """

    def __init__(self, core_type: str, threads: int, names: list[str]) -> None:
        self.core_type = core_type
        self.names = names
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-I", "-m", "memcore.bench.worker", str(threads)],
            env=rivals.environment(core_type, threads),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.requests: Any = self.process.stdin
        self.answers: Any = self.process.stdout

    def send(self, *request: Any) -> None:
        """Ask; the answer comes with `receive`."""
        pickle.dump(request, self.requests)
        self.requests.flush()

    def receive(self) -> Any:
        """The answer to the last request.

        Raises:
            RuntimeError: the process ended, for example because memory ran out.
        """
        try:
            return pickle.load(self.answers)
        except EOFError as error:
            raise RuntimeError(
                f"bench: the rivals' process ({self.core_type}) ended with {self.process.wait()}"
            ) from error

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Remote:
    """A contestant in a worker."""

    worker: Worker
    name: str

    def time(self, calls: int = 1) -> float:
        """Seconds of one call, the mean of `calls` in a row, as taken there."""
        self.worker.send("time", self.name, calls)
        seconds: float = self.worker.receive()
        return seconds


def prepare(
    case: Case, names: list[str], threads: int
) -> tuple[dict[str, Step], dict[str, np.ndarray]]:
    """Make the steps of the named rivals for a case, and the scores that each gives."""
    inputs = case.inputs()
    steps: dict[str, Step] = {}
    answers: dict[str, np.ndarray] = {}
    for engine, make in case.rivals().items():
        if rivals.library(engine) in names:
            rivals.set_threads(rivals.library(engine), threads)
            step = make(case, inputs, threads)
            step.setup()
            answers[engine] = step.answer(step.run())
            steps[engine] = step
    return steps, answers


def serve(requests: BinaryIO, answers: BinaryIO, threads: int) -> None:
    """Answer requests until the other end closes."""
    steps: dict[str, Step] = {}
    while True:
        try:
            word, *arguments = pickle.load(requests)
        except EOFError:
            return
        reply: Any = None
        if word == "prepare":
            steps = {}
            steps, reply = prepare(arguments[0], arguments[1], threads)
        elif word == "time":
            reply = steps[arguments[0]].time(arguments[1])
        elif word == "release":
            steps = {}
        pickle.dump(reply, answers)
        answers.flush()


if __name__ == "__main__":
    # What libraries print must not land among the answers.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, channel, int(sys.argv[1]))

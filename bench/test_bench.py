"""The quick cases under pytest-benchmark: `pytest bench/ --benchmark-only`.

Rivals run in this process, with the BLAS kernels that the environment names; `memcore bench` is the
comparison of record.
"""

from __future__ import annotations

from typing import Any

import pytest

from . import cases, gate, rivals
from .case import Case

THREADS = 1
TIMED = [case for case in cases.sweep("quick") if case.engines()]
PAIRS = [
    (case, engine)
    for case in TIMED
    for engine in (*case.engines(), *case.rivals())
    if engine in case.engines() or rivals.library(engine) in rivals.installed()
]


@pytest.mark.parametrize(
    ("case", "engine"), PAIRS, ids=[f"{case.name}-{engine}" for case, engine in PAIRS]
)
def test_time(benchmark: Any, case: Case, engine: str) -> None:
    """Check an engine's answer, then take its time."""
    inputs = case.inputs()
    first, make_first = next(iter(case.engines().items()))
    oracle = make_first(case, inputs, THREADS)
    oracle.setup()
    truth = case.check(inputs, oracle.answer(oracle.run()))
    step = oracle
    if engine in case.rivals():
        rivals.set_threads(rivals.library(engine), THREADS)
        step = case.rivals()[engine](case, inputs, THREADS)
        step.setup()
        gate.check_rival(step.answer(step.run()), truth)
    elif engine != first:
        step = case.engines()[engine](case, inputs, THREADS)
        step.setup()
        case.check(inputs, step.answer(step.run()))

    def setup() -> None:
        # What a set-up returns would be taken for the arguments of the run.
        step.setup()

    benchmark.group = case.name
    benchmark.pedantic(step.run, setup=setup, rounds=5, warmup_rounds=1)

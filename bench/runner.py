"""Runs one case: check ours, check the rivals, take the time of all, make rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import numpy as np

import memcore

from . import gate, machine, rivals, timing
from .case import Case, Inputs, WrongAnswerError
from .machine import Limits
from .rows import Figure, Row
from .timing import Contestant, Samples, Step
from .worker import Remote, Worker


@dataclass
class Setting:
    """What all cases of a run share."""

    limits: Limits
    workers: list[Worker]
    budget_s: float
    is_flushing: bool
    marks: dict[str, str]
    versions: dict[str, str]
    failures: list[str] = field(default_factory=list)

    def fail(self, case: Case, engine: str, error: Exception) -> None:
        """Note that somebody gets no time."""
        self.failures.append(f"{case.name}: {engine}: {error}")


@contextmanager
def setting(
    threads: int, names: list[str], *, budget_s: float, is_flushing: bool, is_quick: bool
) -> Iterator[Setting]:
    """Set the threads, measure the machine and start the rivals' processes."""
    before = memcore.threads()
    memcore.set_threads(threads)
    with ExitStack() as stack:
        stack.callback(memcore.set_threads, before)
        limits = machine.measure(
            threads, seconds=0.1 if is_quick else 0.4, dram_bytes=1 << (28 if is_quick else 30)
        )
        first, *others = rivals.core_types(is_quick)
        # The other kernels matter to those that use them.
        everybody = {first: names}
        for core_type in others:
            everybody[core_type] = [name for name in names if name in rivals.USES_BLAS]
        workers = [
            stack.enter_context(Worker(core_type, threads, there))
            for core_type, there in everybody.items()
            if there
        ]
        marks = {"cpu": machine.cpu_name(), "commit": machine.commit(), "date": machine.today()}
        yield Setting(limits, workers, budget_s, is_flushing, marks, machine.versions())


def run(case: Case, where: Setting, say: Callable[[str], None] = lambda text: None) -> list[Row]:
    """The rows of one case; those who gave a wrong answer are noted as failures and have none.

    Args:
        case: what to run.
        where: limits, rivals and settings.
        say: told what is going on.
    """
    say("inputs")
    inputs = case.inputs()
    counts = case.counts(inputs, where.limits)
    if counts:
        return [_row(case, where, "memcore", figures=counts), *_timed(case, inputs, where, say)]
    return _timed(case, inputs, where, say)


def _timed(case: Case, inputs: Inputs, where: Setting, say: Callable[[str], None]) -> list[Row]:
    say("check")
    for worker in where.workers:
        worker.send("prepare", case, worker.names)
    steps, truth = _checked(case, inputs, where)
    contestants: dict[str, Contestant] = dict(steps)
    for worker in where.workers:
        for engine, scores in worker.receive().items():
            name = f"{engine}@{worker.core_type}"
            try:
                if truth is not None:
                    gate.check_rival(scores, truth)
                contestants[name] = Remote(worker, engine)
            except WrongAnswerError as error:
                where.fail(case, name, error)
    rows = _measured(case, list(steps), contestants, where, say) if steps else []
    for worker in where.workers:
        worker.send("release")
        worker.receive()
    return rows


def _measured(
    case: Case,
    ours: list[str],
    contestants: dict[str, Contestant],
    where: Setting,
    say: Callable[[str], None],
) -> list[Row]:
    say("time")
    others = [name for name in contestants if name not in ours]
    # With nobody to come between two turns, a cold cache has to be made.
    is_flushing = where.is_flushing or not others
    samples, load = timing.measure(
        contestants,
        budget_s=where.budget_s,
        pids=[worker.process.pid for worker in where.workers],
        scratch=np.ones(2 * where.limits.l3_bytes, np.uint8) if is_flushing else None,
        ours=ours,
        job_of=lambda name: name.partition("@")[0],
    )
    rated = {name: samples[name] for name in others if name in samples}
    best = min(rated, key=lambda name: rated[name].median(), default="")
    figures = case.figures(samples, best, where.limits)
    bounds = case.bounds(where.limits)
    rows = []
    for name, taken in samples.items():
        shares = {} if name not in ours else {n: s / taken.median() for n, s in bounds.items()}
        rows.append(
            _row(
                case,
                where,
                name,
                taken,
                samples.get(best),
                best,
                shares,
                figures.get(name, []),
                load,
            )
        )
    return rows


def _checked(
    case: Case, inputs: Inputs, where: Setting
) -> tuple[dict[str, Step], np.ndarray | None]:
    """Our engines that answer right, and the scores that the first of them gave."""
    steps: dict[str, Step] = {}
    truth = None
    for name, make in case.engines().items():
        step = make(case, inputs, where.limits.threads)
        step.setup()
        try:
            scores = case.check(inputs, step.answer(step.run()))
        except WrongAnswerError as error:
            where.fail(case, name, error)
            continue
        steps[name] = step
        truth = scores if truth is None else truth
    return steps, truth


def _row(
    case: Case,
    where: Setting,
    engine: str,
    samples: Samples | None = None,
    best: Samples | None = None,
    best_name: str = "",
    shares: dict[str, float] | None = None,
    figures: list[Figure] | None = None,
    load: float = 0.0,
) -> Row:
    times: tuple[float | None, ...] = (None, None, None)
    cold = ratio = cold_ratio = None
    if samples is not None:
        times = samples.percentiles_ms("warm")
        cold = samples.percentiles_ms("cold")[1]
        if best is not None:
            ratio = best.median() / samples.median()
            cold_ratio = best.median("cold") / samples.median("cold")
    return Row(
        op=case.op,
        case=case.name,
        engine=engine,
        isa=memcore.isa(),
        shape=case.shape,
        dtype=case.dtype,
        metric=case.metric,
        k=case.k,
        threads=where.limits.threads,
        p20_ms=times[0],
        p50_ms=times[1],
        p80_ms=times[2],
        cold_p50_ms=cold,
        n_runs=len(samples.warm) if samples else 0,
        best_rival=best_name,
        ratio=ratio,
        cold_ratio=cold_ratio,
        shares=shares or {},
        figures=figures or [],
        other_load=round(load, 3),
        blas=",".join(worker.core_type for worker in where.workers),
        limits=where.limits.numbers(),
        versions=where.versions,
        cpu=where.marks["cpu"],
        commit=where.marks["commit"],
        date=where.marks["date"],
    )

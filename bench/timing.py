"""How time is taken: contestants interleaved turn by turn, medians, and a watch for other load.

A turn of a contestant is two calls. The first comes after the others ran and is the *cold* sample;
it is also the call of one's own that makes the second one *warm*. This module knows nothing of what
it times.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# A call at least this long is not repeated to be warm: the caches hold what it used last either
# way.
LONG_CALL_S = 0.5
# Calls shorter than a millisecond are timed in groups of about that.
GROUP_S = 1e-3
# Rounds are judged together once they lasted this long: the kernel counts busy time in steps of 10
# ms.
JUDGED_S = 0.25
# A batch of rounds is retaken if others used more than this share of one core.
OTHER_LOAD = 0.15
MAX_RETAKES = 4
# Enough rounds once p20 and p80 are this close, as a share of the median.
STEADY = 0.03
# A rival this many times slower than the best one is not sampled again.
SLOW = 4.0


def nothing() -> None:
    """The set-up of a step that needs none."""


def itself(result: Any) -> Any:
    """The answer of a step whose result is its answer."""
    return result


@dataclass
class Step:
    """One thing to time.

    Attributes:
        run: this is timed.
        setup: called before each run, not timed.
        answer: makes of a result what the gate checks; a rival's is its scores, larger is better.
        repeatable: False if each run needs a set-up of its own.
    """

    run: Callable[[], Any]
    setup: Callable[[], Any] = nothing
    answer: Callable[[Any], Any] = itself
    repeatable: bool = True

    def time(self, calls: int = 1) -> float:
        """Seconds of one call, the mean of `calls` in a row."""
        self.setup()
        run = self.run
        calls = calls if self.repeatable else 1
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls


class Contestant(Protocol):
    """Somebody whose time is taken: a step in this process or in another."""

    def time(self, calls: int = 1) -> float:
        """Seconds of one call, the mean of `calls` in a row."""
        ...


@dataclass
class Samples:
    """The times of one contestant, in seconds."""

    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)

    def percentiles_ms(self, state: str) -> tuple[float, float, float]:
        """p20, p50 and p80 in milliseconds of the "cold" or the "warm" samples."""
        seconds = self.cold if state == "cold" else self.warm
        p20, p50, p80 = np.percentile(np.asarray(seconds) * 1e3, [20, 50, 80])
        return float(p20), float(p50), float(p80)

    def median(self, state: str = "warm") -> float:
        """Median seconds."""
        return self.percentiles_ms(state)[1] / 1e3

    def spread(self) -> float:
        """How far p20 and p80 of the warm samples are apart, as a share of the median."""
        p20, p50, p80 = self.percentiles_ms("warm")
        return (p80 - p20) / p50


class OtherLoad:
    """The share of one core that other processes use, from /proc; 0 where there is none."""

    def __init__(self, pids: Sequence[int] = ()) -> None:
        self.pids = (os.getpid(), *pids)
        self.ticks_per_s = os.sysconf("SC_CLK_TCK")
        self.start()

    def start(self) -> None:
        """Begin a span."""
        self.begin = (time.perf_counter(), self._busy_ticks(), self._own_ticks())

    def share(self) -> float:
        """The share over the span so far."""
        then, busy, own = self.begin
        elapsed = time.perf_counter() - then
        others = (self._busy_ticks() - busy) - (self._own_ticks() - own)
        return max(0.0, others / self.ticks_per_s / elapsed)

    def _busy_ticks(self) -> int:
        stat = Path("/proc/stat")
        if not stat.exists():
            return 0
        user, nice, system, _idle, _wait, irq, soft, steal = map(
            int, stat.read_text().split("\n", 1)[0].split()[1:9]
        )
        return user + nice + system + irq + soft + steal

    def _own_ticks(self) -> int:
        total = 0
        for pid in self.pids:
            stat = Path(f"/proc/{pid}/stat")
            if stat.exists():
                # The command's name may hold spaces; the fields after it do not.
                fields = stat.read_text().rpartition(")")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total


def flush_caches(scratch: np.ndarray) -> None:
    """Read a buffer larger than every cache, so that the next call finds them cold."""
    scratch += 1


def measure(
    contestants: dict[str, Contestant],
    *,
    budget_s: float,
    min_rounds: int = 5,
    max_rounds: int = 200,
    pids: Sequence[int] = (),
    scratch: np.ndarray | None = None,
    ours: Sequence[str] = (),
    job_of: Callable[[str], str] = str,
) -> tuple[dict[str, Samples], float]:
    """Take the time of all contestants, interleaved.

    Args:
        contestants: by name.
        budget_s: stop after this many seconds, but not before `min_rounds` rounds.
        min_rounds: a contestant that takes more than a third of the budget for one round gets
            three.
        max_rounds: stop here at the latest.
        pids: the other processes that work for us.
        scratch: if given, caches are flushed through it before every turn.
        ours: the contestants that always stay.
        job_of: variants of one contestant (a library with two kernels) share a job; only the best
            of them stays.

    Returns:
        The samples, and the largest share of one core that others used in a batch that was kept. A
        rival more than four times slower than the best one keeps the two samples of the first
        round.
    """
    first = {name: _first_turn(contestants[name], scratch) for name in contestants}
    best = _best_variants(first, job_of)
    fastest = min((min(first[name]) for name in best if name not in ours), default=0.0)
    staying = [name for name in best if name in ours or min(first[name]) <= SLOW * fastest]
    groups = {
        name: max(1, min(1000, round(GROUP_S / max(min(first[name]), 1e-7)))) for name in staying
    }
    round_s = sum(sum(first[name]) for name in staying)
    if round_s > budget_s / 3:
        min_rounds = 3

    samples = {name: Samples([first[name][0]], [first[name][1]]) for name in best}
    for name in staying:
        samples[name] = Samples()
    watch = OtherLoad(pids)
    worst = 0.0
    retakes = 0
    n_rounds = 0
    start = time.perf_counter()
    order = list(staying)
    shuffle = random.Random(0).shuffle
    while n_rounds < max_rounds:
        batch: list[tuple[str, float, float]] = []
        batch_rounds = 0
        watch.start()
        began = time.perf_counter()
        while batch_rounds == 0 or time.perf_counter() - began < JUDGED_S:
            shuffle(order)
            for name in order:
                batch.append((name, *_turn(contestants[name], groups[name], scratch)))
            batch_rounds += 1
        load = watch.share()
        if load > OTHER_LOAD and retakes < MAX_RETAKES:
            retakes += 1
            continue
        worst = max(worst, load)
        n_rounds += batch_rounds
        for name, cold, warm in batch:
            samples[name].cold.append(cold)
            samples[name].warm.append(warm)
        steady = max(samples[name].spread() for name in staying) < STEADY
        spent = time.perf_counter() - start
        if n_rounds >= min_rounds and (spent > budget_s or (steady and n_rounds >= 3 * min_rounds)):
            break
    return samples, worst


def _turn(contestant: Contestant, calls: int, scratch: np.ndarray | None) -> tuple[float, float]:
    if scratch is not None:
        flush_caches(scratch)
    cold = contestant.time()
    if cold > LONG_CALL_S:
        return cold, cold
    return cold, contestant.time(calls)


def _first_turn(contestant: Contestant, scratch: np.ndarray | None) -> tuple[float, float]:
    """A turn after a call that warms up: page faults, pools and lazy set-up are over."""
    seconds = contestant.time()
    if seconds > LONG_CALL_S:
        return seconds, seconds
    return _turn(contestant, 1, scratch)


def _best_variants(
    first: dict[str, tuple[float, float]], job_of: Callable[[str], str]
) -> list[str]:
    best: dict[str, str] = {}
    for name in first:
        job = job_of(name)
        if job not in best or min(first[name]) < min(first[best[job]]):
            best[job] = name
    return list(best.values())

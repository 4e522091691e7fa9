"""Races of a launch: what the order of programs, or of a program's threads, may change.

No two programs use the same byte if one of them writes it, other than by atomics alone. Within a
program, where two accesses without a barrier between them use the same byte and one writes it, both
are of the same lane, so that one thread does them in their order; and none is a load of what was
stored, since a scalar is stored by one thread and loaded by all. What the compiler puts into shared
memory it orders by itself.
"""

from dataclasses import dataclass, field
from itertools import combinations, groupby

import numpy as np

# Kernels whose programs share bytes on purpose, and why that is right.
SHARING = {}


@dataclass
class Access:
    """What one operation of a program touched.

    Attributes:
        kind: "load", "store" or "atomic".
        program: its number.
        n_barriers: how many barriers the program had passed.
        addresses: (n,) uint64, of active lanes.
        lanes: (n,) which lanes they are.
        n_bytes: of an element.
        line: of the kernel.
    """

    kind: str
    program: int
    n_barriers: int
    addresses: np.ndarray
    lanes: np.ndarray
    n_bytes: int
    line: str
    low: int = field(init=False)
    high: int = field(init=False)

    def __post_init__(self):
        self.low = int(self.addresses.min())
        self.high = int(self.addresses.max()) + self.n_bytes

    def units(self, n_bytes):
        """The numbers of the units of so many bytes that it touched."""
        first = self.addresses // np.uint64(n_bytes)
        if self.n_bytes <= n_bytes:
            return first
        return (first[:, None] + np.arange(self.n_bytes // n_bytes, dtype=np.uint64)).ravel()


def found(kernel, log):
    """Yield a sentence about each race within a program, and about one between programs."""
    near = _near_stores(log)
    for _, some in groupby(near, lambda each: (each.program, each.n_barriers)):
        yield from _of_threads(kernel, list(some))
    if kernel not in SHARING and len({each.program for each in near}) > 1:
        yield from _of_programs(kernel, near)


def _near_stores(log):
    """The accesses whose span meets that of a store."""
    spans = sorted((each.low, each.high) for each in log if each.kind != "load")
    if not spans:
        return []
    lows = np.array([low for low, _ in spans])
    highs = np.maximum.accumulate([high for _, high in spans])
    at = np.searchsorted(lows, [each.high for each in log])
    is_near = (at > 0) & (highs[at - 1] > [each.low for each in log])
    return [each for each, is_one in zip(log, is_near, strict=True) if is_one]


def _of_threads(kernel, some):
    """Races within a program, between two barriers."""
    for i, store in enumerate(some):
        if store.kind == "load":
            continue
        for j, other in enumerate(some):
            is_later = j > i
            if not is_later and other.kind != "load":
                continue
            if j == i or not (store.low < other.high and other.low < store.high):
                continue
            if store.kind == other.kind == "atomic":
                continue
            size = min(store.n_bytes, other.n_bytes)
            units, others = store.units(size), other.units(size)
            if not np.isin(units, others).any():
                continue
            is_loaded = is_later and other.kind == "load"
            if not is_loaded and store.n_bytes == other.n_bytes:
                _, at, there = np.intersect1d(units, others, return_indices=True)
                if (store.lanes[at] == other.lanes[there]).all():
                    continue
            first, second = (store, other) if is_later else (other, store)
            yield (
                f"race within a program of {kernel}: {first.kind} in {first.line} and then "
                f"{second.kind} in {second.line} without a barrier"
            )


def _of_programs(kernel, near):
    """A race between two programs."""
    size = min(each.n_bytes for each in near)
    parts = [each.units(size) for each in near]
    units, numbers = np.concatenate(parts), np.repeat(np.arange(len(near)), list(map(len, parts)))
    is_load = np.array([each.kind == "load" for each in near])
    is_atomic = np.array([each.kind == "atomic" for each in near])
    programs = np.array([each.program for each in near])
    written = np.unique(units[~is_load[numbers]])
    at = np.minimum(np.searchsorted(written, units), len(written) - 1)
    is_shared = written[at] == units
    units, numbers = units[is_shared], numbers[is_shared]
    order = np.argsort(units, kind="stable")
    units, numbers = units[order], numbers[order]
    firsts = np.flatnonzero(np.concatenate([[True], units[1:] != units[:-1]]))
    least = np.minimum.reduceat(programs[numbers], firsts)
    most = np.maximum.reduceat(programs[numbers], firsts)
    are_atomic = np.minimum.reduceat(is_atomic[numbers], firsts)
    racing = np.flatnonzero((least != most) & ~are_atomic)
    if not len(racing):
        return
    begin, end = [*firsts, len(units)][racing[0] : racing[0] + 2]
    some = combinations([near[number] for number in numbers[begin:end]], 2)
    one, other = next(pair for pair in some if _collide(*pair))
    yield (
        f"race between programs {one.program} and {other.program} of {kernel}: "
        f"{one.kind} in {one.line} and {other.kind} in {other.line}"
    )


def _collide(one, other):
    kinds = {one.kind, other.kind}
    return one.program != other.program and kinds not in ({"load"}, {"atomic"})

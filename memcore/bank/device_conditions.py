"""The programs of conditions, as the kernels of a device read them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.bank.where import AND, NOT, OR, Program

Ints = NDArray[np.int64]

_HIGHEST = 2**63 - 1
# What the bits of one word hold: the stack of a program.
_MAX_DEPTH = 64


def are_shared(programs: list[Program], index: Ints) -> bool:
    """Whether all queries have the first of the programs."""
    return len(programs) == 1 and not index.any()


def are_too_deep(programs: list[Program]) -> bool:
    """Whether more results of one program wait at once than kernels have room for."""
    deepest = 0
    for steps, _ in programs:
        ops = steps.reshape(-1, 4)[:, 0]
        change = np.where((ops == AND) | (ops == OR), -1, np.where(ops == NOT, 0, 1))
        deepest = max(deepest, int(np.cumsum(change).max(initial=0)))
    return deepest > _MAX_DEPTH


def sent(mirror: Any, programs: list[Program], index: Ints) -> Any:
    """The programs one after the other, and the program of each query, on the device."""
    steps = np.concatenate([steps for steps, _ in programs]).reshape(-1, 4).copy()
    lengths = [len(each) // 4 if each.ndim == 1 else len(each) for each, _ in programs]
    constants = np.concatenate([np.zeros(1, np.int64), *(each for _, each in programs)])
    begins = np.cumsum([1, *(len(each) for _, each in programs[:-1])])
    steps[:, 2:] += np.repeat(begins, lengths)[:, None]
    is_float = np.array(mirror.layout.kinds, np.int64)[steps[:, 1]] == 1
    is_float &= (steps[:, 0] < AND) | (steps[:, 0] > NOT)
    opens = np.zeros(len(constants) + 1, np.int64)
    np.add.at(opens, steps[is_float, 2], 1)
    np.add.at(opens, steps[is_float, 3], -1)
    floats = (np.cumsum(opens)[:-1] > 0) & (constants < 0)
    # Floats are compared as the integers that order as they do.
    constants[floats] ^= _HIGHEST
    ends = np.cumsum([0, *lengths])
    there = map(mirror.repeated, (steps, constants, ends, index))
    return mirror.kernels.Conditions(*there, are_shared(programs, index))

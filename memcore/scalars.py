"""Checks of arguments that are single values: counts, numbers, seeds, names of a choice.

Every function takes the op's bare verb and the argument's name for its errors, as `arrays` does.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from memcore.errors import DtypeError, InputError

# What an error shows of a value in its own words.
_MOST_SHOWN = 60

# Sizes are 64 bits, and so is what they are counted in.
_MOST_WHOLE = (1 << 63) - 1

# No machine has less, and torch.compile does not trace a look at what it has.
_FEW_BYTES = 1 << 28


def shown(value: Any) -> str:
    """A value as an error shows it, in one line: itself if it is short, else what it is."""
    shape = getattr(value, "shape", None)
    if shape is None or not len(shape):
        try:
            words = repr(value)
        except Exception:
            words = "\n"
        if len(words) <= _MOST_SHOWN and "\n" not in words:
            return words
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    size = f" of shape {tuple(shape)}" if isinstance(shape, tuple) else ""
    return f"{article} {kind}{size}"


def whole(op: str, name: str, value: Any, least: int, most: float = _MOST_WHOLE) -> int:
    """An int from `least` to `most`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise DtypeError(f"{op}: {name} is {shown(value)}, should be an int")
    if value < least:
        raise InputError(f"{op}: {name} is {shown(value)}, should be at least {least}")
    if value > most:
        words = "below 2^63" if most == _MOST_WHOLE else f"at most {most}"
        raise InputError(f"{op}: {name} is {shown(value)}, should be {words}")
    return int(value)


def number(
    op: str, name: str, value: Any, least: float, most: float = math.inf, *, is_open: bool = False
) -> float:
    """A finite number from `least` to `most`; above `least` where that end is open."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise DtypeError(f"{op}: {name} is {shown(value)}, should be a number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    is_in = least < found if is_open else least <= found
    if is_in and found <= most and math.isfinite(found):
        return found
    if least == -math.inf:
        words = "finite"
    elif most == math.inf:
        words = f"{'above' if is_open else 'at least'} {least}"
    else:
        words = f"above {least} and at most {most}" if is_open else f"from {least} to {most}"
    raise InputError(f"{op}: {name} is {shown(value)}, should be {words}")


def is_word(value: Any, word: str) -> bool:
    """Whether a value is this very word; an array may not even be asked."""
    return isinstance(value, str) and value == word


def word(op: str, name: str, value: Any, choices: Sequence[str]) -> str:
    """One of the words that there are."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(choices)
        raise InputError(f"{op}: {name} is {shown(value)}, should be one of {known}")
    return value


def seed(op: str, value: Any) -> int:
    """A seed: any int from 0, however large, or one draw of a NumPy Generator."""
    # NumPy loads its generators where one is asked for.
    if not isinstance(value, (int, np.integer)) and isinstance(value, np.random.Generator):
        return int(value.integers(1 << 64, dtype=np.uint64))
    return whole(op, "seed", value, 0, math.inf)


def check_memory(op: str, size: int, **given: int) -> None:
    """Raise MemoryError if `size` bytes are more than this machine has; names the largest given."""
    # The system may promise more than it has, and kill the process when that is written to.
    if size > _FEW_BYTES and size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        name = max(given, key=given.__getitem__)
        raise MemoryError(
            f"{op}: {name} is {given[name]}, its result of {size >> 30} GiB passes the memory"
        )

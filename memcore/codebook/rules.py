"""How a book learns: the options of `Codebook`, checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from memcore.errors import DtypeError, InputError

_THRESHOLDS = {"worst": 0.1, "mbc": 1e-4}


@dataclass(frozen=True)
class Rules:
    """How a book learns; `Codebook` says what the options mean.

    Raises:
        InputError, DtypeError: an option out of its range, or not of its type.
    """

    learn: str
    decay: float
    smoothing: float
    rate: float
    reset: str | None
    reset_threshold: float
    reset_quota: int

    def __post_init__(self) -> None:
        if self.learn not in ("ema", "gradient"):
            raise InputError(f"Codebook: learn is {self.learn!r}, should be 'ema' or 'gradient'")
        if self.reset is not None and self.reset not in _THRESHOLDS:
            raise InputError(f"Codebook: reset is {self.reset!r}, should be 'worst', 'mbc' or None")
        check_int("reset_quota", self.reset_quota, 0)
        for name, number in {"decay": self.decay, "rate": self.rate}.items():
            if not 0 <= number <= 1:
                raise InputError(f"Codebook: {name} is {number}, should be from 0 to 1")
        if not 0 < self.smoothing < np.inf:
            raise InputError(f"Codebook: smoothing is {self.smoothing}, should be above 0")
        if not 0 <= self.reset_threshold < np.inf:
            raise InputError(
                f"Codebook: reset_threshold is {self.reset_threshold}, should be at least 0"
            )


def threshold_of(reset: str | None) -> float:
    """The reset_threshold that a reset has by itself."""
    return _THRESHOLDS.get(reset or "", 0.0)


def check_int(name: str, value: Any, least: int) -> None:
    """Refuse an option that is no int, or below its least."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DtypeError(f"Codebook: {name} is {value!r}, should be an int")
    if value < least:
        raise InputError(f"Codebook: {name} is {value}, should be at least {least}")

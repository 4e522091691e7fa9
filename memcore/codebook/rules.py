"""How a book learns: the options of `Codebook`, checked."""

from dataclasses import dataclass
from typing import Any

from memcore import scalars

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
        scalars.word("Codebook", "learn", self.learn, ("ema", "gradient"))
        if self.reset is not None:
            scalars.word("Codebook", "reset", self.reset, [*_THRESHOLDS])
        scalars.whole("Codebook", "reset_quota", self.reset_quota, 0)
        scalars.number("Codebook", "decay", self.decay, 0, 1)
        scalars.number("Codebook", "rate", self.rate, 0, 1)
        scalars.number("Codebook", "smoothing", self.smoothing, 0, is_open=True)
        scalars.number("Codebook", "reset_threshold", self.reset_threshold, 0)


def threshold_of(reset: Any) -> float:
    """The reset_threshold that a reset has by itself."""
    return _THRESHOLDS.get(reset, 0.0) if isinstance(reset, str) else 0.0

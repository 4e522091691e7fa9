"""What a case is: inputs from a shape and a seed, who runs it, what is right, what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .machine import Limits
from .rows import Figure
from .timing import Samples, Step

Inputs = dict[str, Any]

# Somebody who can do a case: takes its inputs and the number of threads, and returns what is timed.
Prepare = Callable[["Case", Inputs, int], Step]


class WrongAnswerError(Exception):
    """An engine gave a wrong answer: it gets no time."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """The base of all cases. A case is a value: another process makes the same inputs from it."""

    op: ClassVar[str]
    seed: int = 0
    k: int = 10
    metric: str = "dot"
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Family, shape and settings, from the general to the special."""
        raise NotImplementedError

    @property
    def shape(self) -> dict[str, int]:
        """The sizes, by name."""
        raise NotImplementedError

    def inputs(self) -> Inputs:
        """The arrays, the same in every process."""
        raise NotImplementedError

    def engines(self) -> dict[str, Prepare]:
        """Our own ways to do it. The first is the one that the ratios are about."""
        return {}

    def rivals(self) -> dict[str, Prepare]:
        """Other libraries that do the same job; each imports its library when it prepares."""
        return {}

    def check(self, inputs: Inputs, result: Any) -> np.ndarray:
        """Refuse a wrong answer of ours, to the bit; returns the scores that rivals are held to."""
        raise NotImplementedError

    def bounds(self, limits: Limits) -> dict[str, float]:
        """The least seconds that some resource of the machine allows, by the resource's name."""
        return {}

    def figures(
        self, samples: dict[str, Samples], best_rival: str, limits: Limits
    ) -> dict[str, list[Figure]]:
        """The numbers of each of our engines for which a floor or a goal is set."""
        return {}

    def counts(self, inputs: Inputs, limits: Limits) -> list[Figure]:
        """Numbers that are not times: bytes, growth."""
        return []


def expect(is_right: bool, sentence: str) -> None:
    """Raise `WrongAnswerError` with the sentence if something is not right."""
    if not is_right:
        raise WrongAnswerError(sentence)


def speedup(samples: dict[str, Samples], engine: str, rival: str, state: str = "warm") -> float:
    """How many times faster an engine is than a rival, both in the same state."""
    return samples[rival].median(state) / samples[engine].median(state)

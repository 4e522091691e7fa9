"""What a case of the GPU is: inputs, our call, what it is compared with, the least it needs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .case import expect

Run = Callable[..., Any]

# Of random inputs, whatever the machine, so that they are the same on each.
_N_PARTS = 16

# Queries, or rows, whose answer is compared with the definition.
N_CHECKED = 4


def _as_given(**tensors: Any) -> dict[str, Any]:
    return tensors


@dataclass(frozen=True)
class GpuCase:
    """One call on a device.

    Attributes:
        name: family and shape.
        make: from a generator, the arrays of one call, on the host.
        prepare: from the tensors, what ours and the rivals take; not timed.
        ours: the call.
        check: refuses a wrong answer of ours, given arrays and results on the host.
        rivals: other ways to do it in torch, by name.
        n_bytes: the least that must be read and written.
        operations: of the products, a multiply-add counted as two; 0 where there are none.
        rate: "bf16" or "int8", the rate that the operations are held against.
    """

    name: str
    make: Callable[[np.random.Generator], dict[str, Any]]
    ours: Run
    check: Callable[[dict[str, Any], Any], None]
    n_bytes: float
    rivals: dict[str, Run] = field(default_factory=dict)
    operations: float = 0.0
    rate: str = "bf16"
    prepare: Run = _as_given

    @property
    def op(self) -> str:
        """The family."""
        return self.name.split("/")[0]


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal float32, each of _N_PARTS parts drawn by a thread."""
    drawn = np.empty(shape, np.float32)
    parts = np.array_split(drawn.reshape(-1), _N_PARTS)

    def fill(child: np.random.Generator, part: np.ndarray) -> None:
        child.standard_normal(dtype=np.float32, out=part)

    with ThreadPoolExecutor(_N_PARTS) as pool:
        list(pool.map(fill, rng.spawn(_N_PARTS), parts))
    return drawn


def same(name: str, found: Any, wanted: Any) -> None:
    """Refuse what is not equal to the definition, bit for bit."""
    is_equal = np.array_equal(np.asarray(found), np.asarray(wanted), equal_nan=True)
    expect(is_equal, f"{name} is not the definition's")


def near(name: str, found: Any, wanted: Any, tolerance: float) -> None:
    """Refuse what differs from the definition by more than a tolerance, absolute and relative."""
    is_close = np.allclose(found, wanted, tolerance, tolerance)
    expect(is_close, f"{name} is not the definition's within {tolerance}")


def same_hits(hits: Any, wanted: Any) -> None:
    """Refuse hits whose first N_CHECKED queries are not the definition's."""
    same("ids", hits[1][:N_CHECKED], wanted[1])
    same("scores", hits[0][:N_CHECKED], wanted[0])

"""The cases of the GPU under pytest-benchmark: `pytest bench/ --benchmark-only --device cuda`."""

from __future__ import annotations

from typing import Any

import pytest

from . import gpu_worker
from .gpu_case import GpuCase
from .gpu_cases import every


@pytest.mark.parametrize("case", every(), ids=lambda case: case.name)
def test_time(benchmark: Any, case: GpuCase) -> None:
    """Check our answer, then take its time by the clock, the device waited for."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    given = gpu_worker.checked(case, 0, "cuda")

    def run() -> None:
        case.ours(**given)
        torch.cuda.synchronize()

    benchmark.group = case.name
    benchmark.pedantic(run, rounds=20, warmup_rounds=3)

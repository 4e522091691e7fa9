"""Options of `pytest bench/`."""

from __future__ import annotations

from typing import Any


def pytest_addoption(parser: Any) -> None:
    """--device cuda: the cases of the GPU instead of the processor's."""
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu")


def pytest_ignore_collect(collection_path: Any, config: Any) -> bool | None:
    """Only the cases of the device that was asked for."""
    other = "test_bench.py" if config.getoption("--device") == "cuda" else "test_gpu.py"
    return True if collection_path.name == other else None

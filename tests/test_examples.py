"""The examples of README.md and of the docstrings run and hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import memcore

README = Path(__file__).resolve().parent.parent / "README.md"


def test_readme_examples_run_from_top_to_bottom() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)


def test_docstring_examples() -> None:
    tried = 0
    for module in pkgutil.walk_packages(memcore.__path__, "memcore."):
        parts = module.name.split(".")
        # The bench and the Triton kernels need what only their extras bring.
        if parts[1] in {"bench", "kernels", "__main__"}:
            continue
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, module.name
        tried += result.attempted
    assert tried > 0

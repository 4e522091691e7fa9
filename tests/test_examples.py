"""The examples of README.md, of docs/ and of the docstrings run and hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import memcore

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    path.name: blocks
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if (blocks := re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.M | re.S))
}


@pytest.mark.parametrize("page", PAGES)
def test_examples_of_a_page_run_from_top_to_bottom(page: str) -> None:
    blocks = PAGES[page]
    if any("import torch" in block for block in blocks):
        pytest.importorskip("torch")
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), names)


def test_docstring_examples() -> None:
    tried = 0
    for module in pkgutil.walk_packages(memcore.__path__, "memcore."):
        parts = module.name.split(".")
        # The bench, the Triton kernels and the modules for torch need what only extras bring; an
        # editable install finds everything once more as memcore.memcore.
        skipped = {"bench", "kernels", "nn", "__main__", "memcore"}
        if parts[1] in skipped or "autograd" in parts[1]:
            continue
        result = doctest.testmod(importlib.import_module(module.name))
        assert result.failed == 0, module.name
        tried += result.attempted
    assert tried > 0

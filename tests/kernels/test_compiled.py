"""What the kernels compile to, for GPUs that are not there: registers, spills, instructions.

table.json holds what was compiled last. Variants whose sources have changed since must be compiled
anew (`python tests/kernel_compiler.py --write`); a sample of the rest is, each time.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
from kernel_compiler import TABLE, digest
from kernel_variants import VARIANTS

ROWS = json.loads(TABLE.read_text())
SAMPLE = 2
BUILDS = [(name, each) for name, variant in VARIANTS.items() for each in variant.architectures]


def compiled(names):
    """The same rows, compiled now, in a process that does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).parent.parent / "kernel_compiler.py"
    done = subprocess.run(
        [sys.executable, str(script), *names],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_table_is_of_these_sources():
    assert list(ROWS) == list(VARIANTS)
    stale = [name for name in VARIANTS if ROWS[name]["digest"] != digest(name)]
    assert not stale, "run: python tests/kernel_compiler.py --write"


def test_a_sample_compiles_to_what_the_table_says(rng):
    names = list(rng.choice(list(VARIANTS), SAMPLE, replace=False))
    assert compiled(names) == {name: ROWS[name] for name in names}


@pytest.mark.parametrize(("name", "architecture"), BUILDS)
def test_no_variant_spills_or_wastes(name, architecture):
    row, variant = ROWS[name][f"sm_{architecture}"], VARIANTS[name]
    assert row["stack"] == 0
    assert not {"LDL", "STL"} & set(row["counts"])
    assert row["registers"] <= variant.registers
    if architecture in variant.multiplies:
        assert row["counts"].get(variant.multiplies[architecture], 0) > 0


@pytest.mark.parametrize(
    ("name", "architecture"), [each for each in BUILDS if VARIANTS[each[0]].is_canonical]
)
def test_scores_are_neither_fused_nor_flushed_nor_approximated(name, architecture):
    row = ROWS[name][f"sm_{architecture}"]
    assert row["inexact"] == []
    if not VARIANTS[name].divides:
        assert "FFMA" not in row["counts"]

"""Which engine runs, why the others do not, and the settings of the compiled one."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

import memcore
from memcore import _core
from memcore.backends import engine

ROWS = np.ones((2, 3), np.float32)


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-I", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_compiled_engine_runs_everything():
    assert engine("search") is _core.search
    assert engine("search_ragged") is _core.search
    assert engine("topk") is _core.topk


@pytest.mark.parametrize("op", ["search", "search_ragged", "topk"])
def test_explain(op):
    explanation = memcore.explain(op, ROWS, ROWS)
    assert explanation.engine == "cpu"
    lines = str(explanation).splitlines()
    assert lines[0] == f"{op}: cpu would run"
    assert lines[1].split() == [
        "cpu", "runs,", "with", f"{memcore.isa()},", "threads:", str(memcore.threads())
    ]  # fmt: skip
    assert lines[2].split(maxsplit=1) == ["reference", "could run, but cpu was chosen"]
    assert lines[3].split()[0] == "triton"
    assert lines[4].split(maxsplit=1) == ["cuda", "not part of this build"]


def test_explain_what_was_asked_for():
    explanation = memcore.explain("topk", ROWS, backend="reference")
    assert explanation.engine == "reference"
    assert explanation.reasons["cpu"] == "could run, but reference was chosen"
    assert explanation.reasons["reference"].startswith("runs")
    for absent in ("cuda", "quantum"):
        explanation = memcore.explain("search", ROWS, backend=absent)
        assert explanation.engine is None
        assert explanation.reasons[absent] == "not part of this build"
        assert str(explanation).startswith("search: no engine would run\n")


def test_explain_an_array_elsewhere():
    torch = pytest.importorskip("torch")
    elsewhere = torch.ones(2, 3, device="meta")
    explanation = memcore.explain("search", ROWS, elsewhere, backend="cpu")
    assert explanation.engine is None
    assert explanation.reasons["cpu"] == "reads host memory, but an array is on meta"
    pytest.importorskip("triton")
    explanation = memcore.explain("search", elsewhere, elsewhere)
    assert explanation.engine == "triton"
    assert explanation.reasons["triton"] == "runs, on meta"
    assert memcore.explain("pack_codes", elsewhere).engine is None


def test_explain_names_what_a_kernel_needs(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "triton" else find(name)
    )
    pytest.importorskip("torch")
    assert memcore.explain("search", ROWS).reasons["triton"] == "triton is not installed"


def test_explain_where_the_arrays_are():
    pytest.importorskip("torch")
    pytest.importorskip("triton")
    reason = "reads GPU memory, but the arrays are on the cpu"
    assert memcore.explain("search", ROWS).reasons["triton"] == reason
    assert memcore.explain("pack_codes", ROWS).reasons["triton"] == "has no kernel for this op"


def test_explain_an_unknown_op():
    with pytest.raises(
        memcore.InputError, match=r"^explain: op is 'seek', should be one of search"
    ):
        memcore.explain("seek")


@pytest.mark.parametrize("name", ["cuda", "quantum"])
def test_an_absent_engine_is_refused(name):
    sentence = f"^search: backend is '{name}', should be one of cpu, reference, triton$"
    with pytest.raises(memcore.BackendError, match=sentence):
        memcore.search(ROWS, ROWS, backend=name)
    sentence = f"^topk: backend is '{name}', should be one of cpu, reference, triton$"
    with pytest.raises(memcore.BackendError, match=sentence):
        memcore.topk(ROWS, 1, backend=name)


def test_the_environment_names_the_engine():
    code = "import memcore; print(memcore.explain('search').engine)"
    assert run_python(code, MEMCORE_BACKEND="reference").stdout == "reference\n"
    assert run_python(code, MEMCORE_BACKEND="").stdout == "cpu\n"
    code = "import memcore; memcore.search([[1.0]], [[1.0]])"
    answer = run_python(code, MEMCORE_BACKEND="quantum")
    assert answer.returncode == 1
    assert "search: backend is 'quantum', should be one of cpu, reference" in answer.stderr


def test_instruction_sets(isa):
    assert memcore.isa() == isa
    assert memcore.isas()[-1] == "scalar" or memcore.isas()[0] == "scalar"
    assert len(set(memcore.isas())) == len(memcore.isas())


def test_an_unknown_instruction_set_is_refused():
    before = memcore.isa()
    with pytest.raises(memcore.BackendError, match=r'^set_isa: name is "mmx", should be one of'):
        memcore.set_isa("mmx")
    assert memcore.isa() == before


def test_the_environment_names_the_instruction_set(isa):
    answer = run_python("import memcore; print(memcore.isa())", MEMCORE_ISA=isa)
    assert answer.stdout == f"{isa}\n"


def test_threads(threads):
    for n_threads in (1, 3, 1, 2):
        threads(n_threads)
        assert memcore.threads() == n_threads
    with pytest.raises(memcore.InputError, match=r"^set_threads: n is -1, should be"):
        threads(-1)
    assert memcore.threads() == 2
    answer = run_python("import memcore; print(memcore.threads())", MEMCORE_THREADS="3")
    assert answer.stdout == "3\n"


def test_a_number_of_threads_that_is_none_is_refused():
    code = "import memcore, numpy as np\ntry: memcore.search(np.ones((9, 4)), np.ones((9, 4)), 1)"
    answer = run_python(f"{code}\nexcept ValueError as error: print(error)", MEMCORE_THREADS="two")
    assert answer.stdout == 'threads: MEMCORE_THREADS is "two", should be 0 (all) to 1024\n'


def test_the_version_is_read_when_asked_for():
    from importlib.metadata import version

    assert memcore.__version__ == version("memcore-engine")
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        memcore.nonsense  # noqa: B018

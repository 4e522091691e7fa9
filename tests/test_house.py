"""The rules of this house that a machine can check: layers, names, sizes, words, light imports."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [*(ROOT / "memcore").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
PYTHON += (ROOT / "kernels").rglob("*.py")
NATIVE = [
    p for p in (ROOT / "csrc").rglob("*") if p.suffix in {".cpp", ".h", ".inl", ".cu", ".cuh"}
]
TESTS = [*(ROOT / "tests").rglob("*.py")]
BUILD = [
    ROOT / name for name in ("CMakeLists.txt", "CMakePresets.json", "pyproject.toml", "justfile")
]
BUILD += [ROOT / ".ci" / "run", ROOT / ".ci" / "sanitize"]

# What a module may import: only what stands in an earlier row.
LAYERS = [
    {"errors"},
    {"scalars"},
    {"hits"},
    {"arrays"},
    {"tensors"},
    {"slots"},
    {"reference", "_core", "kernels"},
    {"reference_engine"},
    {"backends"},
    {"products", "autograd_device"},
    {"autograd_ops"},
    {"autograd"},
    {"losses"},
    {"autograd_queue"},
    {"ops"},
    {"queue", "outer", "gate"},
    {"codebook"},
    {"nn"},
    {"text"},
    {"lsh", "buckets"},
    {"index"},
    {"bank"},
    {""},
    {"console"},
    {"demo"},
    {"bench"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> list[str]:
    """The dotted name below memcore, as installed: ["bench", "timing"] for bench/timing.py."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "memcore":
        parts = parts[1:]
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """The line and the first name below memcore of everything of ours that a file imports."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "memcore":
                    yield node.lineno, parts[1] if len(parts) > 1 else ""
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "memcore":
                base = []
            else:
                continue
            inner = (node.module or "").split(".") if node.module else []
            full = base + (inner if node.level else inner[1:])
            for alias in node.names:
                name = (full or [alias.name])[0]
                yield node.lineno, name if name in RANK else ""


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_imports_go_down_only(path: Path) -> None:
    here = (module_of(path) or [""])[0]
    assert here in RANK, f"{relative(path)}: give `{here}` a row in LAYERS"
    for line, name in imports_of(path):
        allowed = name == here or RANK[name] < RANK[here]
        assert allowed, (
            f"{relative(path)}:{line}: {here or 'memcore'} may not import {name or 'memcore'}"
        )


def test_no_two_modules_import_each_other() -> None:
    modules = {".".join(["memcore", *module_of(path)]): path for path in PYTHON}
    imported: dict[str, set[str]] = {}
    for module, path in modules.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
                names.add(node.module or "")
        # A package is what its modules make up.
        packages = {name for name in modules if f"{module}.".startswith(f"{name}.")}
        imported[module] = (names & set(modules)) - packages
    while leaves := [module for module, names in imported.items() if not names & set(imported)]:
        for module in leaves:
            del imported[module]
    assert imported == {}


def test_kernels_never_import_memcore() -> None:
    for path in (ROOT / "kernels").rglob("*.py"):
        names = {name for _, name in imports_of(path)}
        assert names <= {"kernels"}, relative(path)


def in_fresh_python(code: str) -> str:
    # -I: neither the working directory nor the caller's environment changes what is imported.
    env = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_START"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_only_numpy_and_the_standard_library() -> None:
    loaded = json.loads(
        in_fresh_python(
            "import sys, json, numpy\n"
            "before = set(sys.modules)\n"
            "import memcore\n"
            "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
        )
    )
    assert "memcore" in loaded
    foreign = [m for m in loaded if m not in sys.stdlib_module_names | {"memcore", "numpy"}]
    assert foreign == []


def test_import_is_fast() -> None:
    code = (
        "import numpy, time\n"
        "begin = time.process_time()\n"
        "import memcore\n"
        "print(time.process_time() - begin)"
    )
    # Seconds of the processor, and the best of several: the rest is the machine's other work.
    assert min(float(in_fresh_python(code)) for _ in range(7)) <= 0.1


def test_import_leaves_denormals_alive() -> None:
    code = (
        "import memcore, numpy\n"
        "tiny = numpy.full(33, 1e-39, numpy.float32)\n"
        "print(int((tiny * numpy.float32(1) == tiny).all()), int((tiny != 0).all()))"
    )
    assert in_fresh_python(code).split() == ["1", "1"]


def parameters(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def public_functions(path: Path) -> dict[str, list[str]]:
    nodes = ast.parse(path.read_text()).body
    functions = [n for n in nodes if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    return {f.name: parameters(f) for f in functions}


def test_engines_share_names_and_order_of_parameters() -> None:
    reference = {
        name: names
        for path in (ROOT / "memcore" / "reference").glob("*.py")
        for name, names in public_functions(path).items()
    }
    native = public_functions(ROOT / "memcore" / "_core.pyi")
    shared = sorted(set(reference) & set(native))
    assert shared
    for op in shared:
        # The native engine has a few more: the segments, and the outputs that it fills.
        assert [name for name in native[op] if name in reference[op]] == reference[op], op


def test_each_op_has_a_test_and_a_bench_case() -> None:
    public = ast.parse((ROOT / "memcore" / "__init__.py").read_text()).body
    modules = [node.module or "" for node in public if isinstance(node, ast.ImportFrom)]
    families = [name.split(".")[-1] for name in modules if name.startswith("memcore.ops.")]
    assert "search" in families
    for family in families:
        assert (ROOT / "tests" / "ops" / f"test_{family}.py").exists(), family
        assert (ROOT / "bench" / "cases" / f"{family}.py").exists(), family


@pytest.mark.parametrize("path", PYTHON + NATIVE + TESTS, ids=relative)
def test_files_are_short_and_well_named(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 600
    allowed_core = path == ROOT / "csrc" / "bind" / "core.cpp"
    forbidden = {"utils", "util", "helpers", "common", "misc", "core", "interface"}
    assert path.stem not in forbidden or allowed_core


@pytest.mark.parametrize("path", NATIVE, ids=relative)
def test_native_code_never_ends_the_process_nor_prints(path: Path) -> None:
    code = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
    words = r"\b(assert|abort|exit|_exit|quick_exit|terminate|printf|fprintf|puts|fputs)\s*\("
    assert re.findall(words, code) == []
    assert re.findall(r"\bstd::(cout|cerr|clog)\b", code) == []


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_the_library_does_not_print(path: Path) -> None:
    if module_of(path)[:1] in (["cli"], ["demo"], ["bench"]):
        return
    calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    names = [c.func.id for c in calls if isinstance(c.func, ast.Name)]
    assert "print" not in names


def test_no_machine_paths() -> None:
    words = re.compile("/(" + "|".join(["work", "root", "home", "Users"]) + ")/")
    documents = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "bench").rglob("*.md"),
    ]
    for path in [*PYTHON, *NATIVE, *TESTS, *BUILD, *documents]:
        lines = path.read_text().splitlines()
        found = [f"{relative(path)}:{i}" for i, line in enumerate(lines, 1) if words.search(line)]
        assert found == []


def test_no_flag_changes_the_arithmetic() -> None:
    flags = re.compile("-f" + "fast-math|-O" + "fast|-funsafe-math|-march=" + "native|-mfma")
    for path in [*BUILD, *NATIVE]:
        assert not flags.search(path.read_text()), relative(path)


def test_readme_has_exactly_two_commands() -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert {language for language, _ in blocks} <= {"sh", "python"}
    commands = [body.splitlines() for language, body in blocks if language == "sh"]
    assert [len(lines) for lines in commands] == [1, 1]
    assert "memcore demo" in commands[0][0]
    assert "pytest" in commands[1][0]

"""What the compiler makes of the inner loops: one symbol a set, no spills in the int8 loop."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "csrc" / "cpu" / "isa"
ON_X86 = platform.machine() in {"x86_64", "AMD64"}
SETS = ["scalar", "avx2", "avx512", "avx512vnni"] if ON_X86 else ["scalar", "neon"]
# The instruction that only the int8 scan of a set has, for queries in 8 bits or 16.
MULTIPLY = {"avx2": "vpmaddwd", "avx512": "vpmaddwd", "avx512vnni": "vpdpbusd"}


def run(*command: str | Path) -> str:
    # A sanitizer preloaded into this process has no business in the compiler.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The object file of each instruction set, compiled with the flags of CMakeLists.txt."""
    pybind11 = pytest.importorskip("pybind11")
    for program in ("cmake", "c++", "objdump", "nm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not in the path")
    build = tmp_path_factory.mktemp("isa")
    options = {
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
    }
    run("cmake", "-S", ROOT, "-B", build, *(f"-D{name}={value}" for name, value in options.items()))
    made = {}
    for entry in json.loads((build / "compile_commands.json").read_text()):
        source = Path(entry["file"])
        if source.parent == SOURCES and source.stem in SETS:
            command = shlex.split(entry["command"])
            made[source.stem] = build / f"{source.stem}.o"
            command[command.index("-o") + 1] = str(made[source.stem])
            run(*command, "-Werror")
    assert sorted(made) == sorted(SETS)
    return made


@pytest.mark.parametrize("isa", SETS)
def test_an_object_exports_one_symbol(objects: dict[str, Path], isa: str) -> None:
    # Weak symbols count too: the linker could keep a copy that was compiled for a newer processor.
    lines = run("nm", "--defined-only", "--extern-only", objects[isa]).splitlines()
    names = [line.split()[-1] for line in lines]
    assert len(names) == 1, names
    assert isa in names[0]


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str


def functions(objdump: str) -> list[list[Instruction]]:
    """The instructions of each function of a disassembly."""
    found: list[list[Instruction]] = []
    for line in objdump.splitlines():
        if line.endswith(">:"):
            found.append([])
        elif match := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            found[-1].append(Instruction(int(match[1], 16), match[2], match[3]))
    return found


def innermost_loops(function: list[Instruction], name: str) -> list[list[Instruction]]:
    """The smallest loops of a function that hold the instruction `name`, each once."""
    spans = []
    for at in function:
        target = re.match(r"([0-9a-f]+) <", at.operands)
        if at.name.startswith("j") and target and int(target[1], 16) <= at.address:
            spans.append((int(target[1], 16), at.address))
    smallest = set()
    for at in function:
        around = [s for s in spans if s[0] <= at.address <= s[1]]
        if at.name == name and around:
            smallest.add(min(around, key=lambda span: span[1] - span[0]))
    return [[at for at in function if first <= at.address <= last] for first, last in smallest]


def stack_references(function: list[Instruction], loop: list[Instruction]) -> list[str]:
    # %rbp is an ordinary register unless the function makes it the frame pointer.
    framed = any(at.name == "mov" and at.operands == "%rsp,%rbp" for at in function)
    pointer = r"\((%rsp|%rbp)" if framed else r"\(%rsp"
    return [f"{at.name} {at.operands}" for at in loop if re.search(pointer, at.operands)]


@pytest.mark.skipif(not ON_X86, reason="the disassembly is read for x86-64")
@pytest.mark.parametrize("isa", [isa for isa in SETS if isa in MULTIPLY])
def test_the_int8_loop_stays_in_registers(objects: dict[str, Path], isa: str) -> None:
    n_loops = 0
    disassembly = run("objdump", "-d", "--no-show-raw-insn", objects[isa])
    for function in functions(disassembly):
        for loop in innermost_loops(function, MULTIPLY[isa]):
            assert stack_references(function, loop) == []
            n_loops += 1
    assert n_loops > 0


def test_stack_references_are_seen() -> None:
    text = (
        "0000000000000000 <scan>:\n"
        "   0:\tsub    $0x40,%rsp\n"
        "   4:\tvpdpbusd (%rdi),%zmm1,%zmm0\n"
        "   a:\tvmovdqu64 %zmm0,0x10(%rsp)\n"
        "  10:\tjne    4 <scan+0x4>\n"
    )
    (function,) = functions(text)
    (loop,) = innermost_loops(function, "vpdpbusd")
    assert [at.name for at in loop] == ["vpdpbusd", "vmovdqu64", "jne"]
    assert stack_references(function, loop) == ["vmovdqu64 %zmm0,0x10(%rsp)"]


def test_neon_compiles(tmp_path: Path) -> None:
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("aarch64-linux-gnu-g++ is not in the path")
    flags = ["-std=c++20", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
    own = re.search(r"set\(neon_FLAGS (.*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert own is not None
    flags += own[1].split()
    warnings = ["-Wall", "-Wextra", "-Wshadow", "-Werror"]
    folders = [f"-I{ROOT / 'csrc'}", f"-I{SOURCES}"]
    made = tmp_path / "neon.o"
    run(compiler, *flags, *warnings, *folders, "-c", SOURCES / "neon.cpp", "-o", made)
    assert made.read_bytes()[:4] == b"\x7fELF"

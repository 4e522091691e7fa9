"""What is shipped: the source archive and the wheel, built as a user would build them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import memcore

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = re.compile(r'"(manylinux_2_\d+_\w+)"')


def run(*command: str | Path, **options: str) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", ""), **options}
    env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=options.get("PWD"), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, to: Path, *options: str) -> Path:
    """Build the sdist or the wheel of a source tree with this environment's build tools."""
    for name in ("build", "scikit_build_core", "pybind11"):
        pytest.importorskip(name)
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "-o", to, source, *options)
    (made,) = to.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the source archive, unpacked elsewhere, any warning being an error."""
    folder = tmp_path_factory.mktemp("sdist")
    archive = build("sdist", ROOT, folder / "made")
    run("tar", "xf", archive, "-C", folder)
    (source,) = folder.glob("memcore_engine-*")
    strict = "-Ccmake.define.CMAKE_COMPILE_WARNING_AS_ERROR=ON"
    return build("wheel", source, tmp_path_factory.mktemp("wheel"), strict)


@pytest.fixture
def package(tmp_path: Path) -> dict[str, bytes]:
    """The files that this tree builds: those installed, or of a wheel where that is editable."""
    folder = Path(memcore.__file__).parent
    if folder == ROOT / "memcore":
        return contents(build("wheel", ROOT, tmp_path))
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(folder.parent)): path.read_bytes() for path in files}


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_sdist_builds_the_same_package(wheel: Path, package: dict[str, bytes]) -> None:
    made = {name: data for name, data in contents(wheel).items() if name.startswith("memcore/")}
    package = {name: data for name, data in package.items() if name.startswith("memcore/")}
    assert sorted(made) == sorted(package)
    # The compiled module included: a build leaves no trace of its folder.
    assert [name for name in made if made[name] != package[name]] == []


def test_what_a_wheel_holds(wheel: Path) -> None:
    assert wheel.stat().st_size <= 5_000_000
    files = contents(wheel)
    info = next(name.split("/")[0] for name in files if ".dist-info/" in name)
    outside = [name for name in files if name.split("/")[0] not in {"memcore", info}]
    assert outside == []
    for name in ("py.typed", "_core.pyi", "kernels/__init__.py", "bench/__init__.py"):
        assert f"memcore/{name}" in files
    (module,) = [name for name in files if name.endswith(".so")]
    assert module.startswith("memcore/_core.")
    metadata = files[f"{info}/METADATA"].decode()
    needed = re.findall(r"^Requires-Dist: ((?:(?!extra ==).)*)$", metadata, re.MULTILINE)
    assert [re.split(r"[<>=!~ ;]", line)[0] for line in needed] == ["numpy"]


def test_auditwheel_accepts_the_wheel(wheel: Path) -> None:
    pytest.importorskip("auditwheel")
    report = run(sys.executable, "-m", "auditwheel", "show", wheel)
    assert PLATFORM.search(report), report


def test_the_demo_runs_where_there_is_no_compiler(wheel: Path, tmp_path: Path) -> None:
    env = tmp_path / "env"
    run(sys.executable, "-m", "venv", env)
    run(env / "bin" / "pip", "install", "--quiet", wheel)
    path = str(env / "bin")
    assert [name for name in ("cc", "c++", "gcc", "g++") if shutil.which(name, path=path)] == []
    said = run(env / "bin" / "memcore", "demo", PATH=path, PWD=str(tmp_path))
    assert len(said.splitlines()) > 5

# One command per wish. `pip install rust-just` brings the program `just`.

build_dir := "build/editable"

# an editable install with everything the tests need; run it in a virtual environment
setup:
    pip install scikit-build-core pybind11
    pip install --no-build-isolation -e ".[test,bench]" -Cbuild-dir={{build_dir}}

# rebuild the compiled module of the editable install
build:
    pip install -q --no-build-isolation --no-deps -e . -Cbuild-dir={{build_dir}} \
        -Ccmake.define.CMAKE_COMPILE_WARNING_AS_ERROR=ON

test *args:
    pytest {{args}}

# everything that a change must pass, short of the slow tests
check:
    ruff check
    ruff format --check
    clang-format --dry-run --Werror $(git ls-files 'csrc/*')
    mypy memcore bench
    python -m mypy.stubtest memcore._core --mypy-config-file pyproject.toml
    pytest

format:
    ruff check --fix
    ruff format
    clang-format -i $(git ls-files 'csrc/*')

# clang-tidy over every C++ file (pip install clang-tidy)
tidy:
    cmake --preset tidy -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
    cmake --build --preset tidy

asan *args:
    .ci/sanitize address {{args}}

tsan *args:
    .ci/sanitize thread {{args}}

# instruction sets that this machine lacks, on an emulation of their intrinsics
emulate *args:
    .ci/emulate {{args}}

bench *args:
    memcore bench {{args}}

# what the continuous integration runs
ci:
    .ci/run

"""Fixtures of all tests: seeds, engines, instruction sets, containers, poisoned results."""

import secrets
import signal
import zlib

import numpy as np
import pytest

import interpreter
import memcore
from containers import CONTAINERS
from memcore.ops import arguments
from ops_of_torch import by_interpreter

# Before any kernel is seen.
interpreter.install()

SEED = pytest.StashKey[int]()
ISAS = memcore.isas()


def pytest_addoption(parser):
    about = "of the random tests: a number, as a failure printed it, or 'random'; 0 by default"
    parser.addoption("--seed", default="0", metavar="SEED", help=about)


def pytest_configure(config):
    # A shell starts its background jobs with Ctrl-C ignored, and some tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    chosen = config.getoption("--seed")
    config.stash[SEED] = secrets.randbits(32) if chosen == "random" else int(chosen)


def pytest_report_header(config):
    return f"seed: {config.stash[SEED]}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    if report.failed and "rng" in getattr(item, "fixturenames", ()):
        command = f"pytest --seed {item.config.stash[SEED]} '{item.nodeid}'"
        report.sections.append(("seed", command))


@pytest.fixture
def rng(request):
    """A generator of this test's own, drawn from the run's seed and the test's name."""
    name = zlib.crc32(request.node.nodeid.encode())
    return np.random.default_rng([request.config.stash[SEED], name])


@pytest.fixture(params=ISAS)
def isa(request):
    """Every instruction set that runs here, one after the other."""
    yield from _with_isa(request.param)


@pytest.fixture(params=[*ISAS, "reference"])
def backend(request):
    """Every engine, the compiled one once per instruction set; yields what `backend=` takes."""
    if request.param == "reference":
        yield "reference"
    else:
        for _ in _with_isa(request.param):
            yield "cpu"


def _with_isa(name):
    before = memcore.isa()
    memcore.set_isa(name)
    yield name
    memcore.set_isa(before)


@pytest.fixture(params=CONTAINERS)
def container(request):
    """Every kind of array that a caller may come with."""
    chosen = CONTAINERS[request.param]
    if chosen.needs:
        pytest.importorskip(chosen.needs)
    return chosen


@pytest.fixture
def threads():
    """Puts the number of threads back; yields the function that sets it."""
    before = memcore.threads()
    yield memcore.set_threads
    memcore.set_threads(before)


@pytest.fixture(autouse=True)
def poisoned_outputs(monkeypatch):
    """Results are allocated full of nonsense, so that an unwritten cell is seen."""
    allocate = arguments.outputs

    def outputs(op, n_queries, width):
        scores, ids = allocate(op, n_queries, width)
        scores.fill(np.nan)
        ids.fill(-7777)
        return scores, ids

    monkeypatch.setattr(arguments, "outputs", outputs)


@pytest.fixture(autouse=True)
def shuffled_programs(request):
    """The programs of a kernel run in an order of this test's own."""
    name = zlib.crc32(request.node.nodeid.encode())
    interpreter.reseed([request.config.stash[SEED], name, 1])


@pytest.fixture
def by_kernels():
    """The device on which the ops run by kernels: a GPU, or the host while the test lasts."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        yield "cuda"
    else:
        with by_interpreter():
            yield "cpu"

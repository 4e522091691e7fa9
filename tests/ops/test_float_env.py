"""The caller's rounding and flush-to-zero change no bit, and are as they were after the call."""

import ctypes
import ctypes.util
import platform
from contextlib import contextmanager

import numpy as np
import pytest

import memcore
from cases import CASES, METRICS, normal
from compare import assert_hits
from memcore import reference

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="sets the control register of x86",
)

# Bits of the control register MXCSR.
SETTINGS = {
    "flush_to_zero": 0x8040,
    "round_down": 0x2000,
    "round_up": 0x4000,
    "round_to_zero": 0x6000,
    "flush_to_zero_and_round_up": 0xC040,
}
NAMES = (
    "plain",
    "denormals",
    "products_that_are_denormal",
    "huge_dynamic_range",
    "ties_within_one_ulp",
    "everything_at_once",
)


class Environment(ctypes.Structure):
    """glibc's fenv_t."""

    _fields_ = (("x87", ctypes.c_uint8 * 28), ("mxcsr", ctypes.c_uint32))


LIBM = ctypes.CDLL(ctypes.util.find_library("m"))


def current():
    now = Environment()
    LIBM.fegetenv(ctypes.byref(now))
    return now


def controls():
    """MXCSR without the flags of what has happened."""
    return current().mxcsr & 0xFFC0


@contextmanager
def float_env(bits):
    before = current()
    changed = Environment.from_buffer_copy(before)
    changed.mxcsr |= bits
    LIBM.fesetenv(ctypes.byref(changed))
    try:
        yield
    finally:
        LIBM.fesetenv(ctypes.byref(before))


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_setting_takes_hold(setting):
    """NumPy's arithmetic follows it, so the tests below would see an engine that does too."""
    one, tiny = np.array([1, 1], np.float32), np.array([1e-39, -1e-39], np.float32)
    plain_product, plain_sum = tiny * one, one + tiny
    with float_env(SETTINGS[setting]):
        product, total = tiny * one, one + tiny
    assert (product == plain_product).all() == (not setting.startswith("flush"))
    if setting.startswith("round"):
        assert (total != plain_sum).any()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_search_gives_the_same_bits(isa, name, setting, rng):
    case = CASES[name](rng)
    for metric in METRICS:
        expected = reference.search(case.queries, case.keys, case.k, metric=metric, **case.options)
        with float_env(SETTINGS[setting]):
            before = controls()
            hits = memcore.search(case.queries, case.keys, case.k, metric=metric, **case.options)
            after = controls()
        assert_hits(hits, expected, f"{name}, {metric}")
        assert before == after


@pytest.mark.parametrize("setting", SETTINGS)
def test_worker_threads_give_the_same_bits(isa, threads, setting, rng):
    threads(4)
    queries, keys = normal(rng, 64, 40), normal(rng, 4000, 40) * np.float32(1e-38)
    expected = reference.search(queries, keys)
    with float_env(SETTINGS[setting]):
        hits = memcore.search(queries, keys)
    assert_hits(hits, expected)


@pytest.mark.parametrize("setting", SETTINGS)
def test_topk_gives_the_same_bits(isa, setting, rng):
    scores = normal(rng, 5, 300) * np.float32(1e-39)
    expected = reference.topk(scores, 20)
    with float_env(SETTINGS[setting]):
        before = controls()
        hits = memcore.topk(scores, 20)
        after = controls()
    assert_hits(hits, expected)
    assert before == after


def test_a_failed_call_puts_the_setting_back(isa, rng):
    queries, keys = normal(rng, 3, 8), normal(rng, 30, 8)
    queries[1, 2] = np.nan
    with float_env(SETTINGS["flush_to_zero_and_round_up"]):
        before = controls()
        with pytest.raises(memcore.InputError):
            memcore.search(queries, keys)
        after = controls()
    assert before == after

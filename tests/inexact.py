"""Arithmetic as inexact as a GPU's may be, in Triton's interpreter, which rounds as NumPy does.

What promises bits must give them whatever a processor does within its word; what promises a
tolerance must keep it. Each mode takes tensor cores to another edge of what docs/gpu.md assumes of
them; in all of them division, roots, powers and logarithms are off by some units in the last place,
products that may be fused are not rounded to nearest, and sums have any order.
"""

import contextlib

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

MODES = ("cut off", "either way", "to zero", "from zero")
# Of the largest partial sum, what an addition may lose (docs/gpu.md).
_LOST = 2.0**-21
# Terms that a tensor core adds at a time.
_AT_ONCE = 16


@contextlib.contextmanager
def arithmetic(monkeypatch, mode, seed=0):
    """Compute so for as long as this lasts; yields how many products of floats there were.

    The same numbers give the same results each time, as of a processor.
    """
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    launch, count = executor.__call__, {"dots": 0}
    exact_dot = builder.create_dot
    state = {"may_fuse": True}

    def launched(self, *given, **named):
        state["may_fuse"] = named.get("enable_fp_fusion", True)
        return launch(self, *given, **named)

    def dot(self, a, b, total, precision, *rest):
        if total.data.dtype != np.float32:
            return exact_dot(self, a, b, total, precision, *rest)
        count["dots"] += 1
        a, b = _wide(a), _wide(b)
        kind = str(precision).lower()
        if a.dtype == np.float32 and "tf32" in kind:
            # Three products of halves: the least first.
            near, close = _cut(a, 13), _cut(b, 13)
            if "x3" in kind:
                rest_a, rest_b = _cut(a - near, 13), _cut(b - close, 13)
                found = _dot(seed, mode, rest_a, close, total.data)
                found = _dot(seed, mode, near, rest_b, found)
                found = _dot(seed, mode, near, close, found)
            else:
                found = _dot(seed, mode, near, close, total.data)
        else:
            found = _dot(seed, mode, a, b, total.data)
        return interpreter.TensorHandle(found, tl.float32)

    def off(exact, n_units):
        """A unary or binary operation of the builder, n units in the last place off."""

        def run(self, *given):
            found = exact(self, *given)
            if found.data.dtype == np.float32:
                found.data = _near(seed, found.data, n_units)
            return found

        return run

    def fused(self, lhs, rhs):
        found = multiply(self, lhs, rhs)
        if state["may_fuse"] and found.data.dtype == np.float32:
            found.data = _near(seed, found.data, 1)
        return found

    def summed(self, given):
        data = given.handle.data
        if data.dtype == np.float32 and self.axis is not None:
            order = np.random.default_rng(seed).permutation(data.shape[self.axis])
            data = data.take(order, self.axis)
        return self.to_tensor(np.sum(data, axis=self.axis, keepdims=self.keep_dims), given.dtype)

    multiply = builder.create_fmul
    with monkeypatch.context() as patch:
        patch.setattr(executor, "__call__", launched)
        patch.setattr(builder, "create_dot", dot)
        patch.setattr(builder, "create_fmul", fused)
        for name, n_units in (("fdiv", 2), ("sqrt", 2), ("exp", 3), ("exp2", 2), ("log2", 2)):
            exact = getattr(builder, f"create_{name}")
            patch.setattr(builder, f"create_{name}", off(exact, n_units))
        for name, op in (("max", np.fmax), ("min", np.fmin)):
            patch.setattr(builder, f"create_{name}numf", _ignoring_nan(op))
        patch.setattr(interpreter.ReduceOps, "sum", summed)
        yield count


def _ignoring_nan(op):
    return lambda self, lhs, rhs: self.binary_op(lhs, rhs, op)


def _wide(factor):
    """The numbers of a factor of a product: bfloat16 and float16 as float32."""
    if factor.dtype.scalar == tl.bfloat16:
        return (factor.data.astype(np.uint32) << 16).view(np.float32)
    return factor.data if factor.data.dtype == np.float32 else factor.data.astype(np.float32)


def _cut(x, n_bits):
    """float32 without its last bits."""
    return (np.ascontiguousarray(x).view(np.uint32) >> n_bits << n_bits).view(np.float32)


def _near(seed, x, n_units):
    """float32 numbers up to n units in the last place away; of those that are not 0."""
    moved = (np.ascontiguousarray(x).view(np.int32) + _drawn(seed, x, n_units)).view(np.float32)
    size = np.abs(x)
    return np.where((size > 1e-37) & (size < 1e38), moved, x)


def _drawn(seed, x, n):
    """Whole numbers from -n to n, by the bits of float32 x."""
    bits = np.ascontiguousarray(x).view(np.uint32) + np.uint32(seed % 2**32)
    mixed = (bits ^ (bits >> 15)) * np.uint32(0x2C1B3C6D)
    return ((mixed >> 16) % np.uint32(2 * n + 1)).astype(np.int32) - n


def _dot(seed, mode, a, b, total):
    """a @ b + total (float32) as a tensor core might have it."""
    n = a.shape[-1]
    a, b = a.astype(np.float64), b.astype(np.float64)
    if mode == "cut off":
        found = total
        for first in range(0, n, _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            found = _cut_off(a[..., part], b[..., part, :], found)
        return found
    exact = a @ b + total
    lost = n * _LOST * (np.abs(a) @ np.abs(b) + np.abs(total))
    if mode == "either way":
        sign = _drawn(seed, exact.astype(np.float32), 1)
    else:
        sign = np.where(exact < 0, 1, -1) * (1 if mode == "to zero" else -1)
    # The last rounding is within what is lost.
    return (exact + sign * lost * (1 - 2.0**-6)).astype(np.float32)


def _cut_off(a, b, total):
    """All terms aligned to the largest and cut off, and so is their sum."""
    terms = a[..., :, :, None] * b[..., None, :, :]
    terms = np.concatenate([terms, total[..., :, None, :].astype(np.float64)], axis=-2)
    largest = np.abs(terms).max(-2, keepdims=True)
    _, power = np.frexp(largest)
    unit = np.ldexp(1.0, power - 24)
    found = (np.trunc(terms / unit) * unit).sum(-2)
    _, power = np.frexp(found)
    unit = np.ldexp(1.0, power - 24)
    cut = (np.trunc(found / unit) * unit).astype(np.float32)
    return np.where(np.isfinite(largest[..., 0, :]), cut, (terms.sum(-2)).astype(np.float32))

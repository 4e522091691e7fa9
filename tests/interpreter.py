"""Triton's interpreter, made fit for tests: kernels run on the host, in NumPy.

`install()` must run before the first kernel is decorated. Where there is a GPU it does nothing, and
the same tests run there.
"""

import importlib.util
import os

import numpy as np


def has_gpu():
    if not importlib.util.find_spec("torch"):
        return False
    import torch

    return torch.cuda.is_available()


def install():
    """Have kernels interpreted, unless a GPU can run them."""
    if not importlib.util.find_spec("triton") or has_gpu():
        return
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language as tl
    from triton.runtime import interpreter

    patch = interpreter._patch_lang

    def patch_once(fn):
        # Triton swaps its words anew at each call of a function by another, a third of a
        # millisecond each time, and puts them back when the launch ends.
        words = [value for value in fn.__globals__.values() if value is tl or value is tl.core]
        if all(not tl.core.is_builtin(module.load) for module in words):
            return interpreter._LangPatchScope()
        return patch(fn)

    interpreter._patch_lang = patch_once
    _mend_bfloat16(interpreter)
    launch = interpreter.GridExecutor.__call__

    def launch_silently(*given, **named):
        # A processor's NaN and infinities come without a word; NumPy's come with a warning.
        with np.errstate(all="ignore"):
            return launch(*given, **named)

    interpreter.GridExecutor.__call__ = launch_silently


def _mend_bfloat16(interpreter):
    """bfloat16 is kept as uint16: have it made by rounding to nearest, and multiplied as floats."""
    import triton.language as tl

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    cast, dot = builder.cast_impl, builder.create_dot

    def widened(tensor):
        if tensor.dtype.scalar != tl.bfloat16:
            return tensor
        bits = tensor.data.astype(np.uint32) << 16
        return handle(bits.view(np.float32), tl.float32)

    def cast_mended(self, tensor, kind):
        source, target = tensor.dtype.scalar, kind.scalar
        if source == tl.bfloat16 and target != source:
            return cast(self, widened(tensor), kind)
        if target == tl.bfloat16 and target != source:
            numbers = tensor.data.astype(np.float32)
            bits = numbers.view(np.uint32).astype(np.uint64)
            rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            return handle(np.where(np.isnan(numbers), np.uint16(0x7FC0), rounded), tl.bfloat16)
        return cast(self, tensor, kind)

    def dot_mended(self, a, b, *rest):
        return dot(self, widened(a), widened(b), *rest)

    builder.cast_impl, builder.create_dot = cast_mended, dot_mended

"""Triton's interpreter, made fit for tests: kernels run on the host, in NumPy.

`install()` must run before the first kernel is decorated. Where there is a GPU it does nothing, and
the same tests run there.

What a GPU leaves open is left open: programs run in any order, and memory that nobody wrote, or
that a mask leaves out of a load, holds nonsense. `sanitizer` sees what they touch.
"""

import importlib.util
import os

import numpy as np

from sanitizer import Sanitizer

SANITIZER = Sanitizer()
# What says in which order programs run.
_order = [np.random.default_rng(0)]


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
    _shuffle(interpreter)
    _fill(interpreter)
    SANITIZER.install(interpreter)
    launch = interpreter.GridExecutor.__call__

    def launch_silently(*given, **named):
        # A processor's NaN and infinities come without a word; NumPy's come with a warning.
        with np.errstate(all="ignore"):
            return launch(*given, **named)

    interpreter.GridExecutor.__call__ = launch_silently


def reseed(seed):
    """Have programs run in the order that this seed says."""
    _order[0] = np.random.default_rng(seed)


def _shuffle(interpreter):
    """Run the programs of a launch in random order."""
    builder = interpreter.InterpreterBuilder
    spread, begin = builder.set_grid_dim, builder.set_grid_idx
    order = []

    def spread_shuffled(self, *sizes):
        spread(self, *sizes)
        order[:] = _order[0].permutation(int(np.prod(sizes))).tolist()

    def begin_shuffled(self, x, y, z):
        _, n_y, n_z = self.grid_dim
        place = (x * n_y + y) * n_z + z
        # Whoever sets the grid in another way wants the programs as they are.
        place = order[place] if len(order) == np.prod(self.grid_dim) else place
        rest, z = divmod(place, n_z)
        begin(self, *divmod(rest, n_y), z)

    builder.set_grid_dim, builder.set_grid_idx = spread_shuffled, begin_shuffled


def _fill(interpreter):
    """Have nonsense in memory that nobody wrote, and in lanes that a load without `other` skips."""
    import torch

    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    semantic = interpreter.TritonSemantic
    begin, load = semantic._load_legacy, builder.create_masked_load
    has_other = [True]

    def begin_noted(self, pointers, mask, other, *rest):
        # The interpreter takes an `other` of 0 for none.
        has_other[0] = other is not None
        return begin(self, pointers, mask, other, *rest)

    def load_filled(self, pointers, mask, other, *rest):
        if not has_other[0] and not mask.data.all():
            kind = pointers.get_element_ty()
            data = np.empty(pointers.data.shape, interpreter._get_np_dtype(kind))
            data.view(np.uint8).fill(0xFF if kind.is_floating() else 1 if kind.is_bool() else 0x7F)
            other = handle(data, kind)
        return load(self, pointers, mask, other, *rest)

    semantic._load_legacy, builder.create_masked_load = begin_noted, load_filled


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

"""Sizes that no test has memory or time for: what a GPU would refuse, or silently wrap, is raised.

Launches run in Triton's interpreter. Of large grids only the outermost programs run, of long loops
only the first and the last turns, so results mean nothing; but every address is computed as for the
whole. Arrays take memory only where they are touched.
"""

import builtins
import contextlib
import math
import mmap
import sys

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

import memcore.kernels
import races

# Programs along the axes of a grid, and in all: Triton's launcher multiplies in 32 bits.
MOST_PROGRAMS = (2**31 - 1, 65_535, 65_535)
# Functions that wrap around on purpose.
WRAPPING = {"ones", "store_signs"}
_LONG = 4
# Python has a name for it from 3.13 on; so it is on Linux.
_NORESERVE = 0x4000


class TooLargeError(Exception):
    """A grid that a GPU does not take."""


def sparse(*shape, dtype=torch.float32):
    """Zeros that take memory only where they are touched."""
    n_bytes = max(1, math.prod(shape)) * dtype.itemsize
    memory = mmap.mmap(-1, n_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape)).view(shape)


def _cleared(allocate):
    """As `allocate`, but what programs that do not run would have written is zero."""

    def allocate_cleared(*given, **kind):
        made = allocate(*given, **kind, device="meta")
        n = max(1, made.numel())
        return sparse(n, dtype=made.dtype).as_strided(made.shape, made.stride())

    return allocate_cleared


def check_grid(kernel, grid):
    """Raise `TooLargeError` for a grid beyond the limits of a GPU."""
    grid = (*grid, 1, 1)[:3]
    too_many = any(n > most for n, most in zip(grid, MOST_PROGRAMS, strict=True))
    if too_many or math.prod(grid) > MOST_PROGRAMS[0]:
        raise TooLargeError(f"{kernel} has a grid of {grid}")


@contextlib.contextmanager
def outermost(monkeypatch):
    """Run the outermost programs alone, with integers and grids watched; yields the grids."""
    grids = []
    builder, executor = interpreter.interpreter_builder, interpreter.GridExecutor
    launch, asserted = executor.__call__, type(builder).create_assert
    set_place = type(builder).set_grid_idx

    def launch_some(self, *given, **named):
        full = (*self.grid, 1, 1)[:3]
        check_grid(self.fn.__name__, full)
        grids.append((self.fn.__name__, full))
        self.grid = tuple(min(n, 2) for n in full)
        builder.set_grid_dim = lambda *_: setattr(builder, "grid_dim", full)
        launch(self, *given, **named)

    def set_outer_place(self, *place):
        set_place(self, *(n - 1 if at else 0 for n, at in zip(self.grid_dim, place, strict=True)))

    def raise_unless_on_purpose(self, condition, message):
        frame = sys._getframe()
        while not condition and frame.f_back and frame.f_code.co_name not in WRAPPING:
            frame = frame.f_back
        if not condition and frame.f_code.co_name not in WRAPPING:
            asserted(self, condition, message)

    with monkeypatch.context() as patch:
        patch.setattr(executor, "__call__", launch_some)
        # These copy whole arrays, from the host to the host.
        patch.setattr(executor, "_init_args_hst", lambda self, *given: given)
        patch.setattr(executor, "_restore_args_dev", lambda self, *given: None)
        patch.setattr(type(builder), "set_grid_idx", set_outer_place)
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
        for place, name in ((torch.Tensor, "new_empty"), (torch, "empty_like")):
            patch.setattr(place, name, _cleared(getattr(place, name)))
        # It is all the same, so that lanes meet which otherwise never do.
        patch.setattr(races, "found", lambda *_: ())
        patch.setattr(type(builder), "create_assert", raise_unless_on_purpose)
        patch.setattr(builder, "set_grid_dim", None, raising=False)
        patch.setattr(builder, "options", interpreter.InterpreterOptions(debug=True))
        for name, module in list(sys.modules.items()):
            if name.startswith(memcore.kernels.__name__):
                patch.setattr(module, "range", _outer_range, raising=False)
        yield grids


def _outer_range(*bounds):
    """Few turns, counted in the type that a compiler would take: the wider of the bounds'."""
    turns = builtins.range(*bounds)
    kinds = [each.dtype for each in bounds if isinstance(each, tl.tensor)]
    if kinds and len(turns) > _LONG:
        turns = (*turns[:2], *turns[-2:])
    kind = tl.int64 if tl.int64 in kinds else tl.int32
    for turn in turns:
        number = np.array([turn], np.int64 if kind == tl.int64 else np.int32)
        yield tl.tensor(interpreter.TensorHandle(number, kind), kind) if kinds else turn

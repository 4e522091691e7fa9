"""What compute-sanitizer checks, for kernels in Triton's interpreter.

Memory: each active lane of an access lies in the tensor that its pointer was derived from, and at a
multiple of its size. Pointers of arguments carry the number of the argument in bits that no address
has, so one element too far is seen wherever it leads. Arguments from which kernels reach further
(`ROAMING`), and addresses that were read from memory, may lead to any tensor that is alive, and to
memory of the host that is page-locked.

Races: see `races`.
"""

import gc
import sys
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np

import races

# Arguments, without `_ptr`, from which kernels reach other memory than their own.
ROAMING = {"origin", "root", "books"}

# Files that stand between a kernel and what sees its accesses.
_OWN = {__file__, str(Path(__file__).with_name("interpreter.py"))}
_TAG = np.uint64(48)
_ADDRESS = np.uint64((1 << 48) - 1)


class SanitizerError(Exception):
    """A kernel did what a GPU would not forgive, or not always do."""


def report(what):
    raise SanitizerError(what)


class Memory:
    """The memory that is alive: storages of tensors, and what is page-locked.

    Attributes:
        locked: says where the spans begin that are page-locked, and where each ends.
    """

    def __init__(self):
        self.locked = dict
        # By its begin: where a storage ends, and a tensor that holds it.
        self._held = {}
        self._sort()

    def prune(self):
        """Forget the tensors that are gone."""
        gone = [begin for begin, (_, tensor) in self._held.items() if tensor() is None]
        for begin in gone:
            del self._held[begin]
        self._sort()

    def are_outside(self, addresses, n_bytes):
        """Which elements do not lie wholly in memory that is alive, bool."""
        are_out = self._are_outside(addresses, n_bytes)
        if are_out.any():
            self._look_around()
            are_out = self._are_outside(addresses, n_bytes)
        return are_out

    def _are_outside(self, addresses, n_bytes):
        at = np.searchsorted(self._begins, addresses, "right")
        return addresses + np.uint64(n_bytes) > self._ends[at]

    def _look_around(self):
        """Find all tensors that there are."""
        import torch

        for each in [each for each in gc.get_objects() if type(each) is torch.Tensor]:
            # Those that only stand for others have no storage.
            with suppress(RuntimeError):
                storage = each.untyped_storage()
                if storage.device.type == "cpu":
                    begin = storage.data_ptr()
                    self._held[begin] = begin + storage.nbytes(), weakref.ref(each)
        self._sort()

    def _sort(self):
        spans = [(begin, end) for begin, (end, _) in self._held.items()]
        spans = sorted([*spans, *self.locked().items()])
        self._begins = np.array([begin for begin, _ in spans], np.uint64)
        # What lies before all of them lies in nothing.
        ends = np.array([0, *(end for _, end in spans)], np.uint64)
        self._ends = np.maximum.accumulate(ends)


class Launch:
    """One launch of a kernel."""

    def __init__(self, kernel, memory, roaming):
        self._kernel = kernel
        self._memory = memory
        self._roaming = roaming
        self._spans = [(0, 1 << 48)]
        self.log = []
        self._program = 0
        self._n_barriers = 0

    def tagged(self, tensor):
        """The address of an argument, with its number."""
        address = tensor.data_ptr()
        if address in self._roaming:
            return address
        tensor = getattr(tensor, "base", tensor)
        n_bytes = 0
        if tensor.numel():
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            n_bytes = (1 + sum((n - 1) * step for n, step in steps)) * tensor.element_size()
        address += len(self._spans) << int(_TAG)
        self._spans.append((address, address + n_bytes))
        return address

    def begin_program(self, program):
        self._program = program
        self._n_barriers = 0

    def pass_barrier(self):
        self._n_barriers += 1

    def touch(self, kind, pointers, mask, n_bytes, values=None):
        """Check an access; its addresses."""
        addresses = pointers & _ADDRESS
        lanes = np.flatnonzero(mask)
        if not lanes.size:
            return addresses
        active = pointers.ravel()[lanes]
        line = _line()
        where = f"{line} of {self._kernel}, program {self._program}"
        if (active & np.uint64(n_bytes - 1)).any():
            report(f"{kind} of {n_bytes} bytes at an address that is no multiple, {where}")
        tags = active >> _TAG
        for tag in (tags[0],) if (tags == tags[0]).all() else np.unique(tags):
            self._check(kind, int(tag), active[tags == tag], n_bytes, where)
        active &= _ADDRESS
        if values is not None and _differ(active, values.ravel()[lanes]):
            report(f"two lanes store different values in one place, {where}")
        given = (kind, self._program, self._n_barriers, active, lanes, n_bytes, line)
        self.log.append(races.Access(*given))
        return addresses

    def _check(self, kind, tag, active, n_bytes, where):
        if tag == 0:
            n_out = np.count_nonzero(self._memory.are_outside(active, n_bytes))
            if n_out:
                report(f"{kind} of memory that nobody holds in {n_out} lanes, {where}")
            return
        begin, end = self._spans[tag] if tag < len(self._spans) else (0, 0)
        before = max(0, begin - int(active.min()))
        past = max(0, int(active.max()) + n_bytes - end)
        if before or past:
            span = f"argument {tag} of {end - begin} bytes"
            report(f"{kind} {before} bytes before and {past} bytes past {span}, {where}")


def _differ(addresses, values):
    """Whether values (n,) of the same address differ."""
    order = np.argsort(addresses, kind="stable")
    are_same = np.diff(addresses[order]) == 0
    if not are_same.any():
        return False
    values = values[order].view(f"u{values.itemsize}")
    return bool((are_same & (values[1:] != values[:-1])).any())


def _roaming(named):
    """The arguments, and those in tuples of arguments, from which kernels reach other memory."""
    for name, value in named.items():
        if hasattr(value, "_asdict"):
            yield from _roaming(value._asdict())
        elif name.removesuffix("_ptr") in ROAMING and hasattr(value, "data_ptr"):
            yield value


def _line():
    """The line of a kernel that is running."""
    frame = sys._getframe(2)
    while "/triton/" in frame.f_code.co_filename or frame.f_code.co_filename in _OWN:
        frame = frame.f_back
    return f"{frame.f_code.co_name}:{frame.f_lineno}"


class Sanitizer:
    """Sees what the interpreter does, launch after launch.

    Attributes:
        memory: what addresses may lead to.
    """

    def __init__(self):
        self.memory = Memory()
        self._launch = None

    def install(self, interpreter):
        """See the interpreter's launches and accesses."""
        builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
        handle = interpreter.TensorHandle
        launch, convert, begin = executor.__call__, interpreter._implicit_cvt, builder.set_grid_idx
        load, store = builder.create_masked_load, builder.create_masked_store
        swap, change = builder.create_atomic_cas, builder.create_atomic_rmw

        def launch_seen(executor, *given, **named):
            bound = dict(zip(executor.arg_names, given, strict=False)) | named
            roaming = {each.data_ptr() for each in _roaming(bound)}
            self.memory.prune()
            kernel = executor.fn.__name__
            self._launch = Launch(kernel, self.memory, roaming)
            try:
                launch(executor, *given, **named)
                for race in races.found(kernel, self._launch.log):
                    report(race)
            finally:
                self._launch = None

        def convert_seen(arg):
            value = convert(arg)
            if self._launch and hasattr(arg, "data_ptr"):
                value.handle.data[:] = self._launch.tagged(arg)
            return value

        def begin_seen(builder, x, y, z):
            begin(builder, x, y, z)
            if self._launch:
                _, n_y, n_z = builder.grid_dim
                self._launch.begin_program((x * n_y + y) * n_z + z)

        def pass_barrier(builder):
            if self._launch:
                self._launch.pass_barrier()

        def touched(kind, pointers, mask, values=None):
            if not self._launch:
                return pointers
            n_bytes = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
            data = self._launch.touch(kind, pointers.data, mask, n_bytes, values)
            return handle(data, pointers.dtype)

        def load_seen(builder, pointers, mask, *rest):
            return load(builder, touched("load", pointers, mask.data), mask, *rest)

        def store_seen(builder, pointers, value, mask, *rest):
            there = touched("store", pointers, mask.data, value.data)
            return store(builder, there, value, mask, *rest)

        def swap_seen(builder, pointers, *rest):
            every = np.ones(pointers.data.shape, bool)
            return swap(builder, touched("atomic", pointers, every), *rest)

        def change_seen(builder, operation, pointers, value, mask, *rest):
            there = touched("atomic", pointers, mask.data)
            return change(builder, operation, there, value, mask, *rest)

        def refuse_hint(handle, name, values):
            report(f"{name} is {values}, a hint that the interpreter does not check")

        # What is there by now is no tensor to be found, and is not looked through again.
        gc.freeze()
        builder.set_grid_idx, builder.create_barrier = begin_seen, pass_barrier
        builder.create_masked_load, builder.create_masked_store = load_seen, store_seen
        builder.create_atomic_cas, builder.create_atomic_rmw = swap_seen, change_seen
        handle.set_attr = refuse_hint
        interpreter._implicit_cvt, executor.__call__ = convert_seen, launch_seen

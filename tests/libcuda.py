"""A driver of CUDA in the host's memory: `libcuda.c`, compiled against Triton's cuda.h."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np

GRANULE = 4096
SOURCE = Path(__file__).with_suffix(".c")


def compiled(folder):
    """The library, loaded; it knows of no call yet."""
    import triton

    headers = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    path = folder / "libcuda.so"
    command = ["cc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", f"-I{headers}"]
    subprocess.run([*command, str(SOURCE), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.take_notes.restype = ctypes.c_char_p
    return library


class Libcuda:
    """What tests ask of it.

    Attributes:
        library: as `ctypes` has it.
    """

    def __init__(self, folder):
        self.library = compiled(folder)

    def notes(self):
        """The calls since the last time: name and two numbers each."""
        lines = self.library.take_notes().decode().splitlines()
        return [(name, int(a), int(b)) for name, a, b in map(str.split, lines)]

    def calls(self, *names):
        """The calls of these names since the last time; the others are forgotten."""
        return [each for each in self.notes() if each[0] in names]

    def fail(self, name, n_before=0):
        """Have the call of this name fail, once, after so many of them."""
        self.library.fail(name.encode(), n_before)

    def held(self):
        """How many spans are locked, reserved, mapped, and how many allocations are open."""
        assert self.library.count_faults() == 0
        counts = np.zeros(4, np.int32)
        self.library.count_held(counts.ctypes.data_as(ctypes.c_void_p))
        return counts.tolist()

    def locked(self):
        """Where each span of memory that is locked begins, and where it ends."""
        bounds = np.zeros((4096, 2), np.uint64)
        n = self.library.list_locked(bounds.ctypes.data_as(ctypes.c_void_p))
        return dict(bounds[:n].tolist())

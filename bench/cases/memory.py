"""What banks take in memory: over their rows, over resets, after deletes. Nothing is timed."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

import memcore

from .. import data
from ..case import Case, Inputs
from ..machine import Limits
from ..rows import Figure

LARGEST_RATIO = 1.25
# The process may keep a little of what a reset frees; growth past this is a leak.
LARGEST_GROWTH = 1.0
N_RESETS = 1000


@dataclass(frozen=True, kw_only=True)
class Memory(Case):
    """`n_banks` banks of `n_rows` rows without fields."""

    op: ClassVar[str] = "memory"
    n_banks: int = 10_000
    n_rows: int = 100
    dim: int = 384

    @property
    def name(self) -> str:
        """memory/banks x rows x dim."""
        return f"memory/{self.n_banks} x {self.n_rows} x {self.dim}"

    @property
    def shape(self) -> dict[str, int]:
        """n_banks, rows, dim."""
        return {"n_banks": self.n_banks, "rows": self.n_rows, "dim": self.dim}

    def inputs(self) -> Inputs:
        """The rows of one bank; all banks hold the same."""
        return {"vectors": data.keys("mix", self.n_rows, self.dim, self.seed)}

    def counts(self, inputs: Inputs, limits: Limits) -> list[Figure]:
        """Bytes over rows and shadow; growth over resets; what deletes and compact give back."""
        rows = self.n_banks * self.n_rows
        store = memcore.Arena(dim=self.dim)
        handles = self._fill(store, inputs, self.n_banks)
        full, process = store.nbytes, resident()
        # Scale, residual norm and canonical norm of a row are 12 bytes of the shadow.
        least = rows * (4 * self.dim + self.dim + 12)

        ids = np.arange(0, self.n_rows, 2)
        for part in np.array_split(handles, 50):
            store.delete(np.repeat(part, len(ids)), np.tile(ids, len(part)))
        halved = store.nbytes
        store.drop(handles)
        dropped = store.nbytes
        store.compact()
        given_back = process - resident()
        return [
            Figure("bytes over rows and shadow", full / least, "x", LARGEST_RATIO, None, False),
            Figure("after half is deleted", 100 * halved / full, "% of before", 75.0, None, False),
            Figure("after drop", 100 * dropped / full, "% of before", 5.0, None, False),
            Figure("given back by compact", 100 * given_back / full, "% of nbytes", 80.0),
            *self._growth(inputs),
        ]

    def _growth(self, inputs: Inputs) -> list[Figure]:
        """Fill and drop a hundredth of the banks again and again."""
        store = memcore.Arena(dim=self.dim)
        n_banks = max(1, self.n_banks // 100)
        sizes = []
        for reset in range(N_RESETS):
            handles = self._fill(store, inputs, n_banks)
            # The first resets find the sizes that the tables keep.
            if reset in (10, N_RESETS - 1):
                gc.collect()
                sizes.append((store.nbytes, resident()))
            store.drop(handles)
        (bytes_then, process_then), (bytes_now, process_now) = sizes
        return [
            Figure("growth of nbytes", 100 * (bytes_now / bytes_then - 1), "%", 0.0, None, False),
            Figure(
                "growth of the process",
                100 * (process_now / process_then - 1),
                "%",
                LARGEST_GROWTH,
                None,
                False,
            ),
        ]

    def _fill(self, store: memcore.Arena, inputs: Inputs, n_banks: int) -> np.ndarray:
        handles = store.new(n_banks)
        for part in np.array_split(handles, -(-n_banks // 256)):
            store.add(np.repeat(part, self.n_rows), np.tile(inputs["vectors"], (len(part), 1)))
        return np.asarray(handles)


def resident() -> int:
    """Bytes of memory that this process holds; 0 where /proc does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    for line in status.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def sweep(level: str) -> list[Case]:
    """Ten thousand banks; a tenth of them for a quick look."""
    return [Memory(n_banks=1000)] if level == "quick" else [Memory()]

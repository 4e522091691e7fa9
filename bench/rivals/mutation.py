"""Rivals at append, update, delete and search in many banks, on `memcore.bench.script`.

They are spared what we do: NumPy and torch name rows by place and keep no ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..case import Case, Inputs, Prepare
from ..script import Change, Round, Script
from ..timing import Step

Array = np.ndarray


def all_of() -> dict[str, Prepare]:
    """The rivals by name."""
    return {
        "numpy[bank by bank]": numpy_swap_remove,
        "numpy[batched]": numpy_batched,
        "torch[fixed slots]": torch_fixed_slots,
        "faiss[idmap2]": faiss_idmap2,
    }


class Turns:
    """Gives each timed run the next round of the script, and refills what the last one took."""

    def __init__(self, inputs: Inputs, engine: Any) -> None:
        self.script = Script(inputs["vectors"], inputs["share"], inputs["seed"])
        self.engine = engine
        self.round: Round | None = None

    def setup(self) -> None:
        """Refill, then make the next round; not timed."""
        if self.round is not None:
            self.engine.append(self.round.refill)
        self.round = self.script.next()

    def write(self) -> None:
        """One append, one update, one delete in every bank."""
        if self.round is None:
            raise RuntimeError("bench: the step was run without its set-up")
        self.engine.append(self.round.append)
        self.engine.update(self.round.update)
        self.engine.delete(self.round.delete)

    def run(self) -> Any:
        """The whole step: the writes, then a search of every bank."""
        self.write()
        return self.engine.search()


def numpy_swap_remove(case: Case, inputs: Inputs, threads: int) -> Step:
    """One array a bank, a loop over banks, as one writes it first."""
    turns = Turns(inputs, _NumpyBanks(inputs, case.k))
    return Step(turns.run, turns.setup, repeatable=False)


def numpy_batched(case: Case, inputs: Inputs, threads: int) -> Step:
    """One array for all banks, which are of one size; every operation over all at once."""
    turns = Turns(inputs, _NumpyBatched(inputs, case.k))
    return Step(turns.run, turns.setup, repeatable=False)


def torch_fixed_slots(case: Case, inputs: Inputs, threads: int) -> Step:
    """One tensor for all banks with a mask of live slots; scatter, then `bmm` and `topk`."""
    turns = Turns(inputs, _TorchSlots(inputs, case.k))
    return Step(turns.run, turns.setup, lambda scores: scores.numpy(), repeatable=False)


def faiss_idmap2(case: Case, inputs: Inputs, threads: int) -> Step:
    """One `IndexIDMap2` over `IndexFlatIP` a bank."""
    turns = Turns(inputs, _FaissBanks(inputs, case.k))
    return Step(turns.run, turns.setup, repeatable=False)


class _NumpyBanks:
    def __init__(self, inputs: Inputs, k: int) -> None:
        n_banks, n_rows, dim = inputs["vectors"].shape
        self.banks = [np.empty((n_rows + 1, dim), np.float32) for _ in range(n_banks)]
        for bank, rows in zip(self.banks, inputs["vectors"], strict=True):
            bank[:n_rows] = rows
        self.sizes = [n_rows] * n_banks
        self.queries, self.k = inputs["queries"], k

    def append(self, change: Change) -> None:
        count = change.ids.shape[1]
        for i, rows in enumerate(change.vectors):
            self.banks[i][self.sizes[i] : self.sizes[i] + count] = rows
            self.sizes[i] += count

    def update(self, change: Change) -> None:
        for bank, positions, rows in zip(self.banks, change.positions, change.vectors, strict=True):
            bank[positions] = rows

    def delete(self, change: Change) -> None:
        for i, positions in enumerate(change.positions.tolist()):
            bank, size = self.banks[i], self.sizes[i]
            for position in positions:
                size -= 1
                bank[position] = bank[size]
            self.sizes[i] = size

    def search(self) -> Array:
        k = self.k
        out = np.empty((len(self.banks), k), np.float32)
        for i, bank in enumerate(self.banks):
            scores = bank[: self.sizes[i]] @ self.queries[i]
            scores = scores[np.argpartition(scores, len(scores) - k)[-k:]]
            scores.sort()
            out[i] = scores[::-1]
        return out


class _NumpyBatched:
    def __init__(self, inputs: Inputs, k: int) -> None:
        n_banks, n_rows, dim = inputs["vectors"].shape
        self.rows = np.zeros((n_banks, n_rows + 1, dim), np.float32)
        self.rows[:, :n_rows] = inputs["vectors"]
        self.size = n_rows
        self.all = np.arange(n_banks)
        self.queries, self.k = inputs["queries"], k

    def append(self, change: Change) -> None:
        count = change.ids.shape[1]
        self.rows[:, self.size : self.size + count] = change.vectors
        self.size += count

    def update(self, change: Change) -> None:
        self.rows[self.all[:, None], change.positions] = change.vectors

    def delete(self, change: Change) -> None:
        for column in change.positions.T:
            self.size -= 1
            self.rows[self.all, column] = self.rows[:, self.size]

    def search(self) -> Array:
        scores = (self.rows[:, : self.size] @ self.queries[:, :, None])[:, :, 0]
        best = np.partition(scores, self.size - self.k, axis=1)[:, -self.k :]
        best.sort(axis=1)
        return best[:, ::-1]


class _TorchSlots:
    def __init__(self, inputs: Inputs, k: int) -> None:
        import torch

        self.torch = torch
        n_banks, n_rows, dim = inputs["vectors"].shape
        self.n_slots = n_rows + 1
        self.rows = torch.zeros(n_banks * self.n_slots, dim)
        self.rows.view(n_banks, self.n_slots, dim)[:, :n_rows] = torch.from_numpy(
            inputs["vectors"].copy()
        )
        self.missing = torch.zeros(n_banks * self.n_slots)
        self.missing.view(n_banks, self.n_slots)[:, n_rows:] = -torch.inf
        self.first = torch.arange(n_banks)[:, None] * self.n_slots
        self.queries, self.k = torch.from_numpy(inputs["queries"])[:, :, None], k

    def append(self, change: Change) -> None:
        places = self._write(change)
        self.missing[places] = 0.0

    def update(self, change: Change) -> None:
        self._write(change)

    def delete(self, change: Change) -> None:
        self.missing[self._places(change)] = -self.torch.inf

    def search(self) -> Any:
        n_banks = len(self.first)
        rows = self.rows.view(n_banks, self.n_slots, -1)
        missing = self.missing.view(n_banks, self.n_slots, 1)
        with self.torch.inference_mode():
            scores = self.torch.baddbmm(missing, rows, self.queries)
            return self.torch.topk(scores[:, :, 0], self.k).values

    def _places(self, change: Change) -> Any:
        return (self.first + self.torch.from_numpy(change.slots)).flatten()

    def _write(self, change: Change) -> Any:
        places = self._places(change)
        rows = self.torch.from_numpy(change.vectors).flatten(0, 1)
        self.rows.index_copy_(0, places, rows)
        return places


class _FaissBanks:
    def __init__(self, inputs: Inputs, k: int) -> None:
        import faiss

        n_rows, dim = inputs["vectors"].shape[1:]
        self.banks = [faiss.IndexIDMap2(faiss.IndexFlatIP(dim)) for _ in inputs["vectors"]]
        for bank, rows in zip(self.banks, inputs["vectors"], strict=True):
            bank.add_with_ids(rows, np.arange(n_rows))
        self.queries, self.k = inputs["queries"], k

    def append(self, change: Change) -> None:
        for bank, ids, rows in zip(self.banks, change.ids, change.vectors, strict=True):
            bank.add_with_ids(rows, ids)

    def update(self, change: Change) -> None:
        for bank, ids, rows in zip(self.banks, change.ids, change.vectors, strict=True):
            bank.remove_ids(ids)
            bank.add_with_ids(rows, ids)

    def delete(self, change: Change) -> None:
        for bank, ids in zip(self.banks, change.ids, strict=True):
            bank.remove_ids(ids)

    def search(self) -> Array:
        return np.concatenate(
            [bank.search(self.queries[i : i + 1], self.k)[0] for i, bank in enumerate(self.banks)]
        )

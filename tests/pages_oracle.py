"""`_core.Pages` beside a dict of what it should hold, and a look at every byte of every page."""

import copy
import dataclasses

import numpy as np

from memcore import _core

KINDS = ["int64", "float64", "bool", "ref", "ref"]
REFS = [column for column, kind in enumerate(KINDS) if kind == "ref"]
NULLS = [-(2**63), 0x7FF8000000000000, -(2**63), -1, -1]
STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


@dataclasses.dataclass
class Rows:
    """One bank: id -> (bytes of the vector, cells); ids that any row ever had."""

    rows: dict = dataclasses.field(default_factory=dict)
    used: set = dataclasses.field(default_factory=set)
    next_id: int = 0

    def clone(self):
        """Return what a fork holds."""
        return Rows(dict(self.rows), set(self.used), self.next_id)


class PagesOracle:
    """Runs each operation on both sides; `check` compares what is seen and what lies in memory."""

    def __init__(self, dim=5, dtype="float32", kinds=KINDS):
        self.dim, self.dtype, self.kinds = dim, dtype, kinds
        self.pages = _core.Pages(dim, dtype, "dot", kinds)
        self.banks: dict[int, Rows] = {}
        self.touched = {column: set() for column in REFS if kinds}
        self._blocks: dict[bytes, bytes] = {}

    def new(self, n):
        """Make n empty banks."""
        handles = self.pages.new(n).tolist()
        assert not set(handles) & set(self.banks)
        self.banks.update({handle: Rows() for handle in handles})
        return handles

    def add(self, handles, ids, vectors, columns):
        """Add rows; `vectors` in the dtype of the pages."""
        given = None if ids is None else np.array(ids, np.int64)
        added = self.pages.add(np.array(handles, np.int64), given, vectors, columns).tolist()
        for i, handle in enumerate(np.broadcast_to(handles, len(added)).tolist()):
            bank = self.banks[handle]
            expected = bank.next_id if ids is None else ids[i]
            assert added[i] == expected
            assert expected not in bank.used
            bank.used.add(expected)
            bank.next_id = max(bank.next_id, expected + 1)
            bank.rows[expected] = (self._bytes(vectors, i), self._cells(columns, i))
        return added

    def update(self, handles, ids, vectors, columns, skip=False):
        """Change rows."""
        found = self.pages.update(
            np.array(handles, np.int64), np.array(ids, np.int64), vectors, columns, skip
        )
        for i, (handle, row) in enumerate(zip(handles, ids, strict=True)):
            bank = self.banks[handle]
            assert found[i] == (row in bank.rows)
            if found[i]:
                vector, cells = bank.rows[row]
                new = self._cells(columns, i)
                kept = [
                    old if column is None else now
                    for old, now, column in zip(cells, new, columns, strict=True)
                ]
                bank.rows[row] = (vector if vectors is None else self._bytes(vectors, i), kept)

    def delete(self, handles, ids, skip=False):
        """Delete rows."""
        found = self.pages.delete(np.array(handles, np.int64), np.array(ids, np.int64), skip)
        for i, (handle, row) in enumerate(zip(handles, ids, strict=True)):
            assert found[i] == (row in self.banks[handle].rows)
            self.banks[handle].rows.pop(row, None)

    def fork(self, handles, n):
        """Fork each bank n times."""
        forks = self.pages.fork(np.array(handles, np.int64), n)
        assert forks.shape == (len(handles), n)
        for parent, children in zip(handles, forks.tolist(), strict=True):
            for child in children:
                assert child not in self.banks
                self.banks[child] = self.banks[parent].clone()
        return forks

    def copy_from(self, handles, sources):
        """Make each bank what its source is."""
        self.pages.copy_from(np.array(handles, np.int64), np.array(sources, np.int64))
        before = copy.copy(self.banks)
        for handle, source in zip(handles, sources, strict=True):
            self.banks[handle] = before[source].clone()

    def drop(self, handles):
        """Drop banks."""
        self.pages.drop(np.array(handles, np.int64))
        for handle in handles:
            del self.banks[handle]

    def _bytes(self, vectors, i):
        return b"" if vectors is None else np.ascontiguousarray(vectors[i]).tobytes()

    def _cells(self, columns, i):
        cells = [
            null if column is None else int(column[i])
            for column, null in zip(columns, NULLS, strict=False)
        ]
        for column in self.touched:
            self.touched[column].add(cells[column])
        return cells

    def check(self):
        """Compare every bank, every page and the dead references."""
        self._check_banks()
        self._check_pages()
        self._check_refs()

    def _check_banks(self):
        handles = np.array(list(self.banks), np.int64)
        assert self.pages.alive(handles).all()
        counts = self.pages.count(handles).tolist()
        assert counts == [len(bank.rows) for bank in self.banks.values()]
        for handle, bank in self.banks.items():
            ids = self.pages.ids(handle)
            assert ids.tolist() == sorted(bank.rows)
            one = np.array([handle])
            shape = (len(ids), self.dim or 0)
            vectors = np.full(shape, 7, STORED[self.dtype]) if self.dim else None
            columns = [np.full(len(ids), 7, np.int64) for _ in self.kinds]
            assert self.pages.get(one, ids, False, vectors, columns).all()
            for i, row in enumerate(ids.tolist()):
                vector, cells = bank.rows[row]
                assert not self.dim or vectors[i].tobytes() == vector
                assert [int(column[i]) for column in columns] == cells
            asked = [min(bank.next_id, 2**63 - 1), -1, 2**62]
            contained = self.pages.contains(one, np.array(asked, np.int64))
            assert contained.tolist() == [row in bank.rows for row in asked]

    def _check_pages(self):
        """Every lane holds the row of its bank with the shadow of that row, or nothing."""
        holders: dict[int, list] = {}
        for handle, bank in self.banks.items():
            table = self.pages.page_table(handle).tolist()
            assert len(table) == -(-len(bank.rows) // 16)
            for position, page in enumerate(table):
                lanes = min(16, len(bank.rows) - 16 * position)
                holders.setdefault(page, []).append((bank, lanes))
        assert self.pages.n_pages - self.pages.n_free_pages == len(holders)
        for page in range(self.pages.n_pages):
            parts = self.parts(page)
            for bank, lanes in holders.get(page, [(None, 0)]):
                for lane in range(16):
                    row = None
                    if lane < lanes:
                        row = int(parts["ids"][lane])
                        vector, cells = bank.rows[row]
                    else:
                        vector, cells = bytes(len(parts["rows"][0])), [0] * len(self.kinds)
                        assert parts["ids"][lane] == -1
                    assert parts["rows"][lane].tobytes() == vector
                    assert parts["cells"][:, lane].tolist() == cells
                    if self.dim:
                        assert parts["block"][:, lane].tobytes() == self._lane_of(vector, row)

    def parts(self, page):
        """The bytes of a page, cut into rows, shadow, ids and cells."""
        content = self.pages.page_content(page)
        row_bytes = (self.dim or 0) * np.dtype(STORED[self.dtype]).itemsize
        lines = (self.dim + 3) // 4 + 3 if self.dim else 0
        rows_end, block_end = 16 * row_bytes, 16 * row_bytes + 64 * lines
        words = np.frombuffer(content, np.int64, offset=block_end).reshape(1 + len(self.kinds), 16)
        return {
            "rows": np.frombuffer(content, np.uint8, rows_end).reshape(16, row_bytes),
            "block": np.frombuffer(content, np.uint8, 64 * lines, rows_end).reshape(lines, 16, 4),
            "ids": words[0],
            "cells": words[1:],
        }

    def _lane_of(self, vector, row):
        """The shadow of a row, as a page that holds nothing else has it."""
        if row is None:
            return b"\x80" * ((self.dim + 3) // 4 * 4) + bytes(12)
        if vector not in self._blocks:
            alone = PagesOracle(self.dim, self.dtype, [])
            rows = np.frombuffer(vector, STORED[self.dtype])[None]
            alone.pages.add(alone.pages.new(1), None, rows, [])
            self._blocks[vector] = alone.parts(0)["block"][:, 0].tobytes()
        return self._blocks[vector]

    def _check_refs(self):
        for column, touched in self.touched.items():
            live = {
                cells[column] for bank in self.banks.values() for _, cells in bank.rows.values()
            }
            dead = self.pages.dead_refs(column).tolist()
            assert dead == sorted(touched - live - {-1})
            self.touched[column] = live

    def digest(self):
        """All that a failed call must leave as it was."""
        tables = {handle: self.pages.page_table(handle).tolist() for handle in self.banks}
        used = {page for table in tables.values() for page in table}
        contents = {page: self.pages.page_content(page) for page in used}
        free = self.pages.n_pages - self.pages.n_free_pages
        return tables, contents, free, self.pages.count(np.array(list(self.banks))).tolist()


def draw_vectors(rng, n, dim, dtype):
    rows = rng.standard_normal((n, dim)).astype(np.float32)
    if dtype == "bfloat16":
        return (rows.view(np.uint32) >> 16).astype(np.uint16)
    return rows.astype(STORED[dtype])


def draw_cells(rng, n):
    """Cells for each kind of column, with nulls, or no column at all."""
    columns = [
        rng.integers(-3, 3, n),
        rng.standard_normal(n).view(np.int64),
        rng.integers(0, 2, n),
        rng.integers(-1, 12, n),
        rng.integers(-1, 500, n),
    ]
    for column, null in zip(columns, NULLS, strict=True):
        column[rng.random(n) < 0.1] = null
    return [None if rng.random() < 0.15 else column for column in columns]

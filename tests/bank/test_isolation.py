"""No search returns another bank's row: thousands of banks with the same ids and the same vectors.

Every row carries the number of its bank where a search shows it: as component 0, so that the query
(1, 0, 0, …) scores a row by its owner, and as a field. Banks are dropped, made in the places of the
dropped, forked and rolled back between the searches, so that pages are shared and used again.
"""

import os

import numpy as np

from memcore import Arena

# MEMCORE_TEST_SEARCHES asks for a longer run.
N_SEARCHES = int(os.environ.get("MEMCORE_TEST_SEARCHES") or 1_000_000)
N_BANKS = 3000
MAX_ROWS = 40
BATCH = 10_000
DIM = 9
ASK_OWNER = np.eye(1, DIM, dtype=np.float32)


class Town:
    """Banks, the number of each, and the ids that are in it."""

    def __init__(self, rng):
        self.rng = rng
        self.arena = Arena(DIM, metric="dot", fields={"owner": "int64"})
        # The same in every bank, but for component 0.
        self.common = rng.standard_normal((MAX_ROWS * 4, DIM)).astype(np.float32)
        self.handles = np.zeros(0, np.int64)
        self.owners = np.zeros(0, np.int64)
        self.ids = []
        self.n_owners = 0
        self.found(N_BANKS)

    def found(self, n):
        """New banks, each with rows of its own."""
        handles = self.arena.new(n)
        owners = np.arange(self.n_owners, self.n_owners + n) + 1
        self.n_owners += n
        self.handles = np.concatenate([self.handles, handles])
        self.owners = np.concatenate([self.owners, owners])
        self.ids += [set() for _ in range(n)]
        self.settle(np.arange(len(self.ids) - n, len(self.ids)))

    def settle(self, places):
        """Up to MAX_ROWS more rows in some banks."""
        sizes = self.rng.integers(0, MAX_ROWS + 1, len(places))
        rows = np.repeat(places, sizes)
        within = np.concatenate([np.arange(size) for size in sizes]).astype(np.int64)
        vectors = self.common[within]
        vectors[:, 0] = self.owners[rows]
        fields = {"owner": self.owners[rows]}
        ids = self.arena.add(self.handles[rows], vectors, fields=fields, payloads=list(rows))
        for place, row in zip(rows.tolist(), ids.tolist(), strict=True):
            self.ids[place].add(row)

    def some(self, n):
        return self.rng.choice(len(self.ids), n, replace=False)

    def empty_some(self):
        """Delete most rows of some banks: what is left moves within its pages."""
        places, rows = [], []
        for place in self.some(300).tolist():
            gone = [row for row in self.ids[place] if self.rng.random() < 0.8]
            places += [place] * len(gone)
            rows += gone
            self.ids[place].difference_update(gone)
        self.arena.delete(self.handles[places], np.array(rows, np.int64))

    def replace_some(self):
        """Drop banks, and make others that get their pages."""
        gone = set(self.some(300).tolist())
        self.arena.drop(self.handles[list(gone)])
        keep = np.array([place not in gone for place in range(len(self.ids))])
        self.handles, self.owners = self.handles[keep], self.owners[keep]
        self.ids = [ids for place, ids in enumerate(self.ids) if place not in gone]
        self.found(300)

    def fork_some(self):
        """Forks that take other owners: every row is written while its page is shared."""
        places = self.some(200)
        forks = self.arena.fork(self.handles[places]).reshape(-1)
        owners = np.arange(self.n_owners, self.n_owners + 200) + 1
        self.n_owners += 200
        for fork, owner, place in zip(forks, owners, places, strict=True):
            ids = np.array(sorted(self.ids[place]), np.int64)
            rows = self.arena.get(fork, ids).vectors
            rows[:, 0] = owner
            fields = {"owner": np.full(len(ids), owner)}
            self.arena.update(fork, ids, rows, fields=fields)
        self.arena.drop(self.handles[places])
        self.handles[places], self.owners[places] = forks, owners

    def visit_some(self):
        """A snapshot, rows of strangers, and back."""
        places = self.some(300)
        mark = self.arena.snapshot(self.handles[places])
        strangers = np.full((300, DIM), -1e6, np.float32)
        self.arena.add(self.handles[places], strangers)
        self.arena.rollback(self.handles[places], mark)
        mark.release()

    def check(self):
        """BATCH searches, each by its owner; returns how many."""
        places = self.rng.integers(0, len(self.ids), BATCH)
        handles, owners = self.handles[places], self.owners[places]
        k = int(self.rng.integers(1, MAX_ROWS))
        kind = self.rng.integers(4)
        queries = np.repeat(ASK_OWNER, BATCH, 0)
        others = self.owners[self.rng.integers(0, len(self.ids), BATCH)]
        if kind == 0:
            hits = self.arena.search(handles, queries, k)
        elif kind == 1:
            # Ids that other banks have, and this one may not.
            named = self.rng.integers(-1, 2 * MAX_ROWS, (BATCH, 12))
            hits = self.arena.search(handles, queries, k, candidates=named)
        elif kind == 2:
            # Conditions that only a stranger's rows meet.
            where = [
                {"owner": {"in": [int(a), int(b)]}} for a, b in zip(owners, others, strict=True)
            ]
            hits = self.arena.search(handles, queries, k, where=where)
        else:
            hits = self.arena.search(handles, queries, k, where={"owner": {"ne": int(others[0])}})
        wrong = hits.valid & (hits.scores != owners[:, None])
        assert not wrong.any(), f"{np.argwhere(wrong)[0]} of kind {kind}: {hits.scores[wrong][0]}"
        counts = hits.valid.sum(1)
        for i, place in enumerate(places.tolist()):
            mine = self.ids[place]
            found = hits.ids[i, : counts[i]].tolist()
            # All rows of a bank score the same, so that the smallest ids win.
            allowed = mine
            if kind == 1:
                allowed = mine.intersection(named[i].tolist())
            elif kind == 3 and owners[i] == others[0]:
                allowed = set()
            assert found == sorted(allowed)[:k], (kind, place)
        return BATCH


def test_no_search_returns_a_foreign_row(rng):
    town = Town(rng)
    changes = [town.empty_some, town.replace_some, town.fork_some, town.visit_some]
    left = N_SEARCHES
    while left > 0:
        for _ in range(3):
            left -= town.check()
        changes[rng.integers(len(changes))]()
        town.settle(town.some(200))
    rows = town.arena.get(town.handles[0], sorted(town.ids[0]))
    assert set(rows.fields["owner"]) <= {int(town.owners[0])}


def test_what_is_wiped_is_not_found(rng):
    """The rows of a dropped bank are nowhere in the bank that gets its pages."""
    arena = Arena(DIM, metric="dot")
    for round_ in range(50):
        banks = arena.new(20)
        canary = np.full((20 * 30, DIM), 1000.0 + round_, np.float32)
        arena.add(np.repeat(banks, 30), canary)
        arena.drop(banks)
        fresh = arena.new(20)
        n = int(rng.integers(1, 16))
        arena.add(np.repeat(fresh, n), np.full((20 * n, DIM), -1, np.float32))
        # Every real row scores below every wiped slot.
        hits = arena.search(fresh, np.repeat(ASK_OWNER, 20, 0), 40)
        assert hits.valid.sum(1).tolist() == [n] * 20
        assert (hits.scores[hits.valid] == -1).all()
        assert hits.ids[hits.valid].tolist() == list(range(n)) * 20
        arena.drop(fresh)

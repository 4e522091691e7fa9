"""Random operations on the native page store and its oracle, side by side."""

from pages_oracle import PagesOracle, draw_cells, draw_vectors


class Walk:
    """Random operations on an oracle."""

    def __init__(self, rng, dim, dtype, sizes):
        self.rng, self.sizes = rng, sizes
        self.both = PagesOracle(dim, dtype)
        self.both.new(3)

    def draw_banks(self, n, repeat=True):
        banks = list(self.both.banks)
        return self.rng.choice(banks, min(n, len(banks)) if not repeat else n, repeat).tolist()

    def draw_rows(self, handles):
        """A present row for most handles, an absent one for some; no pair twice."""
        pairs = {}
        for handle in handles:
            rows = list(self.both.banks[handle].rows)
            absent = self.rng.random() < 0.2 or not rows
            pairs[handle, int(self.rng.integers(2**40)) if absent else self.rng.choice(rows)] = None
        return [h for h, _ in pairs], [int(row) for _, row in pairs]

    def vectors(self, n):
        both = self.both
        return draw_vectors(self.rng, n, both.dim, both.dtype) if both.dim else None

    def draw_ids(self, handles):
        """Ids that no row ever had: past the counter or in a gap."""
        taken = {handle: set(self.both.banks[handle].used) for handle in handles}
        ids = []
        for handle in handles:
            row = int(self.rng.integers(self.both.banks[handle].next_id + 40))
            while row in taken[handle]:
                row += 1
            taken[handle].add(row)
            ids.append(row)
        return ids

    def step(self):
        name = self.rng.choice(
            [
                "new",
                "add",
                "add_one",
                "add_ids",
                "update",
                "delete",
                "thin",
                "fork",
                "copy",
                "drop",
                "compact",
            ],
            p=[0.04, 0.2, 0.1, 0.1, 0.13, 0.13, 0.05, 0.1, 0.07, 0.05, 0.03],
        )
        getattr(self, name)()

    def new(self):
        self.both.new(int(self.rng.integers(3)))

    def add(self):
        handles = self.draw_banks(int(self.rng.choice(self.sizes)))
        n = len(handles)
        self.both.add(handles, None, self.vectors(n), draw_cells(self.rng, n))

    def add_one(self):
        n = int(self.rng.choice(self.sizes))
        [handle] = self.draw_banks(1)
        self.both.add([handle], None, self.vectors(n), [self.rng.integers(0, 3, n), *[None] * 4])

    def add_ids(self):
        handles = self.draw_banks(int(self.rng.choice(self.sizes)))
        n = len(handles)
        self.both.add(handles, self.draw_ids(handles), self.vectors(n), draw_cells(self.rng, n))

    def update(self):
        handles, ids = self.draw_rows(self.draw_banks(int(self.rng.choice(self.sizes))))
        vectors = self.vectors(len(ids)) if self.rng.random() < 0.7 else None
        self.both.update(handles, ids, vectors, draw_cells(self.rng, len(ids)), skip=True)

    def delete(self):
        handles, ids = self.draw_rows(self.draw_banks(int(self.rng.choice(self.sizes))))
        self.both.delete(handles, ids, skip=True)

    def thin(self):
        """Delete most of a bank."""
        [handle] = self.draw_banks(1)
        rows = list(self.both.banks[handle].rows)
        gone = (
            self.rng.choice(rows, self.rng.integers(len(rows) + 1), False).tolist() if rows else []
        )
        self.both.delete([handle] * len(gone), gone)

    def fork(self):
        self.both.fork(self.draw_banks(2), int(self.rng.integers(3)))

    def copy(self):
        handles = self.draw_banks(2, repeat=False)
        self.both.copy_from(handles, self.draw_banks(len(handles)))

    def drop(self):
        if len(self.both.banks) > 4:
            n = 1 if len(self.both.banks) < 12 else 6
            self.both.drop(self.draw_banks(n, repeat=False))

    def compact(self):
        self.both.pages.compact()
        assert self.both.pages.n_free_pages == 0

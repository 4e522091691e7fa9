"""Queue: a store of fixed capacity for training, whose rows push each other out.

The rows lie in plain arrays of the caller's library (NumPy or torch), and a write of n rows moves n
rows. Which rows stay is decided by the policy alone: a batch leaves the same rows as its rows would
one by one. Chance is a function of the seed and a row's id, so that a stored state goes on exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars, slots
from memcore.errors import DtypeError, InputError, NotFoundError, ShapeError
from memcore.ops import queue as ops

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

POLICIES = ("fifo", "random", "reservoir", "lowest")
WAYS = ("uniform", "score", "top")


class Queue:
    """Up to `capacity` rows, or that many in each group, of one or several named arrays.

    The first `add` fixes the names, the shapes of a row, the dtypes, the library and the device.

    Args:
        capacity: rows kept, per group.
        evict: who goes when it is full. "fifo": the oldest. "random": one drawn uniformly, so that
            ages are geometric and half of the rows are gone after ln 2 · capacity / n adds of n
            rows. "reservoir": the rows kept are a uniform sample of all rows ever added (Vitter,
            Algorithm R, 1985). "lowest": the lowest score, the younger one of equals; kept are the
            best rows ever added.
        n_groups: with groups (classes, episodes), each has a queue of its own; None for one queue
            without groups.
        seed: an int or a NumPy Generator, which is drawn from once.

    Rows on a device stay there. Which rows stay is decided on the host, so that scores, groups and
    ids of a device are copied, which waits for them, and so does the check that rows are finite.

    Not safe to write from several threads at a time.

    Example:
        >>> import numpy as np
        >>> queue = Queue(3)
        >>> queue.add(np.arange(10, dtype=np.float32).reshape(5, 2))
        array([0, 1, 2, 3, 4])
        >>> queue.ids, queue.get([4])
        (array([2, 3, 4]), array([[8., 9.]], dtype=float32))
    """

    def __init__(
        self,
        capacity: int,
        *,
        evict: str = "fifo",
        n_groups: int | None = None,
        seed: int | np.random.Generator = 0,
    ) -> None:
        self.capacity = scalars.whole("Queue", "capacity", capacity, 1)
        self.n_groups = n_groups
        if n_groups is not None:
            self.n_groups = scalars.whole("Queue", "n_groups", n_groups, 1)
        self.evict = scalars.word("Queue", "evict", evict, POLICIES)
        self._seed = slots.seed_of(seed)
        self._arrays: dict[str, Any] = {}
        self._next_id = self._n_draws = 0
        self._order: Ints | None = None
        n_slots = (self.n_groups or 1) * self.capacity
        scalars.check_memory("Queue", 16 * n_slots, capacity=self.capacity, n_groups=n_groups or 1)
        self._n_added = np.zeros(n_groups or 1, np.int64)
        self._ids = np.full(n_slots, -1)
        self._scores = np.zeros(n_slots)

    def __len__(self) -> int:
        return int(self.counts.sum())

    @property
    def counts(self) -> Ints:
        """(n_groups,) int64, rows held; (1,) without groups."""
        return np.minimum(self._n_added, self.capacity)

    @property
    @slots.untraced
    def ids(self) -> Ints:
        """(n,) int64 of the rows held, oldest first. Ids count the rows ever added."""
        return self._ids[self._by_id()]

    @property
    @slots.untraced
    def ages(self) -> Ints:
        """(n,) int64, how many rows were added after each of `ids`."""
        return self._next_id - 1 - self.ids

    @property
    @slots.untraced
    def scores(self) -> Floats:
        """(n,) float64 of `ids`; 0 where none was given."""
        return self._scores[self._by_id()]

    @property
    @slots.untraced
    def groups(self) -> Ints:
        """(n,) int64 of `ids`."""
        return self._by_id() // self.capacity

    @property
    def names(self) -> tuple[str, ...]:
        """What a row is made of, in the order of the first `add`."""
        return tuple(self._arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, filled or not."""
        own = self._ids.nbytes + self._scores.nbytes + self._n_added.nbytes
        return own + sum(int(array.nbytes) for array in self._arrays.values())

    @slots.untraced
    def add(self, rows: Any, *, groups: Any = None, scores: Any = None) -> Ints:
        """Write rows over those that the policy gives up.

        Args:
            rows: (n, …), any shape and dtype of a row, stored under the name "rows"; or a dict of
                such arrays by name. Gradients are not followed. Floats are rounded to the stored
                dtype and must be finite.
            groups: (n,) ints, with `n_groups`.
            scores: (n,) numbers, higher is better; "lowest" needs them.

        Returns:
            (n,) int64 ids. One that the policy did not keep names nothing.

        Raises:
            ShapeError, DtypeError, InputError: nothing was written.
        """
        given = rows if isinstance(rows, dict) else {"rows": rows}
        if not given or (self._arrays and given.keys() != self._arrays.keys()):
            names = ", ".join(self._arrays) or "at least one name"
            raise InputError(f"add: rows has {', '.join(given) or 'no names'}, should have {names}")
        sources = {name: slots.source("add", name, array) for name, array in given.items()}
        n = len(next(iter(sources.values())))
        for name, array in sources.items():
            self._check_rows("add", name, array, n)
        asked = self._groups("add", groups, n)
        if scores is None and self.evict == "lowest":
            raise InputError("add: scores is None, should be (n,) where the lowest goes")
        marks = np.zeros(n) if scores is None else _numbers("add", "scores", scores, n)
        ids = np.arange(self._next_id, self._next_id + n)
        places = self._places(asked, ids, marks)
        targets = self._arrays or {
            name: slots.empty(array, len(self._ids)) for name, array in sources.items()
        }

        kept = np.flatnonzero(places >= 0)
        places = places[kept]
        for name, array in sources.items():
            slots.write(targets[name], places, array, kept)
        self._arrays = targets
        self._ids[places] = ids[kept]
        self._scores[places] = marks[kept]
        self._n_added += np.bincount(asked, minlength=len(self._n_added))
        self._next_id += n
        self._order = None
        return ids

    @slots.untraced
    def update(self, ids: Any, rows: Any = None, *, scores: Any = None) -> None:
        """Change rows, scores or both where they lie; a repeated id takes the last.

        Raises:
            NotFoundError: an id names nothing; nothing was changed.
        """
        places = self._find("update", _ints("update", "ids", ids).reshape(-1))
        given = {} if rows is None else rows if isinstance(rows, dict) else {"rows": rows}
        unknown = [name for name in given if name not in self._arrays]
        if unknown:
            raise InputError(
                f"update: rows has {unknown[0]}, should have {', '.join(self._arrays)}"
            )
        sources = {name: slots.source("update", name, array) for name, array in given.items()}
        for name, array in sources.items():
            self._check_rows("update", name, array, len(places))
        marks = None if scores is None else _numbers("update", "scores", scores, len(places))
        last = slots.last_of_each(places)
        for name, array in sources.items():
            slots.write(self._arrays[name], places[last], array, last)
        if marks is not None:
            self._scores[places[last]] = marks[last]

    @slots.untraced
    def get(self, ids: Any, name: str | None = None) -> Any:
        """Copies of the rows that ids (…,) name, (…, *row); zeros for -1.

        Args:
            ids: ints.
            name: which array; None for the only one, or for a dict of all.

        Raises:
            NotFoundError: an id names nothing.
        """
        named = _ints("get", "ids", ids)
        flat = named.reshape(-1)
        held = flat >= 0
        places = np.full(len(flat), -1)
        places[held] = self._find("get", flat[held])
        if name is None and len(self._arrays) != 1:
            return {each: self.get(ids, each) for each in self._arrays}
        array = self._array("get", name)
        return slots.read(array, places).reshape((*named.shape, *array.shape[1:]))

    @slots.untraced
    def contains(self, ids: Any) -> NDArray[np.bool_]:
        """Which of the ids (…,) name a row that is held."""
        held: NDArray[np.bool_] = np.isin(_ints("contains", "ids", ids), self.ids)
        return held

    def data(self, name: str | None = None) -> Any:
        """What is stored, without a copy, in the order of the slots: (n, *row).

        With groups (n_groups, capacity, *row), where `filled` tells which are rows. The next `add`
        writes into it.
        """
        array = self._array("data", name)
        if self.n_groups is None:
            return array[: len(self)]
        return array.reshape((self.n_groups, self.capacity, *array.shape[1:]))

    @property
    def filled(self) -> NDArray[np.bool_]:
        """(n_groups, capacity) bool: which slots of `data` hold a row."""
        held: NDArray[np.bool_] = np.arange(self.capacity) < self.counts[:, None]
        return held

    @slots.untraced
    def sample(self, n: int, *, by: str = "uniform", groups: Any = None) -> Ints:
        """Ids of n rows, drawn without replacement.

        Args:
            n: how many; all rows in a random order where fewer are held.
            by: "uniform"; "score", one after the other with probabilities in proportion to scores,
                which must not be negative, 0 is never drawn (Efraimidis and Spirakis, 2006); "top",
                the best scores, the older of equals first.
            groups: with `n_groups`, (m,) groups to draw from; all by default.

        Returns:
            (min(n, rows),) int64; with groups (m, n), -1 where a group has fewer.

        Cost: a pass over the ids and scores of the groups, none over rows.
        """
        n = scalars.whole("sample", "n", n, 0)
        scalars.word("sample", "by", by, WAYS)
        scalars.check_memory("sample", 8 * n, n=n)
        n_all = len(self._n_added)
        asked = np.arange(n_all) if groups is None else _ints("sample", "groups", groups)
        if groups is not None:
            self._groups("sample", groups, len(asked))
        ids = self._ids.reshape(n_all, -1)[asked]
        scores = self._scores.reshape(n_all, -1)[asked]
        if by == "score" and (scores[ids >= 0] < 0).any():
            raise InputError(f"sample: scores has {scores[ids >= 0].min()}, should not be negative")
        drawn = slots.draw(ids, scores, n, by, slots.mixed(self._seed, self._n_draws))
        self._n_draws += 1
        return drawn if self.n_groups is not None else drawn[0][drawn[0] >= 0]

    def nce(
        self,
        queries: Any,
        positives: Any,
        *,
        temperature: float = 0.07,
        name: str | None = None,
        reduction: str = "mean",
    ) -> Any:
        """`memcore.nce` against the rows held, (dim,) each; with groups (n_groups, n, dim) queries.

        The rows get no gradient, and may change before the backward.
        """
        negatives, bias = self._negatives("nce", name)
        options: dict[str, Any] = {"temperature": temperature, "reduction": reduction}
        return ops.nce(queries, positives, negatives, bias=bias, **options)

    def disperse(
        self,
        rows: Any,
        *,
        tau: float | None = None,
        name: str | None = None,
        reduction: str = "mean",
    ) -> Any:
        """`memcore.disperse` against the rows held, as `nce`. Each group must have a row."""
        negatives, bias = self._negatives("disperse", name)
        if self.counts.min() == 0:
            raise InputError("disperse: a queue is empty, should have at least 1 row")
        return ops.disperse(rows, negatives, tau=tau, bias=bias, reduction=reduction)

    @slots.untraced
    def clear(self) -> None:
        """Drop all rows; ids go on."""
        self._n_added[:] = 0
        self._ids[:] = -1
        self._order = None

    def state_dict(self) -> dict[str, Any]:
        """Everything by name: numbers, and copies of arrays in the library of the rows.

        So torch.load reads the state of tensors with weights_only=True, and NumPy that of its own.
        Before the first row there are lists.
        """
        kept = {"n_added": self._n_added, "ids": self._ids, "scores": self._scores}
        state: dict[str, Any] = {"evict": self.evict, "seed": self._seed}
        state["counters"] = [self._next_id, self._n_draws]
        for name, array in kept.items():
            if not self._arrays:
                state[name] = array.tolist()
            elif slots.is_tensor(next(iter(self._arrays.values()))):
                state[name] = slots.torch().from_numpy(array.copy())
            else:
                state[name] = array.copy()
        return state | {f"rows.{name}": slots.copy(array) for name, array in self._arrays.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the queue that gave this state; it must have the same capacity, groups and policy.

        Raises:
            InputError, ShapeError: the state is of another queue; nothing was changed.
        """
        names = ("evict", "seed", "counters", "n_added", "ids", "scores")
        given: Any = state
        if not isinstance(given, dict):
            shown = scalars.shown(given)
            raise DtypeError(f"load_state_dict: state is {shown}, should be what state_dict gave")
        missing = [name for name in names if name not in state]
        if missing or str(state["evict"]) != self.evict:
            found = "no " + missing[0] if missing else f"evict {state['evict']}"
            raise InputError(f"load_state_dict: state has {found}, should be of a {self.evict!r}")
        taken = {name[5:]: slots.copy(a) for name, a in state.items() if name.startswith("rows.")}
        n_added, ids = (slots.of_numpy(state[name], np.int64) for name in ("n_added", "ids"))
        scores = slots.of_numpy(state["scores"], np.float64)
        sizes = [ids.shape, scores.shape, *(tuple(a.shape[:1]) for a in taken.values())]
        if n_added.shape != self._n_added.shape or set(sizes) != {self._ids.shape}:
            raise ShapeError(
                f"load_state_dict: state has {len(ids)} slots in {len(n_added)} "
                f"groups, should have {len(self._ids)} in {len(self._n_added)}"
            )
        self._arrays, self._order = taken, None
        self._seed = int(state["seed"])
        self._next_id, self._n_draws = (int(i) for i in state["counters"])
        self._n_added, self._ids, self._scores = n_added, ids, scores

    def _negatives(self, op: str, name: str | None) -> tuple[Any, Any]:
        """The rows held, and in groups the bias that leaves out free slots."""
        rows = self.data(name) if self._arrays else self._array(op, name)
        if self.n_groups is None:
            return rows, None
        bias = np.where(self.filled, 0.0, -np.inf).astype(np.float32)
        # As torch.compile follows it.
        return rows, slots.torch().from_numpy(bias) if slots.is_traced() else bias

    def _by_id(self) -> Ints:
        """The slots that hold rows, oldest first."""
        if self._order is None:
            held = np.flatnonzero(self._ids >= 0)
            # A ring is two runs, which a stable sort joins in one pass.
            self._order = held[np.argsort(self._ids[held], kind="stable")]
        return self._order

    def _find(self, op: str, ids: Ints) -> Ints:
        order = self._by_id()
        held = self._ids[order]
        at = np.minimum(np.searchsorted(held, ids), max(0, len(held) - 1))
        wrong = np.flatnonzero(held[at] != ids) if len(held) else np.arange(len(ids))
        if len(wrong):
            raise NotFoundError(f"{op}: ids has {ids[wrong[0]]}, should name rows that are held")
        return order[at] if len(held) else at

    def _places(self, groups: Ints, ids: Ints, scores: Floats) -> Ints:
        if self.evict == "lowest":
            return slots.lowest(self._ids, self._scores, self.capacity, groups, ids, scores)
        times = self._n_added[groups] + slots.ranks(groups)
        chances = slots.uniforms(self._seed, ids)
        return slots.places(self.evict, self.capacity, groups, times, chances)

    def _array(self, op: str, name: str | None) -> Any:
        if name is None and len(self._arrays) == 1:
            return next(iter(self._arrays.values()))
        if not isinstance(name, str) or name not in self._arrays:
            known = ", ".join(self._arrays) or "added first"
            raise InputError(f"{op}: name is {scalars.shown(name)}, should be {known}")
        return self._arrays[name]

    def _check_rows(self, op: str, name: str, array: Any, n: int) -> None:
        shape = tuple(array.shape)
        if len(array) != n:
            raise ShapeError(f"{op}: {name} has {len(array)} rows, should have {n}")
        if name in self._arrays:
            slots.check_like(op, name, array, self._arrays[name])
            row = tuple(self._arrays[name].shape[1:])
            if shape[1:] != row:
                raise ShapeError(f"{op}: {name} has rows of shape {shape[1:]}, should be {row}")
        bad = slots.first_not_finite(array)
        if bad is not None:
            raise InputError(f"{op}: {name} row {bad} is not finite, should be")

    def _groups(self, op: str, groups: Any, n: int) -> Ints:
        if (groups is None) != (self.n_groups is None):
            wanted = "None" if self.n_groups is None else f"({n},) ints"
            raise InputError(f"{op}: groups is {scalars.shown(groups)}, should be {wanted}")
        if groups is None or self.n_groups is None:
            return np.zeros(n, np.int64)
        asked = _ints(op, "groups", groups)
        if asked.shape != (n,):
            raise ShapeError(f"{op}: groups has shape {asked.shape}, should be ({n},)")
        wrong = np.flatnonzero((asked < 0) | (asked >= self.n_groups))
        if len(wrong):
            raise InputError(
                f"{op}: groups[{wrong[0]}] is {asked[wrong[0]]}, should be 0 to {self.n_groups - 1}"
            )
        return asked


def _ints(op: str, name: str, array: Any) -> Ints:
    return arrays.ints(op, name, arrays.near(array))


def _numbers(op: str, name: str, values: Any, n: int) -> Floats:
    numbers = arrays.numbers(op, name, arrays.near(values)).astype(np.float64)
    if numbers.shape != (n,):
        raise ShapeError(f"{op}: {name} has shape {numbers.shape}, should be ({n},)")
    if np.isnan(numbers).any():
        raise InputError(f"{op}: {name}[{np.isnan(numbers).argmax()}] is NaN, should be a number")
    return numbers

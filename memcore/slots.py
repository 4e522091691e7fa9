"""Where rows of a queue go, and the movement of rows: functions over plain arrays.

`places` and `lowest` say, for a batch, what one row after the other would have led to. The arrays
of rows are NumPy's or torch's; all else is NumPy.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars
from memcore.errors import DtypeError, ShapeError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_MASK = (1 << 64) - 1

Given = ParamSpec("Given")
Result = TypeVar("Result")


def seed_of(seed: int | np.random.Generator) -> int:
    """A seed of 64 bits; a Generator gives one draw."""
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(1 << 64, dtype=np.uint64))
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise DtypeError(
            f"Queue: seed is {scalars.shown(seed)}, should be an int or a NumPy Generator"
        )
    return mixed(0, int(seed))


def mixed(seed: int, number: int) -> int:
    """Another seed for each number."""
    return int(_splitmix(seed, np.array([number & _MASK], np.uint64))[0])


def uniforms(seed: int, ids: Ints) -> Floats:
    """One number of [0, 1) for each id, by SplitMix64 (Steele, Lea and Flood, 2014)."""
    bits = _splitmix(seed, ids.astype(np.uint64)) >> np.uint64(11)
    found: Floats = bits * 2.0**-53
    return found


def _splitmix(seed: int, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    step, first, second = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
    z: NDArray[np.uint64]
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (numbers + np.uint64(1)) * np.uint64(step)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(first)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(second)
        z = z ^ (z >> np.uint64(31))
    return z


def ranks(groups: Ints) -> Ints:
    """How many earlier rows of the batch are of the same group."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    begins = np.searchsorted(ordered, ordered, side="left")
    found = np.empty(len(groups), np.int64)
    found[order] = np.arange(len(groups)) - begins
    return found


def last_of_each(places: Ints) -> Ints:
    """Positions, rising, of the last time that each place is named."""
    _, from_end = np.unique(places[::-1], return_index=True)
    return np.sort(len(places) - 1 - from_end)


def places(evict: str, capacity: int, groups: Ints, times: Ints, chances: Floats) -> Ints:
    """The slot of each row of a batch, -1 for those that do not stay until its end.

    Args:
        evict: "fifo", "random" or "reservoir".
        capacity: slots of a group; group g has slots g * capacity and following.
        groups: (n,).
        times: (n,), how many rows the group had been given before.
        chances: (n,) in [0, 1).
    """
    if evict == "fifo":
        slot = times % capacity
        if len(times) <= capacity:
            return groups * capacity + slot
    elif evict == "random":
        slot = np.where(times < capacity, times, (chances * capacity).astype(np.int64))
    else:
        slot = np.where(times < capacity, times, (chances * (times + 1)).astype(np.int64))
    found = np.where(slot < capacity, groups * capacity + slot, -1)
    stays = np.zeros(len(found), np.bool_)
    stays[last_of_each(found)] = True
    return np.where(stays, found, -1)


def lowest(
    held_ids: Ints, held_scores: Floats, capacity: int, groups: Ints, ids: Ints, scores: Floats
) -> Ints:
    """The slot of each row where the best `capacity` scores of each group stay, older ones first.

    Args:
        held_ids: (n_groups * capacity,), -1 in free slots.
        held_scores: likewise.
        capacity: slots of a group.
        groups: (n,) of the new rows.
        ids: (n,), rising, all above the ids held.
        scores: (n,).
    """
    found = np.full(len(ids), -1)
    if not len(ids):
        return found
    touched, local, n_new = np.unique(groups, return_inverse=True, return_counts=True)
    slot_ids = held_ids.reshape(-1, capacity)[touched]
    slot_scores = np.where(slot_ids < 0, -np.inf, held_scores.reshape(-1, capacity)[touched])
    # Only the lowest rows can go: at most as many as come. Free slots are lower than all.
    at = min(int(n_new.max()), capacity) - 1
    bound = np.partition(slot_scores, at, axis=1)[:, at : at + 1]
    row, column = np.nonzero((slot_scores <= bound) | (slot_ids < 0))
    n_held = np.bincount(row, minlength=len(touched))

    group = np.concatenate([row, local])
    score = np.concatenate([slot_scores[row, column], scores])
    # A free slot has id -1 and score -inf, as an old row might: it must come last all the same.
    is_free = np.concatenate([slot_ids[row, column] < 0, np.zeros(len(ids), np.bool_)])
    # Free slots are taken in their order, so that the filled ones are always the first.
    own_id = np.concatenate(
        [np.where(slot_ids[row, column] < 0, -column, slot_ids[row, column]), ids]
    )
    order = np.lexsort((own_id, -score, is_free, group))
    begins = np.searchsorted(group[order], np.arange(len(touched)))
    stays = np.empty(len(order), np.bool_)
    stays[order] = np.arange(len(order)) - begins[group[order]] < n_held[group[order]]

    # Within a group as many leave as arrive; both in one order, so that they pair up.
    leaving = np.flatnonzero(~stays[: len(row)])
    leaving = leaving[np.lexsort((column[leaving], row[leaving]))]
    arriving = np.flatnonzero(stays[len(row) :])
    arriving = arriving[np.lexsort((arriving, local[arriving]))]
    found[arriving] = touched[row[leaving]] * capacity + column[leaving]
    return found


def draw(ids: Ints, scores: Floats, n: int, by: str, seed: int) -> Ints:
    """Ids (m, n) drawn from each row of ids (m, slots), where -1 is no row; padded with -1."""
    held = ids >= 0
    if by == "top":
        order = np.lexsort((ids, np.where(held, -scores, np.inf), ~held), axis=1)[:, :n]
    else:
        # u^(1/w) orders as log(u) / w does; u is moved off 0.
        keys = np.log(uniforms(seed, np.maximum(ids, 0)) + 2.0**-54)
        if by == "score":
            held = held & (scores > 0)
            keys = keys / np.where(held, scores, 1)
        keys = np.where(held, -keys, np.inf)
        few = min(n, keys.shape[1])
        if few < keys.shape[1]:
            near = np.argpartition(keys, max(0, few - 1), axis=1)[:, :few]
        else:
            near = np.broadcast_to(np.arange(keys.shape[1]), keys.shape)
        inner = np.argsort(np.take_along_axis(keys, near, 1), axis=1, kind="stable")
        order = np.take_along_axis(near, inner, 1)
    drawn = np.full((len(ids), n), -1)
    drawn[:, : order.shape[1]] = np.where(
        np.take_along_axis(held, order, 1), np.take_along_axis(ids, order, 1), -1
    )
    return drawn


# ---- rows of either library


def source(op: str, name: str, array: Any) -> Any:
    """Rows as they are stored: a NumPy array, or a tensor without its graph."""
    if is_tensor(array):
        found = array.detach()
    elif isinstance(array, np.ndarray):
        found = array
        if array.dtype == object:
            raise DtypeError(f"{op}: {name} has dtype object, should be numbers")
    else:
        found = arrays.reals(op, name, array)
    if found.ndim == 0:
        raise ShapeError(f"{op}: {name} has no axes, should be (n, …)")
    return found


def is_tensor(array: Any) -> bool:
    """Whether this is torch's."""
    module: Any = sys.modules.get("torch")
    return hasattr(module, "Tensor") and isinstance(array, module.Tensor)


def torch() -> Any:
    """The module, which whoever has a tensor has imported."""
    return sys.modules["torch"]


def is_traced() -> bool:
    """Whether torch.compile runs this without values."""
    compiler = getattr(sys.modules.get("torch"), "compiler", None)
    return compiler is not None and bool(compiler.is_compiling())


def untraced(verb: Callable[Given, Result]) -> Callable[Given, Result]:
    """A method that changes what is stored, which torch.compile leaves as it is."""
    apart: list[Callable[Given, Result]] = []

    @functools.wraps(verb)
    def run(*given: Given.args, **options: Given.kwargs) -> Result:
        # Whoever compiles has imported this; who does not shall not wait for it.
        if "torch._dynamo" not in sys.modules:
            return verb(*given, **options)
        if not apart:
            apart.append(torch().compiler.disable(verb))
        return apart[0](*given, **options)

    return run


def empty(like: Any, n: int) -> Any:
    """Zeros for n rows of the same shape, dtype, library and device."""
    shape = (n, *like.shape[1:])
    return like.new_zeros(shape) if is_tensor(like) else np.zeros(shape, like.dtype)


def copy(array: Any) -> Any:
    """A copy."""
    return array.clone() if is_tensor(array) else np.array(array)


def of_numpy(numbers: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """A copy of numbers of either library, or of a list."""
    return np.array(numbers.cpu().numpy() if is_tensor(numbers) else numbers, dtype)


def check_like(op: str, name: str, array: Any, stored: Any) -> None:
    """Refuse rows of another library or device, or of numbers that would not fit."""
    if is_tensor(array) != is_tensor(stored):
        library = "torch" if is_tensor(stored) else "NumPy"
        raise DtypeError(f"{op}: {name} is {type(array).__name__}, should be {library}'s as before")
    if is_tensor(array) and array.device != stored.device:
        raise DtypeError(f"{op}: {name} is on {array.device}, should be on {stored.device}")
    if array.dtype != stored.dtype and not (_is_float(array) and _is_float(stored)):
        raise DtypeError(f"{op}: {name} has dtype {array.dtype}, should be {stored.dtype}")


def first_not_finite(array: Any) -> int | None:
    """The first row that has a NaN or an infinity."""
    if not _is_float(array) or 0 in array.shape:
        return None
    if is_tensor(array):
        if array.device.type == "cpu" and array.dtype is not torch().bfloat16:
            # NumPy's loop is over before torch's threads have met.
            return first_not_finite(array.detach().numpy())
        finite = torch().isfinite(array).reshape(len(array), -1).all(1)
        return None if bool(finite.all()) else int((~finite).nonzero()[0, 0])
    sound = np.isfinite(array)
    return None if sound.all() else int(sound.reshape(len(array), -1).all(1).argmin())


def write(target: Any, places: Ints, rows: Any, which: Ints) -> None:
    """target[places] = rows[which], as one slice where both run on."""
    if not len(places):
        return
    runs = [len(x) == x[-1] - x[0] + 1 and bool((np.diff(x) == 1).all()) for x in (places, which)]
    at = slice(int(places[0]), int(places[-1]) + 1) if runs[0] else _index(target, places)
    taken = slice(int(which[0]), int(which[-1]) + 1) if runs[1] else _index(rows, which)
    # Rounding to a narrower float may overflow to an infinity without a word: the caller's choice.
    with np.errstate(over="ignore"):
        target[at] = rows[taken] if not is_tensor(target) else rows[taken].to(target.dtype)


def read(array: Any, places: Ints) -> Any:
    """array[places], zeros where a place is -1."""
    found = array[_index(array, np.maximum(places, 0))] if len(array) else empty(array, len(places))
    missing = np.flatnonzero(places < 0)
    if len(missing):
        found[_index(array, missing)] = 0
    return found


def _index(array: Any, places: Ints) -> Any:
    if not is_tensor(array):
        return places
    return torch().from_numpy(places).to(array.device)


def _is_float(array: Any) -> bool:
    return bool(array.is_floating_point()) if is_tensor(array) else array.dtype.kind == "f"

"""Steps that a random walk or hypothesis may take through a `bank_oracle.World`.

A source has one method, `below(n)`, which gives an int from 0 to n - 1.
"""

import numpy as np
import pytest

from bank_oracle import DIM, DONE, NAMES, POOL, TAGS, TIMES, VALUES, WEIGHTS
from memcore.errors import DtypeError, InputError, NotFoundError, ShapeError

MAX_BANKS = 14
MAX_MARKS = 4


def one(source, values):
    return values[source.below(len(values))]


def chance(source, n):
    """True once in n."""
    return source.below(n) == 0


def several(source, values, most):
    return [one(source, values) for _ in range(source.below(most + 1))] if values else []


def distinct(source, values, most):
    return list(dict.fromkeys(several(source, values, most)))


def bank(world, source):
    return one(source, list(world.banks))


def row(world, source, handle):
    """An id that is in a bank; now and then one that may not be."""
    rows = list(world.banks[handle].rows)
    return source.below(25) if not rows or chance(source, 8) else one(source, rows)


def rows(world, source, most=6):
    """Handles and ids; now and then a row twice."""
    named = []
    for _ in range(source.below(most + 1)):
        handle = bank(world, source)
        named.append((handle, row(world, source, handle)))
    named = named if chance(source, 6) else list(dict.fromkeys(named))
    return [handle for handle, _ in named], [number for _, number in named]


def values(source, n):
    """Fields of n rows, or None."""
    names = distinct(source, list(VALUES), 4)
    if not names:
        return None
    return [{name: one(source, VALUES[name]) for name in names} for _ in range(n)]


def condition(source, depth=2):
    kind = source.below(9)
    if depth and kind < 3:
        parts = [condition(source, depth - 1) for _ in range(source.below(3))]
        if kind == 2:
            return {"not": condition(source, depth - 1)}
        return {("and", "or")[kind]: parts}
    name = one(source, list(VALUES))
    if chance(source, 5):
        return {name: one(source, VALUES[name])}
    return {name: {test: wanted(source, name, test) for test in distinct(source, tests(name), 2)}}


def tests(name):
    order = ["gt", "gte", "lt", "lte"]
    more = {"done": [], "tags": ["contains"], "who": [*order, "contains"]}.get(name, order)
    return ["eq", "ne", "in", "nin", *more]


def wanted(source, name, test):
    known = {
        "time": [*TIMES[1:], 7],
        "weight": [*WEIGHTS[1:], 2, float("inf")],
        "done": DONE[1:],
        "who": [*NAMES[1:], "a", "nobody"],
        "tags": [*TAGS[1:], ["z"]],
    }[name]
    if test in ("in", "nin"):
        return several(source, known, 3)
    if test in ("eq", "ne") and chance(source, 4):
        return None
    if test == "contains" and name == "tags":
        return one(source, ["a", "b", "c", "nothing"])
    return one(source, known)


def new(world, source):
    if len(world.banks) < MAX_BANKS:
        world.new(1 + source.below(3))


def add(world, source):
    n = source.below(8)
    handles = [bank(world, source) for _ in range(n)]
    if chance(source, 2):
        handles = [bank(world, source)] * n
    places = [source.below(len(POOL)) for _ in range(n)]
    ids = [source.below(150) for _ in range(n)] if chance(source, 4) else None
    payloads = distinct(source, range(n), 4) if n else []
    world.add(handles, places, ids, values(source, n) if n else None, payloads)


def update(world, source):
    handles, ids = rows(world, source)
    n = len(ids)
    places = [source.below(len(POOL)) for _ in range(n)] if chance(source, 2) else None
    payloads = distinct(source, range(n), 4) if n and chance(source, 2) else None
    world.update(handles, ids, places, values(source, n), payloads, chance(source, 2))


def delete(world, source):
    world.delete(*rows(world, source), chance(source, 2))


def get(world, source):
    world.get(*rows(world, source), chance(source, 2))


def search(world, source):
    n = source.below(5)
    handles = [bank(world, source) for _ in range(n)]
    places = [source.below(len(POOL)) for _ in range(n)]
    k = np.array([source.below(6) for _ in range(n)], np.int64) if chance(source, 4) else None
    k = (0, 1, 3, 10, 50)[source.below(5)] if k is None else k
    options = {}
    if chance(source, 2):
        where = [None if chance(source, 4) else condition(source) for _ in range(n)]
        options["where"] = where if chance(source, 2) else condition(source)
    if chance(source, 4):
        m = source.below(5)
        options["candidates"] = np.array(
            [
                [-1 if chance(source, 4) else row(world, source, handle) for _ in range(m)]
                for handle in handles
            ],
            np.int64,
        ).reshape(n, m)
    for name in ("scale", "bias"):
        if chance(source, 6):
            options[name] = one(source, ["time", "weight"])
    if chance(source, 6):
        options["min_score"] = one(source, [0.0, 0.5, -1.0])
    if chance(source, 6):
        options["max_score"] = one(source, [0.0, 0.9, 30.0])
    world.search(handles, places, k, **options)


def score(world, source):
    n, m = source.below(4), source.below(4)
    handles = [bank(world, source) for _ in range(n)]
    ids = [
        [-1 if chance(source, 5) else row(world, source, handle) for _ in range(m)]
        for handle in handles
    ]
    if n and m:
        world.score(handles, [source.below(len(POOL)) for _ in range(n)], ids)


def fork(world, source):
    if len(world.banks) < MAX_BANKS:
        world.fork(several(source, list(world.banks), 3), source.below(3))


def snapshot(world, source):
    if len(world.marks) < MAX_MARKS:
        world.snapshot(distinct(source, list(world.banks), 6))


def rollback(world, source):
    if world.marks:
        mark = source.below(len(world.marks))
        known = list(world.marks[mark][1])
        handles = distinct(source, known, 4) if known else []
        if chance(source, 8):
            handles = [*handles, bank(world, source), *handles[:1]]
        world.rollback(mark, handles)


def release(world, source):
    if world.marks:
        world.release(source.below(len(world.marks)), chance(source, 2))


def drop(world, source):
    handles = distinct(source, list(world.banks), 3)
    if handles and len(handles) < len(world.banks):
        world.drop(handles)


def compact(world, source):
    world.compact()


def refused(world, source):
    """Calls that raise, and change nothing: what follows would tell."""
    handle = bank(world, source)
    vectors = POOL[[source.below(len(POOL)) for _ in range(3)]].copy()
    spoiled = vectors.copy()
    spoiled[source.below(3), source.below(DIM)] = one(source, [np.nan, np.inf, -np.inf, 3e18])
    arena = world.arena
    gone = one(source, world.gone) if world.gone else -1
    handles = [handle, gone, handle]
    objects = [object()] * 3
    call, error = one(
        source,
        [
            (lambda: arena.add(handle, spoiled, payloads=objects), InputError),
            (lambda: arena.add(handles, vectors, fields={"who": ["new"] * 3}), NotFoundError),
            (lambda: arena.add(handle, vectors[:, 1:], payloads=objects), ShapeError),
            (lambda: arena.add(handle, vectors, ids=[50, 51, 50], payloads=objects), InputError),
            (lambda: arena.add(handle, vectors, ids=[50, -1, 51]), InputError),
            (lambda: arena.add(handle, vectors, fields={"who": ["x", 1, "y"]}), DtypeError),
            (lambda: arena.add(handle, vectors, fields={"whom": ["x"] * 3}), InputError),
            (lambda: arena.add(handle, vectors, payloads=objects[:2]), ShapeError),
            (lambda: arena.search(handle, spoiled, 3), InputError),
            (lambda: arena.search(handles, vectors, 3), NotFoundError),
            (lambda: arena.search(handle, vectors, -1), InputError),
            (lambda: arena.search(handle, vectors, 3, where={"who": {"like": "a"}}), InputError),
            (lambda: arena.fork(handles, 2), NotFoundError),
            (lambda: arena.drop([handle, handle]), InputError),
            (lambda: arena.snapshot(handles), NotFoundError),
            (lambda: arena.count(handles), NotFoundError),
        ],
    )
    with pytest.raises(error):
        call()


STEPS = {
    new: 2,
    add: 10,
    update: 6,
    delete: 6,
    get: 4,
    search: 10,
    score: 2,
    fork: 3,
    snapshot: 2,
    rollback: 3,
    release: 1,
    drop: 2,
    compact: 1,
    refused: 3,
}

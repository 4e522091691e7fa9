"""Banks as dicts: what an arena must do, said a second time, and the two run side by side."""

import gc
import weakref
from collections.abc import Mapping

import numpy as np
import pytest

import memcore
from compare import assert_hits
from memcore import reference
from memcore.errors import InputError, NotFoundError

DIM = 5
FIELDS = {"time": "int64", "weight": "float64", "done": "bool", "who": "str", "tags": "tags"}
TIMES = [None, -3, 0, 1, 2**53 + 1, -(2**63) + 1, 2**63 - 1]
WEIGHTS = [None, -1.5, -0.0, 0.0, 0.25, 3.0, 1e300]
DONE = [None, True, False]
NAMES = [None, "", "ana", "anna", "bob", "Zoë", "\0"]
TAGS = [None, [], ["a"], ["a", "b"], ["b", "a"], ["c", "c"]]
VALUES = {"time": TIMES, "weight": WEIGHTS, "done": DONE, "who": NAMES, "tags": TAGS}

# Few vectors, so that ties are common; the zero vector and the limits of float32 among them.
POOL = np.array(
    [
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [-1, 0, 0, 0, 0],
        [0.1, 0.2, 0.3, 0.4, 0.5],
        [0.1, 0.2, 0.3, 0.4, np.nextafter(np.float32(0.5), np.float32(1))],
        [3, -1, 4, -1, 5],
        [3, -1, 4, -1, -5],
        [1e-30, 0, 0, 0, 1e-30],
        [1e4, 1e4, -1e4, 0, 0],
        [2, 7, 1, 8, 2],
    ],
    np.float32,
)


def matches(where, fields):
    """Whether a row's fields meet a condition."""
    return all(_meets(name, value, fields) for name, value in where.items())


def _meets(name, value, fields):
    if name == "and":
        return all(matches(part, fields) for part in value)
    if name == "or":
        return any(matches(part, fields) for part in value)
    if name == "not":
        return not matches(value, fields)
    tests = value if isinstance(value, Mapping) else {"eq": value}
    return all(_holds(test, fields[name], wanted) for test, wanted in tests.items())


def _holds(test, have, wanted):
    if test in ("eq", "ne") and wanted is None:
        return (have is None) == (test == "eq")
    if have is None:
        return False
    return {
        "eq": lambda: have == wanted,
        "ne": lambda: have != wanted,
        "in": lambda: have in wanted,
        "nin": lambda: have not in wanted,
        "gt": lambda: have > wanted,
        "gte": lambda: have >= wanted,
        "lt": lambda: have < wanted,
        "lte": lambda: have <= wanted,
        "contains": lambda: wanted in have,
    }[test]()


class Payload:
    """An object that can be watched."""

    def __init__(self, label):
        self.label = label


class DictBank:
    """Rows by id: (place in POOL, fields, label of the payload or None)."""

    def __init__(self):
        self.rows = {}
        self.used = set()
        self.counter = 0

    def copy(self):
        bank = DictBank()
        bank.rows, bank.used, bank.counter = dict(self.rows), set(self.used), self.counter
        return bank


class World:
    """An arena and its oracle; every method does one thing to both and compares."""

    def __init__(self, metric="cosine", dtype="float32", index=None, **options):
        self.metric = metric
        options = {"dtype": dtype, "fields": FIELDS, "index": index, **options}
        self.arena = memcore.Arena(DIM, metric=metric, **options)
        probe = self.arena.new(1)
        self.arena.add(probe, POOL)
        stored = self.arena.get(probe, np.arange(len(POOL))).vectors
        self.arena.drop(probe)
        self.stored = stored
        self.scores = reference.score(POOL, reference.widen(stored), metric)
        self.banks = {}
        self.gone = []
        self.marks = []
        self.n_labels = 0
        self.living = weakref.WeakValueDictionary()

    def new(self, n):
        for handle in self.arena.new(n).tolist():
            assert handle not in self.banks
            assert handle not in self.gone
            self.banks[handle] = DictBank()

    def add(self, handles, places, ids=None, fields=None, with_payloads=()):
        """Add rows; with_payloads are the positions that get one."""
        owners = [self.banks[handle] for handle in handles]
        payloads = self._payloads(len(handles), with_payloads)
        call = {"ids": ids, "fields": _columns(fields), "payloads": payloads}
        labels = _labels(payloads, len(handles))
        named = self._named(owners, ids)
        if named is None:
            with pytest.raises(InputError):
                self.arena.add(handles, POOL[places], **call)
            return
        got = self.arena.add(handles, POOL[places], **call)
        assert got.tolist() == named
        for i, (owner, row) in enumerate(zip(owners, named, strict=True)):
            values = dict.fromkeys(FIELDS) | ({} if fields is None else fields[i])
            owner.rows[row] = (places[i], values, labels[i])
            owner.used.add(row)
            owner.counter = max(owner.counter, row + 1)

    def _named(self, owners, ids):
        """The ids that an add must give, or None where it must refuse."""
        named, taken, counters = [], set(), {}
        for i, owner in enumerate(owners):
            row = counters.get(owner, owner.counter) if ids is None else ids[i]
            if row in owner.used or (owner, row) in taken or row < 0:
                return None
            taken.add((owner, row))
            counters[owner] = max(counters.get(owner, owner.counter), row + 1)
            named.append(row)
        return named

    def update(self, handles, ids, places=None, fields=None, with_payloads=None, skip=False):
        found = [row in self.banks[handle].rows for handle, row in zip(handles, ids, strict=True)]
        payloads = None
        if with_payloads is not None:
            payloads = self._payloads(len(ids), with_payloads) or [None] * len(ids)
        call = {
            "vectors": None if places is None else POOL[places],
            "fields": _columns(fields),
            "payloads": payloads,
            "missing": "skip" if skip else "raise",
        }
        labels = _labels(payloads, len(ids))
        refusal = _refusal(handles, ids, found, skip)
        if refusal:
            with pytest.raises(refusal):
                self.arena.update(handles, ids, **call)
            return
        assert self.arena.update(handles, ids, **call).tolist() == found
        for i, (handle, row) in enumerate(zip(handles, ids, strict=True)):
            if found[i]:
                place, values, label = self.banks[handle].rows[row]
                self.banks[handle].rows[row] = (
                    place if places is None else places[i],
                    values if fields is None else values | fields[i],
                    label if payloads is None else labels[i],
                )

    def delete(self, handles, ids, skip=False):
        found = [row in self.banks[handle].rows for handle, row in zip(handles, ids, strict=True)]
        missing = "skip" if skip else "raise"
        refusal = _refusal(handles, ids, found, skip)
        if refusal:
            with pytest.raises(refusal):
                self.arena.delete(handles, ids, missing=missing)
            return
        assert self.arena.delete(handles, ids, missing=missing).tolist() == found
        for handle, row in zip(handles, ids, strict=True):
            self.banks[handle].rows.pop(row, None)

    def get(self, handles, ids, skip=False):
        wanted = [
            self.banks[handle].rows.get(row) for handle, row in zip(handles, ids, strict=True)
        ]
        found = [row is not None for row in wanted]
        assert self.arena.contains(handles, ids).tolist() == found
        if not skip and not all(found):
            with pytest.raises(NotFoundError):
                self.arena.get(handles, ids)
            return
        rows = self.arena.get(handles, ids, missing="skip" if skip else "raise")
        assert rows.found.tolist() == found
        zero = np.zeros(DIM, self.stored.dtype)
        vectors = [zero if row is None else self.stored[row[0]] for row in wanted]
        assert rows.vectors.tobytes() == np.array(vectors, self.stored.dtype).tobytes()
        for name in FIELDS:
            values = [None if row is None else row[1][name] for row in wanted]
            assert list(map(repr, rows.fields[name])) == list(map(repr, values)), name
        labels = [None if row is None else row[2] for row in wanted]
        assert [payload and payload.label for payload in rows.payloads] == labels

    def search(self, handles, places, k, where=None, **options):
        """Search with queries from POOL; a list of conditions is one per query."""
        hits = self.arena.search(handles, POOL[places], k, where=where, **options)
        widths = np.broadcast_to(k, len(places))
        width = k if isinstance(k, int) else int(widths.max(initial=0))
        scores = np.full((len(places), width), -np.inf, np.float32)
        ids = np.full((len(places), width), -1, np.int64)
        for i, (handle, place) in enumerate(zip(handles, places, strict=True)):
            condition = where[i] if isinstance(where, list) else where
            named = options.get("candidates")
            named = None if named is None else set(named[i])
            best = self._best(self.banks[handle], place, condition, named, options)[: widths[i]]
            scores[i, : len(best)] = [-minus for minus, _ in best]
            ids[i, : len(best)] = [row for _, row in best]
        assert_hits(hits, (scores, ids), f"{handles} {places} {k} {where} {options}")

    def _best(self, bank, place, where, candidates, options):
        rows = [
            (row, at, values)
            for row, (at, values, _) in bank.rows.items()
            if (where is None or matches(where, values))
            and (candidates is None or row in candidates)
        ]
        finals = self.scores[place][[at for _, at, _ in rows]] if rows else np.zeros(0, np.float32)
        weights = [
            np.array([_number(values[options[name]], null) for _, _, values in rows], np.float64)
            if options.get(name)
            else None
            for name, null in (("scale", 1), ("bias", 0))
        ]
        with np.errstate(over="ignore"):
            weights = [None if w is None else w.astype(np.float32) for w in weights]
        finals = reference.final_score(finals, *weights)
        low, high = (
            np.float32(default if options.get(name) is None else options[name])
            for name, default in (("min_score", -np.inf), ("max_score", np.inf))
        )
        return sorted(
            (-final, row)
            for final, (row, _, _) in zip(finals, rows, strict=True)
            if low <= final <= high
        )

    def score(self, handles, places, ids):
        """Scores of ids (n, m), -1 where padded."""
        known = all(
            row < 0 or row in self.banks[handle].rows
            for handle, rows in zip(handles, ids, strict=True)
            for row in rows
        )
        if not known:
            with pytest.raises(NotFoundError):
                self.arena.score(handles, POOL[places], ids)
            return
        expected = [
            [
                -np.inf if row < 0 else self.scores[place, self.banks[handle].rows[row][0]]
                for row in rows
            ]
            for handle, place, rows in zip(handles, places, ids, strict=True)
        ]
        got = self.arena.score(handles, POOL[places], np.array(ids, np.int64))
        assert got.tobytes() == (np.array(expected, np.float32) + np.float32(0)).tobytes()

    def fork(self, handles, n):
        forks = self.arena.fork(handles, n)
        assert forks.shape == (len(handles), n)
        for parent, children in zip(handles, forks.tolist(), strict=True):
            for child in children:
                assert child not in self.banks
                self.banks[child] = self.banks[parent].copy()

    def snapshot(self, handles):
        copies = {handle: self.banks[handle].copy() for handle in handles}
        self.marks.append((self.arena.snapshot(handles), copies))

    def rollback(self, mark, handles):
        mark, copies = self.marks[mark]
        refusals = []
        if len(set(handles)) < len(handles) or any(handle not in copies for handle in handles):
            refusals.append(InputError)
        if any(handle not in self.banks for handle in handles):
            refusals.append(NotFoundError)
        if refusals:
            with pytest.raises(tuple(refusals)):
                self.arena.rollback(handles, mark)
        else:
            self.arena.rollback(handles, mark)
            for handle in handles:
                self.banks[handle] = copies[handle].copy()

    def release(self, mark, by_collection):
        released, _ = self.marks.pop(mark)
        if not by_collection:
            released.release()

    def drop(self, handles):
        self.arena.drop(handles)
        for handle in handles:
            del self.banks[handle]
            self.gone.append(handle)
        with pytest.raises(NotFoundError):
            self.arena.count(handles)

    def compact(self):
        self.arena.compact()

    def check(self):
        """Compare everything that there is."""
        handles = list(self.banks)
        counts = [len(bank.rows) for bank in self.banks.values()]
        assert self.arena.count(np.array(handles, np.int64)).tolist() == counts
        for handle, bank in self.banks.items():
            ids = sorted(bank.rows)
            assert self.arena.ids(handle).tolist() == ids
            self.get([handle] * len(ids), ids)
        kept = [
            *self.banks.values(),
            *(bank for _, copies in self.marks for bank in copies.values()),
        ]
        labels = {row[2] for bank in kept for row in bank.rows.values()} - {None}
        if set(self.living) != labels:
            gc.collect()
        assert set(self.living) == labels

    def _payloads(self, n, positions):
        if not positions:
            return None
        payloads = [None] * n
        for position in positions:
            payloads[position] = Payload(self.n_labels)
            self.living[self.n_labels] = payloads[position]
            self.n_labels += 1
        return payloads


def _columns(fields):
    """Rows of values as columns; a row gives the fields that the first one gives."""
    if fields is None:
        return None
    return {name: [row[name] for row in fields] for name in (fields[0] if fields else ())}


def _labels(payloads, n):
    return [payload and payload.label for payload in payloads or [None] * n]


def _refusal(handles, ids, found, skip):
    is_repeated = len(set(zip(handles, ids, strict=True))) < len(ids)
    if not skip and not all(found):
        return (NotFoundError, InputError) if is_repeated else NotFoundError
    return InputError if is_repeated else None


def _number(value, null):
    return null if value is None else value

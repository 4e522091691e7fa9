"""The ids and places of banks whose rows lie elsewhere, beside dicts of what they should be."""

import os
import signal
import threading
import time
from contextlib import suppress

import numpy as np
import pytest

from memcore import _core
from memcore.errors import InputError, NotFoundError


class Oracle:
    """Runs each operation on both sides; `check` compares all that is seen."""

    def __init__(self):
        self.directory = _core.Directory()
        self.banks: dict[int, dict] = {}
        self.next_ids: dict[int, int] = {}

    def new(self, n):
        for handle in self.directory.new(n).tolist():
            self.banks[handle], self.next_ids[handle] = {}, 0

    def add(self, handles, ids, places):
        added = self.directory.add(handles, ids, places).tolist()
        for i, handle in enumerate(np.broadcast_to(handles, len(added)).tolist()):
            assert ids is not None or added[i] == self.next_ids[handle]
            self.next_ids[handle] = max(self.next_ids[handle], added[i] + 1)
            self.banks[handle][added[i]] = int(places[i])
        return added

    def update(self, handles, ids, places):
        found = self.directory.update(handles, ids, places, True).tolist()
        for handle, id_, place, is_there in zip(
            np.broadcast_to(handles, ids.size).tolist(), ids.tolist(), places, found, strict=True
        ):
            assert is_there == (id_ in self.banks[handle])
            if is_there:
                self.banks[handle][id_] = int(place)

    def delete(self, handles, ids):
        found = self.directory.delete(handles, ids, True).tolist()
        pairs = zip(np.broadcast_to(handles, ids.size).tolist(), ids.tolist(), strict=True)
        assert found == [self.banks[handle].pop(id_, None) is not None for handle, id_ in pairs]

    def fork(self, handles, n):
        for parent, forks in zip(
            handles.tolist(), self.directory.fork(handles, n).tolist(), strict=True
        ):
            for fork in forks:
                self.banks[fork] = dict(self.banks[parent])
                self.next_ids[fork] = self.next_ids[parent]

    def copy_from(self, handle, source):
        self.directory.copy_from(np.array([handle]), np.array([source]))
        self.banks[handle] = dict(self.banks[source])
        self.next_ids[handle] = self.next_ids[source]

    def drop(self, handle):
        self.directory.drop(np.array([handle]))
        del self.banks[handle], self.next_ids[handle]

    def check(self, rng):
        handles = np.array(list(self.banks))
        assert self.directory.alive(handles).all()
        assert self.directory.count(handles).tolist() == list(map(len, self.banks.values()))
        for handle, rows in self.banks.items():
            one = np.array([handle])
            ids = self.directory.ids(handle)
            assert ids.tolist() == sorted(rows)
            asked = np.concatenate([ids, rng.integers(-3, 5000, 50), ids ^ 64, ids ^ (1 << 40)])
            wanted = [rows.get(id_, -1) for id_ in asked.tolist()]
            assert self.directory.places(one, asked).tolist() == wanted
            assert self.directory.contains(one, asked).tolist() == [w >= 0 for w in wanted]


def fresh_ids(rng, next_id, n):
    """Ids that no row had: close together, spread, or far apart."""
    top = (2 * n, 100 * n, 1 << 60)[rng.integers(3)]
    return next_id + rng.permutation(np.unique(rng.integers(0, top, n)))


def test_a_walk(rng):
    both = Oracle()
    both.new(3)
    for step in range(400):
        handles = np.array(list(both.banks))
        n = int(rng.integers(1, 200))
        each, one = rng.choice(handles, n), rng.choice(handles, 1)
        kind = rng.integers(8)
        if kind == 0:
            both.add(each, None, rng.integers(0, 2**31, n))
        elif kind == 1 and both.next_ids[one.item()] < 1 << 61:
            ids = fresh_ids(rng, both.next_ids[one.item()], n)
            both.add(one, ids, rng.integers(0, 2**31, ids.size))
        elif kind <= 4:
            pool = np.array([*both.banks[one.item()], *range(5)])
            ids = np.unique(rng.choice(pool, n))
            if kind == 2:
                both.delete(one, ids)
            else:
                both.update(one, ids, rng.integers(0, 2**31, ids.size))
        elif kind == 5 and handles.size < 8:
            both.fork(rng.permutation(handles)[:2], 2)
        elif kind == 6:
            both.copy_from(*rng.choice(handles, 2).tolist())
        elif kind == 7 and handles.size > 3:
            both.drop(one.item())
        if step % 8 == 0:
            both.check(rng)
    both.check(rng)


def test_ids_of_a_counter_take_four_bytes_and_others_ten(rng):
    n = 200_000
    for ids, n_bytes in (
        (None, 4.8),
        (np.arange(n) // 32 * 64 + np.arange(n) % 32, 9.5),
        # 16 of these are the gaps between ids.
        (np.arange(2000) * 64, 30),
        (np.arange(2000) * 1000, 30),
        (np.unique(rng.integers(0, 1 << 31, n)), 28),
    ):
        directory = _core.Directory()
        bank, size = directory.new(1), n if ids is None else ids.size
        directory.add(bank, ids, np.zeros(size, np.int64))
        assert directory.nbytes / size < n_bytes
        full = directory.nbytes
        # A fork has what it changes, and a table of runs.
        fork = directory.fork(bank, 1).reshape(-1)
        directory.delete(fork, directory.ids(fork.item())[:10], False)
        assert directory.nbytes < (1.1 if ids is None else 2) * full
        directory.drop(fork)
        ids = directory.ids(bank.item())
        added = directory.add(bank, None, np.ones(size // 2, np.int64))
        assert (directory.places(bank, added) == 1).all()
        assert directory.nbytes < 2 * full


def test_the_few_rows_that_are_left_keep_little(rng):
    directory = _core.Directory()
    bank = directory.new(1)
    ids = directory.add(bank, None, np.arange(20_000) % 77)
    full = directory.nbytes
    directory.delete(bank, np.delete(ids, np.s_[::100]), False)
    assert directory.nbytes < full / 10
    assert directory.ids(bank.item()).tolist() == ids[::100].tolist()
    assert directory.places(bank, ids[::100]).tolist() == (ids[::100] % 77).tolist()


def test_calls_that_fail_change_nothing(rng):
    directory = _core.Directory()
    bank, other, gone = directory.new(3)
    directory.drop(np.array([gone]))
    one = np.array([bank])
    ids = np.concatenate([np.arange(100), 1000 + np.unique(rng.integers(0, 1 << 50, 50))])
    directory.add(one, ids, np.arange(ids.size))
    directory.delete(one, np.array([7]), False)
    size = directory.nbytes
    two, places = np.array([200, 300]) + ids[-1], np.zeros(2, np.int64)
    for call, arguments, error, sentence in (
        (directory.add, (np.array([bank, gone]), None, places), NotFoundError, "add: handle"),
        (directory.add, (one, np.array([2**62, 7]), places), InputError, "id 7 .* was used"),
        (directory.add, (one, np.array([2**62, -7]), places), InputError, "id -7 .* is negative"),
        (directory.add, (one, two[[0, 0]], places), InputError, "is repeated"),
        (directory.add, (one, two, np.array([0, 2**31])), InputError, "place 2147483648"),
        (directory.add, (one, two, np.array([0, -1])), InputError, "place -1"),
        (directory.update, (one, np.array([0, 7]), places, False), NotFoundError, "id 7 "),
        (directory.update, (one, np.array([5, 5]), places, True), InputError, "is repeated"),
        (directory.update, (one, ids[:2], places - 1, True), InputError, "place -1"),
        (directory.delete, (one, np.array([0, 7]), False), NotFoundError, "id 7 "),
        (directory.delete, (one, np.array([5, 5]), True), InputError, "is repeated"),
        (directory.drop, (np.array([bank, bank]),), InputError, "drop: handle .* is repeated"),
        (directory.fork, (np.array([bank, gone]), 2), NotFoundError, "fork: handle"),
        (directory.copy_from, (np.array([bank, other]), np.array([other, gone])), NotFoundError,
         "rollback: handle"),
        (directory.places, (np.array([gone]), ids), NotFoundError, "get: handle"),
        (directory.contains, (np.array([gone]), ids), NotFoundError, "contains: handle"),
        (directory.count, (np.array([gone]),), NotFoundError, "count: handle"),
    ):  # fmt: skip
        with pytest.raises(error, match=sentence):
            call(*arguments)
        wanted = [-1 if id_ == 7 else at for at, id_ in enumerate(ids.tolist())]
        assert directory.places(one, ids).tolist() == wanted
        assert directory.count(np.array([bank, other])).tolist() == [ids.size - 1, 0]
    assert directory.nbytes == size
    assert directory.add(one, None, np.zeros(1, np.int64)).tolist() == [ids[-1] + 1]


def test_ctrl_c_leaves_all_or_nothing(rng):
    directory = _core.Directory()
    bank = directory.new(1)
    kept = directory.add(bank, None, np.arange(1000))
    many = 5000 + np.unique(rng.integers(0, 1 << 60, 400_000))
    n_stopped = 0
    for delay in np.geomspace(0.01, 10, 20):
        with suppress(KeyboardInterrupt):
            sender = threading.Thread(target=_interrupt, args=(delay,))
            sender.start()
            directory.add(bank, rng.permutation(many), np.zeros(many.size, np.int64))
            sender.join()
            time.sleep(1)
        n_rows = int(directory.count(bank)[0])
        assert directory.places(bank, kept).tolist() == list(range(1000))
        assert directory.contains(bank, many).sum() == n_rows - 1000
        assert n_rows in (1000, 1000 + many.size)
        if n_rows > 1000:
            break
        n_stopped += 1
    assert n_stopped


def _interrupt(delay):
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGINT)

"""Payloads: any object, carried by forks and rollbacks, let go with its last row, not before."""

import contextlib
import gc
import os
import threading
import weakref

import numpy as np
import pytest

from memcore import Arena, Bank
from memcore.bank.payloads import Tables
from memcore.errors import InputError, NotFoundError, ShapeError


class Thing:
    """An object that tells when it goes."""

    def __init__(self, name, last_words=None):
        self.name = name
        self.last_words = last_words

    def __del__(self):
        if self.last_words:
            self.last_words(self.name)


def ones(n):
    return np.ones((n, 2), np.float32)


def things(n):
    """Objects, and weak references that tell whether they live."""
    made = [Thing(i) for i in range(n)]
    return made, [weakref.ref(thing) for thing in made]


def alive(references):
    return [reference() is not None for reference in references]


def test_any_object_comes_back_itself():
    objects = [None, 0, "", [], {}, (1, 2), np.arange(3), object(), Bank, ["nested", ["list"]]]
    bank = Bank(2)
    ids = bank.add(ones(len(objects)), payloads=objects)
    got = bank.get(ids).payloads
    assert all(a is b for a, b in zip(got, objects, strict=True))
    hits = bank.search(np.ones(2), k=12)
    (row,) = bank.rows(hits)
    assert all(a is b for a, b in zip(row, [*objects, None, None], strict=True))


def test_groups_take_and_give_nested_payloads():
    arena = Arena(2)
    group = arena.new(6).reshape(2, 3)
    payloads = [[["a"], "b", None], ["d", "e", ("f",)]]
    ids = arena.add(group, np.ones((2, 3, 2)), payloads=payloads)
    assert arena.get(group, ids).payloads == payloads
    hits = arena.search(group, np.ones((2, 3, 2)), 2)
    assert arena.rows(group, hits) == [[[x, None] for x in row] for row in payloads]
    grid = np.empty((2, 3), object)
    grid[:] = "x"
    arena.update(group, ids, payloads=grid)
    assert arena.get(group, ids).payloads == [["x"] * 3] * 2
    with pytest.raises(ShapeError, match="payloads has 6 values, should have 2"):
        arena.update(group, ids, payloads=list("abcdef"))


def test_rows_of_hits():
    arena = Arena(2)
    banks = arena.new(3)
    arena.add(np.repeat(banks, 2), ones(6), payloads=list("abcdef"))
    hits = arena.search(banks, ones(3), 3)
    assert arena.rows(banks, hits) == [["a", "b", None], ["c", "d", None], ["e", "f", None]]
    assert arena.rows(banks[1], arena.search(banks[1], ones(2), 1)) == [["c"], ["c"]]
    assert arena.rows(banks, arena.search(banks, ones(3), 0)) == [[], [], []]
    arena.delete(banks[0], [0])
    with pytest.raises(NotFoundError):
        arena.rows(banks, hits)


def test_let_go_by_delete_and_update():
    bank = Bank(2)
    objects, living = things(4)
    bank.add(ones(4), payloads=objects)
    del objects
    bank.delete([1])
    assert alive(living) == [True, False, True, True]
    bank.update([0], payloads=["other"])
    assert alive(living) == [False, False, True, True]
    bank.update([2], payloads=[None])
    assert alive(living) == [False, False, False, True]
    bank.update([3], 2 * ones(1))
    assert bank.get([3]).payloads[0] is living[3]()
    assert bank.delete([3, 9], missing="skip").tolist() == [True, False]
    assert alive(living) == [False] * 4


def test_one_object_in_many_rows():
    bank = Bank(2)
    (thing,), (reference,) = things(1)
    bank.add(ones(40), payloads=[thing] * 40)
    del thing
    bank.delete(np.arange(39))
    assert reference() is bank.get([39]).payloads[0]
    bank.delete([39])
    assert reference() is None


def test_forks_snapshots_and_rollbacks_carry_them():
    arena = Arena(2)
    bank = arena.new(1)
    objects, living = things(3)
    arena.add(bank, ones(3), payloads=objects)
    del objects
    group = arena.fork(bank, 4)
    mark = arena.snapshot(bank)
    arena.delete(bank, [0, 1])
    arena.drop(group[:, :3])
    assert alive(living) == [True, True, True]
    arena.delete(group[0, 3], [0])
    arena.drop(group[0, 3])
    assert alive(living) == [True, True, True]
    arena.rollback(bank, mark)
    assert [thing.name for thing in arena.get(bank, [0, 1, 2]).payloads] == [0, 1, 2]
    arena.delete(bank, [1])
    mark.release()
    assert alive(living) == [True, False, True]
    arena.drop(bank)
    assert alive(living) == [False] * 3


def test_rollback_lets_go_of_what_came_after():
    bank = Bank(2)
    bank.add(ones(20), payloads=["kept"] * 20)
    mark = bank.snapshot()
    objects, living = things(5)
    bank.add(ones(5), payloads=objects)
    del objects
    nested = bank.snapshot()
    bank.rollback(mark)
    assert alive(living) == [True] * 5
    bank.rollback(nested)
    assert [thing.name for thing in bank.get(np.arange(20, 25)).payloads] == list(range(5))
    bank.rollback(mark)
    del nested
    assert alive(living) == [False] * 5
    assert bank.get([0]).payloads == ["kept"]


def test_banks_and_marks_let_go_when_they_are_collected():
    bank = Bank(2)
    bank.add(ones(1), payloads=["parent"])
    fork = bank.fork()
    objects, living = things(2)
    fork.add(ones(2), payloads=objects)
    mark = fork.snapshot()
    del objects, fork
    assert alive(living) == [True, True]
    del mark
    assert alive(living) == [False, False]
    assert bank.get([0]).payloads == ["parent"]


def test_a_refused_call_keeps_nothing():
    arena = Arena(2, fields={"who": "str"})
    bank = arena.new(1)
    arena.add(bank, ones(1), payloads=["old"], fields={"who": ["ana"]})
    objects, living = things(2)
    spoiled = np.array([[1, 1], [1, np.nan]], np.float32)
    new = {"who": ["new", "words"]}
    with pytest.raises(InputError, match="row 1"):
        arena.add(bank, spoiled, payloads=objects, fields=new)
    with pytest.raises(NotFoundError):
        arena.update(bank, [0, 5], payloads=objects, fields=new)
    with pytest.raises(InputError):
        arena.update(bank, [0, 0], payloads=objects, fields=new)
    assert arena.update(bank, [7, 8], payloads=objects, missing="skip").tolist() == [False] * 2
    # The tracebacks are gone, and with them all but the arena's own references.
    del objects
    gc.collect()
    assert alive(living) == [False, False]
    assert list(arena._store.tables.by_column[0].numbers) == ["ana"]
    assert arena.get(bank, [0]).payloads == ["old"]


def test_a_skipped_update_keeps_what_it_wrote():
    bank = Bank(2)
    bank.add(ones(2), payloads=["a", "b"])
    objects, living = things(3)
    assert bank.update([5, 1, 6], payloads=objects, missing="skip").tolist() == [False, True, False]
    del objects
    assert alive(living) == [False, True, False]
    assert bank.get([1]).payloads[0] is living[1]()


def test_a_destructor_may_call_back():
    bank = Bank(2, fields={"who": "str"})
    told = []

    def last_words(name):
        told.append((name, len(bank), bank.search(np.ones(2), 1).ids[0, 0]))
        bank.add(ones(1), payloads=[f"in memory of {name}"], fields={"who": [f"ghost {name}"]})
        if name:
            bank.delete([name - 1])

    names = [f"name {i}" for i in range(6)]
    bank.add(ones(6), payloads=[Thing(i, last_words) for i in range(6)], fields={"who": names})
    bank.delete([5])
    # Each destructor deletes the row before its own.
    assert [name for name, _, _ in told] == [5, 4, 3, 2, 1, 0]
    assert bank.get(bank.ids()).payloads == [f"in memory of {i}" for i in (5, 4, 3, 2, 1, 0)]
    assert bank.get(bank.ids()).fields["who"] == [f"ghost {i}" for i in (5, 4, 3, 2, 1, 0)]
    bank.delete(bank.ids())
    arena = bank._place[0]
    assert all(set(table.objects) == {None} for table in arena._store.tables.by_column.values())


def test_a_destructor_may_run_anywhere():
    """The garbage collector runs destructors in the middle of our own lines."""
    bank = Bank(2, fields={"who": "str"})

    def last_words(name):
        (row,) = bank.add(ones(1), payloads=[f"ghost {name}"], fields={"who": [f"w{name % 7}"]})
        bank.update([row], fields={"who": [f"w{(name + 1) % 7}"]})
        if name % 3:
            bank.delete([row])

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for i in range(300):
            thing = Thing(i, last_words)
            thing.itself = thing
            row = bank.add(ones(1), payloads=[thing], fields={"who": [f"w{i % 7}"]})
            del thing
            assert bank.get(row).fields["who"] == [f"w{i % 7}"]
            assert bank.search(np.ones(2), 500, where={"who": f"w{i % 7}"}).ids.max() >= row[0]
            bank.delete(row)
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    rows = bank.get(bank.ids())
    ghosts = sorted(int(payload.split()[1]) for payload in rows.payloads)
    assert ghosts == list(range(0, 300, 3))
    for payload, who in zip(rows.payloads, rows.fields["who"], strict=True):
        assert who == f"w{(int(payload.split()[1]) + 1) % 7}"
    bank.delete(bank.ids())
    arena = bank._place[0]
    assert all(set(table.objects) <= {None} for table in arena._store.tables.by_column.values())


def test_threads_share_payloads_and_words(rng):
    """Each row says the same thing in a field, a word and a payload, whoever reads it."""
    arena = Arena(2, fields={"n": "int64", "who": "str"})
    banks = arena.new(4)
    wrong = []
    made = []
    seeds = rng.integers(0, 2**32, 6).tolist()

    def work(seed):
        dice = np.random.default_rng(seed)
        for _ in range(150):
            bank = banks[dice.integers(len(banks))]
            numbers = dice.integers(0, 12, 3)
            payloads = [Thing(int(n)) for n in numbers]
            made.extend(map(weakref.ref, payloads))
            who = [f"w{n}" for n in numbers]
            arena.add(bank, ones(3), fields={"n": numbers, "who": who}, payloads=payloads)
            del payloads
            n = int(numbers[0])
            hits = arena.search(bank, ones(1), 1000, where={"who": f"w{n}"})
            rows = arena.get(bank, hits.ids[hits.ids >= 0], missing="skip")
            told = zip(rows.found, rows.fields["n"], rows.fields["who"], rows.payloads, strict=True)
            for found, number, word, payload in told:
                if found and not (number == n and word == f"w{n}" and payload.name == n):
                    wrong.append((number, word, payload.name, n))
            del rows, told
            payload = None
            ids = arena.ids(bank)
            if len(ids) > 20:
                arena.delete(bank, dice.choice(ids, 10, replace=False), missing="skip")

    def run(seed):
        try:
            work(seed)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    gc.collect()
    held = [payload for bank in banks for payload in arena.get(bank, arena.ids(bank)).payloads]
    assert sum(alive(made)) == len(set(held)) == len(held) == arena.count(banks).sum()
    del held
    arena.drop(banks)
    assert sum(alive(made)) == 0


def test_a_forked_child_goes_on():
    arena = Arena(2, fields={"who": "str"})
    bank = arena.new(1)
    objects, living = things(3)
    arena.add(bank, ones(3), payloads=objects, fields={"who": ["a", "b", "a"]})
    del objects
    stop = threading.Event()

    def write():
        while not stop.is_set():
            row = arena.add(bank, ones(1), payloads=["x"], fields={"who": ["busy"]})
            arena.delete(bank, row)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                # Nothing of pytest may run in the child.
                failed = 1
                with contextlib.suppress(BaseException):
                    arena.delete(bank, [1])
                    row = arena.add(bank, ones(1), payloads=["new"], fields={"who": ["child"]})
                    hits = arena.search(bank, ones(1), 9, where={"who": {"in": ["a", "child"]}})
                    names = [0, 2, int(row[0])]
                    failed = int(hits.ids[0, :3].tolist() != names or alive(living)[1])
                os._exit(failed)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        thread.join()
    assert alive(living) == [True, True, True]


class Counted:
    """Rows of one column, counted as native code does."""

    def __init__(self):
        self.rows = []
        self.fallen = set()

    def write(self, cells):
        self.rows += cells[0].tolist()
        return np.arange(len(cells[0]))

    def remove(self, number):
        self.rows.remove(number)
        self.fallen.add(number)

    def dead_refs(self, column):
        dead = self.fallen.difference(self.rows)
        self.fallen.clear()
        return np.array(sorted(dead), np.int64)

    def holds(self, column, numbers):
        return np.isin(numbers, self.rows)


def test_an_interrupted_write_that_changed_nothing_holds_nothing():
    counted = Counted()
    tables = Tables(counted, {0: False})
    objects, living = things(3)

    def interrupted(cells):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.write([objects], interrupted)
    del objects
    gc.collect()
    assert not any(alive(living))


def test_an_interrupted_write_frees_no_number_that_is_in_a_row():
    counted = Counted()
    tables = Tables(counted, {0: False})

    def interrupted(cells):
        counted.write(cells)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.write([["written"]], interrupted)
    tables.write([["later"]], counted.write)
    table = tables.by_column[0]
    assert [table.objects[number] for number in counted.rows] == ["written", "later"]
    counted.remove(counted.rows[0])
    tables.let_go()
    assert [table.objects[number] for number in counted.rows] == ["later"]
    assert "written" not in table.objects


def test_a_word_that_is_used_while_it_is_let_go_stays():
    """A destructor that runs between the report and the freeing may use the word again."""
    counted = Counted()
    tables = Tables(counted, {0: True})
    tables.write([["word"]], counted.write)
    (number,) = counted.rows
    counted.remove(number)
    report = counted.dead_refs

    def late(column):
        dead = report(column)
        counted.dead_refs = report
        tables.write([["word"]], counted.write)
        return dead

    counted.dead_refs = late
    tables.let_go()
    table = tables.by_column[0]
    assert [table.objects[number] for number in counted.rows] == ["word"]
    assert table.known(["word"]) == set(counted.rows)

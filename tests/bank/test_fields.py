"""Fields: values go in as given and come out as they were, null by null, kind by kind."""

import numpy as np
import pytest

from memcore import Arena, Bank
from memcore.errors import DtypeError, InputError, ShapeError

EDGES = {
    "int64": [0, -1, 2**63 - 1, -(2**63) + 1, None],
    "float64": [0.0, -0.0, 5e-324, float("inf"), None],
    "bool": [True, False, None, True, False],
    "str": ["", "ana", "Zoë\0", "ana", None],
    "tags": [[], ["a"], ["a", "a"], ["b", ""], None],
}


def ones(n):
    return np.ones((n, 2), np.float32)


@pytest.mark.parametrize("kind", EDGES)
def test_values_come_back(kind):
    bank = Bank(2, fields={"f": kind})
    ids = bank.add(ones(5), fields={"f": EDGES[kind]})
    assert list(map(repr, bank.get(ids).fields["f"])) == list(map(repr, EDGES[kind]))
    assert bank.update(ids[::-1], fields={"f": EDGES[kind]}).all()
    assert list(map(repr, bank.get(ids[::-1]).fields["f"])) == list(map(repr, EDGES[kind]))


@pytest.mark.parametrize(
    ("kind", "array", "values"),
    [
        ("int64", np.array([1, -2], np.int8), [1, -2]),
        ("int64", np.array([1, 2], np.uint64), [1, 2]),
        ("int64", np.arange(20)[::10], [0, 10]),
        ("float64", np.array([0.5, np.nan]), [0.5, None]),
        ("float64", np.array([1, 2]), [1.0, 2.0]),
        ("float64", np.array([0.1], np.float32).repeat(2), [float(np.float32(0.1))] * 2),
        ("bool", np.array([True, False]), [True, False]),
        ("str", np.array(["a", "bc"]), ["a", "bc"]),
        ("int64", np.array([1, None], object), [1, None]),
        ("tags", (("a",), None), [["a"], None]),
        ("int64", [np.int16(3), 4], [3, 4]),
        ("float64", [np.float16(0.5), 4], [0.5, 4.0]),
        ("bool", [np.True_, None], [True, None]),
        ("str", [np.str_("x"), None], ["x", None]),
    ],
)
def test_arrays_and_numpy_values(kind, array, values):
    bank = Bank(2, fields={"f": kind})
    ids = bank.add(ones(2), fields={"f": array})
    got = bank.get(ids).fields["f"]
    assert got == values
    assert [type(value) for value in got] == [type(value) for value in values]


def test_tensors():
    torch = pytest.importorskip("torch")
    bank = Bank(2, fields={"t": int, "w": float, "b": bool})
    columns = {
        "t": torch.tensor([1, 2]),
        "w": torch.tensor([0.5, 2.0]),
        "b": torch.tensor([True, False]),
    }
    ids = bank.add(ones(2), fields=columns)
    assert bank.get(ids).fields == {"t": [1, 2], "w": [0.5, 2.0], "b": [True, False]}


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None], "int64"),
        ([1, 2.5], "float64"),
        ([None, True], "bool"),
        (["a", None], "str"),
        ([["a"], None], "tags"),
        (np.array([1, 2], np.int32), "int64"),
        (np.array([1.0, 2.0]), "float64"),
        (np.array([True, False]), "bool"),
        (np.array(["a", "b"]), "str"),
    ],
)
def test_the_first_add_tells_the_kinds(values, kind):
    bank = Bank(2)
    bank.add(ones(2), fields={"f": values})
    assert bank.fields == {"f": kind}


@pytest.mark.parametrize("values", [[None, None], [1, "a"], [True, 1], [{}, {}], [1j, 2j]])
def test_a_first_add_that_does_not_tell_is_refused(values):
    bank = Bank(2)
    with pytest.raises(InputError, match=r"add: fields\['f'\] has"):
        bank.add(ones(2), fields={"f": values})
    assert bank.fields == {}
    # It has fixed nothing.
    bank.add(ones(1), fields={"f": ["word"]})
    assert bank.fields == {"f": "str"}


def test_what_is_not_given_is_null_and_stays_on_update():
    bank = Bank(2, fields={"a": "int64", "b": "str"})
    ids = bank.add(ones(2), fields={"a": [1, 2]})
    assert bank.get(ids).fields == {"a": [1, 2], "b": [None, None]}
    bank.update(ids, fields={"b": ["x", "y"]})
    bank.update(ids[:1], 2 * ones(1))
    assert bank.get(ids).fields == {"a": [1, 2], "b": ["x", "y"]}
    bank.update(ids, fields={"a": [None, 3]})
    assert bank.get(ids).fields == {"a": [None, 3], "b": ["x", "y"]}


def test_groups_take_and_give_nested_values():
    arena = Arena(2, fields={"t": "int64", "who": "str"})
    group = arena.new(6).reshape(2, 3)
    times = np.arange(6).reshape(2, 3)
    names = [["a", "b", None], ["d", "e", "f"]]
    ids = arena.add(group, np.ones((2, 3, 2)), fields={"t": times, "who": names})
    rows = arena.get(group, ids)
    assert rows.fields == {"t": times.tolist(), "who": names}
    with pytest.raises(ShapeError, match=r"fields\['who'\] has 2 values, should have 3"):
        arena.update(group, ids, fields={"who": [["a", "b"], ["c", "d"]]})


def test_a_word_is_stored_once_and_goes_with_its_last_row():
    arena = Arena(2, fields={"who": "str"})
    bank = arena.new(1)
    table = arena._store.tables.by_column[0]
    ids = arena.add(bank, ones(100), fields={"who": ["ana", "bob"] * 50})
    assert sorted(table.numbers) == ["ana", "bob"]
    fork = arena.fork(bank).reshape(1)
    arena.delete(bank, ids[::2])
    assert sorted(table.numbers) == ["ana", "bob"]
    arena.drop(fork)
    assert sorted(table.numbers) == ["bob"]
    arena.update(bank, ids[1::2], fields={"who": [f"name {i}" for i in range(50)]})
    assert len(table.numbers) == 50
    arena.drop(bank)
    assert table.numbers == {}
    # Numbers are used again: the table is as long as the most words at a time.
    assert len(table.objects) <= 52


class Shout(str):
    """A str that does not hash as one."""

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return False


def test_a_subclass_of_str_is_the_str_that_it_says():
    bank = Bank(2, fields={"who": "str", "tags": "tags"})
    bank.add(ones(1), fields={"who": [Shout("ana")], "tags": [[Shout("a")]]})
    assert bank.search(np.ones(2), 1, where={"who": "ana", "tags": ["a"]}).ids.tolist() == [[0]]
    assert bank.search(np.ones(2), 1, where={"who": Shout("ana")}).ids.tolist() == [[0]]


def test_tags_are_copied():
    tags = ["a", "b"]
    bank = Bank(2, fields={"tags": "tags"})
    bank.add(ones(1), fields={"tags": [tags]})
    tags.append("c")
    bank.get([0]).fields["tags"][0].append("d")
    assert bank.get([0]).fields["tags"] == [["a", "b"]]


@pytest.mark.parametrize(
    ("kind", "values", "error", "words"),
    [
        ("int64", [1.5, 2], DtypeError, "fields['f'] is 1.5 (float), should be an int"),
        ("int64", [True, 2], DtypeError, "is True (bool), should be an int"),
        ("int64", [2**63, 2], InputError, "should be between -2^63 and 2^63"),
        ("int64", [-(2**63), 2], InputError, "should be between -2^63 and 2^63"),
        ("int64", np.array([2**63, 0], np.uint64), InputError, "should be between"),
        ("int64", np.array([-(2**63), 0]), InputError, "should be between"),
        ("int64", np.array([0.5, 1.0]), DtypeError, "has dtype float64, should be int64"),
        ("int64", [1], ShapeError, "has 1 values, should have 2"),
        ("int64", np.ones((2, 1), int), ShapeError, "has shape (2, 1), should be (2,)"),
        ("int64", 7, DtypeError, "should be a sequence"),
        ("float64", ["1", 2], DtypeError, "is '1' (str), should be a number"),
        ("float64", [10**400, 2], InputError, "too large"),
        ("float64", np.array([1j, 2]), DtypeError, "has dtype complex128, should be float64"),
        ("bool", [1, 0], DtypeError, "is 1 (int), should be a bool"),
        ("bool", np.array([1, 0]), DtypeError, "has dtype int64, should be bool"),
        ("str", ["a", 1], DtypeError, "is 1 (int), should be a str"),
        ("str", "ab", DtypeError, "should be a sequence"),
        ("str", {"a", "b"}, DtypeError, "should be a sequence"),
        ("tags", ["ab", "c"], DtypeError, "is 'ab' (str), should be a list of str"),
        ("tags", [["a", 1], []], DtypeError, "should be a list of str"),
    ],
)
def test_refused_and_nothing_is_changed(kind, values, error, words):
    bank = Bank(2, fields={"f": kind, "g": "str"})
    with pytest.raises(error) as caught:
        bank.add(ones(2), fields={"g": ["new", "words"], "f": values})
    assert str(caught.value).startswith("add: ")
    assert words in str(caught.value)
    assert len(bank) == 0
    assert bank.add(ones(2)).tolist() == [0, 1]
    with pytest.raises(error, match=r"^update: "):
        bank.update([0, 1], fields={"g": ["new", "words"], "f": values})
    assert bank.get([0, 1]).fields == {"f": [None, None], "g": [None, None]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"and": "str"}, "has the name 'and'"),
        ({3: "str"}, "has the name 3"),
        ({"f": "string"}, "has kind 'string', should be one of int64, float64, bool, str, tags"),
        ({"f": dict}, "has kind"),
        ({"f": None}, "has kind None"),
    ],
)
def test_a_schema_that_is_refused(fields, words):
    with pytest.raises(InputError) as caught:
        Arena(2, fields=fields)
    assert words in str(caught.value)


def test_kinds_by_python_type():
    fields = {"a": int, "b": float, "c": bool, "d": str, "e": list, "f": list[str]}
    kinds = ["int64", "float64", "bool", "str", "tags", "tags"]
    assert list(Arena(2, fields=fields).fields.values()) == kinds


def test_an_unknown_field_is_refused():
    bank = Bank(2, fields={"who": "str"})
    with pytest.raises(InputError, match="add: fields names field 'whom', should be one of 'who'"):
        bank.add(ones(1), fields={"whom": ["ana"]})
    with pytest.raises(DtypeError, match=r"fields is \['ana'\], should be a dict"):
        bank.add(ones(1), fields=["ana"])
    with pytest.raises(InputError, match="should be none: there are no fields"):
        Bank(2, fields={}).add(ones(1), fields={"who": ["ana"]})

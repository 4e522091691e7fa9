"""Fields: what a row may hold beside its vector, and how values become the cells of native columns.

Knows the five kinds of field and their cells; banks and conditions are not known here.
"""

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore import scalars
from memcore.bank.payloads import Table
from memcore.errors import DtypeError, InputError, ShapeError

Ints = NDArray[np.int64]

NULL = np.iinfo(np.int64).min
_INT64_RANGE = "between -2^63 and 2^63, both excluded"
NULL_FLOAT = int(np.float64(np.nan).view(np.int64))

KINDS = ("int64", "float64", "bool", "str", "tags")
_SPELLINGS = {
    int: "int64",
    float: "float64",
    bool: "bool",
    str: "str",
    list: "tags",
    list[str]: "tags",
}
_KIND_WORDS = {
    "int64": "an int",
    "float64": "a number",
    "bool": "a bool",
    "str": "a str",
    "tags": "a list of str",
}
# The words of the where language.
RESERVED = ("and", "or", "not")


class Field(NamedTuple):
    """One field of a schema: its name, its kind (one of KINDS) and its native column."""

    name: str
    kind: str
    column: int


class Schema:
    """The fields of an arena, in the order of its native columns; then come the payloads.

    Attributes:
        fields: by name.
        payloads: the column of the payloads.
    """

    def __init__(self, op: str, kinds: Mapping[Any, Any] | None) -> None:
        if kinds is not None and not isinstance(kinds, Mapping):
            raise DtypeError(f"{op}: fields is {scalars.shown(kinds)}, should be a dict")
        self.fields: dict[str, Field] = {}
        for column, (name, kind) in enumerate((kinds or {}).items()):
            if not isinstance(name, str) or name in RESERVED:
                raise InputError(
                    f"{op}: fields has the name {name!r}, should be a str other than and, or, not"
                )
            self.fields[name] = Field(name, _kind(op, name, kind), column)
        self.payloads = len(self.fields)

    @property
    def columns(self) -> list[str]:
        """The kind of each native column."""
        kinds = [field.kind for field in self.fields.values()]
        return [kind if kind in ("int64", "float64", "bool") else "ref" for kind in kinds] + ["ref"]

    @property
    def interned(self) -> dict[int, bool]:
        """The columns that hold numbers of objects, and whether equal objects share one."""
        refs = {
            field.column: True for field in self.fields.values() if field.kind in ("str", "tags")
        }
        return {**refs, self.payloads: False}

    def field(self, op: str, argument: str, name: Any) -> Field:
        """The field of a name; InputError if there is none."""
        try:
            return self.fields[name]
        except (KeyError, TypeError):
            raise InputError(
                f"{op}: {argument} names field {name!r}, should be {one_of(self.fields)}"
            ) from None


def infer(op: str, values: Mapping[str, Any]) -> dict[str, str]:
    """The kind of each field, from the values of a first add."""
    if not isinstance(values, Mapping):
        raise DtypeError(f"{op}: fields is {scalars.shown(values)}, should be a dict")
    return {name: _kind_of(op, name, column) for name, column in values.items()}


def encode(op: str, field: Field, values: Any, shape: tuple[int, ...]) -> Ints | list[Any]:
    """The values of one field for rows of a shape: nested sequences or an array of that shape.

    Returns:
        Cells (n,) int64; or, where cells hold numbers of objects, a list of n: str, tuple, None.
    """
    name = f"fields[{field.name!r}]"
    if not isinstance(values, (list, tuple)):
        if field.kind in ("int64", "float64", "bool") and _dtype_kind(values) != "O":
            return _from_array(op, name, field.kind, values, shape)
        values = _listed(op, name, values)
    flat = flatten(op, name, values, shape)
    if field.kind in _OBJECTS:
        check = _OBJECTS[field.kind]
        return [None if value is None else check(op, name, value) for value in flat]
    if field.kind == "float64":
        numbers = (np.nan if value is None else float_value(op, name, value) for value in flat)
        return np.fromiter(numbers, np.float64, len(flat)).view(np.int64)
    cell = _CELLS[field.kind]
    return np.fromiter(
        (NULL if value is None else cell(op, name, value) for value in flat), np.int64, len(flat)
    )


def decode(kind: str, cells: Ints, table: Table | None) -> list[Any]:
    """The values of cells (n,), None for null; tags as lists."""
    if table is not None:
        objects = [None if number < 0 else table.objects[number] for number in cells.tolist()]
        return (
            [None if tags is None else list(tags) for tags in objects]
            if kind == "tags"
            else objects
        )
    if kind == "float64":
        return [None if value != value else value for value in cells.view(np.float64).tolist()]
    values = [None if value == NULL else value for value in cells.tolist()]
    return (
        [None if value is None else bool(value) for value in values] if kind == "bool" else values
    )


def nulls(kind: str, n: int) -> Ints:
    """Cells (n,) of one null each, of a native kind."""
    return np.full(n, {"ref": -1, "float64": NULL_FLOAT}.get(kind, NULL), np.int64)


def flatten(op: str, name: str, values: Any, shape: tuple[int, ...]) -> list[Any]:
    """Nested sequences of a shape as one list, in C order; what lies deeper is left alone."""
    rows = [values]
    for n in shape:
        for row in rows:
            if not _is_listed(row) or len(row) != n:
                raise ShapeError(
                    f"{op}: {name} has {_extent(row)}, should have {n}: one value for each row"
                )
        rows = [value for row in rows for value in row]
    return rows


def nest(flat: list[Any], shape: tuple[int, ...]) -> list[Any]:
    """One list as nested lists of a shape."""
    if len(shape) == 1:
        return flat
    nested: list[Any] = np.fromiter(flat, object, len(flat)).reshape(shape).tolist()
    return nested


def _kind(op: str, name: str, kind: Any) -> str:
    word = kind if isinstance(kind, str) else _SPELLINGS.get(kind)
    if word not in KINDS:
        raise InputError(
            f"{op}: fields[{name!r}] has kind {kind!r}, should be one of {', '.join(KINDS)}"
        )
    return word


def _kind_of(op: str, name: str, values: Any) -> str:
    kind = _dtype_kind(values)
    if kind in "biuf":
        return {"b": "bool", "f": "float64"}.get(kind, "int64")
    given = [value for value in _listed(op, f"fields[{name!r}]", values) if value is not None]
    for kinds, word in _KINDS_OF_TYPES:
        # bool is an int to Python.
        if given and all(
            isinstance(value, kinds) and (word == "bool" or not _is_bool(value)) for value in given
        ):
            return word
    what = (
        f"values of type {', '.join(sorted({type(value).__name__ for value in given}))}"
        if given
        else "no value"
    )
    raise InputError(
        f"{op}: fields[{name!r}] has {what}, should have values of one kind: {', '.join(KINDS)}"
    )


def _listed(op: str, name: str, values: Any) -> Any:
    if not _is_listed(values):
        raise DtypeError(
            f"{op}: {name} is {_a(values)}, should be a sequence of one value for each row"
        )
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _is_listed(values: Any) -> bool:
    """Whether these are values one after the other; arrays without axes have no length."""
    if isinstance(values, (str, bytes, Mapping, Set, type)) or not hasattr(values, "__len__"):
        return False
    shape = getattr(values, "shape", None)
    return shape is None or len(shape) > 0


def _from_array(op: str, name: str, kind: str, values: Any, shape: tuple[int, ...]) -> Ints:
    view = np.asarray(values)
    if view.shape != shape:
        raise ShapeError(
            f"{op}: {name} has shape {view.shape}, should be {shape}: one value for each row"
        )
    if view.dtype.kind not in {"int64": "iu", "float64": "iuf", "bool": "b"}[kind]:
        raise DtypeError(f"{op}: {name} has dtype {view.dtype}, should be {kind}")
    if kind == "float64":
        return view.astype(np.float64, order="C").reshape(-1).view(np.int64)
    if (
        kind == "int64"
        and view.size
        and not (int(view.min()) > NULL and int(view.max()) <= -(NULL + 1))
    ):
        raise InputError(f"{op}: {name} has {view.min()} to {view.max()}, should be {_INT64_RANGE}")
    return view.astype(np.int64, order="C").reshape(-1)


def int_cell(op: str, name: str, value: Any) -> int:
    """The cell of an int64 value."""
    if not isinstance(value, (int, np.integer)) or _is_bool(value):
        raise _wrong(op, name, "int64", value)
    if not NULL < value < -NULL:
        raise InputError(
            f"{op}: {name} is {value}, should be between -2^63 and 2^63, both excluded"
        )
    return int(value)


def float_value(op: str, name: str, value: Any) -> float:
    """A float64 value."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or _is_bool(value):
        raise _wrong(op, name, "float64", value)
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{op}: {name} is too large an int, should be a float64") from None


def bool_cell(op: str, name: str, value: Any) -> int:
    """The cell of a bool."""
    if not _is_bool(value):
        raise _wrong(op, name, "bool", value)
    return int(value)


def text(op: str, name: str, value: Any) -> str:
    """A str value, as a plain str: that of a subclass may hash as it likes."""
    if not isinstance(value, str):
        raise _wrong(op, name, "str", value)
    return value if type(value) is str else str.__str__(value)


def tags(op: str, name: str, value: Any) -> tuple[str, ...]:
    """A list of str, as the tuple that stands for it."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(tag, str) for tag in value):
        raise _wrong(op, name, "tags", value)
    return tuple(text(op, name, tag) for tag in value)


_KINDS_OF_TYPES: tuple[tuple[Any, str], ...] = (
    ((bool, np.bool_), "bool"),
    ((int, np.integer), "int64"),
    ((int, float, np.integer, np.floating), "float64"),
    (str, "str"),
    ((list, tuple), "tags"),
)
_OBJECTS = {"str": text, "tags": tags}
_CELLS = {"int64": int_cell, "bool": bool_cell}


def _dtype_kind(values: Any) -> str:
    """NumPy's letter for a dtype; "O" for what has none, "?" for the dtype of another library."""
    dtype = getattr(values, "dtype", None)
    return "O" if dtype is None else getattr(dtype, "kind", "?")


def _is_bool(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _wrong(op: str, name: str, kind: str, value: Any) -> DtypeError:
    return DtypeError(f"{op}: {name} is {_a(value)}, should be {_KIND_WORDS[kind]}")


def _a(value: Any) -> str:
    return "None" if value is None else f"{value!r:.40} ({type(value).__name__})"


def _extent(row: Any) -> str:
    return (
        f"{len(row)} values"
        if hasattr(row, "__len__") and not isinstance(row, (str, bytes))
        else _a(row)
    )


def one_of(names: Any) -> str:
    """The names that there are, for an error."""
    return f"one of {', '.join(map(repr, names))}" if names else "none: there are no fields"

"""The condition language: `where={"speaker": "ana", "time": {"gte": 5}}` as programs for pages.

A program is postfix: each step pushes the set of rows that match it, or joins the sets on top.
Conditions on words are answered here, over the distinct values that are in use, and reach native
code as sets of numbers.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.bank.fields import Field, Schema, bool_cell, float_value, int_cell, one_of, tags, text
from memcore.bank.payloads import Tables
from memcore.errors import DtypeError, InputError

Ints = NDArray[np.int64]
Program = tuple[Ints, Ints]

# The steps of a program.
TRUE, IN, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, IS_NULL, AND, OR, NOT, NOT_IN = range(11)

OPERATORS = ("eq", "ne", "in", "nin", "gt", "gte", "lt", "lte", "contains")
_ORDER = {"lt": LESS, "lte": LESS_EQUAL, "gt": GREATER, "gte": GREATER_EQUAL}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "contains": operator.contains,
}
_MAX_DEPTH = 100


def compile_all(
    conditions: Iterable[Mapping[str, Any] | None], schema: Schema, tables: Tables
) -> tuple[list[Program], Ints, set[int]]:
    """Compile one condition per query; None is all rows.

    Returns:
        The distinct programs, the program of each query (n_queries,) with -1 for all rows, and the
        columns of words that were asked for: a new word there puts the programs out of date.
    """
    known: dict[int, int] = {}
    index = []
    compiler = _Compiler(schema, tables)
    for condition in conditions:
        if condition is None:
            index.append(-1)
            continue
        # A condition given for many queries is compiled once.
        number = known.get(id(condition))
        if number is None:
            number = known[id(condition)] = len(known)
            compiler.program(condition)
        index.append(number)
    return compiler.programs(), np.array(index, np.int64), compiler.words


class _Compiler:
    """Writes programs, remembering which words matched what."""

    def __init__(self, schema: Schema, tables: Tables) -> None:
        self.words: set[int] = set()
        self._schema = schema
        self._tables = tables
        self._matches: dict[Any, list[int]] = {}
        # Of all programs, one after the other, and where each of them ends.
        self._steps: list[tuple[int, int, int, int]] = []
        self._constants: list[int] = []
        self._ends = [(0, 0)]

    def program(self, condition: Mapping[str, Any]) -> None:
        """Write the program of a condition behind the others."""
        self._condition(condition, 0)
        self._ends.append((len(self._steps), len(self._constants)))

    def programs(self) -> list[Program]:
        """All programs; thousands of small ones, so that they share two arrays."""
        steps = np.array(self._steps, np.int64).reshape(-1, 4)
        constants = np.array(self._constants, np.int64)
        return [
            (steps[a:b], constants[c:d])
            for (a, c), (b, d) in zip(self._ends[:-1], self._ends[1:], strict=True)
        ]

    def _condition(self, condition: Any, depth: int) -> None:
        """Push the rows that meet every entry of a condition."""
        if not _is_mapping(condition):
            raise DtypeError(f"search: where has {_show(condition)}, should be a dict")
        if depth > _MAX_DEPTH:
            raise InputError(f"search: where is nested deeper than {_MAX_DEPTH}, should be flatter")
        for name, value in condition.items():
            if name in ("and", "or"):
                self._joined(name, value, depth)
            elif name == "not":
                self._condition(value, depth + 1)
                self._step(NOT)
            else:
                self._field(self._schema.field("search", "where", name), value)
        self._join(AND, len(condition))

    def _joined(self, name: str, conditions: Any, depth: int) -> None:
        if not isinstance(conditions, (list, tuple)):
            raise DtypeError(
                f"search: where[{name!r}] is {_show(conditions)}, should be a list of dicts"
            )
        for condition in conditions:
            self._condition(condition, depth + 1)
        self._join(AND if name == "and" else OR, len(conditions))

    def _join(self, step: int, n: int) -> None:
        """Join the n sets on top; of none, all rows meet every one and no row meets any."""
        if n == 0:
            self._step(TRUE)
            if step == OR:
                self._step(NOT)
        for _ in range(n - 1):
            self._step(step)

    def _field(self, field: Field, value: Any) -> None:
        """Push the rows whose field equals a value, or meets every operator of a dict."""
        tests = value if _is_mapping(value) else {"eq": value}
        for name, wanted in tests.items():
            if name not in OPERATORS:
                raise InputError(
                    f"search: where has operator {name!r}, should be {one_of(OPERATORS)}"
                )
            if wanted is None and name in ("eq", "ne"):
                self._step(IS_NULL, field.column)
                if name == "ne":
                    self._step(NOT)
            elif field.kind in ("str", "tags"):
                self._word_test(field, name, wanted)
            else:
                self._number_test(field, name, wanted)
        self._join(AND, len(tests))

    def _number_test(self, field: Field, name: str, wanted: Any) -> None:
        if name == "contains" or (field.kind == "bool" and name in _ORDER):
            raise _unfit(field, name)
        if name in _ORDER:
            self._step(_ORDER[name], field.column, _cells(field, [wanted]))
        else:
            values = _listed(field, name, wanted) if name in ("in", "nin") else [wanted]
            self._step(IN if name in ("eq", "in") else NOT_IN, field.column, _cells(field, values))

    def _word_test(self, field: Field, name: str, wanted: Any) -> None:
        if field.kind == "tags" and name in _ORDER:
            raise _unfit(field, name)
        self.words.add(field.column)
        check = text if field.kind == "str" or name == "contains" else tags
        values = _listed(field, name, wanted) if name in ("in", "nin") else [wanted]
        words = [check("search", f"where[{field.name!r}]", value) for value in values]
        table = self._tables.by_column[field.column]
        if name in _COMPARE:
            key = field.column, name, words[0]
            if key not in self._matches:
                self._matches[key] = table.matching(_COMPARE[name], words[0])
            numbers = self._matches[key]
        else:
            numbers = sorted(table.known(words))
        self._step(NOT_IN if name in ("ne", "nin") else IN, field.column, numbers)

    def _step(self, step: int, column: int = 0, constants: list[int] | None = None) -> None:
        # A program counts its own constants.
        start = self._ends[-1][1]
        begin = len(self._constants) - start
        self._constants += constants or []
        self._steps.append((step, column, begin, len(self._constants) - start))


def _cells(field: Field, values: list[Any]) -> list[int]:
    """The cells of numbers, in the order of the numbers."""
    name = f"where[{field.name!r}]"
    if field.kind == "float64":
        numbers = np.array(
            sorted(float_value("search", name, value) for value in values), np.float64
        )
        if np.isnan(numbers).any():
            raise InputError(
                f"search: {name} is compared with NaN, should be a number: for null, give None"
            )
        # -0.0 and 0.0 are one number.
        cells: list[int] = (numbers + 0.0).view(np.int64).tolist()
        return cells
    check = int_cell if field.kind == "int64" else bool_cell
    return sorted({check("search", name, value) for value in values})


def _listed(field: Field, name: str, values: Any) -> list[Any]:
    if isinstance(values, (str, bytes, Mapping)) or not hasattr(values, "__iter__"):
        raise DtypeError(
            f"search: where[{field.name!r}] with {name!r} is {_show(values)}, should be a list"
        )
    return list(values)


def _is_mapping(value: Any) -> bool:
    # A dict is told at once, where an abstract class takes its time.
    return type(value) is dict or isinstance(value, Mapping)


def _unfit(field: Field, name: str) -> InputError:
    return InputError(
        f"search: where has operator {name!r} on {field.name!r}, which {field.kind} does not have"
    )


def _show(value: Any) -> str:
    return f"{value!r:.40} ({type(value).__name__})"

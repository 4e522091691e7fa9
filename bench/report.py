"""Rows on the screen: with colours and a progress bar if `rich` is installed, plain otherwise."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from .machine import Limits
from .rows import Figure, Row

HEAD = (
    "engine",
    "p50 ms",
    "p20-p80",
    "cold",
    "runs",
    "x best rival",
    "share of limit",
    "floor / goal",
)


class Progress(Protocol):
    """How far the run is."""

    def advance(self, text: str) -> None:
        """The next case, by name."""
        ...

    def say(self, text: str) -> None:
        """What the case is doing."""
        ...


def has_rich() -> bool:
    """Whether `rich` is installed and somebody looks at the screen."""
    return importlib.util.find_spec("rich") is not None and sys.stderr.isatty()


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """A bar over `total` cases."""
    if not has_rich():
        yield _Lines(total)
        return
    import rich.console
    import rich.progress

    columns = ("[progress.description]{task.description}",)
    with rich.progress.Progress(
        *columns,
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        console=rich.console.Console(stderr=True),
        transient=True,
    ) as bar:
        yield _Bar(bar, bar.add_task("bench", total=total))


class _Lines:
    """A line a case, on the error stream, so that the tables can be piped."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start = total, 0, time.perf_counter()

    def advance(self, text: str) -> None:
        self.done += 1
        elapsed = time.perf_counter() - self.start
        sys.stderr.write(f"[{self.done}/{self.total}] {elapsed:.0f} s  {text}\n")

    def say(self, text: str) -> None:
        """A line a case is enough."""


class _Bar:
    def __init__(self, bar: Any, task: Any) -> None:
        self.bar, self.task, self.case = bar, task, ""
        self.is_first = True

    def advance(self, text: str) -> None:
        if not self.is_first:
            self.bar.advance(self.task)
        self.is_first = False
        self.case = text
        self.bar.update(self.task, description=text)

    def say(self, text: str) -> None:
        self.bar.update(self.task, description=f"{self.case}: {text}")


def limits_text(limits: Limits) -> str:
    """The machine's limits, in a few lines."""
    gb = 1e9
    return (
        f"limits with {limits.threads} thread(s), loops of {limits.isa}: "
        f"read DRAM {limits.read_dram / gb:.0f} GB/s, last cache {limits.read_l3 / gb:.0f} GB/s; "
        f"scattered 24 KB {limits.gather_24k / gb:.0f}, 6 KB {limits.gather_6k / gb:.0f}, "
        f"1.5 KB {limits.gather_1k5 / gb:.0f} GB/s; "
        f"float32 {limits.float32 / gb:.0f}, int8 {limits.int8 / gb:.0f} Gop/s"
    )


def show(title: str, rows: Sequence[Row]) -> None:
    """Print the table of one case."""
    cells = [_cells(row) for row in rows]
    if has_rich() and sys.stdout.isatty():
        import rich.console
        import rich.table

        table = rich.table.Table(*HEAD, title=title, title_justify="left")
        for row, line in zip(rows, cells, strict=True):
            table.add_row(*line, style=None if "@" in row.engine else "bold")
        rich.console.Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(HEAD, *cells, strict=True)]
    sys.stdout.write(f"\n{title}\n")
    for line in (HEAD, *cells):
        sys.stdout.write(
            "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n"
        )
    sys.stdout.flush()


def summary(rows: Sequence[Row]) -> None:
    """Print every number that has a floor or a goal, and whether it reaches it."""
    lines = [
        f"{verdict(figure):<12} {row.case}, {row.threads} thread(s), {row.engine}: "
        f"{figure_text(figure)}"
        for row in rows
        for figure in row.figures
        if figure.floor is not None or figure.goal is not None
    ]
    if lines:
        sys.stdout.write("\n" + "\n".join(lines) + "\n")


def verdict(figure: Figure) -> str:
    """Which of its bounds a number reaches."""
    if figure.meets(figure.floor) is False:
        return "missed"
    return "below goal" if figure.meets(figure.goal) is False else "reached"


def figure_text(figure: Figure) -> str:
    """A number with its unit, and its bounds."""
    bounds = [
        f"{name} {bound:g}"
        for name, bound in (("floor", figure.floor), ("goal", figure.goal))
        if bound is not None
    ]
    number = f"{figure.name} {figure.value:.3g} {figure.unit}"
    return f"{number} ({', '.join(bounds)})" if bounds else number


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.engine,
        _number(row.p50_ms),
        "" if row.p20_ms is None else f"{_number(row.p20_ms)}-{_number(row.p80_ms)}",
        _number(row.cold_p50_ms),
        str(row.n_runs or ""),
        "" if row.ratio is None else f"{row.ratio:.2f} (cold {row.cold_ratio:.2f})",
        ", ".join(f"{name} {100 * share:.0f} %" for name, share in row.shares.items()),
        "; ".join(map(figure_text, row.figures)),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

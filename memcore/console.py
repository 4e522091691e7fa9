"""Lines, tables and progress bars: through rich on a terminal that has it, plain text elsewhere."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["Console"]

# A stretch of text, or text and its style in rich's words.
Part = str | tuple[str, str]

_BAR_WIDTH = 32


class Console:
    """Writes to standard output. Colour needs a terminal, rich, and NO_COLOR not set."""

    def __init__(self) -> None:
        self._rich = _rich_console()

    def line(self, *parts: Part) -> None:
        """Write one line."""
        if self._rich is None:
            plain = "".join(part if isinstance(part, str) else part[0] for part in parts)
            sys.stdout.write(plain.rstrip() + "\n")
        else:
            from rich.text import Text

            self._rich.print(Text.assemble(*parts), soft_wrap=True)

    def title(self, text: str) -> None:
        """Write the heading of what follows."""
        self.line()
        self.line((text, "bold cyan"))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write rows under the names of their columns; a name with ">" before it aligns right."""
        names = [column.removeprefix(">") for column in columns]
        is_right = [column.startswith(">") for column in columns]
        if self._rich is not None:
            from rich.table import Table
            from rich.text import Text

            table = Table(box=None, header_style="bold", pad_edge=False)
            for name, right in zip(names, is_right, strict=True):
                table.add_column(name, justify="right" if right else "left")
            for row in rows:
                table.add_row(*map(Text, row))
            self._rich.print(table)
            return
        widths = [max(map(len, cells)) for cells in zip(names, *rows, strict=True)]
        for row in [names, *rows]:
            cells = zip(row, widths, is_right, strict=True)
            self.line("  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in cells))

    @contextmanager
    def progress(self, title: str, n_steps: int) -> Iterator[Callable[[], None]]:
        """Show a bar while the block runs, on a terminal only; it goes when the block ends.

        Yields:
            What to call after each of the steps.
        """
        if self._rich is not None:
            from rich.progress import Progress

            with Progress(console=self._rich, transient=True) as bar:
                task = bar.add_task(title, total=n_steps)
                yield lambda: bar.advance(task)
        elif sys.stderr.isatty():
            n_done = -1

            def advance() -> None:
                nonlocal n_done
                n_done += 1
                filled = _BAR_WIDTH * n_done // n_steps
                bar = "#" * filled + "." * (_BAR_WIDTH - filled)
                sys.stderr.write(f"\r{title} [{bar}] {100 * n_done // n_steps:3} %")
                sys.stderr.flush()

            advance()
            try:
                yield advance
            finally:
                sys.stderr.write("\r" + " " * (len(title) + _BAR_WIDTH + 9) + "\r")
                sys.stderr.flush()
        else:
            yield lambda: None


def _rich_console() -> Any:
    is_dumb = os.environ.get("TERM") == "dumb"
    if os.environ.get("NO_COLOR") or is_dumb or not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console as RichConsole
    except ImportError:
        return None
    return RichConsole(highlight=False)

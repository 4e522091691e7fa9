"""The command line: `memcore demo`, `info`, `search` and `bench`.

Bad input ends with one sentence on standard error and the exit code 2.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import memcore
from memcore import demo
from memcore.console import Console
from memcore.errors import (
    BackendError,
    DtypeError,
    InputError,
    NotFoundError,
    ShapeError,
    StoreError,
)
from memcore.ops.search import METRICS

_BAD_INPUT = (BackendError, DtypeError, InputError, NotFoundError, ShapeError, StoreError)
_N_QUERIES_A_STEP = 4096


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the words after `memcore`; without it, those of this process.

    Returns:
        The exit code: 0; 1 if a check failed; 2 for bad input; 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal lacks is no reason to fail.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # The reader has gone; the interpreter's own last flush must not complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _fail("not enough memory", 2)
    except _BAD_INPUT as error:
        return _fail(str(error), 2)
    except OSError as error:
        place = "" if error.filename is None else f"{error.filename}: "
        return _fail(f"{place}{error.strerror or error}", 2)


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"memcore: {' '.join(sentence.split())}\n")
    return code


def _run(words: list[str]) -> int:
    # The bench parses its own words.
    if words[:1] == ["bench"]:
        try:
            bench = import_module("memcore.bench.__main__")
        except ModuleNotFoundError as error:
            raise BackendError(f"bench: {error.name} is not installed, should be") from None
        return int(bench.main(words[1:]) or 0)
    arguments = _parser().parse_args(words)
    if arguments.command == "demo":
        return demo.run(arguments.files, arguments.ask)
    if arguments.command == "info":
        return _info()
    return _search(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="memcore", description="Exact search in one bank or in ten thousand.")
    parser.add_argument("--version", action="version", version=f"memcore {memcore.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("demo", help="store text, find it, change it, fork it, race")
    command.add_argument(
        "files", nargs="*", metavar="FILE", help="text, one memory a line; or .jsonl with `text`"
    )
    command.add_argument(
        "--ask", action="append", default=[], metavar="QUESTION", help="may be repeated"
    )

    commands.add_parser("info", help="version, instruction sets, engines, threads")

    command = commands.add_parser("search", help="the k best keys of each query, from .npy files")
    command.add_argument("keys", metavar="KEYS.npy", help="(n_keys, dim); memory-mapped")
    command.add_argument("queries", metavar="QUERIES.npy", help="(n_queries, dim), or (dim,)")
    command.add_argument("-k", type=int, default=10, help="how many (default 10)")
    command.add_argument("--metric", choices=METRICS, default="dot", help="default dot")
    command.add_argument("--out", metavar="HITS.npz", help="writes scores and ids, (n_queries, k)")
    command.add_argument("--show", type=int, default=5, help="queries to print (default 5)")

    commands.add_parser("bench", help="measure this machine against other libraries")
    return parser


def _info() -> int:
    console = Console()
    sets = [f"{name} (in use)" if name == memcore.isa() else name for name in memcore.isas()]
    rows = [
        ["memcore", memcore.__version__],
        ["instruction sets", ", ".join(sets)],
        ["threads", str(memcore.threads())],
        *([f"engine {name}", reason] for name, reason in memcore.explain("search").reasons.items()),
        ["python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"],
        ["numpy", np.__version__],
    ]
    for name, value in rows:
        console.line((f"{name:<18}", "bold cyan"), value)
    return 0


def _search(arguments: argparse.Namespace) -> int:
    keys = _load("keys", arguments.keys)
    queries = np.atleast_2d(_load("queries", arguments.queries))
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None and not out.parent.is_dir():
        raise InputError(f"search: {out.parent} is no folder, should be one to write {out.name} to")
    console = Console()
    parts = []
    starts = range(0, max(len(queries), 1), _N_QUERIES_A_STEP)
    with console.progress("searching", len(starts)) as advance:
        for i in starts:
            part = queries[i : i + _N_QUERIES_A_STEP]
            parts.append(memcore.search(part, keys, arguments.k, metric=arguments.metric))
            advance()
    scores, ids = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if out is not None:
        with out.open("wb") as file:
            np.savez(file, scores=scores, ids=ids)
    n_shown = max(min(arguments.show, len(ids)), 0)
    rows = [
        [str(query), str(rank + 1), str(ids[query, rank]), f"{scores[query, rank]:.6g}"]
        for query in range(n_shown)
        for rank in range(ids.shape[1])
        if ids[query, rank] >= 0
    ]
    console.table([">query", ">rank", ">id", ">score"], rows)
    if n_shown < len(ids):
        console.line((f"and {len(ids) - n_shown:,} more queries", "dim"))
    if out is not None:
        console.line(f"wrote scores and ids, {ids.shape}, to {out}")
    return 0


def _load(name: str, path: str) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        array = _load_whole(name, path)
    if not isinstance(array, np.ndarray):
        raise InputError(f"search: {name} is in {path}, which is no .npy file, should be one")
    return array


def _load_whole(name: str, path: str) -> Any:
    # An empty array cannot be mapped.
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError):
        raise InputError(
            f"search: {name} is in {path}, which is no .npy file of numbers, should be one"
        ) from None

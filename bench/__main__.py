"""`memcore bench`: choose cases, run them, write rows, print tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import memcore

from . import cases, machine, plot, report, rivals, rows, runner
from .case import Case

QUICK_BUDGET_S = 0.6
BUDGET_S = 4.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench.

    Args:
        argv: the words after `memcore bench`.

    Returns:
        0; 1 if somebody gave a wrong answer; 2 if the words make no sense.
    """
    parser = _parser()
    words = parser.parse_args(argv)
    if words.plot is not None:
        return _plot(parser, words.plot, words.out)
    if words.device == "cuda":
        return _gpu(parser, words)
    level = "full" if words.full else "quick" if words.quick else "default"
    chosen = _choose(parser, cases.sweep(level), words.cases)
    if words.list:
        sys.stdout.write("\n".join(case.name for case in chosen) + "\n")
        return 0
    threads = _threads(parser, words.threads)
    names = _rivals(parser, words.rivals)
    out = _out(words.out)
    budget_s = words.seconds or (QUICK_BUDGET_S if words.quick else BUDGET_S)

    sys.stdout.write(_heading(names, words.quick))
    found: list[rows.Row] = []
    failures: list[str] = []
    with report.progress(len(chosen) * len(threads)) as bar:
        for number in threads:
            with runner.setting(
                number, names, budget_s=budget_s, is_flushing=words.flush, is_quick=words.quick
            ) as where:
                sys.stdout.write(report.limits_text(where.limits) + "\n")
                for case in chosen:
                    bar.advance(f"{case.name}, {number} thread(s)")
                    made = runner.run(case, where, bar.say)
                    rows.write(made, out)
                    found += made
                    if made:
                        report.show(f"{case.name}, {number} thread(s)", made)
                failures += where.failures
    report.summary(found)
    for failure in failures:
        sys.stdout.write(f"wrong answer, not timed: {failure}\n")
    sys.stdout.write(f"rows: {out}\n")
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="memcore bench", description="Measure memcore, its rivals and this machine."
    )
    parser.add_argument(
        "cases", nargs="*", metavar="case", help="parts of names of cases; see --list (all if none)"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="few small cases, under a minute")
    sizes.add_argument("--full", action="store_true", help="the whole grid of shapes; hours")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="cuda: the kernels, on the GPU"
    )
    parser.add_argument("--threads", default="1", help="numbers of threads, as in 1,2")
    parser.add_argument("--rivals", default="all", help="all, none, or names, as in numpy,faiss")
    parser.add_argument(
        "--seconds", type=float, help="time given to each case; with --device cuda, to everything"
    )
    parser.add_argument("--only", help="with --device cuda: check,time,tests,sanitizer, or some")
    parser.add_argument("--flush", action="store_true", help="flush the caches before each turn")
    parser.add_argument("--out", type=Path, help="file of rows (.jsonl), or a folder")
    parser.add_argument("--list", action="store_true", help="print the names of the cases and stop")
    parser.add_argument("--plot", type=Path, metavar="ROWS", help="make pictures of a file of rows")
    return parser


def _gpu(parser: argparse.ArgumentParser, words: argparse.Namespace) -> int:
    from . import gpu

    stages = (words.only or ",".join(gpu.STAGES)).split(",")
    for stage in stages:
        if stage not in gpu.STAGES:
            parser.error(f"bench: only has {stage!r}, should be of {', '.join(gpu.STAGES)}")
    out = _out(words.out)
    if words.out is None or words.out.suffix != ".jsonl":
        out = out.with_name(f"{out.stem}-gpu.jsonl")
    return gpu.main(out, words.cases, stages, words.seconds or gpu.BUDGET_S)


def _choose(parser: argparse.ArgumentParser, every: list[Case], parts: list[str]) -> list[Case]:
    for part in parts:
        if not any(part in case.name for case in every):
            parser.error(f"bench: case is {part!r}, should be part of a name that --list prints")
    return [case for case in every if not parts or any(part in case.name for part in parts)]


def _threads(parser: argparse.ArgumentParser, text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        parser.error(f"bench: threads is {text!r}, should be numbers from 1, as in 1,2")
    return [int(part) for part in parts]


def _rivals(parser: argparse.ArgumentParser, text: str) -> list[str]:
    here = rivals.installed()
    if text in ("all", "none"):
        return here if text == "all" else []
    for name in text.split(","):
        if name not in here:
            parser.error(f"bench: rivals has {name!r}, should be of {', '.join(here)}")
    return text.split(",")


def _out(given: Path | None) -> Path:
    """The file of rows: in the checkout if we stand in one, else in a folder of its own."""
    folder = Path("bench/results")
    if given is not None and given.suffix == ".jsonl":
        return given
    if given is not None:
        folder = given
    elif not folder.is_dir():
        folder = Path("memcore-bench")
    return folder / f"{machine.today()[:10]}.jsonl"


def _plot(parser: argparse.ArgumentParser, source: Path, out: Path | None) -> int:
    if not source.is_file():
        parser.error(f"bench: plot is {source}, should be a file of rows")
    for picture in plot.pictures(rows.read(source), out or source.parent):
        sys.stdout.write(f"{picture}\n")
    return 0


def _heading(names: list[str], is_quick: bool) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions().items())
    kernels = ", ".join(rivals.core_types(is_quick))
    return (
        f"{machine.cpu_name()}; memcore {machine.commit()} with {memcore.isa()}; {versions}\n"
        f"rivals: {', '.join(names) or 'none'}; OPENBLAS_CORETYPE {kernels}, the faster counts; "
        f"FAISS with distance_compute_blas_threshold 2 and 20, the faster counts; "
        f"load {machine.load():.2f}\n"
    )


if __name__ == "__main__":
    sys.exit(main())

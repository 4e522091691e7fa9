"""Rows to pictures: time over shapes beside the roofline, and speed against the best rival."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from .rows import Row


def pictures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write one PNG for each family and number of threads; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    families: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        if row.p50_ms is not None:
            families[row.op, row.threads].append(row)
    return [
        _picture(f"{op}, {threads} thread(s)", found, folder / f"{op}-{threads}.png")
        for (op, threads), found in sorted(families.items())
    ]


def _picture(title: str, rows: Sequence[Row], path: Path) -> Path:
    """Bars of time, one group a case, on a logarithmic scale; whiskers from p20 to p80."""
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(row.case for row in rows))
    engines = list(dict.fromkeys(_short(row.engine) for row in rows))
    figure, axes = plt.subplots(figsize=(10, 1.2 + 0.16 * len(engines) * len(cases)))
    for row in rows:
        if row.p20_ms is None or row.p50_ms is None or row.p80_ms is None:
            continue
        engine = engines.index(_short(row.engine))
        at = cases.index(row.case) + 0.8 * engine / len(engines)
        is_first = row is next(r for r in rows if _short(r.engine) == engines[engine])
        axes.barh(
            at,
            row.p50_ms,
            0.75 / len(engines),
            xerr=[[max(0.0, row.p50_ms - row.p20_ms)], [max(0.0, row.p80_ms - row.p50_ms)]],
            color=f"C{engine}",
            label=engines[engine] if is_first else None,
        )
        for share in row.shares.values():
            axes.plot(
                [share * row.p50_ms] * 2, [at - 0.4 / len(engines), at + 0.4 / len(engines)], "k-"
            )
    axes.set_xscale("log")
    axes.set_yticks([i + 0.4 for i in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.set_xlabel("ms a call, warm; black marks: limits of the machine")
    axes.set_title(f"{title} ({rows[0].cpu}, {rows[0].isa}, {rows[0].commit})", fontsize=9)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _short(engine: str) -> str:
    """An engine without the kernels that its BLAS took."""
    return engine.partition("@")[0]

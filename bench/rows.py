"""The row: one measurement, with its machine. Nothing else writes to `results/*.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """A number that a goal is set for, beside its goal.

    `unit` says what `value` counts: "x best rival" and the like grow with speed; "ms", "us", "%"
    and the like should be small. A floor or a goal of None is not set.
    """

    name: str
    value: float
    unit: str
    floor: float | None = None
    goal: float | None = None
    larger_is_better: bool = True

    def meets(self, bound: float | None) -> bool | None:
        """Whether the value reaches a bound; None if none is set."""
        if bound is None:
            return None
        return self.value >= bound if self.larger_is_better else self.value <= bound


@dataclass(frozen=True)
class Row:
    """One engine on one case. Times are milliseconds of one call; None where nothing was timed."""

    op: str
    case: str
    engine: str
    isa: str
    shape: dict[str, int]
    dtype: str
    metric: str
    k: int
    threads: int
    p20_ms: float | None = None
    p50_ms: float | None = None
    p80_ms: float | None = None
    cold_p50_ms: float | None = None
    n_runs: int = 0
    best_rival: str = ""
    ratio: float | None = None
    cold_ratio: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    other_load: float = 0.0
    blas: str = ""
    cpu: str = ""
    limits: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    date: str = ""


def write(rows: Iterable[Row], path: Path) -> None:
    """Append the rows to a file, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of a file; keys that a row no longer has are left out."""
    known = {item.name for item in fields(Row)}
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        cells = {name: cell for name, cell in json.loads(line).items() if name in known}
        cells["figures"] = [Figure(**figure) for figure in cells.get("figures", [])]
        rows.append(Row(**cells))
    return rows

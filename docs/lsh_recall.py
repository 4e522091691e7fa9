"""Draws docs/lsh-recall.png and prints the table of docs/lsh.md: recall against rows scored."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import memcore

N, N_QUERIES, K, DIM = 20_000, 200, 10, 64
PROBES = (1, 2, 4, 8, 16, 32, 64)
Floats = NDArray[np.float32]


def data(noise: float | None) -> tuple[Floats, Floats]:
    """Rows in clusters of 50 and queries near a row, or, without noise, no structure at all."""
    rng = np.random.default_rng(0)
    if noise is None:
        return rng.standard_normal((N, DIM), np.float32), rng.standard_normal(
            (N_QUERIES, DIM), np.float32
        )
    centres = rng.standard_normal((N // 50, DIM), np.float32)
    member = rng.integers(len(centres), size=N)
    rows = centres[member] + np.float32(noise) * rng.standard_normal((N, DIM), np.float32)
    near = rows[rng.permutation(N)[:N_QUERIES]]
    return rows, near + np.float32(noise / 3) * rng.standard_normal(near.shape, np.float32)


DATA = {
    "tight clusters (noise 0.35)": data(0.35),
    "loose clusters (noise 0.7)": data(0.7),
    "no structure": data(None),
}
HASHES = {
    "cross-polytope, 4 tables of 7 bits": memcore.LSH(DIM, 7, 4, kind="cross_polytope", seed=3),
    "signs, 16 tables of 12 bits (default)": memcore.LSH(DIM, 12, 16, seed=3),
    "signs, 8 tables of 8 bits": memcore.LSH(DIM, 8, 8, seed=3),
}


def curve(rows: Floats, queries: Floats, lsh: memcore.LSH) -> Iterator[tuple[int, float, float]]:
    """For each number of probes: it, the recall@10, and the share of the rows that is scored."""
    truth = memcore.Bank(DIM)
    truth.add(rows)
    wanted = truth.search(queries, K).ids
    bank = memcore.Bank(DIM, index=lsh)
    bank.add(rows)
    codes = lsh.encode(rows)
    for n_probes in PROBES:
        if n_probes > lsh.n_buckets:
            return
        found = bank.search(queries, K, n_probes=n_probes).ids
        recall = np.mean([np.isin(a, b).mean() for a, b in zip(wanted, found, strict=True)])
        probes = lsh.probes(queries, n_probes)
        scored = [
            np.any([np.isin(codes[:, t], own[t]) for t in range(lsh.n_tables)], 0).mean()
            for own in probes
        ]
        yield n_probes, float(recall), float(np.mean(scored))


def main() -> None:
    """Print the table and draw it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, plots = plt.subplots(1, len(DATA), figsize=(10, 3.2), sharey=True)
    print("| hashes | data |", " | ".join(f"{p} probes" for p in PROBES), "|")
    print("| --- | --- |" + " --- |" * len(PROBES))
    for axes, (kind, (rows, queries)) in zip(plots, DATA.items(), strict=True):
        for name, lsh in HASHES.items():
            points = list(curve(rows, queries, lsh))
            cells = [f"{recall:.2f} at {100 * share:.1f} %" for _, recall, share in points]
            print("|", name, "|", kind, "|", " | ".join(cells), "|")
            axes.plot([100 * p[2] for p in points], [p[1] for p in points], ".-", label=name)
        axes.axvline(5, color="grey", linestyle=":")
        axes.axhline(0.9, color="grey", linestyle=":")
        axes.set(title=kind, xlabel="rows scored, %", xscale="log", ylim=(0, 1.02))
    plots[0].set(ylabel=f"recall@{K}")
    plots[0].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("lsh-recall.png"), dpi=90)


if __name__ == "__main__":
    main()

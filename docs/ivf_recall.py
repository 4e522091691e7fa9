"""Draws docs/ivf-recall.png: what is found, and how fast, by the lists that a query visits."""

import time
from pathlib import Path

import numpy as np

import memcore

N_ROWS, N_QUERIES, DIM, K = 100_000, 1000, 64, 10
PROBES = (1, 2, 4, 8, 16, 32, 64, 128)
RECALLS = (0.8, 0.9, 0.95, 0.99)


def points(seed: int, n: int) -> np.ndarray:
    """(n, DIM) float32: a smooth cloud of few directions, without clusters that give lists away."""
    basis = np.random.default_rng(0).standard_normal((16, DIM), np.float32)
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 16), np.float32) @ basis + 0.3 * rng.standard_normal(
        (n, DIM), np.float32
    )


def main() -> None:
    """Draw it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows, queries = points(1, N_ROWS), points(2, N_QUERIES)
    bank = memcore.Bank(DIM, metric="l2", index="ivf")
    bank.add(rows)
    exact = bank.search(queries, K, recall=1.0)

    def found(n_probes: int | None = None, recall: float | None = None) -> tuple[float, float]:
        """The share of the true rows, and microseconds of a query."""
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            hits = bank.search(queries, K, n_probes=n_probes, recall=recall)
            seconds.append(time.perf_counter() - start)
        share = (hits.ids[:, :, None] == exact.ids[:, None]).any(axis=1).mean()
        return float(share), 1e6 * min(seconds) / N_QUERIES

    probed = [found(n_probes=n) for n in PROBES]
    asked = [found(recall=r) for r in RECALLS]
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
    left.plot(PROBES, [share for share, _ in probed], "o-")
    left.set(xlabel="lists visited: n_probes", ylabel=f"recall@{K}", xscale="log")
    right.plot(
        [cost for _, cost in probed], [share for share, _ in probed], "o-", label="n_probes="
    )
    right.plot([cost for _, cost in asked], [share for share, _ in asked], "s-", label="recall=")
    for (share, cost), wanted in zip(asked, RECALLS, strict=True):
        right.annotate(f"{wanted}", (cost, share), textcoords="offset points", xytext=(6, -10))
    right.set(xlabel="us a query, in a batch of 1000", xscale="log")
    for axes, ticks in ((left, PROBES), (right, (5, 10, 20, 50))):
        axes.grid(alpha=0.3)
        axes.set_xticks(ticks, ticks, fontsize=8)
        axes.minorticks_off()
    right.legend()
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("ivf-recall.png"), dpi=80)


if __name__ == "__main__":
    main()

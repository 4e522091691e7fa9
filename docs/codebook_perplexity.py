"""Draws docs/codebook-perplexity.png: a codebook in a stream whose distribution shifts once."""

from pathlib import Path

import numpy as np

import memcore

N_CODES, DIM, BATCH, SHIFT, END = 512, 64, 384, 600, 1800


def perplexities(reset: str | None) -> list[float]:
    """The perplexity after each batch."""
    rng = np.random.default_rng(0)
    book = memcore.Codebook(N_CODES, DIM, reset=reset)
    found = []
    for step in range(END):
        if step in (0, SHIFT):
            centres = rng.standard_normal((N_CODES, DIM), np.float32)
            centres += np.float32(4 * (step > 0))
        chosen = rng.integers(0, N_CODES, BATCH)
        book.update(centres[chosen] + 0.1 * rng.standard_normal((BATCH, DIM), np.float32))
        found.append(book.perplexity().item())
    return found


def main() -> None:
    """Draw it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3))
    for reset, label in (("worst", "reset of dead codes (default)"), (None, "no reset")):
        axes.plot(perplexities(reset), label=label)
    axes.axvline(SHIFT, color="grey", linestyle=":")
    axes.set(xlabel="batches", ylabel=f"codes in use, of {N_CODES}", xlim=(0, END))
    axes.legend()
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("codebook-perplexity.png"), dpi=90)


if __name__ == "__main__":
    main()

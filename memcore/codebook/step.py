"""What a codebook knows, and what a batch of rows teaches it."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memcore import tensors
from memcore.codebook.rules import Rules
from memcore.ops import codebook as ops

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@runtime_checkable
class Exchange(Protocol):
    """How ranks that train one book together put their batches together.

    Arrays are NumPy's, or of a book on a device torch's.
    """

    def sum(self, array: Any) -> Any:
        """The sum of an array over all ranks."""

    def gather(self, array: Any) -> list[Any]:
        """The arrays of all ranks, in the order of the ranks; their lengths may differ."""


class Alone:
    """The exchange of a process that trains by itself."""

    def sum(self, array: Any) -> Any:
        """The array."""
        return array

    def gather(self, array: Any) -> list[Any]:
        """The array alone."""
        return [array]


@dataclass(frozen=True)
class State:
    """What a book knows. Its arrays are replaced, never written to, so that copies share them.

    Of a book on a device they are torch's there, all but n_seeded.

    Attributes:
        codewords: (n_levels, n_subspaces, n_codes, sub_dim) float32.
        sums: the same shape, the running sums whose means the codewords are.
        usage: (n_levels, n_subspaces, n_codes) float64, the running count of rows a batch.
        n_seeded: (n_levels,) int64: codewords from there on are still empty.
        version: counts the changes of the codewords.
    """

    codewords: Any
    sums: Any
    usage: Any
    n_seeded: Ints
    version: int = 0


def columns(state: State, subspace: int) -> slice:
    """The components of a vector that a subspace has."""
    sub_dim = state.codewords.shape[3]
    return slice(subspace * sub_dim, (subspace + 1) * sub_dim)


def room(rows: Any, *shape: int) -> Any:
    """Room for codes of rows, where those lie."""
    if isinstance(rows, np.ndarray):
        return np.empty((len(rows), *shape), np.int64)
    return rows.new_empty((len(rows), *shape), dtype=tensors.library("assign").int64)


def assign_level(state: State, rows: Any, level: int) -> tuple[Any, Any]:
    """Codes and scores (n, n_subspaces) of one level; a level without seeds has one code, zeros."""
    n_subspaces = state.codewords.shape[1]
    codes = room(rows, n_subspaces)
    scores = codes.astype(np.float32) if isinstance(codes, np.ndarray) else codes.float()
    words = state.codewords[level, :, : max(1, int(state.n_seeded[level]))]
    backend = None if isinstance(words, np.ndarray) else "triton"
    for s in range(n_subspaces):
        own = rows[:, columns(state, s)]
        codes[:, s], scores[:, s] = ops.assign(own, words[s], backend=backend)
    return codes, scores


def total(numbers: Any) -> Any:
    """The sum over the first axis, halves added to halves: one order in every library."""
    while len(numbers) > 1:
        half = len(numbers) // 2
        folded = numbers[:half] + numbers[half : 2 * half]
        if len(numbers) % 2:
            folded[0] += numbers[-1]
        numbers = folded
    return numbers[0]


def learn(
    state: State,
    rules: Rules,
    rows: Any,
    rng: "np.random.Generator",
    exchange: Exchange,
) -> tuple[Any, Floats, State]:
    """What a batch of rows (n, dim) teaches.

    Of rows on a device, codes are found and sums are made there; counts, sums and the few rows that
    replace dead codes come to the host, where the state is.

    Returns:
        The codes (n, n_levels * n_subspaces), the codewords that they are codes of, and the next
        state. Nothing given is changed.
    """
    n_levels, n_subspaces, _, _ = state.codewords.shape
    codes = room(rows, n_levels, n_subspaces)
    seeded = state
    words, sums = np.empty_like(state.codewords), np.empty_like(state.sums)
    usage = np.empty_like(state.usage)
    n_taken = 0
    for level in range(n_levels):
        seeded, n_more = _seed(seeded, level, rows, n_taken, exchange)
        n_taken += n_more
        codes[:, level], scores = assign_level(seeded, rows, level)
        ops.check_sound(codes[:, level])
        for s in range(n_subspaces):
            part = level, s
            own = rows[:, columns(state, s)]
            out = sums[part], words[part]
            usage[part] = _moved(seeded, part, rules, own, codes[:, level, s], exchange, out)
            n_seeded = int(seeded.n_seeded[level])
            fresh, dead = _replacements(
                rules, own, scores[:, s], usage[part][:n_seeded], rng, exchange
            )
            mean = total(usage[part][:n_seeded]) / n_seeded if n_seeded else 0.0
            words[part][dead], usage[part][dead] = fresh, mean
            sums[part][dead] = fresh * np.float32(mean)
        if level + 1 < n_levels:
            rows = rows - ops.decode(codes[:, level], seeded.codewords[level : level + 1])
    after = State(words, sums, usage, seeded.n_seeded, state.version + 1)
    return codes.reshape(len(codes), -1), seeded.codewords, after


def _seed(
    state: State, level: int, rows: Any, n_taken: int, exchange: Exchange
) -> tuple[State, int]:
    """Take codewords of a level that is not full from rows n_taken …; and how many rows of ours."""
    n_codes = state.codewords.shape[2]
    begin = int(state.n_seeded[level])
    if begin == n_codes:
        return state, 0
    n_all = int(exchange.sum(np.array([len(rows)]))[0])
    mine = ops.widened(tensors.host(rows[n_taken : n_taken + n_codes - begin]))
    fresh = np.concatenate(exchange.gather(mine))[: n_codes - begin]
    end = begin + len(fresh)
    words, sums, usage = state.codewords.copy(), state.sums.copy(), state.usage.copy()
    n_seeded = state.n_seeded.copy()
    n_seeded[level] = end
    # As if each had its share of this batch.
    share = n_all / n_codes
    for s in range(words.shape[1]):
        words[level, s, begin:end] = fresh[:, columns(state, s)]
        sums[level, s, begin:end] = words[level, s, begin:end] * np.float32(share)
    usage[level, :, begin:end] = share
    return State(words, sums, usage, n_seeded, state.version), len(mine)


def _moved(
    state: State,
    part: tuple[int, int],
    rules: Rules,
    rows: Any,
    codes: Any,
    exchange: Exchange,
    out: tuple[Floats, Floats],
) -> NDArray[np.float64]:
    """Learn the rows (n, sub_dim) of a part: its new sums and codewords into out, and its usage."""
    words, sums, usage = state.codewords[part], state.sums[part], state.usage[part]
    counts, batch = ops.codebook_sums(rows, codes, len(words))
    counts, batch = exchange.sum(tensors.host(counts)), exchange.sum(tensors.host(batch))
    moved: NDArray[np.float64] = rules.decay * usage + (1 - rules.decay) * counts
    if rules.learn == "gradient":
        used = np.flatnonzero(counts)
        out[0][:], out[1][:] = sums, words
        means = batch[used] / counts[used, None].astype(np.float32)
        out[1][used] += np.float32(rules.rate) * (means - words[used])
        return moved
    all_rows = total(moved)
    smoothed = (moved + rules.smoothing) / (all_rows + len(moved) * rules.smoothing) * all_rows
    ops.codebook_ema(batch, sums, rules.decay, smoothed.astype(np.float32), out=out)
    return moved


def _replacements(
    rules: Rules,
    rows: Any,
    scores: Any,
    usage: NDArray[np.float64],
    rng: "np.random.Generator",
    exchange: Exchange,
) -> tuple[Floats, Ints]:
    """Rows (m, sub_dim) to put in the place of codes, and the codes, least used first."""
    dead: Ints = np.empty(0, np.int64)
    if rules.reset is not None and len(usage):
        mean = total(usage) / len(usage) if rules.reset == "worst" else 1.0
        limit = rules.reset_threshold * mean
        dead = np.flatnonzero(usage < limit)
        dead = dead[np.argsort(usage[dead], kind="stable")]
        if rules.reset == "worst":
            dead = dead[: rules.reset_quota]
    # Usage is the same on all ranks, so all come here or none.
    if not dead.size:
        return np.empty((0, rows.shape[1]), np.float32), dead
    if rules.reset == "worst":
        chosen, errors = _worst(scores, dead.size)
    else:
        chosen, errors = rng.permutation(len(rows))[: dead.size], np.empty(0, np.float32)
    fresh = np.concatenate(exchange.gather(ops.widened(tensors.host(rows[chosen]))))
    if rules.reset == "worst":
        order = np.argsort(np.concatenate(exchange.gather(errors)), kind="stable")
        fresh = fresh[order]
    n = min(len(fresh), len(dead))
    return fresh[:n], dead[:n]


def _worst(scores: Any, n: int) -> tuple[Any, Floats]:
    """The n worst-quantised rows, the worst first, and their scores, on the host."""
    if isinstance(scores, np.ndarray):
        chosen = np.argsort(scores, kind="stable")[:n]
    else:
        chosen = scores.sort(stable=True).indices[:n]
    # A row that is its codeword would only make a second one of it.
    chosen = chosen[scores[chosen] < 0]
    return chosen, tensors.host(scores[chosen])

"""Memory for training in NumPy: losses against many negatives, outer-product memory, the gate.

Log-sum-exps are taken in float64 over the whole matrix of scores: engines are compared with
tolerance.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[Any]
Floats = NDArray[np.float64]


def nce(
    queries: Reals,
    positives: Reals,
    negatives: Reals,
    temperature: float,
    bias: Reals | None = None,
) -> tuple[Floats, Floats, Floats, Floats]:
    """InfoNCE of each query, and the gradients of the sum of all.

    Args:
        queries: (n, dim).
        positives: (n, dim), one for each query.
        negatives: (n_negatives, dim).
        temperature: what scores are divided by.
        bias: (n_negatives,), added to the logits.

    Returns:
        Losses (n,), and the gradients of queries, positives and negatives, all float64.
    """
    asked, near, far = (rows.astype(np.float64) for rows in (queries, positives, negatives))
    own = (asked * near).sum(1, keepdims=True) / temperature
    logits = asked @ far.T / temperature + (0 if bias is None else bias)
    every = np.concatenate([own, logits], 1)
    weights, lse = softmax(every)
    wanted = weights[:, :1] - 1
    query_grad = (wanted * near + weights[:, 1:] @ far) / temperature
    negative_grad = weights[:, 1:].T @ asked / temperature
    return lse - own[:, 0], query_grad, wanted * asked / temperature, negative_grad


def disperse(
    rows: Reals, negatives: Reals, tau: float, bias: Reals | None = None
) -> tuple[Floats, Floats, Floats]:
    """Log mean over negatives of exp(-|row - negative|^2 / tau), and the gradients of the sum.

    Args:
        rows: (n, dim).
        negatives: (n_negatives, dim).
        tau: what squared distances are divided by.
        bias: (n_negatives,), logs of weights of the mean.

    Returns:
        Values (n,), and the gradients of rows and negatives, all float64.
    """
    here, there = rows.astype(np.float64), negatives.astype(np.float64)
    apart = here[:, None] - there
    offset = np.zeros(len(there)) if bias is None else bias
    weights, lse = softmax(-(apart**2).sum(-1) / tau + offset)
    _, total = softmax(offset[None].astype(np.float64))
    pulls = -2 / tau * weights[..., None] * apart
    return lse - total, pulls.sum(1), -pulls.sum(0)


def gather(values: Reals, ids: NDArray[np.int64]) -> Reals:
    """The values (n, …) that ids (…,) name, (…, …); zeros for -1."""
    found = np.zeros((*ids.shape, *values.shape[1:]), values.dtype)
    for place in np.ndindex(ids.shape):
        if ids[place] >= 0:
            found[place] = values[ids[place]]
    return found


def gather_backward(grad: Reals, ids: NDArray[np.int64], n: int) -> Reals:
    """The gradient (n, …) of the values, given that of what was gathered: sums, in order of ids."""
    found = np.zeros((n, *grad.shape[ids.ndim :]), grad.dtype)
    for place in np.ndindex(ids.shape):
        if ids[place] >= 0:
            found[ids[place]] += grad[place]
    return found


def outer_write(
    state: Reals, keys: Reals, values: Reals, rule: str, rates: Reals, decays: Reals
) -> Reals:
    """State (dim, value_dim) after pairs of keys (n, dim) and values (n, value_dim), one by one.

    Args:
        state: the memory; a read is query @ state.
        keys: what is written to.
        values: what is written.
        rule: "hebb" adds the outer product, "delta" that of the key and of what the value differs
            by from the read.
        rates: (n,), the share of it that is added.
        decays: (n,), what the state is multiplied by before each.
    """
    for key, value, rate, decay in zip(keys, values, rates, decays, strict=True):
        state = decay * state
        state = state + rate * np.outer(key, value if rule == "hebb" else value - key @ state)
    return state


def softmax(logits: Floats) -> tuple[Floats, Floats]:
    """Weights and log-sum-exp of each row; zeros and -inf where all are -inf."""
    largest = logits.max(1, keepdims=True, initial=-np.inf)
    powers = np.exp(logits - np.where(largest == -np.inf, 0, largest))
    sums = powers.sum(1, keepdims=True)
    with np.errstate(divide="ignore"):
        return powers / np.where(sums == 0, 1, sums), (largest + np.log(sums))[:, 0]

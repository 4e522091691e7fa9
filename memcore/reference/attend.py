"""Attention over rows in NumPy: the softmax read, dense or over named rows, and its gradients.

Dot products of float32 rows are canonical, and sums over named rows are made in one order, so that
engines return their bits. Exponentials are taken in float64, and rounded at the end: engines are
compared with tolerance there.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore.reference.search import score, widen

Ints = NDArray[np.int64]
Reals = NDArray[Any]


def dots(queries: Reals, keys: Reals, ids: Ints) -> Reals:
    """Dot products of queries (…, n_queries, dim) with the keys (…, n_keys, dim) that ids name.

    ids are (…, n_queries, n_ids), as the result is; 0 where an id is -1. float64 rows give float64,
    all others canonical float32.
    """
    out = np.zeros(ids.shape, _real(queries))
    for batch in np.ndindex(ids.shape[:-2]):
        for q in range(ids.shape[-2]):
            named = np.flatnonzero(ids[batch][q] >= 0)
            rows = keys[batch][ids[batch][q, named]]
            out[batch][q, named] = _dots(queries[batch][q : q + 1], rows)[0]
    return out


def aggregate(weights: Reals, values: Reals, ids: Ints) -> Reals:
    """Weighted sums (…, n_queries, dim) of the values (…, n_values, dim) that ids name.

    weights and ids are (…, n_queries, n_ids). Terms are added in the order of ids, from +0, each
    product and each sum rounded; an id of -1 adds nothing.
    """
    rows = widen(values) if _real(values) == np.float32 else values
    out = np.zeros((*ids.shape[:-1], rows.shape[-1]), weights.dtype)
    for place in np.ndindex(ids.shape[:-1]):
        for weight, i in zip(weights[place], ids[place], strict=True):
            if i >= 0:
                out[place] = out[place] + weight * rows[place[:-1]][i]
    return out


def scatter(weights: Reals, rows: Reals, ids: Ints, n_sums: int) -> Reals:
    """Sums (…, n_sums, dim) of rows (…, n_queries, dim) by weight: the transpose of `aggregate`.

    Row q is added to sum ids[…, q, j] with weights[…, q, j]; the pairs (q, j) in order.
    """
    given = widen(rows) if _real(rows) == np.float32 else rows
    sums = np.zeros((*ids.shape[:-2], n_sums, rows.shape[-1]), weights.dtype)
    for place in np.ndindex(ids.shape):
        if ids[place] >= 0:
            at = (*place[:-2], ids[place])
            sums[at] = sums[at] + weights[place] * given[place[:-1]]
    return sums


def attend(
    queries: Reals,
    keys: Reals,
    values: Reals | None,
    beta: NDArray[np.float64],
    bias: Reals | None = None,
    mask: NDArray[np.bool_] | None = None,
    exclude: Ints | None = None,
) -> tuple[Reals | None, Reals]:
    """Softmax over all keys, with the whole matrix of scores at once.

    Args:
        queries: (…, n_queries, dim).
        keys: (…, n_keys, dim).
        values: (…, n_keys, value_dim), or None for the log-sum-exp alone.
        beta: (…) float64, one for each batch.
        bias: (…, n_keys), added to beta * dot.
        mask: (…, n_queries, n_keys); True = counts.
        exclude: (…, n_queries), one key that does not count, -1 for none.

    Returns:
        The read (…, n_queries, value_dim), or None; and lse (…, n_queries). A key whose logit is
        NaN does not count; over nothing the read is 0 and lse -inf.
    """
    real = _real(queries)
    weights, lse = _softmax(_logits(queries, keys, beta, bias, mask, exclude))
    read = None if values is None else _weighted(weights, values).astype(real)
    return read, lse.astype(real)


def attend_backward(
    queries: Reals,
    keys: Reals,
    values: Reals | None,
    beta: NDArray[np.float64],
    bias: Reals | None,
    mask: NDArray[np.bool_] | None,
    exclude: Ints | None,
    lse: Reals,
    out_grad: Reals | None,
    shift: Reals,
) -> tuple[Reals, Reals, Reals | None, Reals, NDArray[np.float64]]:
    """The gradients of queries, keys, values, bias and beta, given those of `attend`'s results.

    Args:
        queries: as for `attend`.
        keys: as for `attend`.
        values: as for `attend`.
        beta: as for `attend`.
        bias: as for `attend`.
        mask: as for `attend`.
        exclude: as for `attend`.
        lse: what `attend` gave.
        out_grad: (…, n_queries, value_dim), or None without values.
        shift: (…, n_queries), dot(read, out_grad) less the gradient of lse.
    """
    real = _real(queries)
    logits = _logits(queries, keys, beta, bias, mask, exclude)
    weights, _ = _softmax(logits)
    slopes = -np.broadcast_to(shift[..., None], weights.shape).astype(np.float64)
    value_grad = None
    if values is not None and out_grad is not None:
        value_grad = (np.swapaxes(weights, -1, -2) @ _wide(out_grad)).astype(real)
        slopes = slopes + _wide(out_grad) @ np.swapaxes(_wide(values), -1, -2)
    with np.errstate(invalid="ignore"):
        slopes = np.where(weights == 0, 0, weights * slopes)
    raw = _logits(queries, keys, np.ones_like(beta), None, mask, exclude)
    beta_grad = np.where(slopes == 0, 0, slopes * np.where(slopes == 0, 0, raw)).sum((-1, -2))
    inner = beta[..., None, None] * slopes
    query_grad = _weighted(inner, keys).astype(real)
    key_grad = _weighted(np.swapaxes(inner, -1, -2), queries).astype(real)
    return query_grad, key_grad, value_grad, slopes.sum(-2).astype(real), beta_grad


def merge_lse(outs: list[Reals], lses: list[Reals]) -> tuple[Reals, Reals]:
    """Join reads over disjoint sets of keys, by their log-sum-exps, into the read over all."""
    lse = np.stack(lses)
    weights, total = _softmax(np.moveaxis(lse, 0, -1).astype(np.float64))
    out = sum(weights[..., i, None] * out for i, out in enumerate(outs))
    return np.asarray(out).astype(outs[0].dtype), total.astype(lse.dtype)


def _real(array: Reals) -> Any:
    return np.float64 if array.dtype == np.float64 else np.float32


def _wide(rows: Reals) -> NDArray[np.float64]:
    return rows if rows.dtype == np.float64 else widen(rows).astype(np.float64)


def _dots(queries: Reals, keys: Reals) -> Reals:
    if queries.dtype == np.float64:
        with np.errstate(all="ignore"):
            product: Reals = queries @ keys.T
        return product
    return score(widen(queries), widen(keys), "dot")


def _logits(
    queries: Reals,
    keys: Reals,
    beta: NDArray[np.float64],
    bias: Reals | None,
    mask: NDArray[np.bool_] | None,
    exclude: Ints | None,
) -> NDArray[np.float64]:
    """(…, n_queries, n_keys), -inf where a key does not count."""
    shape = (*queries.shape[:-1], keys.shape[-2])
    logits = np.zeros(shape)
    with np.errstate(invalid="ignore", over="ignore"):
        for batch in np.ndindex(shape[:-2]):
            logits[batch] = beta[batch] * _dots(queries[batch], keys[batch])
            if bias is not None:
                logits[batch] += bias[batch]
    counts = ~np.isnan(logits)
    if mask is not None:
        counts &= mask
    if exclude is not None:
        counts &= np.arange(shape[-1]) != exclude[..., None]
    return np.where(counts, logits, -np.inf)


def _softmax(logits: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and log-sum-exp over the last axis; zeros and -inf where all are -inf."""
    largest = logits.max(-1, keepdims=True, initial=-np.inf)
    with np.errstate(invalid="ignore", divide="ignore"):
        powers = np.exp(logits - np.where(largest == -np.inf, 0, largest))
        sums = powers.sum(-1, keepdims=True)
        lse = (largest + np.log(sums))[..., 0]
    return powers / np.where(sums == 0, 1, sums), lse


def _weighted(weights: NDArray[np.float64], rows: Reals) -> NDArray[np.float64]:
    """Products weights @ rows, where a row of weight 0 adds nothing even if it is not finite."""
    wide = _wide(rows)
    sound = np.where(np.isfinite(wide), wide, 0)
    out: NDArray[np.float64] = weights @ sound
    for *batch, i in np.argwhere(~np.isfinite(wide).all(-1)):
        at = tuple(batch)
        column = weights[at][:, i]
        touched = np.flatnonzero(column)
        rest = np.where(np.isfinite(wide[at][i]), 0, wide[at][i])
        with np.errstate(invalid="ignore"):
            out[at][touched] += column[touched, None] * rest
    return out

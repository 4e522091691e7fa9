"""The parts of the losses against many negatives, for NumPy; `autograd_queue` has them for torch.

The heart is `streamed`: log-sum-exp over negatives of beta · score + bias, where the score is the
dot product or minus the squared distance, and the mean of the negatives under the softmax.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, products
from memcore.errors import InputError, ShapeError

Array = NDArray[Any]

# Rows whose squares are summed at a time: no copy of all negatives is made.
_CHUNK = 1 << 12


def streamed(
    op: str,
    queries: Array,
    keys: Array,
    beta: float,
    bias: Array | None,
    metric: str,
    wants_mean: bool,
    backend: str | None = None,
) -> tuple[Array, Array | None]:
    """Log-sum-exp (…, n_queries) and, if wanted, the softmax mean of the keys (…, n_queries, dim).

    Args:
        op: for errors.
        queries: (…, n_queries, dim).
        keys: (…, n_keys, dim).
        beta: above 0.
        bias: (…, n_keys), or None.
        metric: "dot" or "l2", minus the squared distance.
        wants_mean: whether the mean is.
        backend: the engine.
    """
    products.check_queries(op, queries)
    slope, offset = _as_dot(queries, keys, beta, bias, metric)
    values = keys if wants_mean else None
    mean, lse = products.dense(queries, keys, values, slope, offset, None, backend)
    if metric == "l2":
        lse = (lse - beta * squares(queries)).astype(lse.dtype)
    return lse, mean


def key_gradients(
    queries: Array,
    keys: Array,
    beta: float,
    bias: Array | None,
    metric: str,
    lse: Array,
    grad: Array,
) -> tuple[Array, Array]:
    """The gradients of keys and bias, given that of the log-sum-exp; they are streamed again."""
    slope, offset = _as_dot(queries, keys, beta, bias, metric)
    if metric == "l2":
        lse = (lse + beta * squares(queries)).astype(lse.dtype)
    wanted = (False, True, False, False, True)
    given = (queries, keys, None, slope, offset, None, lse, None, -grad, wanted)
    _, key_grad, _, _, bias_grad = products.dense_backward(*given)
    if key_grad is None or bias_grad is None:
        raise RuntimeError("key_gradients: the engine gave no gradient")
    if metric == "l2":
        key_grad -= (2 * beta * bias_grad[..., None]) * widened(keys)
    return key_grad, bias_grad


def _as_dot(
    queries: Array, keys: Array, beta: float, bias: Array | None, metric: str
) -> tuple[Array, Array | None]:
    """Beta and bias with which dot products give the logits, up to a term of the query."""
    real = products.real(queries)
    if metric == "l2":
        near = -beta * squares(keys)
        bias = (near if bias is None else near + bias).astype(real)
        beta = 2 * beta
    return np.full(queries.shape[:-2], beta), bias


def squares(rows: Array) -> NDArray[np.float64]:
    """Squared norms (…, n) in float64."""
    found = np.empty(rows.shape[:-1])
    for batch in np.ndindex(rows.shape[:-2]):
        for at in range(0, rows.shape[-2], _CHUNK):
            part = widened(rows[batch][at : at + _CHUNK])
            found[batch][at : at + _CHUNK] = np.einsum("ij,ij->i", part, part, dtype=np.float64)
    return found


def widened(rows: Array) -> Array:
    """float64 as it is, all else float32."""
    if rows.dtype == np.uint16:
        wide: Array = (rows.astype(np.uint32) << 16).view(np.float32)
        return wide
    return rows if rows.dtype == np.float64 else rows.astype(np.float32, copy=False)


# ---- the names of `autograd_queue`


def same(op: str, given: dict[str, Any]) -> list[Array]:
    """Rows as an engine reads them, all float64 if one is."""
    found = {name: arrays.reals(op, name, array) for name, array in given.items()}
    check_rows(op, found)
    if any(rows.dtype == np.float64 for rows in found.values()):
        return [widened(rows).astype(np.float64, copy=False) for rows in found.values()]
    return list(found.values())


def check_rows(op: str, given: dict[str, Any]) -> None:
    """Refuse what is not (…, n, dim) of one dim."""
    first, *_ = given.values()
    for name, rows in given.items():
        if rows.ndim < 2 or rows.shape[-1] == 0:
            raise ShapeError(f"{op}: {name} has shape {tuple(rows.shape)}, should be (…, n, dim)")
        if rows.shape[-1] != first.shape[-1]:
            raise ShapeError(f"{op}: {name} has dim {rows.shape[-1]}, should be {first.shape[-1]}")


def bias(op: str, bias: Any, like: Array) -> Array:
    """In the dtype of the products."""
    return products.biases(op, bias, like)


def expand(array: Array, shape: tuple[int, ...]) -> Array:
    """The array seen in a wider shape."""
    return np.broadcast_to(array, shape)


def lse(
    op: str,
    queries: Array,
    keys: Array,
    beta: float,
    bias: Array | None,
    metric: str,
    backend: str | None,
) -> Array:
    """The log-sum-exp alone."""
    return streamed(op, queries, keys, beta, bias, metric, False, backend)[0]


def dot(left: Array, right: Array) -> Array:
    """Dot products of pairs of rows (…, dim)."""
    found: Array = (widened(left) * widened(right)).sum(-1)
    return found


def softplus(x: Array) -> Array:
    """log(1 + e^x)."""
    found: Array = np.logaddexp(x, x.dtype.type(0))
    return found


def total(logits: Array) -> Array:
    """Log-sum-exp over the last axis, summed in float64; -inf where all are."""
    largest = logits.max(-1, keepdims=True)
    shift = np.where(largest == -np.inf, 0, largest)
    with np.errstate(divide="ignore"):
        sums = np.log(np.exp(logits - shift).sum(-1, dtype=np.float64))
    found: Array = (shift[..., 0] + sums).astype(logits.dtype)
    return found


# ---- rows by id


def check_ids(ids: NDArray[np.int64], n: int) -> None:
    """Refuse an id that names none of n rows and is not -1."""
    if ids.size and (ids.min() < -1 or ids.max() >= n):
        wrong = ids[(ids < -1) | (ids >= n)].reshape(-1)[0]
        raise InputError(f"gather: ids has {wrong}, should be from -1 to {n - 1}")


def scattered(grad: Array, ids: NDArray[np.int64], n: int) -> Array:
    """Sums (n, width) of the rows of grad (n_ids, width) that ids name, in their order."""
    ones = np.ones((len(ids), 1), grad.dtype)
    return products.scatter(ones, grad, ids[:, None], n)

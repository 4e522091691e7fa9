"""Products of rows by an engine: NumPy arrays in, new NumPy arrays out.

What `attend` and its gradients are made of. All arrays of rows have the same leading axes, one
engine call does all of them, and axes that are shared (stride 0) are not copied. Rows are float32,
float16, bfloat16 (as uint16) or int8, and results float32; or all are float64.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays
from memcore.backends import engine
from memcore.errors import InputError

Array = NDArray[Any]
Ints = NDArray[np.int64]


def real(rows: Array) -> Any:
    """The dtype in which products with these rows are made."""
    return np.float64 if rows.dtype == np.float64 else np.float32


def select(
    queries: Array,
    keys: Array,
    k: int,
    beta: Array,
    bias: Array | None,
    mask: Array | None,
    backend: str | None = None,
) -> tuple[NDArray[np.float32], Ints]:
    """The k best keys of each query by canonical logits: what `search` returns for these weights.

    Args:
        queries: (…, n_queries, dim).
        keys: (…, n_keys, dim).
        k: how many.
        beta: (…), above 0.
        bias: (…, n_keys), or None.
        mask: (…, n_queries, n_keys), or None.
        backend: the engine.

    Returns:
        Logits (…, n_queries, k) float32 and ids int64; -inf and -1 where there are fewer keys.
    """
    run = engine("search", backend)
    asked, rows = _float32(queries), _float32(keys)
    logits = np.empty((*queries.shape[:-1], k), np.float32)
    ids = np.empty(logits.shape, np.int64)
    slopes = beta.astype(np.float32)
    for batch in np.ndindex(queries.shape[:-2]):
        allowed = None if mask is None else mask[batch]
        if allowed is not None and allowed.strides[0] == 0 and len(allowed):
            allowed = allowed[0]
        # Without a bias beta leaves the order as it is, and the search has no weights to bound.
        scale, offset = None, None
        if bias is not None:
            scale = np.full(keys.shape[-2], slopes[batch])
            offset = np.ascontiguousarray(bias[batch], np.float32)
        rest = (-np.inf, np.inf, None, logits[batch], ids[batch])
        try:
            run(
                asked[batch], rows[batch], None, None, k, "dot", allowed, None, scale, offset, *rest
            )
        except InputError:
            check_queries("attend", queries)
            raise
    if bias is None:
        logits *= slopes[..., None, None]
    return logits, ids


def dots(queries: Array, keys: Array, ids: Ints, backend: str | None = None) -> Array:
    """Dot products (…, n_queries, n_ids) with the keys that ids name, 0 where an id is -1."""
    scores = np.empty(ids.shape, real(queries))
    engine("dots", backend)(_whole(queries), _whole(keys), np.ascontiguousarray(ids), scores)
    return scores


def aggregate(weights: Array, values: Array, ids: Ints, backend: str | None = None) -> Array:
    """Weighted sums (…, n_queries, dim) of the values that ids name; -1 adds nothing."""
    out = np.empty((*ids.shape[:-1], values.shape[-1]), real(values))
    plain = np.ascontiguousarray(weights, out.dtype)
    engine("aggregate", backend)(plain, _whole(values), np.ascontiguousarray(ids), out)
    return out


def scatter(
    weights: Array, rows: Array, ids: Ints, n_sums: int, backend: str | None = None
) -> Array:
    """Sums (…, n_sums, dim) of the rows (…, n_queries, dim) by weight: `aggregate` transposed."""
    # Zeroed by the system, page by page, when first touched.
    sums = np.zeros((*ids.shape[:-2], n_sums, rows.shape[-1]), real(rows))
    plain = np.ascontiguousarray(weights, sums.dtype)
    engine("scatter", backend)(plain, _whole(rows), np.ascontiguousarray(ids), n_sums, sums)
    return sums


def dense(
    queries: Array,
    keys: Array,
    values: Array | None,
    beta: Array,
    bias: Array | None,
    mask: Array | None,
    backend: str | None = None,
) -> tuple[Array | None, Array]:
    """Softmax over all keys: the read (…, n_queries, value_dim) and lse (…, n_queries)."""
    lse = np.empty(queries.shape[:-1], real(queries))
    out = None if values is None else np.empty((*lse.shape, values.shape[-1]), lse.dtype)
    rows = None if values is None else _whole(values)
    slopes = np.ascontiguousarray(beta, np.float64)
    offset = None if bias is None else bias.astype(lse.dtype, copy=False)
    run = engine("attend", backend)
    run(_whole(queries), _whole(keys), rows, slopes, offset, mask, None, out, lse)
    return out, lse


def dense_backward(
    queries: Array,
    keys: Array,
    values: Array | None,
    beta: Array,
    bias: Array | None,
    mask: Array | None,
    lse: Array,
    out_grad: Array | None,
    shift: Array,
    wanted: tuple[bool, ...],
    backend: str | None = None,
) -> tuple[Array | None, ...]:
    """The gradients of queries, keys, values, beta and bias that are wanted, the others None.

    Args:
        queries: as for `dense`, like keys, values, beta, bias and mask.
        keys: likewise.
        values: likewise.
        beta: likewise.
        bias: likewise.
        mask: likewise.
        lse: what `dense` gave.
        out_grad: the gradient of the read.
        shift: dot(read, out_grad) less the gradient of lse, (…, n_queries).
        wanted: which of the five.
        backend: the engine.
    """
    dtype = real(queries)
    rows = None if values is None else _whole(values)
    made = [(queries, dtype), (keys, dtype), (values, dtype)]
    made += [(beta, np.float64), (keys[..., 0], dtype)]
    query_grad, key_grad, value_grad, beta_grad, bias_grad = (
        np.empty(like.shape, kind) if want and like is not None else None
        for (like, kind), want in zip(made, wanted, strict=True)
    )
    engine("attend_backward", backend)(
        _whole(queries),
        _whole(keys),
        rows,
        np.ascontiguousarray(beta, np.float64),
        None if bias is None else bias.astype(dtype, copy=False),
        mask,
        None,
        np.ascontiguousarray(lse),
        None if out_grad is None else _whole(out_grad),
        np.ascontiguousarray(shift, dtype),
        query_grad,
        key_grad,
        value_grad,
        bias_grad,
        beta_grad,
    )
    return query_grad, key_grad, value_grad, beta_grad, bias_grad


def check_queries(op: str, queries: Array) -> None:
    """Raise InputError for the first query that is not finite or too large."""
    rows = queries.reshape(-1, queries.shape[-1])
    if rows.dtype == np.uint16:
        rows = _float32(rows)
    with np.errstate(all="ignore"):
        squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    unsound = np.flatnonzero(~(squares <= 1e36))
    if unsound.size:
        raise InputError(
            f"{op}: queries row {unsound[0]} is not finite or too large, "
            "should be finite with a squared norm of at most 1e36"
        )


def _whole(rows: Array) -> Array:
    """Rows whose components lie side by side, which the engine asks."""
    return rows if rows.strides[-1] == rows.itemsize else np.ascontiguousarray(rows)


def _float32(rows: Array) -> Array:
    with np.errstate(over="ignore"):
        return rows.astype(np.float32) if rows.dtype == np.float64 else rows


# ---- the parts of attend; `autograd` has the same names for tensors


def rows(op: str, name: str, array: Any) -> Array:
    """Any array of numbers as rows for an engine."""
    return arrays.reals(op, name, array)


def numbers(op: str, name: str, array: Any) -> Array:
    """Weights, reads or logarithms: float32, or float64 where they are."""
    found = arrays.numbers(op, name, array)
    return found.astype(real(found), copy=False)


def widen(array: Array) -> Array:
    """As float64."""
    wide = _float32(array)
    if wide.dtype == np.uint16:
        wide = (wide.astype(np.uint32) << 16).view(np.float32)
    return wide.astype(np.float64)


def expand(array: Array, shape: tuple[int, ...]) -> Array:
    """The array seen in a wider shape."""
    return np.broadcast_to(array, shape)


def slopes(beta: Any, shape: tuple[int, ...], like: Array) -> Array:
    """Beta as float64 in the shape of the batches."""
    given = beta if isinstance(beta, (int, float)) else arrays.numbers("attend", "beta", beta)
    return np.broadcast_to(np.asarray(given, np.float64), shape)


def biases(op: str, bias: Any, like: Array) -> Array:
    """A bias in the dtype that products with these rows have."""
    given = arrays.reals(op, "bias", bias)
    if real(like) == np.float32 or given.dtype != np.float64:
        given = arrays.floats(op, "bias", bias)
    return given.astype(real(like), copy=False)


def bools(op: str, name: str, array: Any) -> Array:
    """A mask."""
    return arrays.bools(op, name, array)


def ints(op: str, name: str, array: Any) -> Ints:
    """Ids."""
    return arrays.ints(op, name, array)


def hits(
    queries: Array,
    keys: Array,
    k: int,
    beta: Array,
    bias: Array | None,
    mask: Array | None,
    backend: str | None = None,
) -> tuple[Array, Ints]:
    """Logits and ids (…, n_queries, k) of the k best keys."""
    found, ids = select(queries, keys, k, beta, bias, mask, backend)
    if real(queries) == np.float64:
        return logits(queries, keys, ids, beta, bias, None, backend), ids
    return found, ids


def logits(
    queries: Array,
    keys: Array,
    ids: Ints,
    beta: Array,
    bias: Array | None,
    mask: Array | None,
    backend: str | None = None,
) -> Array:
    """The logits of named keys, -inf where there is none or it does not count."""
    raw = dots(queries, keys, ids, backend)
    with np.errstate(all="ignore"):
        found = beta[..., None, None].astype(raw.dtype) * raw
        if bias is not None:
            found = found + _take(bias, ids)
    counts = (ids >= 0) & ~np.isnan(found)
    if mask is not None:
        counts &= _take(mask, ids)
    return np.where(counts, found, -np.inf).astype(raw.dtype, copy=False)


def softmax(logits: Array) -> tuple[Array, Array]:
    """Weights and log-sum-exp over the last axis; zeros and -inf where all are -inf."""
    largest = logits.max(-1, keepdims=True, initial=-np.inf)
    with np.errstate(all="ignore"):
        powers = np.exp(logits - np.where(largest == -np.inf, logits.dtype.type(0), largest))
        sums = powers.sum(-1, keepdims=True)
        powers /= np.where(sums == 0, logits.dtype.type(1), sums)
        lse = (largest + np.log(sums))[..., 0]
    return powers, lse


def stack(parts: list[Array]) -> Array:
    """Arrays side by side along a new last axis."""
    return np.stack(parts, -1)


def moved(before: Array, after: Array) -> float:
    """The largest distance between rows."""
    return float(np.linalg.norm(after - before, axis=-1).max(initial=0.0))


def dropped(lse: Array, all_lse: Array) -> Array:
    """The share of the whole softmax that a part of it leaves out."""
    kept = np.subtract(lse, all_lse, where=all_lse != -np.inf, out=np.zeros_like(lse))
    share: Array = np.maximum(-np.expm1(kept), 0)
    return share


def _take(items: Array, ids: Ints) -> Array:
    """Items (…, n) or (…, n_queries, n) at ids (…, n_queries, n_ids); anything for -1."""
    shape = (*ids.shape[:-1], items.shape[-1])
    if items.shape[-1] == 0:
        return np.zeros(ids.shape, items.dtype)
    wide = items if items.shape == shape else items[..., None, :]
    return np.take_along_axis(np.broadcast_to(wide, shape), np.maximum(ids, 0), -1)

"""Softmax over all keys in tiles, backward: logits are computed again in each of two kernels.

Once queries are held and once keys, so that every program owns what it writes and every sum has one
order (Dao et al., arXiv 2205.14135).
"""

import triton
import triton.language as tl

from .tiles import LOG2E, multiply, pair_products, rows_of, tile_logits, tile_of, weigh


@triton.jit
def slopes_of(logits, lse, changes, shift):
    """Weights (Q, N) of logits, and the gradients of these: weights * (changes - shift)."""
    counts = (logits > float("-inf")) & (lse > float("-inf"))[:, None]
    weights = tl.where(counts, tl.exp2(logits - (lse * LOG2E)[:, None]), 0.0)
    # What has no weight has no gradient, whatever the change would be.
    slopes = tl.where(weights == 0, 0.0, weights * (changes - shift[:, None]))
    return weights, slopes


@triton.jit
def changes_of(
    given,
    out_grads,
    query,
    is_query,
    values,
    key,
    is_key,
    KIND: tl.constexpr,
    REAL: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
):
    """By how much the loss changes with each weight (Q, N): gradients of reads times values."""
    changes = tl.zeros((Q, N), REAL)
    if given.contents is not None:
        changes = pair_products(
            out_grads, query, is_query, given.value_dim, values, key, is_key, given.contents.stride,
            given.value_dim, False, KIND, REAL, Q, N, DIM, D,
        )  # fmt: skip
    return changes


@triton.jit
def attend_queries_kernel(
    given,
    lse_ptr,
    out_grad_ptr,
    shift_ptr,
    query_grads_ptr,
    beta_grads_ptr,
    n_splits,
    IS_CAREFUL: tl.constexpr,
    KIND: tl.constexpr,
    VALUE_KIND: tl.constexpr,
    KEY_KIND: tl.constexpr,
    REAL: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
):
    """The gradients of Q queries, in D columns, over one split of the keys, and that of beta.

    Args beside those of `attend_kernel`:
        lse_ptr, shift_ptr: (n_batches, n_queries).
        out_grad_ptr: (n_batches, n_queries, value_dim), or None.
        query_grads_ptr: (n_splits, n_batches, n_queries, dim); None if not wanted.
        beta_grads_ptr: (n_splits, n_batches, n_queries); None if not wanted.
    """
    n_tiles = tl.cdiv(given.n_queries, Q)
    dim = given.dim
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    query = (tl.program_id(0) % n_tiles) * Q + tl.arange(0, Q)
    is_query = query < given.n_queries
    column = tl.program_id(2) * D + tl.arange(0, D)
    row = batch * given.n_queries + query
    out_row = (split * given.n_batches + batch) * given.n_queries + query
    if IS_CAREFUL:
        place = query_grads_ptr + out_row[:, None] * dim + column[None, :]
        inside = is_query[:, None] & (column < dim)[None, :]
        grad = tl.load(place, mask=inside, other=0)
        if tl.max(tl.max((grad != grad).to(tl.int32), 1), 0) == 0:
            return

    queries = rows_of(given.queries, batch, given.inner)
    keys = rows_of(given.keys, batch, given.inner)
    values = None
    out_grads = out_grad_ptr
    if given.contents is not None:
        values = rows_of(given.contents, batch, given.inner)
        out_grads += batch * given.n_queries * given.value_dim
    beta = tl.load(given.beta + batch).to(REAL)

    lse = tl.load(lse_ptr + row, mask=is_query, other=float("-inf"))
    shift = tl.load(shift_ptr + row, mask=is_query, other=0)
    query = query.to(tl.int64)
    query_grad = tl.zeros((Q, D), REAL)
    beta_grad = tl.zeros((Q,), REAL)
    share = tl.cdiv(tl.cdiv(given.n_keys, n_splits), N) * N
    for first in range(split * share, tl.minimum((split + 1) * share, given.n_keys), N):
        key = (first + tl.arange(0, N)).to(tl.int64)
        is_key = key < given.n_keys
        products, logits = tile_logits(
            given, batch, queries, query, is_query, keys, key, is_key, beta, False, KIND, REAL,
            Q, N, DIM, D,
        )  # fmt: skip
        changes = changes_of(
            given, out_grads, query, is_query, values, key, is_key, VALUE_KIND, REAL, Q, N,
            VALUE_DIM, V,
        )  # fmt: skip
        _, slopes = slopes_of(logits, lse, changes, shift)
        if beta_grads_ptr is not None:
            beta_grad += tl.sum(tl.where(slopes == 0, 0.0, slopes * products), 1)
        if query_grads_ptr is not None:
            rows = tile_of(keys, key, is_key, given.keys.stride, column, dim)  # (N, D)
            query_grad = weigh(slopes, rows, query_grad, IS_CAREFUL, KEY_KIND, REAL, N)
    if beta_grads_ptr is not None:
        if tl.program_id(2) == 0:
            tl.store(beta_grads_ptr + out_row, beta_grad, mask=is_query)
    if query_grads_ptr is not None:
        place = query_grads_ptr + out_row[:, None] * dim + column[None, :]
        inside = is_query[:, None] & (column < dim)[None, :]
        tl.store(place, query_grad * beta, mask=inside)


@triton.jit
def attend_keys_kernel(
    given,
    lse_ptr,
    out_grad_ptr,
    shift_ptr,
    key_grads_ptr,
    value_grads_ptr,
    bias_grads_ptr,
    n_splits,
    IS_L2: tl.constexpr,
    KIND: tl.constexpr,
    VALUE_KIND: tl.constexpr,
    QUERY_KIND: tl.constexpr,
    REAL: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
):
    """The gradients of N keys (in D columns), values (in V) and biases over a split of queries.

    Args beside those of `attend_queries_kernel`:
        key_grads_ptr: (n_splits, n_batches, n_keys, dim); None if not wanted.
        value_grads_ptr: (n_splits, n_batches, n_keys, value_dim); None if not wanted.
        bias_grads_ptr: (n_splits, n_batches, n_keys); None if not wanted.
    """
    n_tiles = tl.cdiv(given.n_keys, N)
    dim, value_dim = given.dim, given.value_dim
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    key = ((tl.program_id(0) % n_tiles) * N + tl.arange(0, N)).to(tl.int64)
    is_key = key < given.n_keys
    column = tl.program_id(2) * D + tl.arange(0, D)
    value_column = tl.program_id(2) * V + tl.arange(0, V)
    row = (split * given.n_batches + batch) * given.n_keys + key

    queries = rows_of(given.queries, batch, given.inner)
    keys = rows_of(given.keys, batch, given.inner)
    values = None
    out_grads = out_grad_ptr
    if given.contents is not None:
        values = rows_of(given.contents, batch, given.inner)
        out_grads += batch * given.n_queries * given.value_dim
    beta = tl.load(given.beta + batch).to(REAL)

    key_grad = tl.zeros((N, D), REAL)
    value_grad = tl.zeros((N, V), REAL)
    bias_grad = tl.zeros((N,), REAL)
    share = tl.cdiv(tl.cdiv(given.n_queries, n_splits), Q) * Q
    for first in range(split * share, tl.minimum((split + 1) * share, given.n_queries), Q):
        query = (first + tl.arange(0, Q)).to(tl.int64)
        is_query = query < given.n_queries
        lse = tl.load(lse_ptr + batch * given.n_queries + query, mask=is_query, other=float("-inf"))
        shift = tl.load(shift_ptr + batch * given.n_queries + query, mask=is_query, other=0)
        # A query that found nothing may be NaN, and 0 * NaN is not 0.
        is_query = is_query & (lse > float("-inf"))
        _, logits = tile_logits(
            given, batch, queries, query, is_query, keys, key, is_key, beta, IS_L2, KIND, REAL,
            Q, N, DIM, D,
        )  # fmt: skip
        changes = changes_of(
            given, out_grads, query, is_query, values, key, is_key, VALUE_KIND, REAL, Q, N,
            VALUE_DIM, V,
        )  # fmt: skip
        weights, slopes = slopes_of(logits, lse, changes, shift)
        bias_grad += tl.sum(slopes, 0)
        if value_grads_ptr is not None:
            rows = tile_of(out_grads, query, is_query, value_dim, value_column, value_dim)  # (Q, V)
            value_grad = multiply(tl.trans(weights), rows, value_grad, VALUE_KIND)
        if key_grads_ptr is not None:
            rows = tile_of(queries, query, is_query, given.queries.stride, column, dim)  # (Q, D)
            key_grad = multiply(tl.trans(slopes), rows, key_grad, QUERY_KIND)

    if bias_grads_ptr is not None:
        if tl.program_id(2) == 0:
            tl.store(bias_grads_ptr + row, bias_grad, mask=is_key)
    if value_grads_ptr is not None:
        place = value_grads_ptr + row[:, None] * value_dim + value_column[None, :]
        inside = is_key[:, None] & (value_column < value_dim)[None, :]
        tl.store(place, value_grad, mask=inside)
    if key_grads_ptr is not None:
        key_grad = key_grad * beta
        if IS_L2:
            rows = tile_of(keys, key, is_key, given.keys.stride, column, dim).to(REAL)
            key_grad = 2 * (key_grad - beta * bias_grad[:, None] * rows)
        place = key_grads_ptr + row[:, None] * dim + column[None, :]
        inside = is_key[:, None] & (column < dim)[None, :]
        tl.store(place, key_grad, mask=inside)

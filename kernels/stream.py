"""Softmax over all keys in tiles, forward and backward: no array of n_queries x n_keys anywhere.

The forward keeps a running maximum and sum (Milakov and Gimelshein, arXiv 1805.02867) beside the
read; the backward computes logits again, once with queries held and once with keys held, so that
every program owns what it writes and every sum has one order (Dao et al., arXiv 2205.14135).

Products are made on tensor cores: of float16 and bfloat16 as they are, of float32 in three passes
of tf32, which keeps its digits. Logits are in units of log 2, since 2^x is what the device has.
"""

import triton
import triton.language as tl

from .named import of_batch

_LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
_LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def narrow(x, TYPE: tl.constexpr):
    """Numbers as a factor of this type, by way of float32, which holds whatever they are."""
    return x if x.dtype == TYPE else x.to(tl.float32).to(TYPE)


@triton.jit
def multiply(a, b, total, KIND: tl.constexpr):
    """The total and a @ b.

    KIND is "fp16", "bf16", "tf32" (float32 rounded to 10 bits, which float16 has, without its
    narrow range), "fp32" or "fp64".
    """
    if KIND == "fp16":
        return tl.dot(narrow(a, tl.float16), narrow(b, tl.float16), acc=total)
    elif KIND == "bf16":
        return tl.dot(narrow(a, tl.bfloat16), narrow(b, tl.bfloat16), acc=total)
    elif KIND == "tf32":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc=total, input_precision="tf32")
    elif KIND == "fp32":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc=total, input_precision="tf32x3")
    else:
        return tl.dot(a, b, acc=total, input_precision="ieee", out_dtype=tl.float64)


@triton.jit
def weigh(
    weights,
    rows,
    total,
    IS_CAREFUL: tl.constexpr,
    KIND: tl.constexpr,
    REAL: tl.constexpr,
    N: tl.constexpr,
):
    """The total and weights (Q, N) @ rows (N, D).

    IS_CAREFUL: one row after the other, and none where its weight is 0: a product adds 0 * NaN.
    """
    if not IS_CAREFUL:
        return multiply(weights, rows, total, KIND)
    place = tl.arange(0, N)
    for j in range(N):
        weight = tl.sum(tl.where((place == j)[None, :], weights, 0.0), 1)
        row = tl.sum(tl.where((place == j)[:, None], rows.to(REAL), 0.0), 0)
        total += tl.where((weight != 0)[:, None], weight[:, None] * row[None, :], 0.0)
    return total


@triton.jit
def tile_of(rows, row, is_row, stride, column, dim):
    """Rows (N, D) of a batch, 0 beyond them."""
    return tl.load(
        rows + row[:, None] * stride + column[None, :],
        mask=is_row[:, None] & (column < dim)[None, :],
        other=0,
    )


@triton.jit
def pair_products(
    lefts,
    left,
    is_left,
    left_stride,
    rights,
    right,
    is_right,
    right_stride,
    dim,
    IS_L2: tl.constexpr,
    KIND: tl.constexpr,
    REAL: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
):
    """Dot products (Q, N) of rows of two batches, or minus the squared distances."""
    products = tl.zeros((Q, N), REAL)
    left_squares = tl.zeros((Q,), REAL)
    right_squares = tl.zeros((N,), REAL)
    for begin in range(0, DIM, D):
        column = begin + tl.arange(0, D)
        a = tile_of(lefts, left, is_left, left_stride, column, dim)  # (Q, D)
        b = tile_of(rights, right, is_right, right_stride, column, dim)  # (N, D)
        products = multiply(a, tl.trans(b), products, KIND)
        if IS_L2:
            left_squares += tl.sum(a.to(REAL) * a.to(REAL), 1)
            right_squares += tl.sum(b.to(REAL) * b.to(REAL), 1)
    if IS_L2:
        products = 2 * products - left_squares[:, None] - right_squares[None, :]
    return products


@triton.jit
def logits_of(
    products,
    beta,
    query,
    is_query,
    key,
    is_key,
    biases,
    masks,
    mask_stride,
    excluded,
    REAL: tl.constexpr,
):
    """Logits (Q, N) in units of log 2; -inf where a key does not count, as where it is NaN."""
    logits = products * (beta * _LOG2E)
    if biases is not None:
        bias = tl.load(biases + key, mask=is_key, other=0).to(REAL)
        logits += (bias * _LOG2E)[None, :]
    counts = is_query[:, None] & is_key[None, :] & (logits == logits)
    if masks is not None:
        at = masks + query[:, None] * mask_stride + key[None, :]
        counts = counts & tl.load(at, mask=counts, other=0).to(tl.int1)
    if excluded is not None:
        without = tl.load(excluded + query, mask=is_query, other=-1)
        counts = counts & (key[None, :] != without[:, None])
    return tl.where(counts, logits, float("-inf"))


@triton.jit
def attend_kernel(
    queries_ptr,
    query_outer,
    query_inner,
    query_stride,
    keys_ptr,
    key_outer,
    key_inner,
    key_stride,
    values_ptr,
    value_outer,
    value_inner,
    value_stride,
    beta_ptr,
    bias_ptr,
    bias_outer,
    bias_inner,
    mask_ptr,
    mask_outer,
    mask_inner,
    mask_stride,
    exclude_ptr,
    reads_ptr,
    lses_ptr,
    inner,
    n_batches,
    n_queries,
    n_keys,
    dim,
    value_dim,
    n_splits,
    IS_L2: tl.constexpr,
    IS_CAREFUL: tl.constexpr,
    KIND: tl.constexpr,
    VALUE_KIND: tl.constexpr,
    REAL: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
    V: tl.constexpr,
):
    """The read of Q queries over one split of the keys, in V columns, and its log-sum-exp.

    Args beside rows, which come with strides from batch to batch, counted over (outer, inner):
        beta_ptr: (n_batches,) float64.
        mask_ptr: (n_batches, n_queries, n_keys) bool, by strides, or None.
        exclude_ptr: (n_batches, n_queries) int64, one key that does not count; or None.
        reads_ptr, lses_ptr: (n_splits, n_batches, n_queries, value_dim) and without value_dim.
        IS_CAREFUL: only where a read holds NaN, and then without products of what does not count.
    """
    n_tiles = tl.cdiv(n_queries, Q)
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    query = (tl.program_id(0) % n_tiles) * Q + tl.arange(0, Q)
    is_query = query < n_queries
    column = tl.program_id(2) * V + tl.arange(0, V)
    row = (split * n_batches + batch) * n_queries + query
    if IS_CAREFUL:
        place = reads_ptr + row[:, None] * value_dim + column[None, :]
        inside = is_query[:, None] & (column < value_dim)[None, :]
        read = tl.load(place, mask=inside, other=0)
        if tl.max(tl.max((read != read).to(tl.int32), 1), 0) == 0:
            return

    queries = of_batch(queries_ptr, batch, inner, query_outer, query_inner)
    keys = of_batch(keys_ptr, batch, inner, key_outer, key_inner)
    values = of_batch(values_ptr, batch, inner, value_outer, value_inner)
    biases = of_batch(bias_ptr, batch, inner, bias_outer, bias_inner)
    masks = of_batch(mask_ptr, batch, inner, mask_outer, mask_inner)
    excluded = of_batch(exclude_ptr, batch, 1, n_queries, 0)
    beta = tl.load(beta_ptr + batch).to(REAL)

    query = query.to(tl.int64)
    largest = tl.full((Q,), float("-inf"), REAL)
    powers = tl.zeros((Q,), REAL)
    read = tl.zeros((Q, V), REAL)
    share = tl.cdiv(tl.cdiv(n_keys, n_splits), N) * N
    for first in range(split * share, tl.minimum((split + 1) * share, n_keys), N):
        key = (first + tl.arange(0, N)).to(tl.int64)
        is_key = key < n_keys
        products = pair_products(
            queries,
            query,
            is_query,
            query_stride,
            keys,
            key,
            is_key,
            key_stride,
            dim,
            IS_L2,
            KIND,
            REAL,
            Q,
            N,
            DIM,
            D,
        )
        logits = logits_of(
            products,
            beta,
            query,
            is_query,
            key,
            is_key,
            biases,
            masks,
            mask_stride,
            excluded,
            REAL,
        )
        top = tl.maximum(largest, tl.max(logits, 1))
        shift = tl.where(top == float("-inf"), 0.0, top)
        weights = tl.exp2(logits - shift[:, None])
        fade = tl.exp2(largest - shift)
        powers = powers * fade + tl.sum(weights, 1)
        largest = top
        if values_ptr is not None:
            rows = tile_of(values, key, is_key, value_stride, column, value_dim)  # (N, V)
            read = weigh(weights, rows, read * fade[:, None], IS_CAREFUL, VALUE_KIND, REAL, N)

    found = powers != 0
    divisor = tl.where(found, powers, 1.0)
    if tl.program_id(2) == 0:
        lse = tl.where(found, (largest + tl.log2(divisor)) * _LN2, float("-inf"))
        tl.store(lses_ptr + row, lse, mask=is_query)
    if values_ptr is not None:
        place = reads_ptr + row[:, None] * value_dim + column[None, :]
        inside = is_query[:, None] & (column < value_dim)[None, :]
        tl.store(place, read / divisor[:, None], mask=inside)


@triton.jit
def slopes_of(logits, lse, changes, shift):
    """Weights (Q, N) of logits, and the gradients of these: weights * (changes - shift)."""
    counts = (logits > float("-inf")) & (lse > float("-inf"))[:, None]
    weights = tl.where(counts, tl.exp2(logits - (lse * _LOG2E)[:, None]), 0.0)
    # What has no weight has no gradient, whatever the change would be.
    slopes = tl.where(weights == 0, 0.0, weights * (changes - shift[:, None]))
    return weights, slopes


@triton.jit
def attend_queries_kernel(
    queries_ptr,
    query_outer,
    query_inner,
    query_stride,
    keys_ptr,
    key_outer,
    key_inner,
    key_stride,
    values_ptr,
    value_outer,
    value_inner,
    value_stride,
    beta_ptr,
    bias_ptr,
    bias_outer,
    bias_inner,
    mask_ptr,
    mask_outer,
    mask_inner,
    mask_stride,
    exclude_ptr,
    lse_ptr,
    out_grad_ptr,
    shift_ptr,
    query_grads_ptr,
    beta_grads_ptr,
    inner,
    n_batches,
    n_queries,
    n_keys,
    dim,
    value_dim,
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
    n_tiles = tl.cdiv(n_queries, Q)
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    query = (tl.program_id(0) % n_tiles) * Q + tl.arange(0, Q)
    is_query = query < n_queries
    column = tl.program_id(2) * D + tl.arange(0, D)
    row = batch * n_queries + query
    out_row = (split * n_batches + batch) * n_queries + query
    if IS_CAREFUL:
        place = query_grads_ptr + out_row[:, None] * dim + column[None, :]
        inside = is_query[:, None] & (column < dim)[None, :]
        grad = tl.load(place, mask=inside, other=0)
        if tl.max(tl.max((grad != grad).to(tl.int32), 1), 0) == 0:
            return

    queries = of_batch(queries_ptr, batch, inner, query_outer, query_inner)
    keys = of_batch(keys_ptr, batch, inner, key_outer, key_inner)
    values = of_batch(values_ptr, batch, inner, value_outer, value_inner)
    biases = of_batch(bias_ptr, batch, inner, bias_outer, bias_inner)
    masks = of_batch(mask_ptr, batch, inner, mask_outer, mask_inner)
    excluded = of_batch(exclude_ptr, batch, 1, n_queries, 0)
    out_grads = of_batch(out_grad_ptr, batch, 1, n_queries * value_dim, 0)
    beta = tl.load(beta_ptr + batch).to(REAL)

    lse = tl.load(lse_ptr + row, mask=is_query, other=float("-inf"))
    shift = tl.load(shift_ptr + row, mask=is_query, other=0)
    query = query.to(tl.int64)
    query_grad = tl.zeros((Q, D), REAL)
    beta_grad = tl.zeros((Q,), REAL)
    share = tl.cdiv(tl.cdiv(n_keys, n_splits), N) * N
    for first in range(split * share, tl.minimum((split + 1) * share, n_keys), N):
        key = (first + tl.arange(0, N)).to(tl.int64)
        is_key = key < n_keys
        products = pair_products(
            queries,
            query,
            is_query,
            query_stride,
            keys,
            key,
            is_key,
            key_stride,
            dim,
            False,
            KIND,
            REAL,
            Q,
            N,
            DIM,
            D,
        )
        logits = logits_of(
            products,
            beta,
            query,
            is_query,
            key,
            is_key,
            biases,
            masks,
            mask_stride,
            excluded,
            REAL,
        )
        changes = tl.zeros((Q, N), REAL)
        if values_ptr is not None:
            changes = pair_products(
                out_grads,
                query,
                is_query,
                value_dim,
                values,
                key,
                is_key,
                value_stride,
                value_dim,
                False,
                VALUE_KIND,
                REAL,
                Q,
                N,
                VALUE_DIM,
                V,
            )
        _, slopes = slopes_of(logits, lse, changes, shift)
        if beta_grads_ptr is not None:
            beta_grad += tl.sum(tl.where(slopes == 0, 0.0, slopes * products), 1)
        if query_grads_ptr is not None:
            rows = tile_of(keys, key, is_key, key_stride, column, dim)  # (N, D)
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
    queries_ptr,
    query_outer,
    query_inner,
    query_stride,
    keys_ptr,
    key_outer,
    key_inner,
    key_stride,
    values_ptr,
    value_outer,
    value_inner,
    value_stride,
    beta_ptr,
    bias_ptr,
    bias_outer,
    bias_inner,
    mask_ptr,
    mask_outer,
    mask_inner,
    mask_stride,
    exclude_ptr,
    lse_ptr,
    out_grad_ptr,
    shift_ptr,
    key_grads_ptr,
    value_grads_ptr,
    bias_grads_ptr,
    inner,
    n_batches,
    n_queries,
    n_keys,
    dim,
    value_dim,
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
    n_tiles = tl.cdiv(n_keys, N)
    batch = (tl.program_id(0) // n_tiles).to(tl.int64)
    split = tl.program_id(1)
    key = ((tl.program_id(0) % n_tiles) * N + tl.arange(0, N)).to(tl.int64)
    is_key = key < n_keys
    column = tl.program_id(2) * D + tl.arange(0, D)
    value_column = tl.program_id(2) * V + tl.arange(0, V)
    row = (split * n_batches + batch) * n_keys + key

    queries = of_batch(queries_ptr, batch, inner, query_outer, query_inner)
    keys = of_batch(keys_ptr, batch, inner, key_outer, key_inner)
    values = of_batch(values_ptr, batch, inner, value_outer, value_inner)
    biases = of_batch(bias_ptr, batch, inner, bias_outer, bias_inner)
    masks = of_batch(mask_ptr, batch, inner, mask_outer, mask_inner)
    excluded = of_batch(exclude_ptr, batch, 1, n_queries, 0)
    out_grads = of_batch(out_grad_ptr, batch, 1, n_queries * value_dim, 0)
    beta = tl.load(beta_ptr + batch).to(REAL)

    key_grad = tl.zeros((N, D), REAL)
    value_grad = tl.zeros((N, V), REAL)
    bias_grad = tl.zeros((N,), REAL)
    share = tl.cdiv(tl.cdiv(n_queries, n_splits), Q) * Q
    for first in range(split * share, tl.minimum((split + 1) * share, n_queries), Q):
        query = (first + tl.arange(0, Q)).to(tl.int64)
        is_query = query < n_queries
        lse = tl.load(lse_ptr + batch * n_queries + query, mask=is_query, other=float("-inf"))
        shift = tl.load(shift_ptr + batch * n_queries + query, mask=is_query, other=0)
        # A query that found nothing may be NaN, and 0 * NaN is not 0.
        is_query = is_query & (lse > float("-inf"))
        products = pair_products(
            queries,
            query,
            is_query,
            query_stride,
            keys,
            key,
            is_key,
            key_stride,
            dim,
            IS_L2,
            KIND,
            REAL,
            Q,
            N,
            DIM,
            D,
        )
        logits = logits_of(
            products,
            beta,
            query,
            is_query,
            key,
            is_key,
            biases,
            masks,
            mask_stride,
            excluded,
            REAL,
        )
        changes = tl.zeros((Q, N), REAL)
        if values_ptr is not None:
            changes = pair_products(
                out_grads,
                query,
                is_query,
                value_dim,
                values,
                key,
                is_key,
                value_stride,
                value_dim,
                False,
                VALUE_KIND,
                REAL,
                Q,
                N,
                VALUE_DIM,
                V,
            )
        weights, slopes = slopes_of(logits, lse, changes, shift)
        bias_grad += tl.sum(slopes, 0)
        if value_grads_ptr is not None:
            rows = tile_of(out_grads, query, is_query, value_dim, value_column, value_dim)  # (Q, V)
            value_grad = multiply(tl.trans(weights), rows, value_grad, VALUE_KIND)
        if key_grads_ptr is not None:
            rows = tile_of(queries, query, is_query, query_stride, column, dim)  # (Q, D)
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
            rows = tile_of(keys, key, is_key, key_stride, column, dim).to(REAL)
            key_grad = 2 * (key_grad - beta * bias_grad[:, None] * rows)
        place = key_grads_ptr + row[:, None] * dim + column[None, :]
        inside = is_key[:, None] & (column < dim)[None, :]
        tl.store(place, key_grad, mask=inside)

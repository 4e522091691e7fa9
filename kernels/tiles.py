"""Tiles of attention over all keys: products on tensor cores, and the logits of a tile.

Products are made on tensor cores: of float16 and bfloat16 as they are, of float32 in three passes
of tf32, which keeps its digits. Logits are in units of log 2, since 2^x is what the device has.
"""

import triton
import triton.language as tl

from .named import of_batch

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def rows_of(batches, batch, inner):
    """Where the rows of a batch begin, of `layout.Batches`."""
    return of_batch(batches.ptr, batch, inner, batches.outer, batches.inner)


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
def tile_logits(
    given,
    batch,
    queries,
    query,
    is_query,
    keys,
    key,
    is_key,
    beta,
    IS_L2: tl.constexpr,
    KIND: tl.constexpr,
    REAL: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
    DIM: tl.constexpr,
    D: tl.constexpr,
):
    """Products (Q, N) of a tile of a batch, and its logits in units of log 2.

    A logit is -inf where the key does not count, as where it is NaN.

    Args beside sizes:
        given: an `layout.AttentionView`.
        queries, keys: where those of the batch begin.
        query, key: (Q,) and (N,), which of them.
    """
    products = pair_products(
        queries, query, is_query, given.queries.stride, keys, key, is_key, given.keys.stride,
        given.dim, IS_L2, KIND, REAL, Q, N, DIM, D,
    )  # fmt: skip
    logits = products * (beta * LOG2E)
    if given.bias is not None:
        biases = rows_of(given.bias, batch, given.inner)
        bias = tl.load(biases + key, mask=is_key, other=0).to(REAL)
        logits += (bias * LOG2E)[None, :]
    counts = is_query[:, None] & is_key[None, :] & (logits == logits)
    if given.mask is not None:
        masks = rows_of(given.mask, batch, given.inner)
        at = masks + query[:, None] * given.mask.stride + key[None, :]
        counts = counts & tl.load(at, mask=counts, other=0).to(tl.int1)
    if given.exclude is not None:
        at = given.exclude + batch * given.n_queries + query
        without = tl.load(at, mask=is_query, other=-1)
        counts = counts & (key[None, :] != without[:, None])
    return products, tl.where(counts, logits, float("-inf"))

"""Products over named rows: dots, weighted sums, and sums by the name of what they are added to.

Each is the derivative of the other two. Sums are made in one order, each product and each sum
rounded, so these kernels are launched with `enable_fp_fusion=False` and return the bits of the
definition. An id that names no row adds nothing.

Rows (…, n, dim) come with strides of two leading axes, so that what batches share is not copied.
"""

import triton
import triton.language as tl

from .canonical import sums


@triton.jit
def of_batch(rows, batch, inner, outer_stride, inner_stride):
    """Where the rows of a batch begin; batches count over (outer, inner)."""
    return rows + (batch // inner) * outer_stride + (batch % inner) * inner_stride


@triton.jit
def wide_dots(query, keys, is_key, dim, N: tl.constexpr):
    """Dot products (1, N) of float64 rows, given by pointers as to `canonical.sums`."""
    lanes = tl.zeros((N, 16), tl.float64)
    for begin in range(0, dim, 16):
        column = begin + tl.arange(0, 16)
        inside = (column < dim)[None, :]
        q = tl.load(query[:, None] + column[None, :], mask=inside, other=0)
        k = tl.load(keys[:, None] + column[None, :], mask=is_key[:, None] & inside, other=0)
        lanes += q * k
    return tl.sum(lanes, 1)[None, :]


@triton.jit
def dots_kernel(
    queries_ptr,
    query_outer,
    query_inner,
    query_stride,
    keys_ptr,
    key_outer,
    key_inner,
    key_stride,
    ids_ptr,
    dots_ptr,
    inner,
    n_queries,
    n_keys,
    n_ids,
    dim,
    REAL: tl.constexpr,
    N: tl.constexpr,
):
    """Canonical dots (n_batches, n_queries, n_ids) with the keys that ids name; 0 where none is."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // n_queries
    query = row % n_queries + tl.arange(0, 1)
    place = tl.program_id(1) * N + tl.arange(0, N)
    id = tl.load(ids_ptr + row * n_ids + place, mask=place < n_ids, other=-1)
    is_key = (id >= 0) & (id < n_keys)
    asked = of_batch(queries_ptr, batch, inner, query_outer, query_inner) + query * query_stride
    keys = of_batch(keys_ptr, batch, inner, key_outer, key_inner)
    keys += tl.where(is_key, id, 0) * key_stride
    if tl.float64 == REAL:
        dot = wide_dots(asked, keys, is_key, dim, N)
    else:
        dot = sums(asked, query >= 0, 1, keys, is_key, 1, dim, False, 1, N)
    dot = tl.where(is_key[None, :], dot, 0.0)
    out = dots_ptr + row * n_ids + place
    tl.store(out[None, :], dot, mask=(place < n_ids)[None, :])


@triton.jit
def aggregate_kernel(
    weights_ptr,
    values_ptr,
    value_outer,
    value_inner,
    value_stride,
    ids_ptr,
    sums_ptr,
    inner,
    n_queries,
    n_values,
    n_ids,
    dim,
    REAL: tl.constexpr,
    D: tl.constexpr,
    J: tl.constexpr,
):
    """Weighted sums (n_batches, n_queries, dim) of the values that ids name, in their order."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * D + tl.arange(0, D)
    values = of_batch(values_ptr, row // n_queries, inner, value_outer, value_inner)
    total = tl.zeros((D,), REAL)
    for begin in range(0, n_ids, J):
        # Unrolled, so that J rows are on their way at a time.
        for step in tl.static_range(J):
            place = begin + step
            at = row * n_ids + place
            id = tl.load(ids_ptr + at, mask=place < n_ids, other=-1)
            is_value = (id >= 0) & (id < n_values)
            weight = tl.load(weights_ptr + at, mask=is_value, other=0)
            value = tl.load(
                values + id * value_stride + column, mask=is_value & (column < dim), other=0
            ).to(REAL)
            total = tl.where(is_value, total + weight * value, total)
    tl.store(sums_ptr + row * dim + column, total, mask=column < dim)


@triton.jit
def scatter_kernel(
    weights_ptr,
    rows_ptr,
    row_outer,
    row_inner,
    row_stride,
    begins_ptr,
    names_ptr,
    pairs_ptr,
    sums_ptr,
    inner,
    n_queries,
    n_ids,
    n_pairs,
    n_sums,
    dim,
    REAL: tl.constexpr,
    D: tl.constexpr,
    J: tl.constexpr,
):
    """Add rows to the sums that pairs (query, place) name: one program owns one sum.

    Args beside strides and sizes:
        weights_ptr: (n_pairs,).
        rows_ptr: (n_batches, n_queries, dim).
        begins_ptr: (n_programs + 1,) int64, where the pairs of one sum begin.
        names_ptr: (n_pairs,) int64 in rising order, batch * n_sums + id; n_sums in all and beyond
            for pairs that name nothing.
        pairs_ptr: (n_pairs,) int64, which pair it is.
        sums_ptr: (n_batches * n_sums, dim), what they are added to.
        n_sums: of all batches.
    """
    begin = tl.load(begins_ptr + tl.program_id(0))
    if begin >= n_pairs:
        return
    name = tl.load(names_ptr + begin)
    if name >= n_sums:
        return
    end = tl.load(begins_ptr + tl.program_id(0) + 1)
    column = tl.program_id(1) * D + tl.arange(0, D)
    total = tl.load(sums_ptr + name * dim + column, mask=column < dim, other=0)
    for first in range(begin, end, J):
        for step in tl.static_range(J):
            is_pair = first + step < end
            pair = tl.load(pairs_ptr + first + step, mask=is_pair, other=0)
            query = pair // n_ids
            at = of_batch(rows_ptr, query // n_queries, inner, row_outer, row_inner)
            at += (query % n_queries) * row_stride
            row = tl.load(at + column, mask=is_pair & (column < dim), other=0).to(REAL)
            weight = tl.load(weights_ptr + pair, mask=is_pair, other=0)
            total = tl.where(is_pair, total + weight * row, total)
    tl.store(sums_ptr + name * dim + column, total, mask=column < dim)


@triton.jit
def scatter_atomic_kernel(
    weights_ptr,
    rows_ptr,
    row_outer,
    row_inner,
    row_stride,
    ids_ptr,
    sums_ptr,
    inner,
    n_queries,
    n_ids,
    n_sums,
    dim,
    REAL: tl.constexpr,
    D: tl.constexpr,
):
    """The same sums without an order of the pairs; n_sums is of one batch."""
    query = tl.program_id(0).to(tl.int64)
    batch = query // n_queries
    column = tl.program_id(1) * D + tl.arange(0, D)
    at = of_batch(rows_ptr, batch, inner, row_outer, row_inner) + (query % n_queries) * row_stride
    row = tl.load(at + column, mask=column < dim, other=0).to(REAL)
    for place in range(0, n_ids):
        id = tl.load(ids_ptr + query * n_ids + place)
        is_sum = (id >= 0) & (id < n_sums)
        weight = tl.load(weights_ptr + query * n_ids + place)
        tl.atomic_add(
            sums_ptr + (batch * n_sums + id) * dim + column,
            weight * row,
            mask=is_sum & (column < dim),
            sem="relaxed",
        )

"""int8 copies of keys and queries, with what an upper bound on their scores is made of.

The bound on the final score of query q and key j (docs/score.md, "The certificate") has one form
for every metric, with scale, bias and mask folded in:

    upper = slope[q] * factor[j] * I + beta[j] + A[q] * epsilon[p] + C[q] * nu[p] + base[q]

where I is the integer product of the codes, p is the page of 16 keys that holds j, and the last
three terms are what quantisation may hide. Where keys are not weighed, the factor is the page's:
then its best bound is that of its largest I, and its keys need no multiplication.
"""

import triton
import triton.language as tl

from .canonical import fold

# Beyond these a sum could overflow on its way: such keys are always candidates.
_LARGE: tl.constexpr = tl.constexpr(2.0**60)
_HUGE: tl.constexpr = tl.constexpr(2.0**120)


@triton.jit
def _root(dim):
    # An argument that is 1 is no tensor.
    return tl.sqrt_rn(tl.zeros((), tl.float32) + dim)


@triton.jit
def measured(rows, is_row, column_stride, dim, N: tl.constexpr):
    """Of N rows given by pointer: the canonical square, the largest size of a component, soundness.

    A row is sound, and may have a shadow, if it is finite, not too large, and zero or not tiny.
    """
    lane = tl.arange(0, 16)
    lanes = tl.zeros((N, 16), tl.float32)
    largest = tl.zeros((N, 16), tl.float32)
    for begin in range(0, dim, 16):
        column = begin + lane
        x = tl.load(
            rows[:, None] + column[None, :] * column_stride,
            mask=is_row[:, None] & (column < dim)[None, :],
            other=0,
        ).to(tl.float32)  # (N, 16)
        lanes = lanes + x * x
        largest = tl.maximum(largest, tl.abs(x))
    square = fold(lanes, N)
    most = tl.max(largest, 1)
    # False for NaN.
    return square, most, (square <= 1e36) & ((most >= 2.0**-60) | (most == 0))


@triton.jit
def encode(rows, is_row, column_stride, step, codes, dim, dim_padded, N: tl.constexpr):
    """Write codes (N, dim_padded) of N rows in steps (N,); zeros where the step is 0.

    Returns:
        The canonical square of what the codes leave out, (N,).
    """
    lane = tl.arange(0, 16)
    has_codes = is_row & (step > 0)
    divisor = tl.where(has_codes, step, 1.0)
    lanes = tl.zeros((N, 16), tl.float32)
    for begin in range(0, dim_padded, 16):
        column = begin + lane
        x = tl.load(
            rows[:, None] + column[None, :] * column_stride,
            mask=has_codes[:, None] & (column < dim)[None, :],
            other=0,
        ).to(tl.float32)  # (N, 16)
        code = tl.floor(x / divisor[:, None] + 0.5)
        code = tl.minimum(tl.maximum(code, -127.0), 127.0)
        left = x - code * step[:, None]
        lanes = lanes + left * left
        tl.store(codes[:, None] + column[None, :], code.to(tl.int8), mask=is_row[:, None])
    return fold(lanes, N)


@triton.jit
def write_shadow(
    rows,
    row,
    is_row,
    is_key,
    column_stride,
    scale,
    bias,
    codes_ptr,
    factor_ptr,
    beta_ptr,
    epsilon_ptr,
    nu_ptr,
    dim,
    dim_padded,
    METRIC: tl.constexpr,
    IS_WEIGHED: tl.constexpr,
):
    """Write the shadow of the page of this program: of 16 keys given by pointer.

    Args beside arrays:
        row, is_row: (16,) where their terms go, and which of them can be read.
        is_key: (16,) which may be returned. Where keys are weighed the others get beta -inf: no
            bound of theirs is above it. Elsewhere they must be copies of keys of this page, or the
            page of none.
        scale, bias: (16,) float32, or None.
        IS_WEIGHED: each key has a factor and a beta; else the page has one factor, which its
            largest key would have by itself, and beta is 0.
    """
    square, most, is_sound = measured(rows, is_row, column_stride, dim, 16)
    norm = tl.sqrt_rn(square)
    unit = tl.full((16,), 1.0, tl.float32)
    if METRIC == "cosine":
        unit = tl.where(norm > 0, norm, 1.0)
    step = tl.where(is_sound & is_row, most / 127, 0.0)
    if not IS_WEIGHED:
        shared = tl.max(step / unit, 0)
        step = tl.where(is_sound & (norm > 0), shared * unit, 0.0)
    codes = codes_ptr + row * dim_padded
    left = encode(rows, is_row, column_stride, step, codes, dim, dim_padded, 16)
    rounding = (dim / 16 + 8) * 2.0**-24
    error = tl.sqrt_rn(left) * (1 + rounding) + 2.0**-21 * norm
    error = (error + _root(dim) * 2.0**-74) * (1 + 2.0**-20)
    # A lower bound on what beta hides when products underflow.
    error = error + 2.0**-70
    factor = step / unit
    beta = tl.zeros((16,), tl.float32)
    nu = norm
    if METRIC == "cosine":
        error = tl.where(norm > 0, error / unit, 0.0)
        nu = tl.full((16,), 1.0, tl.float32)
    elif METRIC == "l2":
        # What the canonical sum and two squared norms may lose together.
        slack = 2 * (dim / 16 + 64) * 2.0**-24 * (1 + 2.0**-10)
        beta = -(1 - slack - 2.0**-22) * square
    if scale is not None:
        factor = factor * scale
        error = error * tl.abs(scale)
        nu = nu * tl.abs(scale)
        # Norms of keys may be small where a cosine's scale is not: both must be in bounds.
        is_sound = is_sound & (nu <= _LARGE) & (tl.abs(scale) <= _LARGE)
    if bias is not None:
        beta = beta + bias + tl.abs(bias) * 2.0**-22
        is_sound = is_sound & (tl.abs(bias) <= _HUGE)
    error = tl.where(is_sound, error * (1 + 2.0**-18), float("inf"))
    nu = tl.where(is_sound, nu * (1 + 2.0**-18), 0.0)
    page = tl.program_id(0)
    if IS_WEIGHED:
        tl.store(factor_ptr + row, tl.where(is_key & is_sound, factor, 0.0))
        tl.store(beta_ptr + row, tl.where(is_key, tl.where(is_sound, beta, 0.0), float("-inf")))
    else:
        tl.store(factor_ptr + page, shared)
    tl.store(epsilon_ptr + page, tl.max(tl.where(is_row, error, 0.0), 0))
    tl.store(nu_ptr + page, tl.max(tl.where(is_row, nu, 0.0), 0))


@triton.jit
def keys_kernel(
    keys_ptr,
    row_stride,
    column_stride,
    mask_ptr,
    mask_stride,
    scale_ptr,
    bias_ptr,
    codes_ptr,
    factor_ptr,
    beta_ptr,
    epsilon_ptr,
    nu_ptr,
    n_keys,
    dim,
    dim_padded,
    METRIC: tl.constexpr,
    IS_WEIGHED: tl.constexpr,
):
    """The shadow of a page of 16 keys, see `write_shadow`; masked ones may not be returned."""
    row = tl.program_id(0).to(tl.int64) * 16 + tl.arange(0, 16)
    # A page that is not full is filled with copies of the last key.
    place = tl.minimum(row, n_keys - 1)
    is_row = place >= 0
    if mask_ptr is not None:
        is_row = is_row & tl.load(mask_ptr + place * mask_stride, mask=is_row, other=0).to(tl.int1)
    scale = scale_ptr
    if scale_ptr is not None:
        scale = tl.load(scale_ptr + place, mask=is_row, other=1)
    bias = bias_ptr
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + place, mask=is_row, other=0)
    write_shadow(
        keys_ptr + place * row_stride,
        row,
        is_row,
        is_row & (row < n_keys),
        column_stride,
        scale,
        bias,
        codes_ptr,
        factor_ptr,
        beta_ptr,
        epsilon_ptr,
        nu_ptr,
        dim,
        dim_padded,
        METRIC,
        IS_WEIGHED,
    )


@triton.jit
def queries_kernel(
    queries_ptr,
    row_stride,
    column_stride,
    codes_ptr,
    slope_ptr,
    a_ptr,
    c_ptr,
    base_ptr,
    squares_ptr,
    is_bounded_ptr,
    n_queries,
    dim,
    dim_padded,
    METRIC: tl.constexpr,
    N: tl.constexpr,
):
    """The codes and bounds of N queries; is_bounded says where a first pass proves anything."""
    query = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    is_query = query < n_queries
    rows, codes = queries_ptr + query * row_stride, codes_ptr + query * dim_padded
    square, most, is_sound = measured(rows, is_query, column_stride, dim, N)
    step = tl.where(is_sound, most / 127, 0.0)
    left = encode(rows, is_query, column_stride, step, codes, dim, dim_padded, N)
    norm = tl.sqrt_rn(square)
    rounding = (dim / 16 + 64) * 2.0**-24
    size = norm.to(tl.float64)
    error = tl.sqrt_rn(left).to(tl.float64) * (1 + (dim / 16 + 8) * 2.0**-24) + 2.0**-21 * size
    error = (error + _root(dim).to(tl.float64) * 2.0**-74) * (1 + 2.0**-20)
    slope = step.to(tl.float64)
    a = size * (1 + rounding) + error
    # The last term pays for scale, bias and the products of the estimate.
    c = (error + rounding * size) * (1 + 2.0**-10) + 2.0**-20 * size
    base = tl.full((N,), 2.0**-130, tl.float64)
    if METRIC == "cosine":
        divisor = tl.where(size > 0, size, 1.0)
        slope = slope / divisor
        a = a / divisor
        c = c / divisor
    elif METRIC == "l2":
        slack = 2 * rounding * (1 + 2.0**-10)
        slope = 2 * slope
        a = 2 * a
        c = 2 * (c + slack * size)
        base = base - (1 - slack - 2.0**-22) * size * size
    outward = 1 + 2.0**-16
    tl.store(slope_ptr + query, slope.to(tl.float32), mask=is_query)
    tl.store(a_ptr + query, (a * outward).to(tl.float32), mask=is_query)
    tl.store(c_ptr + query, (c * outward).to(tl.float32), mask=is_query)
    tl.store(base_ptr + query, base.to(tl.float32), mask=is_query)
    tl.store(squares_ptr + query, square, mask=is_query)
    tl.store(is_bounded_ptr + query, (is_sound & (norm > 0)).to(tl.int8), mask=is_query)

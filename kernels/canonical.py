"""The canonical score, to the bit: 16 lanes, no fusion, four halvings (docs/score.md).

Kernels that use these words are launched with `enable_fp_fusion=False`.
"""

import triton
import triton.language as tl


@triton.jit
def fold(lanes, N: tl.constexpr):
    """Lanes (N, 16) folded by halves: (N,)."""
    a, b = tl.split(tl.permute(tl.reshape(lanes, (N, 2, 8)), (0, 2, 1)))
    a, b = tl.split(tl.permute(tl.reshape(a + b, (N, 2, 4)), (0, 2, 1)))
    a, b = tl.split(tl.permute(tl.reshape(a + b, (N, 2, 2)), (0, 2, 1)))
    a, b = tl.split(tl.reshape(a + b, (N, 2)))
    return a + b


@triton.jit
def squares(rows, is_row, column_stride, dim, N: tl.constexpr):
    """The canonical dot of each row with itself: rows are N pointers to their first component."""
    lane = tl.arange(0, 16)
    lanes = tl.zeros((N, 16), tl.float32)
    for begin in range(0, dim, 16):
        column = begin + lane
        x = tl.load(
            rows[:, None] + column[None, :] * column_stride,
            mask=is_row[:, None] & (column < dim)[None, :],
            other=0,
        ).to(tl.float32)  # (N, 16)
        lanes = lanes + x * x
    return fold(lanes, N)


@triton.jit
def sums(
    queries,
    is_query,
    query_stride,
    keys,
    is_key,
    key_stride,
    dim,
    IS_L2: tl.constexpr,
    Q: tl.constexpr,
    N: tl.constexpr,
):
    """The canonical sum of q * k, or of (q - k)^2, of all pairs: (Q, N).

    queries and keys are Q and N pointers to first components.
    """
    lane = tl.arange(0, 16)
    lanes = tl.zeros((Q, N, 16), tl.float32)
    for begin in range(0, dim, 16):
        column = begin + lane
        inside = (column < dim)[None, :]
        q = tl.load(
            queries[:, None] + column[None, :] * query_stride,
            mask=is_query[:, None] & inside,
            other=0,
        ).to(tl.float32)  # (Q, 16)
        k = tl.load(
            keys[:, None] + column[None, :] * key_stride, mask=is_key[:, None] & inside, other=0
        ).to(tl.float32)  # (N, 16)
        if IS_L2:
            apart = q[:, None, :] - k[None, :, :]
            lanes = lanes + apart * apart
        else:
            lanes = lanes + q[:, None, :] * k[None, :, :]
    return tl.reshape(fold(tl.reshape(lanes, (Q * N, 16)), Q * N), (Q, N))


@triton.jit
def scores(sums, query_norms, key_norms, METRIC: tl.constexpr):
    """The canonical scores (Q, N) of canonical sums; the norms (Q,) and (N,) are read by cosine."""
    if METRIC == "l2":
        return -sums
    elif METRIC == "cosine":
        scale = query_norms[:, None] * key_norms[None, :]
        is_zero = scale == 0
        return tl.where(is_zero, 0.0, tl.div_rn(sums, tl.where(is_zero, 1.0, scale)))
    else:
        return sums

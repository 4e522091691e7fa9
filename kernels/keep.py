"""The k best of a stretch of scores, by counting: no heap, no branch, each score read once."""

import triton
import triton.language as tl

from .groups import chosen
from .order import NOTHING, to_key


@triton.jit
def keep_kernel(
    scores_ptr,
    row_stride,
    column_stride,
    keys_ptr,
    key_ids_ptr,
    kept_ptr,
    kept_ids_ptr,
    n,
    n_splits,
    K: tl.constexpr,
    N: tl.constexpr,
):
    """Keep the K best of each stretch of N, in rising order of ids; NOTHING and -1 pad.

    Args beside strides and sizes:
        scores_ptr: (n_rows, n) floats; None for what an earlier launch kept.
        keys_ptr, key_ids_ptr: (n_rows, n), what it kept; None for scores.
        kept_ptr, kept_ids_ptr: (n_rows, n_splits, K) int32 and int64.
    """
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1).to(tl.int64) + tl.program_id(2) * tl.num_programs(1)
    if split >= n_splits:
        return
    place = split * N + tl.arange(0, N)
    inside = place < n
    if scores_ptr is not None:
        at = scores_ptr + row * row_stride + place * column_stride
        score = tl.load(at, mask=inside, other=0).to(tl.float32)
        # Not so for NaN.
        key = tl.where(inside & (score == score), to_key(score + 0.0), NOTHING)
        id = place
    else:
        key = tl.load(keys_ptr + row * n + place, mask=inside, other=NOTHING)
        id = tl.load(key_ids_ptr + row * n + place, mask=inside, other=-1)
    is_chosen, _ = chosen(key, K, N)
    slot = tl.cumsum(is_chosen.to(tl.int32), 0) - 1
    n_chosen = tl.sum(is_chosen.to(tl.int32), 0)
    begin = (row * n_splits + split) * K
    tl.store(kept_ptr + begin + slot, key, mask=is_chosen)
    tl.store(kept_ids_ptr + begin + slot, id, mask=is_chosen)
    rest = tl.arange(0, K)
    tl.store(kept_ptr + begin + rest, NOTHING, mask=rest >= n_chosen)
    tl.store(kept_ids_ptr + begin + rest, -1, mask=rest >= n_chosen)

"""How scores are ordered: as integers, so that NaN, infinities and padding have one place each.

A key is the int32 that orders as its float32 does; NOTHING stands below that of -inf.
"""

import triton
import triton.language as tl

NOTHING: tl.constexpr = tl.constexpr(-(2**31))
# The key of -inf.
LOWEST: tl.constexpr = tl.constexpr(-2139095041)


@triton.jit
def to_key(scores):
    """The keys of float32 scores that are not NaN; -0 has no key of its own: add +0 first."""
    bits = scores.to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)


@triton.jit
def to_score(keys):
    """The float32 scores of keys; -inf for NOTHING."""
    keys = tl.maximum(keys, LOWEST)
    return tl.where(keys >= 0, keys, keys ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def cutoff(keys, k):
    """The k-th largest of keys (N,), or NOTHING where there are fewer; k is at least 1.

    Built from the highest bit down: 32 counts, whatever N and k.
    """
    # Unsigned, so that the bits order as the keys do.
    places = keys.to(tl.uint32, bitcast=True) ^ 0x80000000
    least = tl.full((), 0, tl.uint32)
    bit = tl.full((), 0x80000000, tl.uint32)
    for _ in range(32):
        reaching = tl.sum((places >= (least | bit)).to(tl.int32), 0)
        least = tl.where(reaching >= k, least | bit, least)
        bit = bit >> 1
    return (least ^ 0x80000000).to(tl.int32, bitcast=True)

"""How many bytes a call takes besides its results, and the parts of a call that keep it there.

What is in proportion to queries, vectors or rows is for some of them at a time: parts of a call
follow each other on its stream and use the same memory. Their number follows from shapes.
"""

import math
from collections.abc import Iterator, Sequence

import torch
import triton

# In bytes. A first pass over 2^20 keys then has room for 980 queries at a time, and its programs of
# one query each, of which 132 multiprocessors run 1,056 at once, still fill a card. Of other ops a
# part has tens of thousands of queries.
WORKSPACE = 3 << 27

# What torch's sort takes of each int32 or int64, and place: what it returns, and twice within.
SORT_INT32, SORT_INT64 = 36, 48


def parts(n: int, each: int) -> Iterator[slice]:
    """Slices of n queries, or of vectors or rows, of `each` bytes apiece, of about one length.

    They leave a quarter of the workspace for what is not in proportion; one is always taken.
    """
    n_parts = -(-n // max(1, 3 * WORKSPACE // 4 // max(1, each)))
    turn = -(-n // max(1, n_parts))
    for begin in range(0, n, max(1, turn)):
        yield slice(begin, min(begin + turn, n))


def blocks(shape: Sequence[int], each: int) -> Iterator[tuple[slice, ...]]:
    """The slices of a shape along its axes, as `parts` of one; the first axes are cut first."""
    if not shape:
        yield ()
        return
    within = each * math.prod(shape[1:])
    if len(shape) == 1 or within <= left(0):
        for part in parts(shape[0], within):
            yield (part, *(slice(None) for _ in shape[1:]))
        return
    for at in range(shape[0]):
        for rest in blocks(shape[1:], each):
            yield (slice(at, at + 1), *rest)


def aside() -> int:
    """Bytes for what stands beside the parts of a call."""
    return WORKSPACE // 8


def left(taken: int) -> int:
    """Bytes that a part of a call has left, an eighth of the workspace at least."""
    return max(aside(), 3 * WORKSPACE // 4 - taken)


def n_kept(width: int) -> int:
    """How many hits of a query a program keeps, for results of this width."""
    return max(16, triton.next_power_of_2(width))


def splits(
    n_programs: int, n_keys: int, kept: int, n_least: int = 256, needed: torch.Tensor | None = None
) -> int:
    """Into how many parts the keys go, so that the card is full and the merge stays small.

    Where some queries alone are needed, the others' programs fill nothing: one must do.
    """
    wanted = triton.cdiv(1024, n_programs if needed is None else 1)
    if needed is not None:
        wanted = min(wanted, max(1, aside() // (12 * kept * len(needed))))
    return max(1, min(wanted, 2048 // kept, triton.cdiv(n_keys, n_least)))

"""Handles, ids, queries and values of any strides, read-only too: on the CPU and on a device."""

import warnings

import numpy as np
import pytest

import memcore
from cases import normal
from compare import assert_hits
from containers import read_only, reversed_twice, unaligned

DIM = 8
WRAPS = {
    "strided": lambda array: np.repeat(np.repeat(array, 2, 0), 3, 1)[::2, ::3],
    "reversed": reversed_twice,
    "fortran": np.asfortranarray,
    "read_only": read_only,
    "unaligned": unaligned,
}


def make(device, rng):
    if device == "cuda":
        pytest.importorskip("triton")
    arena = memcore.Arena(DIM, metric="dot", device=device, fields={"time": "int64"})
    banks = arena.new(3)
    arena.add(np.repeat(banks, 8), normal(rng, 24, DIM), fields={"time": list(range(24))})
    # As callers have it: a column of a group of forks.
    return arena, arena.fork(banks, 4)


@pytest.mark.parametrize(
    ("device", "wrap"),
    [*(("cpu", wrap) for wrap in WRAPS), ("cuda", "reversed")],
)
def test_arguments_of_any_strides(device, wrap, rng):
    (arena, group), wrap = make(device, rng), WRAPS[wrap]
    group, queries = group[:, :2].copy(), normal(rng, 6, DIM)
    asked = queries.reshape(3, 2, DIM)
    ids = np.ascontiguousarray(rng.permuted(np.tile(np.arange(8), (6, 1)), axis=1)[:, :5])
    widths, values = rng.integers(0, 6, (3, 2)), normal(rng, 8, 3)
    other = wrap(group), wrap(queries).reshape(3, 2, DIM)
    others, ids = wrap(ids).reshape(3, 2, 5), ids.reshape(3, 2, 5)
    where = {"time": {"gte": 5}}
    found = arena.search(*other, wrap(widths), where=where, candidates=others)
    assert_hits(found, arena.search(group, asked, widths, where=where, candidates=ids))
    assert np.array_equal(arena.score(*other, others), arena.score(group, asked, ids))
    read = arena.attend(*other, 4, beta=1.0, values=wrap(values))
    assert np.array_equal(read, arena.attend(group, asked, 4, beta=1.0, values=values))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_column_of_a_group(device, rng):
    arena, group = make(device, rng)
    queries, column = normal(rng, 3, DIM), group[:, 2]
    whole = arena.search(column.copy(), queries, 5)
    assert_hits(arena.search(column, queries, 5), whole)
    first = arena.search(column, queries, 5, candidates=whole.ids[:, :2])
    assert np.array_equal(first.ids[:, :2], whole.ids[:, :2])
    assert (first.ids[:, 2:] == -1).all()
    assert np.array_equal(arena.score(column, queries, whole.ids[:, 1:3]), whole.scores[:, 1:3])


@pytest.mark.parametrize("wrap", [reversed_twice, read_only], ids=["reversed", "read_only"])
def test_arrays_beside_tensors_of_any_strides(wrap, rng):
    torch = pytest.importorskip("torch")
    keys, values, ids = normal(rng, 30, DIM), normal(rng, 30, 4), rng.integers(0, 30, (6, 5))
    bias, mask = normal(rng, 1, 30)[0], rng.random((6, 30)) < 0.8

    def run(wrap):
        queries = torch.from_numpy(normal(np.random.default_rng(3), 6, DIM)).requires_grad_()
        line = wrap(bias[None])[0]
        outs = [
            memcore.search(queries, wrap(keys), 5).scores,
            memcore.attend(queries, wrap(keys), wrap(values), beta=1.0, mask=wrap(mask)),
            memcore.attend(queries, wrap(keys), wrap(values), k=4, beta=1.0, bias=line),
            memcore.attend(queries, wrap(keys), wrap(values), ids=wrap(ids), beta=1.0),
            memcore.aggregate(queries[:, :5], wrap(values), wrap(ids)),
            memcore.nce(queries, wrap(keys[:6]), wrap(keys), temperature=1.0, bias=line),
            memcore.disperse(queries, wrap(keys)),
            memcore.gather(queries, wrap(ids % 6)[:, 0]),
        ]
        sum(out.sum() for out in outs).backward()
        return [out.detach().numpy() for out in outs] + [queries.grad.numpy()]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(wrap)
    for one, other in zip(found, run(lambda array: array), strict=True):
        assert np.array_equal(one, other)

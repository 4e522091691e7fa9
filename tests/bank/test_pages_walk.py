"""Random operations on the native page store: every byte as a dict has it."""

import pytest

from pages_walk import Walk


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("dim", [None, 1, 5, 64])
def test_random_operations(rng, dim, dtype):
    walk = Walk(rng, dim, dtype, [0, 1, 2, 5, 17, 40])
    for _ in range(150):
        walk.step()
        walk.both.check()


def test_random_operations_across_the_id_map(rng):
    walk = Walk(rng, 3, "float32", [1, 30, 300, 700])
    for _ in range(60):
        walk.step()
        walk.both.check()

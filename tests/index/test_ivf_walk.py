"""An arena with lists and a dict go the same way; lists of three rows split all the time."""

import os

import numpy as np
import pytest

from bank_oracle import World
from bank_steps import STEPS
from memcore.index import IVF
from walk import Walk

N_STEPS = int(os.environ.get("MEMCORE_TEST_STEPS") or 6000)
WORLDS = [
    ("cosine", "float32"),
    ("dot", "float32"),
    ("l2", "float32"),
    ("cosine", "bfloat16"),
    ("l2", "float16"),
]


@pytest.mark.parametrize(("metric", "dtype"), WORLDS)
def test_random_walk(rng, metric, dtype):
    steps, weights = list(STEPS), np.array(list(STEPS.values()))
    source = Walk(rng)
    left = N_STEPS // len(WORLDS)
    while left > 0:
        world = World(metric, dtype, IVF(recall=1.0, list_rows=3))
        world.new(3)
        length = min(left, 500)
        for i, step in enumerate(rng.choice(len(steps), length, p=weights / weights.sum())):
            steps[step](world, source)
            if i % 25 == 0:
                world.check()
        world.check()
        left -= length

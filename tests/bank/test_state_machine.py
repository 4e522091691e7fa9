"""An arena and a dict go the same way: a random walk, and hypothesis, which shortens failures."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from bank_oracle import World
from bank_steps import STEPS
from walk import Walk

# MEMCORE_TEST_STEPS asks for a longer run.
N_STEPS = int(os.environ.get("MEMCORE_TEST_STEPS") or 100_000)
STEPS_OF_EXAMPLE = 40
WORLDS = [
    ("cosine", "float32"),
    ("dot", "float32"),
    ("l2", "float32"),
    ("cosine", "bfloat16"),
    ("l2", "float16"),
]


class Drawn:
    """Numbers that hypothesis chooses."""

    def __init__(self, data):
        self.data = data

    def below(self, n):
        return self.data.draw(st.integers(0, n - 1)) if n > 1 else 0


@pytest.mark.parametrize(("metric", "dtype"), WORLDS)
def test_random_walk(rng, metric, dtype):
    steps, weights = list(STEPS), np.array(list(STEPS.values()))
    source = Walk(rng)
    left = N_STEPS * 9 // 10 // len(WORLDS)
    while left > 0:
        world = World(metric, dtype)
        world.new(3)
        length = min(left, 500)
        for i, step in enumerate(rng.choice(len(steps), length, p=weights / weights.sum())):
            steps[step](world, source)
            if i % 25 == 0:
                world.check()
        world.check()
        left -= length


class Machine(RuleBasedStateMachine):
    @initialize(world=st.sampled_from(WORLDS))
    def start(self, world):
        self.world = World(*world)
        self.world.new(3)

    def teardown(self):
        self.world.check()


for _name in STEPS:

    def _step(self, data, name=_name):
        name(self.world, Drawn(data))

    setattr(Machine, _name.__name__, rule(data=st.data())(_step))

TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=max(1, N_STEPS // 10 // STEPS_OF_EXAMPLE),
    stateful_step_count=STEPS_OF_EXAMPLE,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

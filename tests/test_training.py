"""Memory in a training step: under torch.compile, from a checkpoint, with numbers of bfloat16."""

import numpy as np
import pytest

import memcore
from cases import normal

torch = pytest.importorskip("torch")


def test_numbers_of_bfloat16_are_their_values(rng):
    """As autocast gives scores and errors; their bits, taken as integers, have another order."""
    rows = torch.from_numpy(normal(rng, 40, 4)).bfloat16()
    wide, scores = rows.float(), rows[:, 0]
    found = []
    for given in (scores, scores.float()):
        queue, gate = memcore.Queue(8, evict="lowest"), memcore.Gate(z=1.0, n_warmup=4)
        queue.add(wide, scores=given)
        found.append((queue.ids, queue.scores, gate.admit(given), gate.mean))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    novel = [memcore.Gate(0.7).admit(each, each[:1]) for each in (rows, wide)]
    torch.testing.assert_close(*novel)
    for given in (rows[:, :2], rows[:, :2].float().requires_grad_()):
        sketch = memcore.SketchTable(2, 1, 2)
        sketch.add(torch.zeros(40, 1, dtype=torch.int64), given)
        np.testing.assert_allclose(sketch.sums[0, 0], wide[:, :2].sum(0), rtol=1e-5)
    memory = memcore.OuterMemory(4, 4)
    memory.write(rows, rows)
    np.testing.assert_allclose(memory.state, wide.T @ wide, rtol=1e-5)
    beta = torch.tensor(0.3).bfloat16()
    read = [memcore.attend(wide[:3], wide, k=4, beta=each) for each in (beta, float(beta))]
    torch.testing.assert_close(*read, rtol=0, atol=0)
    bank = memcore.Bank(4, metric="dot")
    bank.add(rows)
    read = [bank.attend(wide[:3], 4, beta=each) for each in (beta, float(beta))]
    torch.testing.assert_close(*read)
    weights, ids = wide[:2, :3].bfloat16(), torch.tensor([[0, 1, 2], [3, -1, 5]])
    expected = memcore.aggregate(weights.float(), wide, ids)
    lses = scores[:2], scores[2:4]
    merged = memcore.merge_lse([wide[:2], wide[2:4]], [each.float() for each in lses])
    for as_given in (torch.Tensor.detach, torch.Tensor.requires_grad_):
        values = as_given(rows.clone())
        torch.testing.assert_close(memcore.aggregate(weights, values, ids), expected)
        found = memcore.merge_lse([values[:2], values[2:4]], lses)
        torch.testing.assert_close(found, merged)

"""Memory in a training step: under torch.compile, from a checkpoint, with numbers of bfloat16."""

import io

import numpy as np
import pytest

import memcore
from cases import normal
from memcore.queue import POLICIES

torch = pytest.importorskip("torch")


def write(queue, rows):
    queue.add(rows.detach(), scores=rows[:, 0].detach())
    queue.update(queue.ids[-1:], rows[:1].detach() * 2)
    drawn = queue.get(queue.sample(3))
    return drawn * 2, queue.get(queue.ids), torch.as_tensor(queue.ages)


def write_groups(queue, rows):
    queue.add(rows.detach(), groups=[0, 0, 1, 1, 1, 0])
    queries = rows.reshape(2, 3, -1)
    loss = queue.nce(queries, queries * 0.5) + queue.disperse(queries)
    return queue.data() + 0, loss


def admit(gates, rows):
    surprising, novel = gates
    rows = rows.detach()
    return surprising.admit(rows[:, 0].abs()), novel.admit(rows, rows[:2] + 0.1)


CODES = torch.tensor([[0, 3], [1, 2], [0, 3], [3, 3], [2, 0], [0, 1]])


def hash_rows(tables, rows):
    buckets, sums = tables
    buckets.add(torch.arange(6) + len(rows), CODES)
    sums.add(CODES, rows.detach()[:, :2] * 2)
    sums.scale(0.5)
    hits = buckets.search(CODES, 3)
    assert isinstance(hits.ids, torch.Tensor)
    return hits.scores * 2, hits.ids, sums.read(CODES) * 2


CASES = {
    "rows": (lambda: memcore.Queue(8, evict="lowest"), write),
    "groups": (lambda: memcore.Queue(4, n_groups=2), write_groups),
    "gates": (lambda: (memcore.Gate(z=0.5, n_warmup=4), memcore.Gate(0.5)), admit),
    "hashes": (
        lambda: (memcore.BucketTable(2, 2, 3), memcore.SketchTable(2, 2, 2)),
        hash_rows,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_compiled_step_leaves_what_a_plain_one_does(rng, case):
    make, step = CASES[case]
    one, other = make(), make()
    torch._dynamo.reset()
    compiled = torch.compile(lambda rows: step(one, torch.tanh(rows)), backend="eager")
    for _ in range(2):
        rows = torch.from_numpy(normal(rng, 6, 4))
        torch.testing.assert_close(compiled(rows), step(other, torch.tanh(rows)))


def test_losses_against_groups_are_one_graph(rng):
    queue = memcore.Queue(4, n_groups=2)
    rows = torch.from_numpy(normal(rng, 6, 4))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda rows: queue.nce(rows, rows * 0.5), fullgraph=True, backend="aot_eager"
    )
    queries = rows.reshape(2, 3, 4).requires_grad_()
    for n in (2, 3):
        queue.add(rows[:n], groups=[0, 1, 1][:n])
        found, expected = compiled(queries), queue.nce(queries, queries * 0.5)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(loss, queries)[0] for loss in (found, expected))
        )


@pytest.mark.parametrize("evict", POLICIES)
@pytest.mark.parametrize("n_rows", [0, 5, 30])
def test_a_checkpoint_of_torch_is_read_without_trust(rng, evict, n_rows):
    """torch.load has weights_only=True by default: no arrays of NumPy."""
    queue, gate = memcore.Queue(8, evict=evict, seed=2**63 + 1), memcore.Gate(z=1.0, n_warmup=2)
    memory = memcore.OuterMemory(4, 4, like=torch.empty(0))
    if n_rows:
        rows = torch.from_numpy(normal(rng, n_rows, 4))
        queue.add(rows, scores=rows[:, 0])
        queue.sample(2)
        gate.admit(rows[:, 0])
        memory.write(rows, rows)
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (queue, gate, memory)], file)
    file.seek(0)
    states = torch.load(file)
    others = memcore.Queue(8, evict=evict), memcore.Gate(z=1.0), memcore.OuterMemory(4, 4)
    for other, state in zip(others, states, strict=True):
        other.load_state_dict(state)
    more = torch.from_numpy(normal(rng, 12, 4))
    for each in (queue, others[0]):
        each.add(more, scores=more[:, 0])
    np.testing.assert_array_equal(queue.ids, others[0].ids)
    torch.testing.assert_close(queue.data(), others[0].data(), rtol=0, atol=0)
    np.testing.assert_array_equal(queue.sample(3), others[0].sample(3))
    assert (gate.mean, gate.variance, gate.n_seen) == (
        others[1].mean,
        others[1].variance,
        others[1].n_seen,
    )
    assert torch.equal(memory.state, torch.as_tensor(others[2].state))


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
        np.testing.assert_allclose(sketch.sums[0, 0], wide[:, :2].sum(0), rtol=1e-5, atol=1e-4)
    memory = memcore.OuterMemory(4, 4)
    memory.write(rows, rows)
    np.testing.assert_allclose(memory.state, wide.T @ wide, rtol=1e-5, atol=1e-4)
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


class There(torch.Tensor):
    """A tensor of the host that says it lies on a GPU, and must be copied to be looked at."""

    @property
    def device(self):
        return torch.device("cuda", 0)

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy

    def cpu(self):
        return self.as_subclass(torch.Tensor)


@pytest.fixture
def there(monkeypatch):
    """Makes tensors that lie there; results come back as they are."""
    monkeypatch.setattr(memcore.arrays, "sent", lambda tensor, device: tensor)
    return lambda array: torch.as_tensor(array).as_subclass(There)


def test_what_decides_may_lie_on_a_device(rng, there):
    rows = torch.from_numpy(normal(rng, 6, 4))
    groups, ids = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([3, -1, 5])
    queues = [memcore.Queue(2, n_groups=2, evict="lowest") for _ in range(2)]
    found = []
    for queue, as_given in zip(queues, (there, torch.Tensor.clone), strict=True):
        queue.add(rows, groups=as_given(groups), scores=as_given(groups + 1.0))
        queue.update(as_given(ids[:1]), rows[:1], scores=as_given(rows[:1, 0]))
        assert queue.contains(as_given(ids)).tolist() == [True, False, False]
        gate = memcore.Gate(z=0.5, n_warmup=2)
        sampled = queue.sample(1, groups=as_given(groups[1:2]))
        admitted = gate.admit(as_given(rows[:, 0]))
        found.append((queue.get(as_given(ids[:2])), torch.as_tensor(sampled), admitted))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(*({**queue.state_dict(), "evict": 0} for queue in queues))


def test_features_with_gradients_are_looked_at():
    features = torch.eye(6).requires_grad_() * 2
    keys = features.detach()[:2] * 3
    assert memcore.Gate(0.99).admit(features, keys).tolist() == [False] * 2 + [True] * 4


def test_a_layer_is_loaded_from_a_device(rng, there):
    layer, other = (memcore.nn.VectorQuantizer(4, 4) for _ in range(2))
    rows = torch.from_numpy(normal(rng, 20, 4))
    layer(rows)
    state = layer.get_extra_state()
    other.set_extra_state({k: there(v) if k != "version" else v for k, v in state.items()})
    torch.testing.assert_close(layer(rows), other(rows), rtol=0, atol=0)

"""search, search_ragged and topk under torch.compile: one graph, the same hits and gradients."""

import numpy as np
import pytest

import memcore
from cases import normal

torch = pytest.importorskip("torch")

OPTIONS = {
    "search": {
        "metric": "cosine",
        "mask": np.arange(12) % 5 != 1,
        "scale": np.linspace(0.5, 2, 12, dtype=np.float32),
        "min_score": -2,
    },
    "search_ragged": {"offsets": [0, 5, 5, 12], "segments": np.array([2, 1, 0, 2])},
    "topk": {},
}


@pytest.mark.parametrize("op", OPTIONS)
def test_an_op_is_one_graph(rng, op):
    queries, keys = (torch.from_numpy(normal(rng, n, 6)).requires_grad_() for n in (4, 12))

    def run(queries, keys):
        given = (queries @ keys.T,) if op == "topk" else (queries, keys)
        hits = getattr(memcore, op)(*given, k=3, **OPTIONS[op])
        return hits.scores, hits.ids

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    (expected, ids), (found, found_ids) = run(queries, keys), compiled(queries, keys)
    torch.testing.assert_close((found, found_ids), (expected, ids), rtol=0, atol=0)
    grads = [
        torch.autograd.grad(torch.where(ids >= 0, scores, 0).square().sum(), (queries, keys))
        for scores in (expected, found)
    ]
    torch.testing.assert_close(*grads)


def test_opcheck(rng):
    from memcore.ops import traced  # noqa: F401

    queries, keys = (torch.from_numpy(normal(rng, n, 6)) for n in (4, 12))
    mask = torch.arange(12) % 3 != 0
    plain = (queries, keys, None, None, 3, "l2", mask, None, None, keys[:, 0], -50.0, None, None)
    torch.library.opcheck(torch.ops.memcore.search, plain)
    torch.library.opcheck(torch.ops.memcore.topk, (queries, 2, None))
    torch.library.opcheck(torch.ops.memcore.topk, (queries[0], 2, None))

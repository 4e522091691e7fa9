"""What memory mechanisms ask of attend, with the numbers that were measured for them."""

from __future__ import annotations

import numpy as np
import pytest

import memcore


def relative(one, other):
    return np.abs(one - other).max() / np.abs(other).max()


# ---- counted attention (MBC: a bank of codes is a histogram to this reader)


def test_counted_attention_is_attention_over_the_whole_quantised_bank(rng):
    n, n_codes, dim = 39_960, 512, 64
    codes = rng.standard_normal((n_codes, dim), np.float32)
    values = rng.standard_normal((n_codes, dim), np.float32)
    stored = rng.integers(0, n_codes, n)
    queries = rng.standard_normal((32, dim), np.float32)
    whole = memcore.attend(queries, codes[stored], values[stored], beta=dim**-0.5)
    counts = np.bincount(stored, minlength=n_codes)
    with np.errstate(divide="ignore"):
        bias = np.log(counts)
    counted = memcore.attend(queries, codes, values, beta=dim**-0.5, bias=bias)
    assert relative(counted, whole) <= 1e-5
    assert n >= 50 * n_codes


# ---- top-k attention (CMT)


@pytest.mark.parametrize("k", [8, 64])
def test_gradients_are_finite_differences(rng, k):
    torch = pytest.importorskip("torch")
    n, dim, step = 500, 16, 1e-6
    queries, keys, values = (
        torch.from_numpy(rng.standard_normal((rows, dim))).requires_grad_() for rows in (4, n, n)
    )
    upstream = torch.from_numpy(rng.standard_normal((4, dim)))

    def loss():
        return (memcore.attend(queries, keys, values, k, beta=0.5) * upstream).sum()

    grads = torch.autograd.grad(loss(), (queries, keys, values))
    found = memcore.attend(queries.detach(), keys.detach(), None, k, beta=0.5, return_weights=True)
    chosen = found.ids.reshape(-1)
    for leaf, grad in zip((queries, keys, values), grads, strict=True):
        for _ in range(40):
            row = int(rng.integers(4)) if leaf is queries else int(rng.choice(chosen))
            column = int(rng.integers(dim))
            with torch.no_grad():
                before = leaf[row, column].item()
                leaf[row, column] = before + step
                high = loss().item()
                leaf[row, column] = before - step
                low = loss().item()
                leaf[row, column] = before
            assert abs((high - low) / (2 * step) - grad[row, column].item()) <= 1e-7
    untouched = np.setdiff1d(np.arange(n), chosen.numpy())
    assert (grads[1][untouched] == 0).all()
    assert (grads[2][untouched] == 0).all()


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_the_dropped_mass_bounds_the_error(rng, beta):
    queries, keys, values = (rng.standard_normal((n, 16)) for n in (20, 500, 500))
    whole = memcore.attend(queries, keys, values, beta=beta)
    for k in (1, 16, 64, 500):
        read = memcore.attend(queries, keys, values, k, beta=beta, return_dropped=True)
        error = np.linalg.norm(read.out - whole, axis=1)
        bound = 2 * read.dropped * np.linalg.norm(values, axis=1).max()
        assert (error <= bound + 1e-12).all()
    assert relative(read.out, whole) <= 1e-12


# ---- Hopfield networks: patterns of norm sqrt(d), errors over that norm, queries with noise 0.25

RETRIEVAL = {
    (256, 0.125): 1.2e-1,
    (256, 0.25): 2.2e-4,
    (1024, 0.125): 3.3e-1,
    (1024, 0.25): 7.7e-4,
    (16_384, 0.125): 7.9e-1,
    (16_384, 0.25): 1.2e-2,
}


@pytest.mark.parametrize("n", [256, 1024, 16_384])
def test_hopfield_retrieval(rng, n):
    dim, n_asked = 64, 200
    patterns = rng.standard_normal((n, dim))
    patterns *= np.sqrt(dim) / np.linalg.norm(patterns, axis=1, keepdims=True)
    asked = patterns[:n_asked]
    noisy = asked + 0.25 * rng.standard_normal(asked.shape)
    dots = asked @ patterns.T
    dots[np.arange(n_asked), np.arange(n_asked)] = -np.inf
    separation = dim - dots.max(1)
    for beta in (0.125, 0.25, 0.5, 1.0):
        error = np.linalg.norm(memcore.attend(noisy, patterns, beta=beta) - asked, axis=1)
        measured = error.mean() / np.sqrt(dim)
        if (n, beta) in RETRIEVAL:
            # The mean over a few patterns whose neighbours are near decides.
            assert 0.5 * RETRIEVAL[n, beta] <= measured <= 2 * RETRIEVAL[n, beta], (beta, measured)
        else:
            assert measured <= 1e-5
        # Ramsauer et al. 2020, at the pattern itself.
        error = np.linalg.norm(memcore.attend(asked, patterns, beta=beta) - asked, axis=1)
        bound = 2 * (n - 1) * np.exp(-beta * separation) * np.sqrt(dim)
        assert (error <= bound + 1e-12).all()


def test_hopfield_collapses_at_low_beta_and_sharpens_at_high(rng):
    dim = 64
    patterns = rng.standard_normal((256, dim))
    patterns *= np.sqrt(dim) / np.linalg.norm(patterns, axis=1, keepdims=True)
    noisy = patterns + 0.25 * rng.standard_normal(patterns.shape)

    def error(beta, steps):
        read = memcore.attend(noisy, patterns, beta=beta, steps=steps)
        return np.linalg.norm(read - patterns, axis=1).mean() / np.sqrt(dim)

    assert error(0.125, 1) <= 0.25
    assert error(0.125, 5) >= 0.6
    assert error(0.5, 5) <= error(0.5, 1)


# ---- chunks (LongMem, HCAM)


def chunk_recall(rng, chunk, spread, n=65_536, dim=64, k=16, n_needles=200):
    """How often a needle's chunk is among the k best by mean key; chunks share 1 - spread."""
    topics = np.repeat(rng.standard_normal((n // chunk, dim), np.float32), chunk, 0)
    keys = spread * rng.standard_normal((n, dim), np.float32)
    keys += np.float32(np.sqrt(1 - spread**2)) * topics
    home = rng.choice(n // chunk, n_needles, replace=False)
    if spread == 1:
        # The needle has a cosine of 0.9 with its query, its neighbours none.
        queries = rng.standard_normal((n_needles, dim), np.float32)
        noise = rng.standard_normal(queries.shape).astype(np.float32)
        keys[home * chunk] = 0.9 * queries + np.float32(np.sqrt(1 - 0.9**2)) * noise
    else:
        queries = keys[home * chunk]
    summaries = keys.reshape(-1, chunk, dim).mean(1)
    found = (memcore.search(queries, summaries, k).ids == home[:, None]).any(1).mean()
    rows = memcore.search(queries, keys, 1).ids[:, 0] // chunk
    return found, (rows == home).mean()


@pytest.mark.parametrize(("chunk", "expected"), [(4, 0.68), (16, 0.19), (32, 0.10)])
def test_mean_summaries_lose_a_needle_among_independent_keys(rng, chunk, expected):
    found, by_tokens = chunk_recall(rng, chunk, 1.0)
    assert abs(found - expected) <= 0.13
    # A short query may find a longer stranger among 65,536: one in some thousand does.
    assert by_tokens >= 0.98


@pytest.mark.parametrize("chunk", [4, 32, 128])
def test_mean_summaries_find_coherent_chunks(rng, chunk):
    assert chunk_recall(rng, chunk, 0.5) == (1.0, 1.0)


def hierarchical(queries, summaries, keys, values, k, beta):
    """HCAM: the k best chunks by summary, a softmax inside each, and one over the chunks."""
    torch = pytest.importorskip("torch")
    chunk = keys.shape[0] // summaries.shape[0]
    best = memcore.attend(queries, summaries, None, k, beta=beta, return_weights=True)
    ids = (best.ids[..., None] * chunk + torch.arange(chunk)).reshape(-1, chunk)
    each = memcore.attend(queries.repeat_interleave(k, 0), keys, values, ids=ids, beta=beta)
    return (best.weights[..., None] * each.reshape(*best.ids.shape, -1)).sum(-2)


def test_hierarchical_attention(rng, monkeypatch):
    torch = pytest.importorskip("torch")
    from memcore import products

    n_chunks, chunk, dim, k = 40, 8, 16, 5
    keys, values = (torch.from_numpy(rng.standard_normal((n_chunks * chunk, dim))) for _ in "kv")
    queries = torch.from_numpy(rng.standard_normal((6, dim))).requires_grad_()
    summaries = keys.reshape(n_chunks, chunk, dim).mean(1)

    scored = []
    dots = products.dots
    monkeypatch.setattr(
        products, "dots", lambda q, x, ids, *_: scored.append(ids) or dots(q, x, ids)
    )
    out = hierarchical(queries, summaries, keys, values, k, 0.5)
    # Beside the summaries, k chunks a query.
    assert sum(ids.size for ids in scored if ids.shape[-1] == chunk) == 6 * k * chunk

    for q in range(6):
        score = 0.5 * (summaries @ queries[q])
        best = score.topk(k)
        parts = []
        for c in best.indices.tolist():
            inside = slice(c * chunk, (c + 1) * chunk)
            weights = (0.5 * keys[inside] @ queries[q]).softmax(0)
            parts.append(weights @ values[inside])
        torch.testing.assert_close(
            out[q], best.values.softmax(0) @ torch.stack(parts), rtol=1e-6, atol=1e-6
        )

    def loss(asked):
        return hierarchical(asked, summaries, keys, values, k, 0.5).square().sum()

    (grad,) = torch.autograd.grad(loss(queries), queries)
    # The memory is data: it needs no gradient, and none is made for it.
    assert keys.grad is None
    assert values.grad is None
    step = torch.zeros_like(queries.detach())
    step[2, 3] = 1e-6
    difference = (loss(queries.detach() + step) - loss(queries.detach() - step)) / 2e-6
    assert abs(difference - grad[2, 3]) <= 1e-7


# ---- parts (B'MOJO), product keys (Memory Layers)


def test_a_window_and_what_was_retrieved_join_exactly(rng):
    queries, keys, values = (rng.standard_normal((n, 32)) for n in (10, 400, 400))
    whole = memcore.attend(queries, keys, values, beta=1.0, return_lse=True)
    parts = [
        memcore.attend(queries, keys[part], values[part], beta=1.0, return_lse=True)
        for part in (slice(0, 100), slice(100, 400))
    ]
    out, lse = memcore.merge_lse([p.out for p in parts], [p.lse for p in parts])
    assert np.abs(out - whole.out).max() <= 1e-12
    assert np.abs(lse - whole.lse).max() <= 1e-12


def test_product_keys_find_the_best_of_all_pairs(rng):
    n_half, half, k, n_queries = 256, 32, 32, 200
    halves = rng.integers(-50, 50, (2, n_half, half)).astype(np.float32)
    # Whole numbers: sums are exact, so that ties are ties on both ways.
    queries = rng.integers(-50, 50, (n_queries, 2, half)).astype(np.float32)
    first = memcore.search(queries[:, 0], halves[0], k)
    second = memcore.search(queries[:, 1], halves[1], k)
    pairs = first.scores[:, :, None] + second.scores[:, None, :]
    best = memcore.topk(pairs.reshape(n_queries, -1), k)
    rows = np.take_along_axis(
        (first.ids[:, :, None] * n_half + second.ids[:, None, :]).reshape(n_queries, -1),
        best.ids, 1,
    )  # fmt: skip
    keys = np.concatenate(
        [np.repeat(halves[0], n_half, 0), np.tile(halves[1], (n_half, 1))], axis=1
    )
    truth = memcore.search(queries.reshape(n_queries, -1), keys, k + 1)
    assert (best.scores == truth.scores[:, :k]).all()
    # Where sums are equal, either pair will do.
    ties = np.diff(truth.scores, axis=1) == 0
    assert not ties.all(1).any()
    assert (np.sort(rows, 1) == np.sort(truth.ids[:, :k], 1))[~ties.any(1)].all()

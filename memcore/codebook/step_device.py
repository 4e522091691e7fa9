"""What a batch on a device teaches a book that lies there: the steps of `step`, without waiting.

All subspaces of a level learn at once. Only while a book takes its first codewords, and with
reset="mbc", whose draws depend on how many codes are dead, the device is waited for.
"""

from typing import Any

import numpy as np

from memcore import tensors
from memcore.codebook.rules import Rules
from memcore.codebook.step import Alone, Exchange, State, assign_level, room, total
from memcore.ops import codebook as ops


def learn(
    state: State, rules: Rules, rows: Any, rng: "np.random.Generator", exchange: Exchange
) -> tuple[Any, Any, State]:
    """As `step.learn`, for rows and a state of tensors on one device.

    A row that is not finite teaches nothing, and its codes are -1; where the device is waited for
    it is refused as on the host.
    """
    n_levels, n_subspaces, n_codes, _ = state.codewords.shape
    codes = room(rows, n_levels, n_subspaces)
    seeded, n_taken = state, 0
    levels = []
    for level in range(n_levels):
        is_seeding = int(seeded.n_seeded[level]) < n_codes
        if is_seeding:
            seeded, n_more = _seed(seeded, level, rows, n_taken, exchange)
            n_taken += n_more
        codes[:, level], scores = assign_level(seeded, rows, level)
        if is_seeding or rules.reset == "mbc":
            ops.check_sound(codes[:, level])
        parts = rows.reshape(len(rows), n_subspaces, -1)
        words, sums, usage = _moved(seeded, level, rules, parts, codes[:, level], exchange)
        n_full = int(seeded.n_seeded[level])
        if rules.reset == "worst" and n_full:
            sound = scores.masked_fill(codes[:, level] < 0, 0)
            _replace_worst((words, sums, usage), n_full, rules, parts, sound, exchange)
        elif rules.reset == "mbc" and n_full:
            _replace_random((words, sums, usage), n_full, rules, parts, rng, exchange)
        levels.append((words, sums, usage))
        if level + 1 < n_levels:
            own = seeded.codewords[level : level + 1]
            rows = rows - ops.decode(codes[:, level], own, backend="triton")
    torch = tensors.library("update")
    words, sums, usage = (torch.stack(each) for each in zip(*levels, strict=True))
    after = State(words, sums, usage, seeded.n_seeded, state.version + 1)
    return codes.reshape(len(codes), -1), seeded.codewords, after


def _seed(
    state: State, level: int, rows: Any, n_taken: int, exchange: Exchange
) -> tuple[State, int]:
    """As `step._seed`."""
    torch = tensors.library("update")
    _, n_subspaces, n_codes, sub_dim = state.codewords.shape
    begin = int(state.n_seeded[level])
    n_all = int(exchange.sum(np.array([len(rows)]))[0])
    mine = rows[n_taken : n_taken + n_codes - begin].float()
    fresh = torch.cat(exchange.gather(mine))[: n_codes - begin]
    end = begin + len(fresh)
    words, sums, usage = (each.clone() for each in (state.codewords, state.sums, state.usage))
    n_seeded = state.n_seeded.copy()
    n_seeded[level] = end
    # As if each had its share of this batch.
    share = n_all / n_codes
    words[level, :, begin:end] = fresh.view(-1, n_subspaces, sub_dim).transpose(0, 1)
    sums[level, :, begin:end] = words[level, :, begin:end] * share
    usage[level, :, begin:end] = share
    return State(words, sums, usage, n_seeded, state.version), len(mine)


def _moved(
    state: State, level: int, rules: Rules, parts: Any, codes: Any, exchange: Exchange
) -> tuple[Any, Any, Any]:
    """New codewords, sums (n_subspaces, n_codes, sub_dim) and usage of one level."""
    torch = tensors.library("update")
    words, sums = state.codewords[level], state.sums[level]
    n_subspaces, n_codes, _ = words.shape
    learned = [
        ops.codebook_sums(parts[:, s], codes[:, s], n_codes, backend="triton")
        for s in range(n_subspaces)
    ]
    counts, batch = (torch.stack(each) for each in zip(*learned, strict=True))
    counts, batch = exchange.sum(counts), exchange.sum(batch)
    usage = rules.decay * state.usage[level] + (1 - rules.decay) * counts.double()
    if rules.learn == "gradient":
        means = batch / counts.clamp(min=1)[:, :, None].float()
        moved = words + (means - words) * rules.rate
        return torch.where(counts[:, :, None] > 0, moved, words), sums, usage
    all_rows = total(usage.T)[:, None]
    smoothed = (usage + rules.smoothing) / (all_rows + n_codes * rules.smoothing) * all_rows
    flat = (-1, words.shape[2])
    running, means = ops.codebook_ema(
        batch.view(flat),
        sums.reshape(flat),
        rules.decay,
        smoothed.float().view(-1),
        backend="triton",
    )
    return means.view(words.shape), running.view(words.shape), usage


def _replace_worst(
    own: tuple[Any, Any, Any],
    n_full: int,
    rules: Rules,
    parts: Any,
    scores: Any,
    exchange: Exchange,
) -> None:
    """Put the worst-quantised rows in the place of dead codes, the least used first, in place."""
    torch = tensors.library("update")
    words, sums, usage = own
    n_subspaces = len(words)
    n_most = min(rules.reset_quota, n_full)
    used = usage[:, :n_full]
    mean = total(used.T)[:, None] / n_full
    is_dead = used < rules.reset_threshold * mean
    dead = torch.where(is_dead, used, torch.inf).sort(dim=1, stable=True).indices[:, :n_most]
    errors, places = (each[:n_most] for each in scores.sort(dim=0, stable=True))
    subspace = torch.arange(n_subspaces, device=words.device)
    fresh = parts[places, subspace].float()
    if not isinstance(exchange, Alone):
        # Of rows that all ranks offer, those that are worst in all.
        errors = torch.cat(exchange.gather(errors))
        errors, places = (each[:n_most] for each in errors.sort(dim=0, stable=True))
        fresh = torch.cat(exchange.gather(fresh))[places, subspace]
    n = len(errors)
    dead, fresh = dead[:, :n], fresh.transpose(0, 1)
    # A row that is its codeword would only make a second one of it.
    is_replaced = is_dead.gather(1, dead) & (errors.T < 0)
    at = (subspace[:, None], dead)
    words[at] = torch.where(is_replaced[:, :, None], fresh, words[at])
    usage[at] = torch.where(is_replaced, mean, usage[at])
    sums[at] = torch.where(is_replaced[:, :, None], fresh * mean.float()[:, :, None], sums[at])


def _replace_random(
    own: tuple[Any, Any, Any],
    n_full: int,
    rules: Rules,
    parts: Any,
    rng: "np.random.Generator",
    exchange: Exchange,
) -> None:
    """Put random rows in the place of dead codes, the least used first, in place."""
    torch = tensors.library("update")
    words, sums, usage = own
    for s, used in enumerate(tensors.host(usage[:, :n_full])):
        dead = np.flatnonzero(used < rules.reset_threshold)
        dead = dead[np.argsort(used[dead], kind="stable")]
        # Usage is the same on all ranks, so all draw or none.
        if not dead.size:
            continue
        mean = total(used) / n_full
        chosen = rng.permutation(len(parts))[: dead.size]
        mine = parts[torch.from_numpy(chosen).to(parts.device), s].float()
        fresh = torch.cat(exchange.gather(mine))[: dead.size]
        at = torch.from_numpy(dead[: len(fresh)]).to(words.device)
        words[s, at], usage[s, at] = fresh, float(mean)
        sums[s, at] = fresh * float(np.float32(mean))


def counts(codes: Any, shape: tuple[int, int, int]) -> Any:
    """How many rows of codes (n, n_parts) have each code of a part, in this shape."""
    torch = tensors.library("counts")
    n_codes = shape[2]
    part = torch.arange(shape[0] * shape[1], device=codes.device)
    # What is no code is counted beyond them.
    is_code = (codes >= 0) & (codes < n_codes)
    names = torch.where(is_code, part * n_codes + codes, len(part) * n_codes).reshape(-1)
    found = codes.new_zeros(len(part) * n_codes + 1)
    return found.scatter_add_(0, names, torch.ones_like(names))[:-1].view(shape)


def perplexity(weights: Any) -> Any:
    """As `Codebook.perplexity` of weights (n_levels, n_subspaces, n_codes) float64."""
    all_rows = weights.sum(-1, keepdim=True)
    share = weights / all_rows.where(all_rows > 0, 1)
    logs = share.where(share > 0, 1).log()
    return (-(share * logs).sum(-1)).exp().where(all_rows[..., 0] > 0, 0)


def moved(state: State, place: Any) -> State:
    """A state on a torch device, or for None on the host; a copy."""
    arrays_of = (state.codewords, state.sums, state.usage)
    if place is None:
        words, sums, usage = (np.array(tensors.host(each)) for each in arrays_of)
    else:
        torch = tensors.library("to")
        words, sums, usage = (torch.tensor(tensors.host(each), device=place) for each in arrays_of)
    return State(words, sums, usage, state.n_seeded.copy(), state.version)

"""What is measured on a GPU: many banks in one call, forks of them, and writes to them."""

from __future__ import annotations

from typing import Any

import numpy as np

import memcore
from memcore import reference

from .case import expect
from .gpu_case import N_CHECKED, GpuCase, near, normal, same, same_hits


def every(is_tiny: bool) -> list[GpuCase]:
    """All cases of this file."""
    return [
        _banks(is_tiny),
        *(_arena(n_forks, is_tiny) for n_forks in (1, 8)),
        *(_bank(n_queries, is_tiny) for n_queries in (256, 4096)),
        _codes(is_tiny),
        _attend(is_tiny),
        _step(is_tiny),
        _fetch(is_tiny),
        *(_lists(n_queries, is_tiny) for n_queries in (1, 16)),
    ]


def _banks(is_tiny: bool) -> GpuCase:
    n_banks, n, dim, k = (6, 30, 20, 3) if is_tiny else (8192, 282, 128, 5)
    offsets = np.arange(n_banks + 1) * n

    def check(given: dict[str, Any], hits: Any) -> None:
        few, rows = given["queries"][:N_CHECKED], given["keys"][: N_CHECKED * n]
        segments = np.arange(N_CHECKED)
        wanted = reference.search_ragged(few, rows, offsets[: N_CHECKED + 1], segments, k)
        same_hits(hits, wanted)

    def padded(queries: Any, keys: Any, offsets: Any) -> Any:
        rows = keys.view(len(queries), -1, keys.shape[1])
        return (rows @ queries[:, :, None])[:, :, 0].topk(k, 1)

    return GpuCase(
        f"search_ragged/{n_banks} banks x {n} x {dim}, k={k}",
        lambda rng: {
            "queries": normal(rng, n_banks, dim),
            "keys": normal(rng, n_banks * n, dim),
            "offsets": offsets,
        },
        lambda queries, keys, offsets: memcore.search_ragged(
            queries, keys, offsets, k, backend="triton"
        ),
        check,
        4.0 * n_banks * (n + 1) * dim,
        {"torch padded bmm + topk": padded},
        2.0 * n_banks * n * dim,
    )


def _arena(n_forks: int, is_tiny: bool) -> GpuCase:
    """One query for each of many banks of an arena, or for each of n_forks forks of fewer."""
    n_banks, n, dim, k = (8, 30, 20, 3) if is_tiny else (8192, 282, 128, 5)
    n_parents = n_banks // n_forks

    def prepare(queries: Any, keys: Any) -> dict[str, Any]:
        arena = memcore.Arena(dim, metric="dot", device="cuda")
        banks = arena.new(n_parents)
        arena.add(np.repeat(banks, n), keys.cpu().numpy())
        if n_forks > 1:
            banks = arena.fork(banks, n_forks).reshape(-1)
        return {"arena": arena, "banks": _like(queries, banks), "queries": queries, "keys": keys}

    def check(given: dict[str, Any], hits: Any) -> None:
        few, rows = given["queries"][:N_CHECKED], given["keys"]
        segments = np.arange(N_CHECKED) // n_forks
        offsets = np.arange(n_parents + 1) * n
        scores, places = reference.search_ragged(few, rows, offsets, segments, k)
        ids = np.where(places >= 0, places - segments[:, None] * n, -1)
        same_hits(hits, (scores, ids))

    def padded(arena: Any, banks: Any, queries: Any, keys: Any) -> Any:
        rows = keys.view(n_parents, n, dim)
        asked = queries.view(n_parents, n_forks, dim)
        return (asked @ rows.transpose(1, 2)).topk(k, 2)

    return GpuCase(
        f"arena/{n_banks} banks x {n} x {dim}"
        + (f", forks of {n_parents}" if n_forks > 1 else "")
        + f", k={k}",
        lambda rng: {
            "queries": normal(rng, n_banks, dim),
            "keys": normal(rng, n_parents * n, dim),
        },
        lambda arena, banks, queries, keys: arena.search(banks, queries, k),
        check,
        4.0 * n_parents * n * dim + 4.0 * n_banks * dim,
        {"torch padded bmm + topk": padded},
        2.0 * n_banks * n * dim,
        prepare=prepare,
    )


def _bank(n_queries: int, is_tiny: bool) -> GpuCase:
    """Many queries of one long bank, beside the same rows as an array."""
    n, dim, k = (90, 20, 3) if is_tiny else (1 << 20, 128, 32)
    n_queries = 2 + n_queries // 1024 if is_tiny else n_queries

    def prepare(queries: Any, keys: Any) -> dict[str, Any]:
        bank = memcore.Bank(dim, metric="dot", device="cuda")
        bank.add(keys.cpu().numpy())
        return {"bank": bank, "queries": queries, "keys": keys}

    def check(given: dict[str, Any], hits: Any) -> None:
        few = given["queries"][:N_CHECKED]
        same_hits(hits, reference.search(few, given["keys"], k))

    return GpuCase(
        f"bank/{n_queries} x {n} x {dim}, k={k}",
        lambda rng: {"queries": normal(rng, n_queries, dim), "keys": normal(rng, n, dim)},
        lambda bank, queries, keys: bank.search(queries, k),
        check,
        4.0 * (n + n_queries) * dim + 12.0 * n_queries * k,
        {
            "memcore, array": lambda bank, queries, keys: memcore.search(
                queries, keys, k, backend="triton"
            ),
            "torch matmul + topk": lambda bank, queries, keys: (queries @ keys.T).topk(k, 1),
        },
        2.0 * n_queries * n * dim,
        "int8",
        prepare,
    )


def _codes(is_tiny: bool) -> GpuCase:
    """One query for each of many banks whose rows are codes of one book."""
    n_banks, n, dim, n_codes, k = (6, 20, 20, 7, 3) if is_tiny else (8192, 282, 128, 512, 5)

    def prepare(queries: Any, words: Any, codes: Any) -> dict[str, Any]:
        book = memcore.Codebook(n_codes, dim)
        book.start_from(words.cpu().numpy()[None, None])
        arena = memcore.Arena(dim, metric="dot", codebook=book, device="cuda")
        banks = arena.new(n_banks)
        # A codeword has the code of itself.
        arena.add(np.repeat(banks, n), words.cpu().numpy()[codes.cpu().numpy()])
        given = {"queries": queries, "words": words, "codes": codes}
        return {"arena": arena, "banks": _like(queries, banks), **given}

    def check(given: dict[str, Any], hits: Any) -> None:
        rows = given["words"][given["codes"][: N_CHECKED * n]]
        offsets, segments = np.arange(N_CHECKED + 1) * n, np.arange(N_CHECKED)
        wanted = reference.search_ragged(
            given["queries"][:N_CHECKED], rows, offsets, segments, k, metric="dot"
        )
        scores, places = wanted
        same_hits(hits, (scores, np.where(places >= 0, places - segments[:, None] * n, -1)))

    def padded(arena: Any, banks: Any, queries: Any, words: Any, codes: Any) -> Any:
        rows = words[codes].view(n_banks, n, dim)
        return (rows @ queries[:, :, None])[:, :, 0].topk(k, 1)

    return GpuCase(
        f"arena/{n_banks} banks x {n} x {dim} of {n_codes} codes, k={k}",
        lambda rng: {
            "queries": normal(rng, n_banks, dim),
            "words": normal(rng, n_codes, dim),
            "codes": rng.integers(0, n_codes, n_banks * n),
        },
        lambda arena, banks, queries, words, codes: arena.search(banks, queries, k),
        check,
        # An id, the number of a book and a code.
        24.0 * n_banks * n,
        {"torch gather + padded bmm + topk": padded},
        2.0 * n_banks * n * dim,
        prepare=prepare,
    )


def _attend(is_tiny: bool) -> GpuCase:
    """A softmax read of the k best rows of each query's bank."""
    n_banks, n, dim, k = (4, 30, 20, 3) if is_tiny else (8192, 282, 128, 5)
    beta = float(dim) ** -0.5

    def prepare(queries: Any, keys: Any) -> dict[str, Any]:
        arena = memcore.Arena(dim, metric="dot", device="cuda")
        banks = arena.new(n_banks)
        arena.add(np.repeat(banks, n), keys.cpu().numpy())
        return {"arena": arena, "banks": _like(queries, banks), "queries": queries, "keys": keys}

    def check(given: dict[str, Any], out: Any) -> None:
        few = given["queries"][:N_CHECKED].astype(np.float64)
        rows = given["keys"][: N_CHECKED * n].reshape(N_CHECKED, n, dim).astype(np.float64)
        logits = beta * np.einsum("qd,qnd->qn", few, rows)
        logits[logits < np.sort(logits, 1)[:, [-k]]] = -np.inf
        powers = np.exp(logits - logits.max(1, keepdims=True))
        wanted = np.einsum("qn,qnd->qd", powers / powers.sum(1, keepdims=True), rows)
        near("out", out[:N_CHECKED], wanted, 1e-4)

    def padded(arena: Any, banks: Any, queries: Any, keys: Any) -> Any:
        rows = keys.view(n_banks, n, dim)
        best = (rows @ queries[:, :, None])[:, :, 0].topk(k, 1)
        chosen = rows.gather(1, best.indices[:, :, None].expand(-1, -1, dim))
        return ((best.values * beta).softmax(1)[:, None] @ chosen)[:, 0]

    return GpuCase(
        f"arena/attend, {n_banks} banks x {n} x {dim}, k={k}",
        lambda rng: {
            "queries": normal(rng, n_banks, dim),
            "keys": normal(rng, n_banks * n, dim),
        },
        lambda arena, banks, queries, keys: arena.attend(banks, queries, k, beta=beta),
        check,
        4.0 * n_banks * (n + 2) * dim,
        {"torch padded bmm + topk + softmax": padded},
        2.0 * n_banks * n * dim,
        prepare=prepare,
    )


def _step(is_tiny: bool) -> GpuCase:
    """A row more in each of many banks, and one less: the write, its upload and the wait for it."""
    n_banks, n, dim = (8, 30, 20) if is_tiny else (8192, 64, 384)

    def prepare(rows: Any) -> dict[str, Any]:
        arena = memcore.Arena(dim, metric="dot", device="cuda")
        banks = arena.new(n_banks)
        arena.add(np.repeat(banks, n), np.ones((n_banks * n, dim), np.float32))
        return {"arena": arena, "banks": banks, "rows": rows}

    def write(arena: Any, banks: Any, rows: Any) -> Any:
        ids = arena.add(banks, rows)
        found = arena.search(_like(rows, banks), rows, 1)
        arena.delete(banks, ids)
        return found

    def check(given: dict[str, Any], hits: Any) -> None:
        expect(bool((hits[1] == n).all()), "ids are not those of the rows that were added")

    return GpuCase(
        f"arena/add, search and delete a row in {n_banks} banks x {n} x {dim}",
        # Longer than the rows that are there, so that a row's best is itself.
        lambda rng: {"rows": normal(rng, n_banks, dim) + 2},
        write,
        check,
        4.0 * n_banks * (n + 2) * dim,
        prepare=prepare,
    )


def _fetch(is_tiny: bool) -> GpuCase:
    """Half of all banks, read from the host's memory in the place of the other half, in turn."""
    n_banks, n, dim = (8, 30, 20) if is_tiny else (8192, 256, 128)
    half = n_banks // 2
    page_bytes = -(-16 * 4 * dim // 64) * 64 + 192

    def prepare(queries: Any, rows: Any) -> dict[str, Any]:
        budget = half * -(-n // 16) * page_bytes
        arena = memcore.Arena(dim, metric="dot", device="cuda", device_bytes=budget)
        banks = arena.new(n_banks)
        arena.add(np.repeat(banks, n), rows.cpu().numpy())
        return {"arena": arena, "banks": banks, "queries": queries, "turns": [0]}

    def fetch(arena: Any, banks: Any, queries: Any, turns: Any) -> Any:
        turns[0] = 1 - turns[0]
        named = banks[half:] if turns[0] else banks[:half]
        arena.prefetch(named)
        # What is timed ends when the fetch has: a search waits for it.
        return arena.search(named[:1], queries[:1], 1)

    def check(given: dict[str, Any], hits: Any) -> None:
        rows = given["rows"][half * n : (half + 1) * n]
        same_hits(hits, reference.search(given["queries"][:1], rows, 1))

    return GpuCase(
        f"arena/prefetch of {half} banks x {n} x {dim} from the host",
        lambda rng: {"queries": normal(rng, 4, dim), "rows": normal(rng, n_banks * n, dim)},
        fetch,
        check,
        4.0 * half * n * dim,
        prepare=prepare,
    )


def _lists(n_queries: int, is_tiny: bool) -> GpuCase:
    """A few lists of an inverted file, beside all of them."""
    n, dim, k, list_rows, n_probes = (40, 20, 3, 8, 2) if is_tiny else (1 << 20, 128, 10, 256, 16)
    n_queries = min(n_queries, 2) if is_tiny else n_queries
    index = memcore.index.IVF(list_rows=list_rows)

    def make(rng: np.random.Generator) -> dict[str, Any]:
        centres = normal(rng, n // list_rows, dim)
        keys = centres[rng.integers(len(centres), size=n)] + 0.5 * normal(rng, n, dim)
        return {"queries": keys[:n_queries] + 0.1 * normal(rng, n_queries, dim), "keys": keys}

    def prepare(queries: Any, keys: Any) -> dict[str, Any]:
        arena = memcore.Arena(dim, metric="l2", device="cuda", index=index)
        bank = arena.new(1)
        arena.add(bank, keys.cpu().numpy())
        return {"arena": arena, "bank": bank, "queries": queries}

    def check(given: dict[str, Any], hits: Any) -> None:
        same("the nearest row", hits[1][:, 0], np.arange(n_queries))
        wanted = reference.search(given["queries"][:N_CHECKED], given["keys"], 1, metric="l2")
        same("its score", hits[0][:N_CHECKED, :1], wanted[0])

    return GpuCase(
        f"arena/{n_probes} lists of {list_rows} x {dim} in {n}, {n_queries} queries, k={k}",
        make,
        lambda arena, bank, queries: arena.search(bank, queries, k, n_probes=n_probes),
        check,
        4.0 * dim * (n / list_rows + n_queries * n_probes * list_rows),
        {"all lists": lambda arena, bank, queries: arena.search(bank, queries, k, recall=1.0)},
        2.0 * dim * n_queries * (n / list_rows + n_probes * list_rows),
        prepare=prepare,
    )


def _like(tensor: Any, handles: Any) -> Any:
    import torch

    return torch.from_numpy(handles.astype(np.int64)).to(tensor.device)

"""Searches of pages on a device, and by the host's engine what the device cannot."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, tensors
from memcore.bank import device_conditions
from memcore.bank.mirror import Mirror
from memcore.errors import BackendError
from memcore.reference import MAX_SQUARE, squares, widen

Ints = NDArray[np.int64]

# Above it all scores are sorted: in grids that depend on the length of banks, which a replay may
# find changed.
_MOST_KEPT = 256


def search_there(
    mirror: Mirror, metric: str, handles: Any, queries: Any, k: Any, limits: tuple[Any, ...],
    first_pass: Any, scores: Any, ids: Any,
) -> bool:  # fmt: skip
    """Search on the device, unless the host must; whether it has.

    Args:
        mirror: on which all banks are; its section is held.
        metric: "dot", "cosine" or "l2".
        handles: as for `DevicePages.search_there`, as all that follows.
        queries: likewise.
        k: likewise.
        limits: likewise.
        first_pass: likewise.
        scores: likewise.
        ids: likewise.
    """
    torch = tensors.library("search")
    programs, index, candidates, scale, bias, low, high = limits
    if device_conditions.are_too_deep(programs or []):
        mirror.check_on_device()
        return False
    if mirror.is_capturing and scores.shape[1] > _MOST_KEPT:
        raise BackendError(
            f"search: k is {scores.shape[1]} while a CUDA graph is captured, "
            f"should be at most {_MOST_KEPT}"
        )
    kernels, hits = mirror.kernels, (scores, ids)
    on_host = isinstance(scores, np.ndarray)
    runs, order = _runs(mirror, metric, handles, len(queries), k, limits, first_pass)
    n_rows = _n_rows(mirror, handles, len(queries))
    are_forks = mirror.are_forks
    if isinstance(handles, np.ndarray):
        are_forks = are_forks or _repeat(handles)
        handles = mirror.repeated(handles.reshape(-1))
    with mirror.turns.reading("search"):
        asked = mirror.sent(queries)
        widths: Any = k if isinstance(k, int) else mirror.repeated(k)
        conditions = device_conditions.sent(mirror, programs, index) if programs else None
        if candidates is not None:
            candidates = mirror.sent(candidates)
        if order is not None:
            there = mirror.repeated(order)
            handles, asked = handles[there], asked[there]
            widths = widths if isinstance(k, int) else widths[there]
        lengths = kernels.norms(asked)[0]
        if on_host or order is not None:
            hits = (
                torch.empty(scores.shape, dtype=torch.float32, device=mirror.device),
                torch.empty(ids.shape, dtype=torch.int64, device=mirror.device),
            )
        layout, books = mirror.layout, mirror.books
        tables = None if books is None else books.tables(asked, metric, n_rows)
        if tables is not None:
            asked, layout = tables[0], replace(layout, books=tables[1])
        kernels.search_pages(
            kernels.Pages(layout, mirror.root, mirror.kinds, mirror.longest),
            handles,
            asked,
            lengths,
            widths,
            metric,
            kernels.Limits(conditions, candidates, scale, bias, low, high),
            *hits,
            are_forks,
            runs,
        )
        if order is not None:
            placed = tuple(map(torch.empty_like, hits)) if on_host else (scores, ids)
            for each, found in zip(placed, hits, strict=True):
                each[there] = found
            hits = placed
        if on_host:
            *found, is_sound = tensors.fetched(*hits, (lengths <= MAX_SQUARE).all())
    if on_host:
        # The host's engine words what is wrong with a query that it can look at.
        if not is_sound:
            return False
        scores[...], ids[...] = found
    return True


def search_here(
    search: Callable[..., None], alive: Callable[[Ints], Any], handles: Any,
    queries: Any, k: Any, limits: tuple[Any, ...], first_pass: Any, scores: Any, ids: Any,
    *effort: Any,
) -> None:  # fmt: skip
    """Search by a store of the host; tensors get what the device would give them.

    Args:
        search: a method of that store, as of the page store.
        alive: likewise.
        handles: one for each query, or one for all.
        queries: as for `search_there`, as all that follows.
        k: likewise.
        limits: likewise.
        first_pass: likewise.
        scores: likewise.
        ids: likewise.
        effort: what else the store is told.
    """
    if isinstance(scores, np.ndarray):
        search(handles, queries, k, *limits, first_pass, scores, ids, *effort)
        return
    torch = tensors.library("search")
    programs, index, candidates, *rest = limits
    handles, queries, candidates = map(_near, (handles, queries, candidates))
    found = np.full(scores.shape, -np.inf, np.float32), np.full(ids.shape, -1)
    # What it refuses by its value finds nothing.
    sound = squares(widen(queries)) <= MAX_SQUARE
    sound &= np.broadcast_to(alive(handles), sound.shape)
    parts = (k, index, candidates, *effort)
    some = [each if np.ndim(each) == 0 else each[sound] for each in parts]
    hits = tuple(each[sound] for each in found)
    owners = handles if len(handles) == 1 else handles[sound]
    if sound.any():
        limits = (programs, *some[1:3], *rest)
        search(owners, queries[sound], some[0], *limits, first_pass, *hits, *some[3:])
    for out, each, hit in zip((scores, ids), found, hits, strict=True):
        each[sound] = hit
        out.copy_(torch.from_numpy(each))


def _runs(
    mirror: Mirror,
    metric: str,
    handles: Any,
    n_queries: int,
    k: Any,
    limits: tuple[Any, ...],
    first_pass: Any,
) -> tuple[list[Any], Ints | None]:
    """The queries of long banks that a first pass serves; see `kernels.runs_of`."""
    programs, index, candidates, scale, *_ = limits
    is_bounded = candidates is None and (
        not programs or device_conditions.are_shared(programs, index)
    )
    is_bounded &= metric != "l2" or scale is None
    is_bounded &= int(np.max(k, initial=0)) <= _MOST_KEPT
    # It reads rows, not what codes stand for.
    is_bounded &= mirror.layout.books is None
    # Who names banks on the device may name others in a replay, or banks of another length.
    if not is_bounded or mirror.is_capturing or not isinstance(handles, np.ndarray):
        return [], None
    lengths = mirror.lengths(handles)
    found: tuple[list[Any], Ints | None] = mirror.kernels.runs_of(
        handles, lengths, n_queries, first_pass
    )
    return found


def _n_rows(mirror: Mirror, handles: Any, n_queries: int) -> int:
    """Rows that queries score, together; 0 where they are others in a replay."""
    if mirror.is_capturing or not isinstance(handles, np.ndarray):
        return 0
    n_rows = int(mirror.lengths(handles).sum())
    return n_rows * n_queries if handles.size == 1 else n_rows


def _repeat(handles: Ints) -> bool:
    """Whether most banks are asked by the query before as well: they share all pages."""
    return 2 * int(np.count_nonzero(handles[1:] == handles[:-1])) >= max(2, len(handles))


def _near(array: Any) -> Any:
    """An array as the host's engine reads it."""
    near = arrays.near(array)
    if near is None or isinstance(near, np.ndarray):
        return near
    if near.is_floating_point():
        return arrays.vectors("search", "queries", near)[0]
    return near.numpy()

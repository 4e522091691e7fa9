"""Attention over banks: a search and a softmax read of what it found, in one call.

The rows are those of one moment, see `gradients.moment`. What gradients need is copied out (scores,
ids, the vectors that were found), so that later writes to a bank change no gradient. On a device
all of it stays there, and nothing waits; only payloads are objects of the host.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, products, scalars, tensors
from memcore.bank import coded, device_reads, reads, searches
from memcore.bank.gradients import moment, places, rows_of
from memcore.bank.store import Store
from memcore.errors import InputError, ShapeError, in_name_of, in_room
from memcore.hits import Read
from memcore.ops.attend import attend as attend_over

Array = NDArray[Any]


def attend(
    store: Store,
    banks: Any,
    queries: Any,
    k: int,
    *,
    beta: Any,
    values: Any = None,
    steps: int = 1,
    where: Any = None,
    return_lse: bool = False,
    return_weights: bool = False,
) -> Any:
    """Read values by softmax(beta * score) over the k best rows of each query's bank.

    Args:
        store: the rows of all banks.
        banks: (…,) handles, one per query, or one for all.
        queries: (…, dim), or (dim,) for one. A tensor that needs a gradient gets one.
        k: how many rows, those that `search` finds, by the store's metric.
        beta: above 0, a number or a tensor of one.
        values: None for the rows' vectors; "payloads" for the arrays that rows have as payloads,
            all of one shape; or an array (n, value_dim) whose row i is the value of id i.
        steps: reads in a row; all but the last read vectors.
        where: a condition on fields, as for `search`.
        return_lse: give the log-sum-exp of the logits too.
        return_weights: give the softmax and the ids of its rows too.

    Returns:
        (…, value_dim), or (…, *the payloads' shape), float32; or a `Read`. Zeros over nothing.
        Gradients are for queries, beta, and values where they are an array; rows are data.

    Raises:
        InputError: a beta that is not above 0; a row without a payload, or whose payload is no
            array. All else as `search` does.
    """
    is_there = store.mirror is not None and store.mirror.has(queries)
    # Payloads are on the host; what is read of them goes back.
    is_there = is_there and not isinstance(values, str)
    is_traced = arrays.is_traced(queries) and not isinstance(values, str)
    library: Any = products
    if is_there or arrays.differentiates(queries, beta, values):
        from memcore import autograd

        library = autograd
    k = scalars.whole("attend", "k", k, 0)
    steps = scalars.whole("attend", "steps", steps, 1)
    _check_beta(beta, is_traced)
    if is_traced:
        read = _steps(_read_there, library, store, banks, queries, k, beta, values, steps, where)
    else:
        there = moment(store, "attend", banks, queries if is_there else None)
        with in_name_of("attend"), in_room("attend"), there as at:
            asked = library.rows("attend", "queries", queries) if is_there else queries
            once = _read_there if is_there else _read
            read = _steps(once, library, store, at, asked, int(k), beta, values, steps, where)
    if library is products:
        read = Read(*(x if x is None else arrays.like(queries, x) for x in read))
    elif is_there and not is_traced:
        read = Read(*(x if x is None else tensors.like(queries, x) for x in read))
    if not (return_lse or return_weights):
        return read.out
    weights = (read.weights, read.ids) if return_weights else (None, None)
    return Read(read.out, read.lse if return_lse else None, *weights)


def _steps(
    once: Any, library: Any, store: Store, banks: Any, queries: Any, k: int, beta: Any,
    values: Any, steps: int, where: Any,
) -> Any:  # fmt: skip
    """One read after the other, each asking with what the one before it read; the last's values."""
    asked = queries
    read: Any = None
    for step in range(steps):
        given = values if step == steps - 1 else None
        read = once(library, store, banks, asked, k, beta, given, where)
        asked = read.out
    return read


def _check_beta(beta: Any, is_traced: bool) -> None:
    """Raise an error unless beta is one number above 0, as far as it lies on the host."""
    if isinstance(beta, (int, float)):
        scalars.number("attend", "beta", beta, 0, is_open=True)
        is_sound, shape = True, ()
    elif is_traced or arrays.place(beta) != "cpu":
        is_sound, shape = True, tuple(beta.shape)
    else:
        found = arrays.numbers("attend", "beta", beta)
        is_sound, shape = bool(((found > 0) & (found < np.inf)).all()), found.shape
    if math.prod(shape) != 1:
        raise ShapeError(f"attend: beta has shape {shape}, should be one number")
    if not is_sound:
        raise InputError(f"attend: beta is {scalars.shown(beta)}, should be above 0")


def attend_all(store: Store, bank: Any, queries: Any, beta: Any, options: Mapping[str, Any]) -> Any:
    """Attention over all rows of one bank of codes: the distinct ones, with the bias log(count).

    Args:
        store: keeps codes.
        bank: (1,) its handle.
        queries: as for `memcore.attend`. For those on a device the host names one row of each
            distinct vector, and rows are read there.
        beta: as for `memcore.attend`.
        options: likewise.

    Raises:
        InputError: a metric that is not "dot".
    """
    if store.metric != "dot":
        raise InputError(f"attend: metric is {store.metric!r}, should be 'dot' where k is None")
    mirror = store.mirror
    if mirror is None or not mirror.has(queries):
        vectors, counts = coded.counted(store.pages, bank)
        bias: Any = np.log(counts).astype(np.float32)
    else:
        with mirror.section():
            ids, counts = store.pages.distinct(bank)
            named = mirror.sent(ids[None])
            vectors = device_reads.read(store, "attend", bank, named, "float32")[0][0]
            bias = mirror.sent(np.log(counts).astype(np.float32))
    return attend_over(queries, vectors, beta=beta, bias=bias, **options)


def _read(
    library: Any,
    store: Store,
    banks: Array,
    queries: Any,
    k: int,
    beta: Any,
    values: Any,
    where: Any,
) -> Read:
    with in_name_of("attend"):
        hits = searches.search(store, banks, queries, k, where)
    hit_ids = arrays.ints("attend", "ids", arrays.near(hits.ids))
    shape, found = hit_ids.shape[:-1], hit_ids >= 0
    owners = banks.reshape(-1)
    if banks.size > 1:
        owners = np.broadcast_to(banks[..., None], found.shape)[found]
    rows = reads.get(store, owners, hit_ids[found], "raise")
    keys = products.widen(rows.vectors).astype(np.float32)
    # The rows that were found, one after the other: each is named once.
    places = np.full(found.shape, -1)
    places[found] = np.arange(len(keys))
    flat = math.prod(shape), k
    ids: Any = library.ints("attend", "ids", places.reshape(flat))
    scores: Any = arrays.floats("attend", "scores", arrays.near(hits.scores)).reshape(flat)
    if library is products:
        given = beta if isinstance(beta, (int, float)) else arrays.numbers("attend", "beta", beta)
        logits = np.float32(given) * scores
    else:
        scores = library.rows("attend", "scores", scores)
        asked = library.rows("attend", "queries", queries).reshape(flat[0], keys.shape[1])
        scores = library.attach(scores, ids, asked, keys, store.metric, None, None)
        logits = _logits(library, beta, scores, ids)
    weights, lse = library.softmax(logits)
    read, value_shape, of_value = _values(library, values, keys, rows.payloads, hit_ids, ids)
    out = library.aggregate(weights, read, of_value).reshape(*shape, *value_shape)
    named = library.ints("attend", "ids", hit_ids)
    return Read(out, lse.reshape(shape), weights.reshape(*shape, k), named)


def _read_there(
    library: Any,
    store: Store,
    banks: Any,
    queries: Any,
    k: int,
    beta: Any,
    values: Any,
    where: Any,
) -> Read:
    """One read of tensors, where the queries are; an id that names no value adds nothing.

    While torch traces it is of the rows of the moment in which the graph searches.
    """
    if arrays.is_traced(queries):
        from memcore.bank import traced

        hits, keys = traced.rows(store, banks, queries, k, where)
    else:
        with in_name_of("attend"):
            hits = searches.search(store, banks, queries, k, where)
        keys = rows_of(store, "attend", banks, hits)[0]
    shape = tuple(hits.ids.shape[:-1])
    ids = places(hits)
    scores = hits.scores.reshape(ids.shape)
    if arrays.differentiates(queries):
        asked = queries.reshape(len(ids), queries.shape[-1])
        scores = library.attach(scores, ids, asked, keys, store.metric, None, None)
    weights, lse = library.softmax(_logits(library, beta, scores, ids))
    if values is None:
        read, of_value = keys, ids
    else:
        read = library.rows("attend", "values", values).to(keys.device)
        if read.ndim != 2:
            raise ShapeError(
                f"attend: values has shape {tuple(read.shape)}, should be (n, value_dim)"
            )
        of_value = library.within(hits.ids.reshape(ids.shape), len(read))
    out = library.aggregate(weights, read, of_value).reshape(*shape, read.shape[1])
    return Read(out, lse.reshape(shape), weights.reshape(*shape, ids.shape[1]), hits.ids)


def _logits(library: Any, beta: Any, scores: Any, ids: Any) -> Any:
    """Tensors of beta * scores, -inf for padding, whose gradient is 0 and not 0 * inf."""
    import torch

    is_hit = ids >= 0
    slopes = library.slopes(beta, (), scores).to(scores.dtype)
    return torch.where(is_hit, slopes * torch.where(is_hit, scores, 0), -torch.inf)


def _values(
    library: Any, values: Any, keys: Array, payloads: list[Any], hit_ids: Array, ids: Any
) -> tuple[Any, tuple[int, ...], Any]:
    """Values as rows, the shape of each, and which row each hit reads."""
    if values is None:
        return library.rows("attend", "keys", keys), keys.shape[1:], ids
    if isinstance(values, str):
        if values != "payloads":
            raise InputError(f"attend: values is {values!r}, should be 'payloads' or an array")
        stacked = _stack(payloads)
        flat = stacked.reshape(len(stacked), int(np.prod(stacked.shape[1:])))
        return library.rows("attend", "values", flat), stacked.shape[1:], ids
    rows = library.rows("attend", "values", values)
    if rows.ndim != 2:
        raise ShapeError(f"attend: values has shape {tuple(rows.shape)}, should be (n, value_dim)")
    if hit_ids.max(initial=-1) >= len(rows):
        raise InputError(
            f"attend: values has {len(rows)} rows, should have one for each id up to "
            f"{hit_ids.max()}, which was found"
        )
    named = hit_ids.reshape(ids.shape)
    return rows, (rows.shape[1],), library.ints("attend", "ids", named)


def _stack(payloads: list[Any]) -> Array:
    if not payloads:
        return np.zeros((0, 0), np.float32)
    parts = []
    for payload in payloads:
        if not hasattr(payload, "shape"):
            raise InputError(f"attend: a payload is a {type(payload).__name__}, should be an array")
        parts.append(arrays.floats("attend", "payloads", payload))
        if parts[-1].shape != parts[0].shape:
            raise ShapeError(
                f"attend: payloads have shapes {parts[0].shape} and {parts[-1].shape}, "
                "should have one"
            )
    return np.stack(parts)

"""Attention over rows: a softmax read of the k best, of named rows or of all, differentiable.

NumPy arrays run through `products`, tensors that need a gradient through `autograd`: two modules of
the same functions, so that there is one way through this file.
"""

from collections.abc import Sequence
from typing import Any

from memcore.errors import DtypeError, InputError, ShapeError
from memcore.ops import arguments
from memcore.ops.attend_plan import Plan
from memcore.ops.batches import broadcast, library_of, like, same_real
from memcore.scalars import shown


def attend(
    queries: Any,
    keys: Any,
    values: Any = None,
    k: int | None = None,
    *,
    beta: Any,
    steps: int = 1,
    tol: float | None = None,
    bias: Any = None,
    mask: Any = None,
    ids: Any = None,
    banks: Any = None,
    where: Any = None,
    return_lse: bool = False,
    return_weights: bool = False,
    return_dropped: bool = False,
    backend: str | None = None,
) -> Any:
    """Read values by softmax(beta * queries @ keys + bias): over the k best keys, or all.

    Leading axes (batch, heads) of all arguments broadcast, and what is shared is not copied. NumPy
    or torch, and the results are of that library; on a GPU, see docs/gpu.md. Where a tensor needs a
    gradient, the results have one, for queries, keys, values, bias and beta; which keys are
    selected has none.

    Args:
        queries: (…, n_queries, dim), or (dim,) for one; finite, with norms up to 1e18. float32,
            float16, bfloat16 or int8, and then the results are float32; or float64 (if any of
            queries, keys, values is, all are): keys are selected by the canonical float32 score,
            and the rest is done in float64.
        keys: (…, n_keys, dim); or a `Bank`, or an `Arena` with `banks`, whose `attend` is called
            (k is 10 unless given).
        values: (…, n_keys, value_dim); None for the keys themselves.
        k: how many keys, those that `memcore.search` returns for the dot product, with scale=beta
            if there is a bias. None: all, streamed over tiles of keys, so that nothing of
            n_queries x n_keys is held.
        beta: above 0 (1/sqrt(dim) is the field's usual); a number, or (…) one for each batch.
        steps: reads in a row (Hopfield): all but the last read keys, and their results are the next
            queries; the k best are selected anew in each.
        tol: stop early, once no query moved by more than this (Euclidean). Not traced by
            torch.compile(fullgraph=True).
        bias: (…, n_keys), added to the logits: log counts, decay; -inf leaves a key out.
        mask: (n_keys,), or (…, n_queries, n_keys) bool; True = counts.
        ids: (…, n_queries, m), the rows to attend over in the place of a selection; -1 pads, and a
            row counts as often as it is named. No tile of gathered rows is made.
        banks: with an Arena, the handle of each query's bank, or one for all.
        where: with a store, a condition on its fields.
        return_lse: give the log-sum-exp of the logits too, for `merge_lse`.
        return_weights: give the softmax and the ids of its rows; needs k or ids.
        return_dropped: give the share of the softmax over all keys that k or ids leave out; costs
            one more pass over the keys, and bounds the error by 2 * dropped * max norm(value).
        backend: "cpu", "reference" or, on a GPU, "triton".

    Returns:
        (…, n_queries, value_dim); or a `Read` that holds it, if anything was asked for. Over
        nothing (no keys, k = 0, all masked) zeros, with lse -inf. A key whose logit is NaN does not
        count; keys and values are not checked.

    Raises:
        ShapeError: shapes that do not fit each other.
        DtypeError: an array that is not of numbers; a k or steps that is no int.
        InputError: a beta that is not above 0; a query with NaN, Inf or a norm above 1e18; a
            negative k; an id that names no key.
        BackendError: an engine that is not there, or arrays on several devices.

    Cost:
        With k that of a search, and n_queries * k rows read. With None 4 * n_queries * n_keys * dim
        operations, and twice and a half as many for the gradients. A backward keeps the arguments,
        ids and weights; gradients are summed in one order, without atomics.

    Papers:
        Vaswani et al. 2017, Attention Is All You Need, arXiv 1706.03762; Milakov and Gimelshein
        2018, Online normalizer calculation for softmax, arXiv 1805.02867; Dao et al. 2022,
        FlashAttention, arXiv 2205.14135; Ramsauer et al. 2020, Hopfield Networks is All You Need,
        arXiv 2008.02217; Wu et al. 2022, Memorizing Transformers, arXiv 2203.08913.

    Example:
        >>> import memcore
        >>> keys = [[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]
        >>> values = [[10.0], [20.0], [30.0]]
        >>> memcore.attend([[1.0, 0.0]], keys, values, k=2, beta=8.0).round(1).astype(str)
        array([['10.8']], dtype='<U32')
    """
    asked: dict[str, Any] = {"return_lse": return_lse, "return_weights": return_weights}
    asked["return_dropped"] = return_dropped
    if hasattr(keys, "attend"):
        options = {"bias": bias, "mask": mask, "ids": ids, "tol": tol, "backend": backend}
        for name, value in {**options, "return_dropped": return_dropped or None}.items():
            if value is not None:
                raise InputError(f"attend: {name} is given with a store, should be left out")
        asked.pop("return_dropped")
        arguments.check_banks("attend", keys, banks)
        where_asked = () if banks is None else (banks,)
        width = 10 if k is None else k
        return keys.attend(
            *where_asked,
            queries,
            width,
            beta=beta,
            values=values,
            steps=steps,
            where=where,
            **asked,
        )
    if banks is not None or where is not None:
        name = "where" if banks is None else "banks"
        raise InputError(
            f"attend: {name} is given with an array of keys, should come with a Bank or an Arena"
        )
    plan = Plan(queries, keys, values, k, beta, bias, mask, ids, backend)
    return plan.result(queries, plan.iterate(steps, tol), **asked)


def aggregate(weights: Any, values: Any, ids: Any, *, backend: str | None = None) -> Any:
    """Sum the rows that ids name, by weight: out[…, q] = sum over j of weights * values[ids].

    Terms are added in the order of ids, each step rounded to float32 (float64 if weights or values
    are): the bits are the same everywhere, and so are those of the gradients, whose sums over equal
    ids go by (query, j), without atomics.

    Args:
        weights: (…, n_queries, m), or (m,) for one query.
        values: (…, n_values, dim).
        ids: of the shape of weights; -1 adds nothing and gets no gradient.
        backend: "cpu", "reference" or, on a GPU, "triton".

    Returns:
        (…, n_queries, dim), in the library of weights; with gradients for weights and values.

    Raises:
        ShapeError, DtypeError, InputError, BackendError: as `attend` does.

    Example:
        >>> import memcore
        >>> memcore.aggregate([[0.5, 2.0, 9.0]], [[1.0], [10.0]], [[1, 0, -1]]).tolist()
        [[7.0]]
    """
    library = library_of("aggregate", backend, weights=weights, values=values, ids=ids)
    given = library.numbers("aggregate", "weights", weights)
    rows = library.rows("aggregate", "values", values)
    named = library.ints("aggregate", "ids", ids)
    given, rows = same_real(library, given, rows)
    if given.ndim == 1:
        given, named = given[None], named[None] if named.ndim == 1 else named
    if given.ndim < 2 or rows.ndim < 2:
        short = ("weights", given) if given.ndim < 2 else ("values", rows)
        raise ShapeError(f"aggregate: {short[0]} has shape {tuple(short[1].shape)}, should be 2-D")
    lead = broadcast("aggregate", given.shape[:-2], rows.shape[:-2], named.shape[:-2])
    if tuple(named.shape[-2:]) != tuple(given.shape[-2:]):
        raise ShapeError(
            f"aggregate: ids has shape {tuple(named.shape)}, "
            f"should be {tuple(given.shape)} as weights has"
        )
    given = library.expand(given, (*lead, *given.shape[-2:]))
    named = library.expand(named, (*lead, *named.shape[-2:]))
    rows = library.expand(rows, (*lead, *rows.shape[-2:]))
    out = library.aggregate(given, rows, named, backend)
    return like(library, weights, out)


def merge_lse(outs: Sequence[Any], lses: Sequence[Any]) -> tuple[Any, Any]:
    """Join reads over disjoint sets of keys into the read over all of them.

    A window and what was retrieved, or shards: out = sum of exp(lse_i - lse) * out_i, with lse the
    log-sum-exp of them all.

    Args:
        outs: reads, each (…, n_queries, value_dim).
        lses: their log-sum-exps, each (…, n_queries), as `attend` gives them.

    Returns:
        out and lse, arrays like those given, differentiable where they are. A part with lse -inf
        adds nothing.

    Raises:
        ShapeError: not as many lses as outs, or none, or shapes that do not fit.

    Example:
        >>> import memcore, numpy as np
        >>> out, lse = memcore.merge_lse([np.ones((1, 2)), np.zeros((1, 2))], [np.zeros(1)] * 2)
        >>> out.tolist(), lse.round(4).tolist()
        ([[0.5, 0.5]], [0.6931])
    """
    both: tuple[tuple[str, Any], ...] = (("outs", outs), ("lses", lses))
    for name, parts in both:
        if not isinstance(parts, (list, tuple)):
            raise DtypeError(f"merge_lse: {name} is {shown(parts)}, should be a list of arrays")
    if len(outs) != len(lses) or not outs:
        raise ShapeError(
            f"merge_lse: lses has {len(lses)} parts, should have {len(outs) or 'at least one'}"
        )
    named = {f"outs[{i}]": out for i, out in enumerate(outs)}
    named |= {f"lses[{i}]": lse for i, lse in enumerate(lses)}
    library = library_of("merge_lse", None, **named)
    reads = [library.numbers("merge_lse", "outs", out) for out in outs]
    sums = [library.numbers("merge_lse", "lses", lse) for lse in lses]
    for read, lse in zip(reads, sums, strict=True):
        if tuple(read.shape) != tuple(reads[0].shape) or tuple(lse.shape) != tuple(read.shape[:-1]):
            raise ShapeError(
                f"merge_lse: lses has shape {tuple(lse.shape)} for outs of {tuple(read.shape)}, "
                f"should be {tuple(reads[0].shape[:-1])} for {tuple(reads[0].shape)}"
            )
    stack = library.stack(sums)
    weights, lse = library.softmax(stack)
    out = sum(weights[..., i, None] * read for i, read in enumerate(reads))
    return like(library, outs[0], out), like(library, lses[0], lse)

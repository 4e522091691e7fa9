"""Attention over rows: a softmax read of the k best, of named rows or of all, differentiable.

NumPy arrays run through `products`, tensors that need a gradient through `autograd`: two modules of
the same functions, so that there is one way through this file.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from memcore import arrays, products, tensors
from memcore.errors import BackendError, DtypeError, InputError, ShapeError
from memcore.hits import Read
from memcore.ops.device import is_on_device


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
    return plan.result(queries, plan.iterate(_count("steps", steps, 1), tol), **asked)


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
    library = _library("aggregate", backend, weights=weights, values=values, ids=ids)
    given = library.rows("aggregate", "weights", weights)
    rows = library.rows("aggregate", "values", values)
    named = library.ints("aggregate", "ids", ids)
    given, rows = _same_real(library, given, rows)
    if given.ndim == 1:
        given, named = given[None], named[None] if named.ndim == 1 else named
    if given.ndim < 2 or rows.ndim < 2:
        short = ("weights", given) if given.ndim < 2 else ("values", rows)
        raise ShapeError(f"aggregate: {short[0]} has shape {tuple(short[1].shape)}, should be 2-D")
    lead = _broadcast("aggregate", given.shape[:-2], rows.shape[:-2], named.shape[:-2])
    if tuple(named.shape[-2:]) != tuple(given.shape[-2:]):
        raise ShapeError(
            f"aggregate: ids has shape {tuple(named.shape)}, "
            f"should be {tuple(given.shape)} as weights has"
        )
    given = library.expand(given, (*lead, *given.shape[-2:]))
    named = library.expand(named, (*lead, *named.shape[-2:]))
    rows = library.expand(rows, (*lead, *rows.shape[-2:]))
    out = library.aggregate(given, rows, named, backend)
    return _like(library, weights, out)


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
    if len(outs) != len(lses) or not outs:
        raise ShapeError(
            f"merge_lse: lses has {len(lses)} parts, should have {len(outs) or 'at least one'}"
        )
    named = {f"outs[{i}]": out for i, out in enumerate(outs)}
    named |= {f"lses[{i}]": lse for i, lse in enumerate(lses)}
    library = _library("merge_lse", None, **named)
    reads = [library.rows("merge_lse", "outs", out) for out in outs]
    sums = [library.rows("merge_lse", "lses", lse) for lse in lses]
    for read, lse in zip(reads, sums, strict=True):
        if tuple(read.shape) != tuple(reads[0].shape) or tuple(lse.shape) != tuple(read.shape[:-1]):
            raise ShapeError(
                f"merge_lse: lses has shape {tuple(lse.shape)} for outs of {tuple(read.shape)}, "
                f"should be {tuple(reads[0].shape[:-1])} for {tuple(reads[0].shape)}"
            )
    stack = library.stack(sums)
    weights, lse = library.softmax(stack)
    out = sum(weights[..., i, None] * read for i, read in enumerate(reads))
    return _like(library, outs[0], out), _like(library, lses[0], lse)


class Plan:
    """The arguments of an attend, checked, in one library and with all leading axes."""

    def __init__(
        self,
        queries: Any,
        keys: Any,
        values: Any,
        k: Any,
        beta: Any,
        bias: Any,
        mask: Any,
        ids: Any,
        backend: str | None,
    ) -> None:
        """Check and broadcast; see `attend`."""
        scale = None if arrays.place(beta) == "cpu" else beta
        library = _library(
            "attend", backend, beta, queries=queries, keys=keys, values=values, beta=scale,
            bias=bias, mask=mask, ids=ids,
        )  # fmt: skip
        asked = library.rows("attend", "queries", queries)
        rows = library.rows("attend", "keys", keys)
        read = rows if values is None else library.rows("attend", "values", values)
        asked, rows, read = _same_real(library, asked, rows, read)
        if asked.ndim == 1:
            asked = asked[None]
        _check_rows(asked, rows, read)
        n_queries, n_keys = asked.shape[-2], rows.shape[-2]
        leads = [asked.shape[:-2], rows.shape[:-2], read.shape[:-2]]
        leads.append(_check_beta(library, beta))
        if bias is not None:
            bias = library.biases("attend", bias, asked)
            _expect("bias", bias, -1, n_keys)
            leads.append(bias.shape[:-1])
        if mask is not None:
            mask = library.bools("attend", "mask", mask)
            if mask.ndim == 1:
                mask = mask[None]
            _expect("mask", mask, -1, n_keys)
            _expect("mask", mask, -2, n_queries, 1)
            leads.append(mask.shape[:-2])
        shared = _broadcast("attend", *leads[1:])
        self.k, self.ids = _selection(library, k, ids, n_queries)
        if self.ids is not None:
            leads.append(self.ids.shape[:-2])
        lead = _broadcast("attend", *leads)
        self.shape = (*lead, n_queries)
        # Batches that share all but their queries are one batch of more queries.
        if lead and all(n == 1 for n in shared) and (mask is None or mask.shape[-2] == 1):
            asked = library.expand(asked, (*lead, *asked.shape[-2:])).reshape(-1, asked.shape[-1])
            if self.ids is not None:
                named = library.expand(self.ids, (*lead, *self.ids.shape[-2:]))
                self.ids = named.reshape(-1, named.shape[-1])
            rows, read = (x.reshape(x.shape[-2:]) for x in (rows, read))
            beta = beta if isinstance(beta, (int, float)) else beta.reshape(())
            bias = None if bias is None else bias.reshape(-1)
            mask = None if mask is None else mask.reshape(1, -1)
            lead, n_queries = (), asked.shape[0]
        self.library, self.backend, self.lead = library, backend, lead
        self.queries = library.expand(asked, (*lead, *asked.shape[-2:]))
        self.keys = library.expand(rows, (*lead, *rows.shape[-2:]))
        self.values = library.expand(read, (*lead, *read.shape[-2:]))
        self.beta = library.slopes(beta, lead, self.queries)
        self.bias = None if bias is None else library.expand(bias, (*lead, n_keys))
        self.mask = None if mask is None else library.expand(mask, (*lead, n_queries, n_keys))
        if self.ids is not None:
            self.ids = library.expand(self.ids, (*lead, *self.ids.shape[-2:]))
            if backend == "triton" or arrays.place(self.queries) != "cpu":
                self.ids = library.within(self.ids, n_keys)
            elif library is products or not _is_traced():
                check = self.queries if library is products else self.queries.detach()
                products.check_queries("attend", arrays.reals("attend", "queries", check))

    def iterate(self, steps: int, tol: float | None) -> Read:
        """All steps; the last reads values."""
        library, queries = self.library, self.queries
        if steps > 1 and self.keys.shape[-2] == 0:
            steps = 1
        for _ in range(steps - 1):
            state = self.read(queries, self.keys).out
            is_still = tol is not None and library.moved(queries, state) <= tol
            queries = state
            if is_still:
                break
        self.queries = queries
        return self.read(queries, self.values)

    def read(self, queries: Any, values: Any) -> Read:
        """One read of some values."""
        library, backend = self.library, self.backend
        given = (self.beta, self.bias, self.mask, backend)
        if self.k is None and self.ids is None:
            return Read(*library.dense(queries, self.keys, values, *given))
        if self.ids is None:
            logits, ids = library.hits(queries, self.keys, self.k, *given)
        else:
            logits, ids = library.logits(queries, self.keys, self.ids, *given), self.ids
        weights, lse = library.softmax(logits)
        return Read(library.aggregate(weights, values, ids, backend), lse, weights, ids)

    def result(
        self,
        like: Any,
        read: Read,
        return_lse: bool,
        return_weights: bool,
        return_dropped: bool,
    ) -> Any:
        """What the caller asked for, in the shape and library of the queries."""
        if return_weights and read.weights is None:
            raise InputError("attend: return_weights is True for all keys, should come with a k")
        dropped = None
        if return_dropped:
            given = (self.beta, self.bias, self.mask, self.backend)
            _, lse = self.library.dense(self.queries, self.keys, None, *given)
            dropped = self.library.dropped(read.lse, lse)

        def finish(array: Any, n_own: int) -> Any:
            if array is None:
                return None
            shaped = array.reshape((*self.shape, *array.shape[array.ndim - n_own :]))
            return _like(self.library, like, shaped)

        out = finish(read.out, 1)
        if not (return_lse or return_weights or return_dropped):
            return out
        return Read(
            out,
            finish(read.lse, 0) if return_lse else None,
            finish(read.weights, 1) if return_weights else None,
            finish(read.ids, 1) if return_weights else None,
            finish(dropped, 0),
        )


def _library(op: str, backend: str | None, *loose: Any, **given: Any) -> Any:
    """`autograd` on a device and where torch must see the call, else `products`.

    Args:
        op: for errors.
        backend: the engine that was asked for.
        loose: what may need a gradient, and may lie elsewhere.
        given: what lies on one device.
    """
    if not is_on_device(op, backend, **given):
        if not arrays.differentiates(*loose, *given.values()):
            return products
        if backend not in (None, "cpu"):
            raise BackendError(f"{op}: backend is {backend!r}, should be 'cpu' where gradients are")
    from memcore import autograd

    return autograd


def _like(library: Any, like: Any, result: Any) -> Any:
    """A result in the library that the caller came with; a tensor keeps its gradient."""
    if library is products:
        return arrays.like(like, result)
    return result if arrays.place(like) == "cpu" else tensors.like(like, result)


def _is_traced() -> bool:
    import torch

    return bool(torch.compiler.is_compiling())


def _same_real(library: Any, *given: Any) -> tuple[Any, ...]:
    """All in float64 if one is."""
    if any(str(array.dtype).endswith("float64") for array in given):
        return tuple(
            array if str(array.dtype).endswith("float64") else library.widen(array)
            for array in given
        )
    return given


def _check_rows(queries: Any, keys: Any, values: Any) -> None:
    for name, rows in (("queries", queries), ("keys", keys), ("values", values)):
        if rows.ndim < 2:
            raise ShapeError(f"attend: {name} has shape {tuple(rows.shape)}, should be (…, n, dim)")
    if queries.shape[-1] != keys.shape[-1]:
        raise ShapeError(
            f"attend: keys has dim {keys.shape[-1]}, should be {queries.shape[-1]} as queries has"
        )
    if keys.shape[-1] == 0:
        raise ShapeError("attend: keys has dim 0, should be at least 1")
    if values.shape[-2] != keys.shape[-2]:
        raise ShapeError(
            f"attend: values has {values.shape[-2]} rows, should have {keys.shape[-2]} as keys has"
        )


def _check_beta(library: Any, beta: Any) -> tuple[int, ...]:
    """The shape of beta, which must be above 0."""
    if isinstance(beta, (int, float)):
        is_sound, shape = 0 < beta < float("inf"), ()
    elif arrays.place(beta) != "cpu" or (library is not products and _is_traced()):
        is_sound, shape = True, beta.shape
    else:
        found = arrays.reals("attend", "beta", beta)
        is_sound, shape = bool(((found > 0) & (found < np.inf)).all()), found.shape
    if not is_sound:
        raise InputError(f"attend: beta is {beta}, should be above 0")
    return tuple(shape)


def _selection(library: Any, k: Any, ids: Any, n_queries: int) -> tuple[int | None, Any]:
    if ids is None:
        return (None if k is None else _count("k", k, 0)), None
    if k is not None:
        raise InputError("attend: k is given with ids, should be None")
    named = library.ints("attend", "ids", ids)
    if named.ndim == 1 and n_queries == 1:
        named = named[None]
    if named.ndim < 2:
        raise ShapeError(f"attend: ids has shape {tuple(named.shape)}, should be (…, n_queries, m)")
    _expect("ids", named, -2, n_queries)
    return None, named


def _count(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise DtypeError(f"attend: {name} is {value!r}, should be an int")
    if value < least:
        raise InputError(f"attend: {name} is {value}, should be at least {least}")
    return int(value)


def _expect(name: str, array: Any, axis: int, size: int, other: int | None = None) -> None:
    if array.ndim < -axis or array.shape[axis] not in (size, other):
        raise ShapeError(
            f"attend: {name} has shape {tuple(array.shape)}, should have {size} at axis {axis}"
        )


def _broadcast(op: str, *shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all broadcast to. Plain Python, so that torch.compile can trace it."""
    out: list[int] = []
    for shape in shapes:
        out = [1] * (len(shape) - len(out)) + out
        first = len(out) - len(shape)
        for i, size in enumerate(shape):
            if out[first + i] == 1:
                out[first + i] = size
            elif size not in (1, out[first + i]):
                sizes = ", ".join(str(tuple(s)) for s in shapes)
                raise ShapeError(f"{op}: leading axes are {sizes}, should broadcast")
    return tuple(out)

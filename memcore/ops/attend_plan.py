"""The arguments of an attend, checked, and the reads that follow from them."""

import math
from typing import Any

import numpy as np

from memcore import arrays, products, scalars
from memcore.backends import is_triton
from memcore.errors import InputError, ShapeError
from memcore.hits import Read
from memcore.ops import arguments, batches
from memcore.ops.batches import broadcast, library_of, same_real


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
        library = library_of(
            "attend", backend, beta, queries=queries, keys=keys, values=values, beta=scale,
            bias=bias, mask=mask, ids=ids,
        )  # fmt: skip
        asked = library.rows("attend", "queries", queries)
        rows = library.rows("attend", "keys", keys)
        read = rows if values is None else library.rows("attend", "values", values)
        asked, rows, read = same_real(library, asked, rows, read)
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
        shared = broadcast("attend", *leads[1:])
        self.k, self.ids = _selection(library, k, ids, n_queries)
        if self.ids is not None:
            leads.append(self.ids.shape[:-2])
        lead = broadcast("attend", *leads)
        self.shape = (*lead, n_queries)
        if self.k is not None:
            size = arguments.HIT_BYTES * self.k * (math.prod(self.shape) or 1)
            scalars.check_memory("attend", size, k=self.k)
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
            if is_triton(backend) or arrays.place(self.queries) != "cpu":
                self.ids = library.within(self.ids, n_keys)
            elif library is products or not _is_traced():
                check = self.queries if library is products else self.queries.detach()
                products.check_queries("attend", arrays.reals("attend", "queries", check))

    def iterate(self, steps: int, tol: float | None) -> Read:
        """All steps; the last reads values."""
        library, queries = self.library, self.queries
        steps = scalars.whole("attend", "steps", steps, 1)
        tol = None if tol is None else scalars.number("attend", "tol", tol, 0)
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
            return batches.like(self.library, like, shaped)

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


def _is_traced() -> bool:
    import torch

    return bool(torch.compiler.is_compiling())


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
        scalars.number("attend", "beta", beta, 0, is_open=True)
        is_sound, shape = True, ()
    elif arrays.place(beta) != "cpu" or (library is not products and _is_traced()):
        is_sound, shape = True, beta.shape
    else:
        found = arrays.numbers("attend", "beta", beta)
        is_sound, shape = bool(((found > 0) & (found < np.inf)).all()), found.shape
    if not is_sound:
        raise InputError(f"attend: beta is {scalars.shown(beta)}, should be above 0")
    return tuple(shape)


def _selection(library: Any, k: Any, ids: Any, n_queries: int) -> tuple[int | None, Any]:
    if ids is None:
        return (None if k is None else scalars.whole("attend", "k", k, 0)), None
    if k is not None:
        raise InputError("attend: k is given with ids, should be None")
    named = library.ints("attend", "ids", ids)
    if named.ndim == 1 and n_queries == 1:
        named = named[None]
    if named.ndim < 2:
        raise ShapeError(f"attend: ids has shape {tuple(named.shape)}, should be (…, n_queries, m)")
    _expect("ids", named, -2, n_queries)
    return None, named


def _expect(name: str, array: Any, axis: int, size: int, other: int | None = None) -> None:
    if array.ndim < -axis or array.shape[axis] not in (size, other):
        raise ShapeError(
            f"attend: {name} has shape {tuple(array.shape)}, should have {size} at axis {axis}"
        )

"""Losses against many negatives, and rows by id: NumPy arrays or torch tensors, no score matrix.

One pass over the negatives keeps, of each query, the running log-sum-exp of its logits and the mean
of the negatives under their softmax; that mean is the gradient, so that nothing is computed twice
and a queue may be written to before the backward.
"""

import math
from typing import Any

import numpy as np

from memcore import arrays, losses, scalars, slots, tensors
from memcore.errors import InputError, ShapeError
from memcore.ops.batches import broadcast
from memcore.ops.device import is_seen_by_torch

REDUCTIONS = ("mean", "none")


def nce(
    queries: Any,
    positives: Any,
    negatives: Any,
    *,
    temperature: float = 0.07,
    bias: Any = None,
    reduction: str = "mean",
    backend: str | None = None,
) -> Any:
    """InfoNCE: how well each query tells its positive from all negatives, by dot products.

    -log(e^p / (e^p + sum over j of e^n_j)) with p = query · positive / temperature, n_j likewise
    (van den Oord et al. 2018, arXiv:1807.03748; with a queue of negatives: MoCo, He et al. 2019,
    arXiv:1911.05722).

    Args:
        queries: (…, n, dim), float32, float16 or bfloat16; float64 is kept. Finite.
        positives: (…, n, dim), one for each query.
        negatives: (…, n_negatives, dim); leading axes broadcast. None at all is a loss of 0.
        temperature: above 0.
        bias: (…, n_negatives), added to the logits: -inf leaves one out, log(c) counts it c times.
        reduction: "mean" over all queries, or "none" for (…, n).
        backend: the engine: on the host "cpu" where gradients are wanted, on a GPU "triton".

    Returns:
        Losses in float32 (float64 if all arrays are). torch tensors give a tensor, with gradients
        of all arrays but the temperature; NumPy arrays give NumPy.

    Raises:
        ShapeError, DtypeError, InputError: shapes, types, a temperature that is not above 0, a
            query that is not finite.

    Cost: n · n_negatives · dim multiply-adds, twice that with a gradient of the queries, four times
    that with one of the negatives. Memory: what comes out, and a tile.

    Example:
        >>> import numpy as np
        >>> eye = np.eye(4, dtype=np.float32)
        >>> nce(eye[:1], eye[:1], eye[1:], temperature=1.0).round(4)
        np.float32(0.7437)
    """
    temperature = scalars.number("nce", "temperature", temperature, 0, is_open=True)
    scalars.word("nce", "reduction", reduction, REDUCTIONS)
    given = {"queries": queries, "positives": positives, "negatives": negatives}
    library = _library("nce", backend, **given, bias=bias)
    asked, near, far = library.same("nce", given)
    if tuple(near.shape) != tuple(asked.shape):
        raise ShapeError(
            f"nce: positives has shape {tuple(near.shape)}, should be {tuple(asked.shape)}"
        )
    offset = _bias(library, "nce", bias, far)
    asked, far, offset, shape = _lead(library, "nce", asked, far, offset)
    lse = library.lse("nce", asked, far, 1 / temperature, offset, "dot", backend)
    own = library.dot(asked, library.expand(near, tuple(asked.shape))) / temperature
    losses_ = library.softplus(lse.reshape(shape) - own.reshape(shape))
    return _reduced(library, queries, losses_, reduction)


def disperse(
    rows: Any,
    negatives: Any = None,
    *,
    tau: float | None = None,
    bias: Any = None,
    reduction: str | None = None,
    backend: str | None = None,
) -> Any:
    """Repulsion: log of the mean over negatives of exp(-|row - negative|^2 / tau).

    Without negatives the rows repel each other, and the mean is over all pairs, those of a row with
    itself included: the Dispersive Loss (Wang and He 2025, arXiv:2506.09027).

    Args:
        rows: (…, n, dim), as the queries of `nce`.
        negatives: (…, n_negatives, dim), at least one; leading axes broadcast.
        tau: above 0; dim by default.
        bias: (…, n_negatives), logs of the weights of the mean; -inf leaves one out.
        reduction: "mean" of the values of all rows (the default with negatives), "none" for
            (…, n), or "pairs", the log of the mean over all pairs (the default without).
        backend: the engine: on the host "cpu" where gradients are wanted, on a GPU "triton".

    Returns:
        As `nce` does. Squared distances are taken as |row|^2 - 2 row · negative + |negative|^2:
        rows far from the origin and close to each other lose digits; take them about their mean, or
        in float64.

    Example:
        >>> import numpy as np
        >>> disperse(np.eye(2, dtype=np.float32), tau=2.0).round(4)
        np.float32(-0.3799)
    """
    library = _library("disperse", backend, rows=rows, negatives=negatives, bias=bias)
    given = {"rows": rows} if negatives is None else {"rows": rows, "negatives": negatives}
    here, *others = library.same("disperse", given)
    there = others[0] if others else here
    tau = float(here.shape[-1]) if tau is None else tau
    tau = scalars.number("disperse", "tau", tau, 0, is_open=True)
    if reduction is None:
        reduction = "pairs" if negatives is None else "mean"
    scalars.word("disperse", "reduction", reduction, (*REDUCTIONS, "pairs"))
    if there.shape[-2] == 0:
        raise InputError("disperse: negatives has 0 rows, should have at least 1")
    offset = _bias(library, "disperse", bias, there)
    here, there, offset, shape = _lead(library, "disperse", here, there, offset)
    lse = library.lse("disperse", here, there, 1 / tau, offset, "l2", backend)
    total = math.log(there.shape[-2]) if offset is None else library.total(offset)[..., None]
    values = (lse - total).reshape(shape)
    return _reduced(library, rows, values, reduction)


def gather(values: Any, ids: Any) -> Any:
    """The values that ids name, zeros for -1.

    Args:
        values: (n, …), any shape and dtype of a row: [n_tokens, heads, dim] payloads of hits.
        ids: (…,) ints from -1 to n - 1.

    Returns:
        (…, …), ids' shape and then a row's. With gradients of torch's values: sums over the places
        that name a row, in their order, the same bits every time; -1 adds nothing.

    Raises:
        InputError: an id that names nothing.

    Example:
        >>> import numpy as np
        >>> gather(np.array([[1, 2], [3, 4]]), [[1, -1]])
        array([[[3, 4],
                [0, 0]]])
    """
    place = arrays.place(values)
    if place != "cpu" or arrays.differentiates(values):
        from memcore import autograd_queue

        found = autograd_queue.gather(values, ids)
        return found if place == "cpu" else tensors.like(values, found)
    rows = slots.source("gather", "values", values)
    named = arrays.ints("gather", "ids", ids)
    losses.check_ids(named, len(rows))
    return slots.read(rows, named.reshape(-1)).reshape((*named.shape, *rows.shape[1:]))


def _library(op: str, backend: str | None, **given: Any) -> Any:
    """`autograd_queue` where torch must see the call, else `losses`."""
    if not is_seen_by_torch(op, backend, **given):
        return losses
    from memcore import autograd_queue

    return autograd_queue


def _bias(library: Any, op: str, bias: Any, negatives: Any) -> Any:
    if bias is None:
        return None
    offset = library.bias(op, bias, negatives)
    if offset.ndim == 0 or offset.shape[-1] != negatives.shape[-2]:
        raise ShapeError(
            f"{op}: bias has shape {tuple(offset.shape)}, should be (…, {negatives.shape[-2]})"
        )
    return offset


def _lead(library: Any, op: str, rows: Any, negatives: Any, bias: Any) -> tuple[Any, ...]:
    """All with the same leading axes, and the shape of the values."""
    leads = [rows.shape[:-2], negatives.shape[:-2]] + ([] if bias is None else [bias.shape[:-1]])
    lead = broadcast(op, *leads)
    shape = (*lead, rows.shape[-2])
    rows = library.expand(rows, (*lead, *rows.shape[-2:]))
    negatives = library.expand(negatives, (*lead, *negatives.shape[-2:]))
    bias = None if bias is None else library.expand(bias, (*lead, bias.shape[-1]))
    return rows, negatives, bias, shape


def _reduced(library: Any, like: Any, values: Any, reduction: str) -> Any:
    if reduction == "mean":
        values = values.mean()
    elif reduction == "pairs":
        values = library.total(values.reshape(-1)) - math.log(math.prod(values.shape))
    if library is losses:
        return arrays.like(like, np.asarray(values))
    return values if arrays.place(like) == "cpu" else tensors.like(like, values)

"""Codebook ops over arrays on a device: the checks that need no look at the numbers.

Nothing here waits for the device. A row that `assign` refuses on the host by its value gets code -1
here, such a query finds nothing, and a code that is not of the book stands for nothing.
"""

from typing import Any

from memcore import arrays, tensors
from memcore.backends import check_device, engine
from memcore.errors import BackendError, DtypeError, InputError, ShapeError
from memcore.hits import Hits
from memcore.ops.device import hits


def takes(*given: Any) -> bool:
    """Whether any of these arrays lies on a device."""
    return any(arrays.place(array) != "cpu" for array in given if array is not None)


def assign(rows: Any, codewords: Any, backend: str | None) -> tuple[Any, Any]:
    """Codes and scores on the device, in the library of rows; arguments as `ops.codebook.assign`.

    Codewords may lie on the host: they are copied then.
    """
    op = "assign"
    device = _device(op, backend, ("rows", rows))
    given = tensors.vectors(op, "rows", rows)
    words = tensors.floats_on(op, "codewords", codewords, device)
    if given.ndim != 2:
        raise ShapeError(f"{op}: rows has shape {tuple(given.shape)}, should be (n, dim)")
    if words.ndim != 2 or words.shape[1] != given.shape[1] or not words.numel():
        raise ShapeError(
            f"{op}: codewords has shape {tuple(words.shape)}, "
            f"should be (at least 1, {given.shape[1]}) as rows has"
        )
    torch = tensors.library(op)
    codes = torch.empty(len(given), dtype=torch.int64, device=device)
    scores = torch.empty(len(given), dtype=torch.float32, device=device)
    engine(op, "triton")(given, words, codes, scores)
    return tensors.like(rows, codes), tensors.like(rows, scores)


def codebook_sums(rows: Any, codes: Any, n_codes: int, backend: str | None) -> tuple[Any, Any]:
    """Counts and sums on the device; arguments as `ops.codebook.codebook_sums`."""
    op = "codebook_sums"
    device = _device(op, backend, ("rows", rows), ("codes", codes))
    given, named = tensors.vectors(op, "rows", rows), tensors.ints(op, "codes", codes)
    if given.ndim != 2 or named.shape != given.shape[:1]:
        raise ShapeError(
            f"{op}: codes has shape {tuple(named.shape)}, should be (n,) for rows (n, dim), "
            f"which has {tuple(given.shape)}"
        )
    torch = tensors.library(op)
    counts = torch.empty(n_codes, dtype=torch.int64, device=device)
    sums = torch.empty((n_codes, given.shape[1]), dtype=torch.float32, device=device)
    engine(op, "triton")(given, named, n_codes, counts, sums)
    return tensors.like(rows, counts), tensors.like(rows, sums)


def codebook_ema(
    batch_sums: Any, sums: Any, decay: float, divisors: Any, out: Any, backend: str | None
) -> tuple[Any, Any]:
    """Running sums and codewords on the device; arguments as `ops.codebook.codebook_ema`."""
    op = "codebook_ema"
    named = (("batch_sums", batch_sums), ("sums", sums), ("divisors", divisors))
    _device(op, backend, *named)
    batch, running, each = (tensors.vectors(op, *item).float().contiguous() for item in named)
    torch = tensors.library(op)
    moved, words = out or (torch.empty_like(running), torch.empty_like(running))
    engine(op, "triton")(batch, running, decay, each, moved, words)
    return tensors.like(sums, moved), tensors.like(sums, words)


def decode(codes: Any, codewords: Any, backend: str | None) -> Any:
    """Vectors on the device of the codes; arguments as `ops.codebook.decode`."""
    op = "decode"
    device = _device(op, backend, ("codes", codes))
    named = tensors.ints(op, "codes", codes)
    words = tensors.floats_on(op, "codewords", codewords, device)
    n_levels, n_subspaces, _, sub_dim = words.shape
    if named.ndim != 2 or named.shape[1] != n_levels * n_subspaces:
        raise ShapeError(
            f"{op}: codes has shape {tuple(named.shape)}, should be (n, {n_levels * n_subspaces})"
        )
    torch = tensors.library(op)
    rows = torch.empty((len(named), n_subspaces * sub_dim), dtype=torch.float32, device=device)
    engine(op, "triton")(named, words, rows)
    return tensors.like(codes, rows)


def search_codes(
    queries: Any,
    codes: Any,
    codewords: Any,
    k: Any,
    metric: str,
    squares: Any,
    backend: str | None,
) -> Hits:
    """Hits on the device of queries and codes; arguments as `ops.codebook.search_codes`."""
    op = "search_codes"
    torch = tensors.library(op)
    device = _device(op, backend, ("queries", queries), ("codes", codes))
    asked = tensors.vectors(op, "queries", queries)
    asked = asked[None] if asked.ndim == 1 else asked
    words = tensors.floats_on(op, "codewords", codewords, device)
    n_levels, n_subspaces, _, sub_dim = words.shape
    if asked.ndim != 2 or asked.shape[1] != n_subspaces * sub_dim:
        raise ShapeError(
            f"{op}: queries has shape {tuple(asked.shape)}, "
            f"should be (n_queries, {n_subspaces * sub_dim})"
        )
    if metric not in ("dot", "l2"):
        raise InputError(f"{op}: metric is {metric!r}, should be one of dot, l2")
    if metric == "l2" and n_levels > 1 and squares is None:
        raise InputError(f"{op}: squares is None, should be given for l2 with several levels")
    rows = codes if isinstance(codes, torch.Tensor) else torch.from_dlpack(codes)
    if rows.dtype not in (torch.uint8, torch.uint16, torch.uint32):
        raise DtypeError(f"{op}: codes has dtype {rows.dtype}, should be uint8, uint16 or uint32")
    if rows.ndim != 2 or rows.shape[1] != n_levels * n_subspaces:
        raise ShapeError(
            f"{op}: codes has shape {tuple(rows.shape)}, should be (n, {n_levels * n_subspaces})"
        )
    if squares is not None:
        squares = tensors.weights(op, "squares", squares, len(rows))
    k, scores, ids = hits(op, k, len(asked), device)
    engine(op, "triton")(asked, rows.contiguous(), words, k, metric, squares, scores, ids)
    return Hits(tensors.like(queries, scores), tensors.like(queries, ids))


def _device(op: str, backend: str | None, *given: tuple[str, Any]) -> Any:
    """The device of all of these arrays."""
    check_device(op, backend)
    device = tensors.device_of(op, *given)
    if arrays.differentiates(*(array for _, array in given)):
        raise BackendError(f"{op}: a tensor on {device} needs a gradient, should be detached")
    return device

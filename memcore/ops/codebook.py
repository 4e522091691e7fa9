"""Codebooks over arrays: assign, sums, decode, packed codes, search over codes.

The formulas are in `memcore.reference.codebook`; `memcore.Codebook` is the same with a state. Of
arrays on a device the results are there too; see `memcore.ops.codebook_device`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars, tensors
from memcore.backends import engine, is_triton
from memcore.errors import DtypeError, InputError, ShapeError, in_room
from memcore.hits import Hits
from memcore.ops import arguments
from memcore.ops import codebook_device as on_device

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Decoded at a time.
_ROWS = 1 << 14


def assign(rows: Any, codewords: Any, *, backend: str | None = None) -> tuple[Any, Any]:
    """The nearest codeword of each row, exactly.

    Args:
        rows: (n, dim) numbers, finite, with norms up to 1e18; any strides.
        codewords: (n_codes, dim) numbers, finite, n_codes at least 1.
        backend: "cpu", "reference" or "triton".

    Returns:
        codes (n,) int64, equal distances to the smaller code, and minus the squared distances (n,)
        float32, in the library of rows. Bits are those of `search(rows, codewords, 1,
        metric="l2")`.

    Raises:
        ShapeError, DtypeError: arrays that do not fit, or are not of numbers.
        InputError: a row with NaN, Inf or a norm above 1e18 (the first such row is named).

    Example:
        >>> from memcore.ops.codebook import assign
        >>> codes, scores = assign([[0.0, 1.0], [3.0, 3.0]], [[0.0, 0.0], [4.0, 4.0]])
        >>> codes.tolist(), scores.tolist()
        ([0, 1], [-1.0, -2.0])
    """
    if is_triton(backend) or on_device.takes(rows, codewords):
        with in_room("assign"):
            return on_device.assign(rows, codewords, backend)
    run = engine("assign", backend)
    given, _ = arrays.vectors("assign", "rows", rows)
    words = arrays.floats("assign", "codewords", codewords)
    if given.ndim != 2:
        raise ShapeError(f"assign: rows has shape {given.shape}, should be (n, dim)")
    if words.ndim != 2 or words.shape[1] != given.shape[1] or not words.size:
        raise ShapeError(
            f"assign: codewords has shape {words.shape}, "
            f"should be (at least 1, {given.shape[1]}) as rows has"
        )
    codes, scores = np.empty(len(given), np.int64), np.empty(len(given), np.float32)
    try:
        run(given, words, codes, scores)
    except InputError as error:
        raise InputError(str(error).replace("queries row", "rows row")) from None
    if codes.size and codes.min() < 0:
        raise InputError("assign: codewords is not finite, should be")
    return arrays.like(rows, codes), arrays.like(rows, scores)


def codebook_sums(
    rows: Any, codes: Any, n_codes: int, *, backend: str | None = None
) -> tuple[Any, Any]:
    """How many rows each code has, and their sum, added up in the order of the rows.

    Args:
        rows: (n, dim) numbers.
        codes: (n,) int from 0 to n_codes - 1.
        n_codes: how many sums.
        backend: "cpu", "reference" or "triton".

    Returns:
        counts (n_codes,) int64 and sums (n_codes, dim) float32. The bits do not depend on the
        number of threads: codes are sorted, and each has one owner.
    """
    if is_triton(backend) or on_device.takes(rows, codes):
        with in_room("codebook_sums"):
            return on_device.codebook_sums(rows, codes, n_codes, backend)
    run = engine("codebook_sums", backend)
    given, _ = arrays.vectors("codebook_sums", "rows", rows)
    named = np.require(arrays.ints("codebook_sums", "codes", codes), requirements=["C", "A"])
    if given.ndim != 2 or named.shape != given.shape[:1]:
        raise ShapeError(
            f"codebook_sums: codes has shape {named.shape}, should be (n,) for rows (n, dim), "
            f"which has {given.shape}"
        )
    check_codes("codebook_sums", named, n_codes)
    if given.size and given.strides[1] != given.itemsize:
        given = np.ascontiguousarray(given)
    counts = np.empty(n_codes, np.int64)
    sums = np.empty((n_codes, given.shape[1]), np.float32)
    run(given, named, n_codes, counts, sums)
    return counts, sums


def codebook_ema(
    batch_sums: Any,
    sums: Any,
    decay: float,
    divisors: Any,
    *,
    out: tuple[Any, Any] | None = None,
    backend: str | None = None,
) -> tuple[Any, Any]:
    """One step of the moving average of codewords; as `memcore.reference.codebook_ema`.

    Args:
        batch_sums: (n_codes, dim) float32.
        sums: (n_codes, dim) float32.
        decay: from 0 to 1.
        divisors: (n_codes,) float32, above 0.
        out: where to write the result; contiguous.
        backend: "cpu", "reference" or "triton".

    Returns:
        The running sums and the codewords, (n_codes, dim) float32.
    """
    if is_triton(backend) or on_device.takes(batch_sums, sums):
        with in_room("codebook_ema"):
            return on_device.codebook_ema(batch_sums, sums, decay, divisors, out, backend)
    run = engine("codebook_ema", backend)
    running, codewords = out or (np.empty_like(sums), np.empty_like(sums))
    run(batch_sums, sums, decay, divisors, running, codewords)
    return running, codewords


def decode(codes: Any, codewords: Any, *, backend: str | None = None) -> Any:
    """The vectors that codes stand for: (n, dim) float32.

    Args:
        codes: (n, n_levels * n_subspaces) int, level after level.
        codewords: (n_levels, n_subspaces, n_codes, sub_dim) float32.
        backend: "cpu", "reference" or "triton".
    """
    if is_triton(backend) or on_device.takes(codes, codewords):
        with in_room("decode"):
            return on_device.decode(codes, codewords, backend)
    run = engine("decode", backend)
    n_levels, n_subspaces, n_codes, sub_dim = codewords.shape
    named = np.require(arrays.ints("decode", "codes", codes), requirements=["C", "A"])
    if named.ndim != 2 or named.shape[1] != n_levels * n_subspaces:
        raise ShapeError(
            f"decode: codes has shape {named.shape}, should be (n, {n_levels * n_subspaces})"
        )
    check_codes("decode", named, n_codes)
    rows = np.empty((len(named), n_subspaces * sub_dim), np.float32)
    run(named.reshape(len(named), n_levels, n_subspaces), codewords, rows)
    return rows


def pack_codes(codes: Any, n_bits: int, *, backend: str | None = None) -> NDArray[np.uint8]:
    """Codes as a stream of n_bits each, lowest bit first: (ceil(n * n_bits / 8),) uint8.

    Args:
        codes: ints of any shape from 0 to 2^n_bits - 1; n of them.
        n_bits: 1 to 32.
        backend: "cpu" or "reference".
    """
    run = engine("pack_codes", backend)
    _check_bits("pack_codes", n_bits)
    named = np.ascontiguousarray(arrays.ints("pack_codes", "codes", codes).reshape(-1))
    check_codes("pack_codes", named, 1 << n_bits)
    packed = np.empty((named.size * n_bits + 7) // 8, np.uint8)
    run(named, n_bits, packed)
    return packed


def unpack_codes(packed: Any, n: int, n_bits: int, *, backend: str | None = None) -> Ints:
    """The n codes of a stream that `pack_codes` made: (n,) int64."""
    run = engine("unpack_codes", backend)
    _check_bits("unpack_codes", n_bits)
    scalars.whole("unpack_codes", "n", n, 0)
    if not isinstance(packed, np.ndarray):
        raise DtypeError(
            f"unpack_codes: packed is {scalars.shown(packed)}, should be an array of uint8"
        )
    stream = np.ascontiguousarray(packed)
    if stream.dtype != np.uint8:
        raise DtypeError(f"unpack_codes: packed has dtype {stream.dtype}, should be uint8")
    if stream.shape != ((n * n_bits + 7) // 8,):
        raise ShapeError(
            f"unpack_codes: packed has shape {stream.shape}, "
            f"should be ({(n * n_bits + 7) // 8},) for {n} codes"
        )
    codes = np.empty(n, np.int64)
    run(stream, n, n_bits, codes)
    return codes


def search_codes(
    queries: Any,
    codes: Any,
    codewords: Any,
    k: Any = 10,
    *,
    metric: str = "dot",
    squares: Any = None,
    backend: str | None = None,
) -> Hits:
    """Find the k best rows of those that are known by their codes, by lookup tables.

    Args:
        queries: (n_queries, dim), or (dim,); finite, with norms up to 1e18.
        codes: (n, n_levels * n_subspaces) uint8, uint16 or uint32, level after level.
        codewords: (n_levels, n_subspaces, n_codes, sub_dim) float32.
        k: an int, or one per query.
        metric: "dot" or "l2".
        squares: (n,) float32, the canonical square of each decoded row, which l2 needs where there
            are several levels.
        backend: "cpu", "reference" or "triton".

    Returns:
        Hits (n_queries, k). A row's score is the sum, in the order of its codes, of the scores of
        the query's part and the codeword (Jégou et al. 2011, asymmetric distances).

    Raises:
        ShapeError, DtypeError, InputError: as `search` does.
    """
    if is_triton(backend) or on_device.takes(queries, codes):
        with in_room("search_codes"):
            return on_device.search_codes(queries, codes, codewords, k, metric, squares, backend)
    op = "search_codes"
    run = engine(op, backend)
    asked = arrays.floats(op, "queries", queries)
    if asked.ndim == 1:
        asked = asked[None]
    n_levels, n_subspaces, n_codes, sub_dim = codewords.shape
    if asked.ndim != 2 or asked.shape[1] != n_subspaces * sub_dim:
        raise ShapeError(
            f"{op}: queries has shape {asked.shape}, should be (n_queries, {n_subspaces * sub_dim})"
        )
    if metric not in ("dot", "l2"):
        raise InputError(f"{op}: metric is {metric!r}, should be one of dot, l2")
    if metric == "l2" and n_levels > 1 and squares is None:
        raise InputError(f"{op}: squares is None, should be given for l2 with several levels")
    if codes.dtype not in (np.uint8, np.uint16, np.uint32):
        raise DtypeError(f"{op}: codes has dtype {codes.dtype}, should be uint8, uint16 or uint32")
    if codes.ndim != 2 or codes.shape[1] != n_levels * n_subspaces:
        raise ShapeError(
            f"{op}: codes has shape {codes.shape}, should be (n, {n_levels * n_subspaces})"
        )
    check_codes(op, codes, n_codes)
    k, width = arguments.widths(op, k, len(asked))
    scores, ids = arguments.outputs(op, len(asked), width)
    run(asked, np.ascontiguousarray(codes), codewords, k, metric, squares, scores, ids)
    return Hits(arrays.like(queries, scores), arrays.like(queries, ids))


def code_squares(codes: Any, codewords: Any) -> Any:
    """The canonical square of each row that codes (n, n_parts) stand for: (n,) float32.

    Where the codes lie; rows are decoded a few thousand at a time.
    """
    is_here = isinstance(codes, np.ndarray)
    if is_here:
        squares = np.empty(len(codes), np.float32)
    else:
        codewords = tensors.floats_on("search", "codewords", codewords, codes.device)
        squares = codewords.new_empty(len(codes))
    for begin in range(0, len(codes), _ROWS):
        part = slice(begin, begin + _ROWS)
        named = codes[part].astype(np.int64) if is_here else codes[part].long()
        backend = None if is_here else "triton"
        rows = decode(named, codewords, backend=backend)
        origin = 0 * rows[:1]
        squares[part] = -assign(rows, origin, backend=backend)[1]
    return squares


def check_codes(op: str, codes: NDArray[Any], n_codes: int) -> None:
    """Refuse codes outside 0 to n_codes - 1, and name the first."""
    if codes.size and (codes.min() < 0 or codes.max() >= n_codes):
        place = tuple(int(i) for i in np.argwhere((codes < 0) | (codes >= n_codes))[0])
        raise InputError(
            f"{op}: codes{list(place)} is {codes[place]}, should be from 0 to {n_codes - 1}"
        )


def check_sound(codes: Any) -> None:
    """Refuse rows that `assign` on a device has left without a code; this waits for it.

    On the host it did so itself.
    """
    if isinstance(codes, np.ndarray):
        return
    bad = (codes < 0).any(1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise InputError(
            f"assign: rows row {row} is not finite or too large, "
            "should be finite with a squared norm of at most 1e36"
        )


def widened(rows: NDArray[Any]) -> Floats:
    """Rows of an engine's dtype (uint16 is bfloat16) as contiguous float32."""
    if rows.dtype == np.uint16:
        return (rows.astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(rows, np.float32)


def _check_bits(op: str, n_bits: int) -> None:
    scalars.whole(op, "n_bits", n_bits, 1, 32)

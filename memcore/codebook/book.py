"""Codebook: vector, product and residual quantisation that learns online and does not collapse."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars, slots, tensors
from memcore.codebook import step_device
from memcore.codebook.reader import Reader
from memcore.codebook.rules import Rules, threshold_of
from memcore.codebook.step import Alone, Exchange, State, assign_level, columns, learn, room
from memcore.errors import DtypeError, InputError, ShapeError, in_name_of
from memcore.hits import Hits
from memcore.ops import codebook as ops
from memcore.ops.kmeans import kmeans
from memcore.ops.kmeans_device import kmeans as kmeans_device

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

# Rows that fit looks at, for each code: more change the means very little.
_FIT_ROWS_PER_CODE = 256

_QUOTA = 16


class Codebook:
    """A codebook of n_codes codewords in each of n_levels x n_subspaces parts.

    One level and one subspace are vector quantisation; more subspaces quantise each part of a
    vector by itself (product quantisation, Jégou et al. 2011), more levels quantise what the levels
    before leave (residual quantisation, Chen et al. 2010).

    A book lies on the host or on a device, and learns the same bits on either. On a device neither
    `quantize` nor `update` waits, but for the first codewords, and for reset="mbc": a vector that
    may not be asked gets codes of -1 there, and teaches nothing. `fit` takes some rows to the host
    to draw seeds from. Vectors and codes may lie anywhere: to a book on a device those of the host
    are copied; for a book on the host those of a device are coded and summed there, but then an
    `update` waits for it.

    A call that raises has changed nothing. A book is pickled and copied with all it knows; threads
    may read it while one writes.

    Attributes:
        n_codes: codewords in each part.
        dim: components of a vector.
        n_subspaces: parts that a vector is cut into; dim is a multiple of it.
        n_levels: times that a vector is quantised.
        state: what the book knows; replaced as a whole, never written to.
        reader: how it reads what it is given, where it lies.

    Example:
        >>> import memcore, numpy as np
        >>> rows = np.random.default_rng(0).standard_normal((1000, 8), np.float32)
        >>> book = memcore.Codebook(16, 8, n_subspaces=2)
        >>> book.fit(rows, seed=0)
        >>> codes = book.quantize(rows)
        >>> codes.shape, book.dequantize(codes).shape, book.pack(codes).nbytes
        ((1000, 2), (1000, 8), 1000)
    """

    def __init__(
        self,
        n_codes: int,
        dim: int,
        n_subspaces: int = 1,
        n_levels: int = 1,
        *,
        learn: str = "ema",
        decay: float = 0.99,
        smoothing: float = 1e-5,
        rate: float = 0.1,
        reset: str | None = "worst",
        reset_threshold: float | None = None,
        reset_quota: int = _QUOTA,
        seed: "int | np.random.Generator" = 0,
        device: str = "cpu",
    ) -> None:
        """Make an empty book: `fit` it, or `update` it, which starts from its first rows.

        Args:
            n_codes: codewords in each part, at least 1.
            dim: components of a vector.
            n_subspaces: parts of a vector, a divisor of dim.
            n_levels: levels of residuals.
            learn: how `update` learns. "ema": codewords are running means of their rows, with
                Laplace smoothing (van den Oord et al. 2017, arXiv:1711.00937, A.1). "gradient": a
                step of `rate` towards the mean of the batch's rows.
            decay: what running counts and sums keep of themselves at each update.
            smoothing: the Laplace constant, above 0.
            rate: of learn="gradient", from 0 to 1.
            reset: what becomes of dead codes. "worst": a code whose usage is below reset_threshold
                times the mean takes one of the worst-quantised rows of the batch, at most
                reset_quota a part and update. "mbc": a code whose usage is below reset_threshold
                (1e-4, not relative) takes a random row of the batch, without quota, as the public
                code of MBC does. None: nothing.
            reset_threshold: 0.1 for "worst", 1e-4 for "mbc" if None.
            reset_quota: of "worst".
            seed: of the random rows of "mbc": an int from 0, or a NumPy Generator, drawn from once.
            device: where the book lies: "cpu", or torch's name of a GPU.

        Raises:
            InputError, DtypeError: a number out of its range, or not of its type.
            BackendError: no such device, or no torch or Triton for it.
        """
        sizes = {"n_codes": n_codes, "dim": dim, "n_subspaces": n_subspaces, "n_levels": n_levels}
        for name, value in sizes.items():
            scalars.whole("Codebook", name, value, 1)
        n_bytes = 4 * n_codes * dim * n_levels
        scalars.check_memory("Codebook", n_bytes, n_codes=n_codes, dim=dim, n_levels=n_levels)
        if dim % n_subspaces:
            raise InputError(f"Codebook: n_subspaces is {n_subspaces}, should divide dim, {dim}")
        if n_codes > 1 << 31:
            raise InputError(f"Codebook: n_codes is {n_codes}, should be at most 2^31")
        threshold = threshold_of(reset) if reset_threshold is None else reset_threshold
        self.rules = Rules(learn, decay, smoothing, rate, reset, threshold, reset_quota)
        self.n_codes, self.dim = int(n_codes), int(dim)
        self.n_subspaces, self.n_levels = int(n_subspaces), int(n_levels)
        place = _place("Codebook", device)
        self.reader = Reader(self.dim, self.n_parts, self.n_codes, self.n_levels > 1, place)
        self._rng = np.random.default_rng(scalars.seed("Codebook", seed))
        parts = (self.n_levels, self.n_subspaces, self.n_codes)
        words = np.zeros((*parts, self.dim // self.n_subspaces), np.float32)
        state = State(words, words, np.zeros(parts), np.zeros(self.n_levels, np.int64))
        self.state = step_device.moved(state, place)

    @property
    def place(self) -> Any:
        """The torch device on which the book lies; None for the host."""
        return self.reader.place

    @property
    def codewords(self) -> Any:
        """(n_levels, n_subspaces, n_codes, sub_dim) float32; never written to, but replaced.

        Like usage it is NumPy's, or torch's of a book on a device.
        """
        return self.state.codewords

    @property
    def usage(self) -> Any:
        """The running count of rows a batch, (n_levels, n_subspaces, n_codes)."""
        return self.state.usage

    @property
    def version(self) -> int:
        """Counts the changes of the codewords."""
        return self.state.version

    @property
    def is_seeded(self) -> bool:
        """Whether there are codewords: after a fit, or an update of at least one row."""
        return bool(self.state.n_seeded[0])

    @property
    def n_parts(self) -> int:
        """Codes of one vector: n_levels * n_subspaces."""
        return self.n_levels * self.n_subspaces

    @property
    def n_bits(self) -> int:
        """Bits of a packed code: ceil(log2(n_codes)), at least 1."""
        return max(1, (self.n_codes - 1).bit_length())

    @property
    def nbytes(self) -> int:
        """Bytes of the codewords."""
        return int(self.state.codewords.nbytes)

    @property
    def code_dtype(self) -> np.dtype[Any]:
        """The smallest dtype that holds a code: uint8, uint16 or uint32."""
        return self.reader.code_dtype

    def fit(
        self, vectors: Any, *, n_iterations: int = 10, seed: "int | np.random.Generator" = 0
    ) -> None:
        """Forget everything and learn by k-means, level after level.

        Args:
            vectors: (n, dim), at least one row; of more than 256 rows a code, that many are drawn.
            n_iterations: of Lloyd, at most, after k-means++ seeding.
            seed: of the draws, as for the book.

        Raises:
            As `update`; InputError: no rows.
        """
        rows = self.reader.rows("fit", vectors)
        if not len(rows):
            raise InputError("fit: vectors has no rows, should have at least 1")
        rng = np.random.default_rng(scalars.seed("fit", seed))
        scalars.whole("fit", "n_iterations", n_iterations, 0)
        n_most = _FIT_ROWS_PER_CODE * self.n_codes
        if len(rows) > n_most:
            rows = rows[np.sort(rng.choice(len(rows), n_most, replace=False))]
        means, backend = (kmeans, None) if self.place is None else (kmeans_device, "triton")
        rows = tensors.host(rows) if self.place is None else rows
        state = self.state
        words, sums, usage = (slots.copy(each) for each in (state.sums, state.sums, state.usage))
        with in_name_of("fit", rows="vectors"):
            for level in range(self.n_levels):
                codes = room(rows, self.n_subspaces)
                for s in range(self.n_subspaces):
                    own = rows[:, columns(state, s)]
                    words[level, s], usage[level, s], sums[level, s] = means(
                        own, self.n_codes, rng, n_iterations=n_iterations
                    )
                    codes[:, s], _ = ops.assign(own, words[level, s], backend=backend)
                if level + 1 < self.n_levels:
                    rows = rows - ops.decode(codes, words[level : level + 1], backend=backend)
        full = np.full(self.n_levels, self.n_codes)
        self.state = State(words, sums, usage, full, state.version + 1)

    def quantize(self, vectors: Any) -> Any:
        """The codes of vectors.

        Args:
            vectors: (n, dim) numbers, or (dim,) for one; finite, with norms up to 1e18.

        Returns:
            (n, n_parts) int64, level after level, in the library of vectors: in each part the
            nearest codeword, equal distances to the smaller code.

        Raises:
            ShapeError, DtypeError: vectors that do not fit, or are no numbers.
            InputError: a vector with NaN, Inf or a norm above 1e18 (the first is named); a book
                that is empty.
        """
        return self.reader.like(
            vectors, self.codes("quantize", self.reader.rows("quantize", vectors))
        )

    def dequantize(self, codes: Any) -> Any:
        """The vectors that codes (n, n_parts) stand for: (n, dim) float32."""
        named = self.reader.codes_there("dequantize", codes)
        backend = None if self.place is None else "triton"
        return self.reader.like(codes, ops.decode(named, self.state.codewords, backend=backend))

    def update(self, vectors: Any, *, exchange: Exchange | None = None) -> Any:
        """Learn from a batch.

        A book that is empty, or not full yet, first takes codewords from the first rows of the
        batch (in later levels, of the rows that no level before took).

        Args:
            vectors: (n, dim) numbers, or (dim,) for one; finite, with norms up to 1e18.
            exchange: puts the batches of several ranks together; all ranks learn the same.

        Returns:
            The codes of the vectors before the step, (n, n_parts) int64.

        Raises:
            As `quantize`, but for the empty book.
        """
        codes, _, self.state = self.learned("update", vectors, exchange)
        return self.reader.like(vectors, codes)

    def search(self, queries: Any, codes: Any, k: Any = 10, *, metric: str = "dot") -> Hits:
        """Find the k best of the rows that codes stand for, by lookup tables.

        Args:
            queries: (n_queries, dim) numbers, or (dim,) for one.
            codes: (n, n_parts) ints, as `quantize` gives them; in `code_dtype` they are searched
                where they lie.
            k: an int, or one per query.
            metric: "dot" or "l2".

        Returns:
            Hits (n_queries, k); ids are positions in codes. See `memcore.ops.codebook.search_codes`
            for what a score is.
        """
        asked, backend = queries, None
        if self.place is not None:
            asked, backend = self.reader.rows("search", queries), "triton"
        named, words = self.reader.compact("search", codes), self.state.codewords
        scalars.word("search", "metric", metric, ("dot", "l2"))
        is_shared = metric == "l2" and self.n_levels > 1
        squares = ops.code_squares(named, words) if is_shared else None
        with in_name_of("search"):
            scores, ids = ops.search_codes(
                asked, named, words, k, metric=metric, squares=squares, backend=backend
            )
        if self.place is None:
            return Hits(scores, ids)
        return Hits(self.reader.like(queries, scores), self.reader.like(queries, ids))

    def pack(self, codes: Any) -> NDArray[np.uint8]:
        """Codes (n, n_parts) as a stream of n_bits each: (ceil(n * n_parts * n_bits / 8),)."""
        return ops.pack_codes(self.reader.codes("pack", codes), self.n_bits)

    def unpack(self, packed: Any, n: int) -> Ints:
        """The codes (n, n_parts) of a stream that `pack` made."""
        n = scalars.whole("unpack", "n", n, 0)
        with in_name_of("unpack"):
            codes = ops.unpack_codes(packed, n * self.n_parts, self.n_bits)
        return codes.reshape(n, self.n_parts)

    def counts(self, codes: Any) -> Any:
        """How many rows have each code: (n_levels, n_subspaces, n_codes) int64.

        Codes on the device of a book are counted there.
        """
        return self._counted("counts", codes)

    def _counted(self, op: str, codes: Any) -> Any:
        shape = (self.n_levels, self.n_subspaces, self.n_codes)
        if self.place is not None and tensors.lies_on(self.place, codes):
            return step_device.counts(
                self.reader.shaped(op, tensors.ints(op, "codes", codes)), shape
            )
        named = self.reader.codes(op, codes)
        each = [np.bincount(part, minlength=self.n_codes) for part in named.T]
        return np.reshape(each, shape)

    def perplexity(self, codes: Any = None) -> Any:
        """How many codes are in use: exp of the entropy, (n_levels, n_subspaces) float64.

        Args:
            codes: (n, n_parts) whose codes are counted; without them, the running usage.

        Returns:
            NumPy's, or a tensor on the device of the book (and the codes), where logarithms are the
            device's.
        """
        weights = self.state.usage if codes is None else self._counted("perplexity", codes)
        if not isinstance(weights, np.ndarray):
            return step_device.perplexity(weights.double())
        weights = weights.astype(np.float64)
        total = weights.sum(-1, keepdims=True)
        share = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        logs = np.log(share, out=np.zeros_like(share), where=share > 0)
        return np.where(total[..., 0] > 0, np.exp(-(share * logs).sum(-1)), 0.0)

    def copy(self) -> "Codebook":
        """A book that knows the same and learns by itself from then on."""
        copy = object.__new__(Codebook)
        copy.__dict__.update(self.__dict__)
        copy._rng = np.random.default_rng()
        copy._rng.bit_generator.state = self._rng.bit_generator.state
        return copy

    __copy__ = copy

    def to(self, device: str) -> "Codebook":
        """A copy of the book on another device, or with "cpu" on the host.

        Raises:
            BackendError: no such device, or no torch or Triton for it.
        """
        book = self.copy()
        place = _place("to", device)
        book.reader = replace(self.reader, place=place)
        book.state = step_device.moved(self.state, place)
        return book

    def adopt(self, codewords: Any) -> None:
        """Take codewords that somebody else moves, of the shape of ours; they are copied."""
        shape, own = tuple(getattr(codewords, "shape", ())), tuple(self.codewords.shape)
        if not isinstance(codewords, type(self.codewords)) or shape != own:
            given = scalars.shown(codewords)
            raise ShapeError(f"adopt: codewords is {given}, should be like ours, of shape {own}")
        self.state = replace(self.state, codewords=slots.copy(codewords))

    def start_from(self, codewords: Any, usage: float = 1.0) -> None:
        """Forget everything and start from given codewords.

        Args:
            codewords: (n_levels, n_subspaces, n_codes, sub_dim) numbers, finite.
            usage: the running count of each, above 0: the rows a batch that it stands for.

        Raises:
            ShapeError, DtypeError: another shape, or no numbers.
            InputError: a codeword or a usage that is not finite, or a usage that is not above 0.
        """
        words = arrays.floats("start_from", "codewords", arrays.near(codewords)).copy()
        if words.shape != self.codewords.shape:
            raise ShapeError(
                f"start_from: codewords has shape {words.shape}, "
                f"should be {tuple(self.codewords.shape)}"
            )
        if not np.isfinite(words).all():
            raise InputError("start_from: codewords is not finite, should be")
        usage = scalars.number("start_from", "usage", usage, 0, is_open=True)
        full = np.full(self.n_levels, self.n_codes)
        counts = np.full(words.shape[:3], usage)
        sums = words * np.float32(usage)
        state = State(words, sums, counts, full, self.state.version + 1)
        self.state = step_device.moved(state, self.place)

    def learned(self, op: str, vectors: Any, exchange: Exchange | None) -> tuple[Any, Any, State]:
        """What `update` would learn: the codes, the codewords that they are of, the next state."""
        state, rows = self.state, self.reader.rows(op, vectors)
        ranks: Any = Alone() if exchange is None else exchange
        if not isinstance(ranks, Exchange):
            given = scalars.shown(ranks)
            raise DtypeError(f"{op}: exchange is {given}, should be None or an Exchange")
        if not len(rows) and exchange is None:
            return room(rows, self.n_parts), state.codewords, state
        run = learn if self.place is None else step_device.learn
        with in_name_of(op, rows="vectors"):
            return run(state, self.rules, rows, self._rng, ranks)

    def codes(self, op: str, rows: Any) -> Any:
        """As `quantize`, for rows (n, dim) of an engine's dtype; errors name op."""
        state = self.state
        if not self.is_seeded:
            raise InputError(f"{op}: the book is empty, should be fitted or updated first")
        codes = room(rows, self.n_parts)
        if not isinstance(rows, np.ndarray):
            words = tensors.floats_on(op, "codewords", state.codewords, rows.device)
            state = replace(state, codewords=words)
        with in_name_of(op, rows="vectors"):
            for level in range(self.n_levels):
                of_level = codes[:, level * self.n_subspaces : (level + 1) * self.n_subspaces]
                of_level[:], _ = assign_level(state, rows, level)
                if level + 1 < self.n_levels:
                    own = state.codewords[level : level + 1]
                    backend = None if isinstance(own, np.ndarray) else "triton"
                    rows = rows - ops.decode(of_level, own, backend=backend)
        return codes


def _place(op: str, device: Any) -> Any:
    """The torch device of a name, None for the host."""
    return None if scalars.is_word(device, "cpu") else tensors.place_for(op, device)

"""VectorQuantizer: a codebook as a layer, with straight-through gradients."""

from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.nn import functional

from memcore import scalars, tensors
from memcore.codebook import Codebook, Exchange
from memcore.codebook.step import State
from memcore.codebook.step_device import moved
from memcore.errors import BackendError, DtypeError, ShapeError, in_name_of
from memcore.nn.exchange import Ranks
from memcore.ops.codebook import decode


class Quantized(NamedTuple):
    """What the layer gives.

    Attributes:
        values: (…, dim), the quantised vectors; their gradient goes to the input as it is.
        codes: (…, n_parts) int64.
        loss: the commitment loss, and with learn="gradient" the codebook's; to be added to yours.
    """

    values: torch.Tensor
    codes: torch.Tensor
    loss: torch.Tensor


class VectorQuantizer(torch.nn.Module):
    """A `Codebook` between two layers (van den Oord et al. 2017, arXiv:1711.00937).

    In training each call teaches the book its batch; under torch.distributed all ranks learn from
    the batches of all, and every rank must make the call. In evaluation nothing is learned.

    Attributes:
        book: the Codebook: usage, perplexity, packing and search over codes.
        codewords: with learn="gradient" a parameter (n_levels, n_subspaces, n_codes, sub_dim), for
            your optimiser; the book then only counts usage, seeds and resets.

    Example:
        >>> import torch, memcore.nn
        >>> layer = memcore.nn.VectorQuantizer(16, 4)
        >>> x = torch.randn(32, 4, requires_grad=True)
        >>> values, codes, loss = layer(x)
        >>> (values.sum() + loss).backward()
        >>> codes.shape, x.grad.shape
        (torch.Size([32, 1]), torch.Size([32, 4]))
    """

    def __init__(
        self,
        n_codes: int,
        dim: int,
        n_subspaces: int = 1,
        n_levels: int = 1,
        *,
        commitment: float = 0.25,
        process_group: Any = None,
        **options: Any,
    ) -> None:
        """Make a layer with an empty book, which starts from the first rows it sees in training.

        Args:
            n_codes: as for `Codebook`, also what follows.
            dim: components of a vector.
            n_subspaces: parts of a vector.
            n_levels: levels of residuals.
            commitment: weight of the mean squared error that pulls the input to its codeword.
            process_group: the ranks that learn together; all, if None. It must reduce tensors
                where the book lies: on the host gloo does, on a GPU nccl.
            options: the other options of `Codebook`; rate is the optimiser's business here. The
                book lies on its device, and goes along with `to`.
        """
        super().__init__()
        self.commitment = scalars.number("VectorQuantizer", "commitment", commitment, 0)
        with in_name_of("VectorQuantizer"):
            self.book = Codebook(n_codes, dim, n_subspaces, n_levels, **options)
        self._group = process_group
        self.codewords: torch.nn.Parameter | None = None
        if self.book.rules.learn == "gradient":
            # The optimiser moves the codewords, the book does not.
            self.book.rules = replace(self.book.rules, rate=0.0)
            self.codewords = torch.nn.Parameter(_tensor(self.book.codewords).clone())

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, x: torch.Tensor) -> Quantized:
        """Quantise x (…, dim), float32, float16, bfloat16 or float64, where it lies.

        Under torch.compile the layer runs as it is, between what is compiled before and after it;
        with fullgraph=True torch says so and stops.

        Raises:
            ShapeError: another dim.
            DtypeError: what is no tensor of floats.
            InputError: a vector with NaN, Inf or a norm above 1e18 (on a device only in training;
                in evaluation its codes are -1); an empty book in evaluation.
            BackendError: a tensor on a device without Triton, or not on that of the book.
        """
        book, place = self.book, self.book.place
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            kind = getattr(x, "dtype", type(x).__name__)
            raise DtypeError(f"forward: x is of {kind}, should be a tensor of floats")
        if place is not None and x.device != place:
            raise BackendError(f"forward: x is on {x.device}, should be on {place} as the book")
        if x.ndim < 1 or x.shape[-1] != book.dim:
            raise ShapeError(f"forward: x has shape {tuple(x.shape)}, should be (…, {book.dim})")
        flat = x.reshape(-1, book.dim)
        if self.codewords is not None:
            words = self.codewords.detach().float()
            book.adopt(words if place is not None else tensors.host(words))
        if self.training:
            codes, words, state = book.learned("forward", flat, self._exchange())
        else:
            codes = book.codes("forward", book.reader.rows("forward", flat))
            words, state = book.codewords, book.state
        named = torch.as_tensor(codes)
        if self.codewords is None:
            backend = None if place is None else "triton"
            quantized = torch.as_tensor(decode(codes, words, backend=backend)).to(x.dtype)
            loss = self.commitment * functional.mse_loss(flat, quantized)
        else:
            with torch.no_grad():
                self.codewords.copy_(_tensor(words))
            quantized = self._decoded(self.codewords, named).to(x.dtype)
            loss = functional.mse_loss(quantized, flat.detach())
            loss = loss + self.commitment * functional.mse_loss(flat, quantized.detach())
            with torch.no_grad():
                # What was reset; the backward of taking rows reads no values.
                self.codewords.copy_(_tensor(state.codewords))
        book.state = state
        values = (flat + (quantized - flat).detach()).reshape(x.shape)
        return Quantized(values, named.reshape(*x.shape[:-1], book.n_parts), loss)

    def get_extra_state(self) -> dict[str, Any]:
        """What the book knows, for `state_dict`."""
        knows = asdict(self.book.state)
        version = knows.pop("version")
        # Of their own: the book's are shared, and a tensor can be written to.
        copies = {name: _tensor(array).cpu().clone() for name, array in knows.items()}
        return {**copies, "version": version}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_extra_state` gave."""
        knows = {k: v.cpu().numpy().copy() if k != "version" else v for k, v in state.items()}
        if knows["codewords"].shape != self.book.codewords.shape:
            raise ShapeError(
                f"load_state_dict: codewords has shape {knows['codewords'].shape}, "
                f"should be {self.book.codewords.shape}"
            )
        self.book.state = moved(State(**knows), self.book.place)

    def _apply(self, fn: Any, recurse: bool = True) -> "VectorQuantizer":
        super()._apply(fn, recurse)
        # Where the layer's tensors go, the book goes.
        before = self.book.place or torch.device("cpu")
        after = fn(torch.empty(0, device=before)).device
        if after != before and after.type in ("cpu", "cuda"):
            self.book = self.book.to(str(after))
        return self

    def _exchange(self) -> Exchange | None:
        if not (dist.is_available() and dist.is_initialized()):
            return None
        return Ranks(self._group) if dist.get_world_size(self._group) > 1 else None

    def _decoded(self, codewords: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """As `decode`, with a gradient for the codewords."""
        book, subspaces = self.book, torch.arange(self.book.n_subspaces)
        named = codes.reshape(-1, book.n_levels, book.n_subspaces)
        levels = [codewords[i][subspaces, named[:, i]] for i in range(book.n_levels)]
        return torch.stack(levels).sum(0).reshape(-1, book.dim)

    def extra_repr(self) -> str:
        """The shape, for printing."""
        book = self.book
        shape = f"{book.n_codes}, {book.dim}, {book.n_subspaces}, {book.n_levels}"
        return f"{shape}, commitment={self.commitment}"


def _tensor(array: Any) -> torch.Tensor:
    return array if isinstance(array, torch.Tensor) else torch.from_numpy(array)

"""OuterMemory: a matrix that keys are written into and read from, by outer products."""

import math
from typing import Any

import numpy as np

from memcore import arrays, scalars, slots
from memcore.errors import DtypeError, InputError, ShapeError

RULES = ("hebb", "delta", "gated")

# Rows of the delta rule that are solved for at once.
_CHUNK = 64


class OuterMemory:
    """Associations of keys (dim,) with values (value_dim,), summed in one matrix for each head.

    After a pair k, v the matrix S is, with a rate r and a decay a:

    - "hebb": a S + r k vᵀ, what linear attention does (Katharopoulos et al. 2020,
      arXiv:2006.16236). Reads N random associations in dim dimensions back with cosine
      1/√(1 + N/dim).
    - "delta": a S + r k (v - a Sᵀk)ᵀ, which first takes away what the key reads (Schlag et al.
      2021, arXiv:2102.11174; with decays: gated delta, Yang et al. 2024, arXiv:2412.06464). Better
      than "hebb" while N is below dim/2, worse from dim on. Wants keys of length 1, rates up to 1.
    - "gated": (1 - r) S + r k vᵀ: what is written replaces as much of the past.

    In torch the state carries its graph, so that gradients of reads reach what was written; call
    `detach` where the past should get none.

    Args:
        dim: of keys and queries.
        value_dim: of values.
        rule: "hebb", "delta" or "gated".
        lead: leading axes, for example (batch, heads).
        decay: a, in [0, 1], where a write names none.
        like: an array whose library, dtype and device the state takes; float32 of NumPy by default.

    Attributes:
        state: (*lead, dim, value_dim).

    Example:
        >>> import numpy as np
        >>> memory = OuterMemory(3, 2)
        >>> memory.write(np.eye(3)[:2], [[1, 2], [3, 4]])
        >>> memory.read(np.eye(3)[1:])
        array([[3., 4.],
               [0., 0.]], dtype=float32)
    """

    def __init__(
        self,
        dim: int,
        value_dim: int,
        rule: str = "hebb",
        *,
        lead: tuple[int, ...] = (),
        decay: float = 1.0,
        like: Any = None,
    ) -> None:
        scalars.word("OuterMemory", "rule", rule, RULES)
        dim = scalars.whole("OuterMemory", "dim", dim, 1)
        value_dim = scalars.whole("OuterMemory", "value_dim", value_dim, 1)
        if not isinstance(lead, (tuple, list)):
            raise DtypeError(f"OuterMemory: lead is {scalars.shown(lead)}, should be a tuple")
        lead = tuple(scalars.whole("OuterMemory", "lead", n, 1) for n in lead)
        n_bytes = 4 * math.prod((*lead, dim, value_dim))
        sizes = {"lead": math.prod(lead), "dim": dim, "value_dim": value_dim}
        scalars.check_memory("OuterMemory", n_bytes, **sizes)
        decay = scalars.number("OuterMemory", "decay", decay, 0, 1)
        if rule == "gated" and decay != 1:
            raise InputError(f"OuterMemory: decay is {decay}, should be 1 where the rule is gated")
        self.rule, self.decay = rule, float(decay)
        shape = (*lead, dim, value_dim)
        self.state: Any = np.zeros(shape, np.float32)
        if like is not None:
            if not slots.is_tensor(like) and not isinstance(like, np.ndarray):
                raise DtypeError(
                    f"OuterMemory: like is {scalars.shown(like)}, should be an array or a tensor"
                )
            is_tensor = slots.is_tensor(like)
            self.state = like.new_zeros(shape) if is_tensor else np.zeros(shape, like.dtype)

    def write(self, keys: Any, values: Any, *, rates: Any = None, decays: Any = None) -> None:
        """Write pairs one after the other; the result is that of single writes.

        Args:
            keys: (*lead, n, dim); missing leading axes broadcast.
            values: (*lead, n, value_dim).
            rates: (*lead, n), 1 by default.
            decays: (*lead, n), the constructor's by default; none with "gated".

        Raises:
            ShapeError, DtypeError, InputError: nothing was written.

        Cost: n · dim · value_dim multiply-adds and, in chunks of 64 pairs, a triangle of keys
        solved for ("delta").
        """
        state = self.state
        lead, (dim, value_dim) = state.shape[:-2], state.shape[-2:]
        keys = self._rows("keys", keys, dim)
        values = self._rows("values", values, value_dim)
        n = keys.shape[-2]
        if values.shape[-2] != n:
            raise ShapeError(f"write: values has {values.shape[-2]} rows, should have {n}")
        rates = self._numbers("rates", 1.0 if rates is None else rates, lead, n)
        if self.rule == "gated":
            if decays is not None:
                raise InputError("write: decays is given, should be None where the rule is gated")
            decays = 1 - rates
        else:
            decays = self._numbers("decays", self.decay if decays is None else decays, lead, n)
        keys, values = (self._spread(rows, (*lead, *rows.shape[-2:])) for rows in (keys, values))
        for at in range(0, n, _CHUNK):
            here = slice(at, at + _CHUNK)
            pairs = (keys[..., here, :], values[..., here, :])
            state = self._written(state, *pairs, rates[..., here], decays[..., here])
        self.state = state

    def read(self, queries: Any) -> Any:
        """What is associated with the queries (…, n, dim): (…, n, value_dim)."""
        return self._rows("queries", queries, self.state.shape[-2], "read") @ self.state

    def detach(self) -> None:
        """Cut the state off from the graph of what was written."""
        self.state = slots.source("detach", "state", self.state)

    def reset(self) -> None:
        """Forget everything."""
        self.state = slots.empty(self.state, len(self.state))

    def state_dict(self) -> dict[str, Any]:
        """A copy of the state, without its graph."""
        return {"state": slots.copy(slots.source("state_dict", "state", self.state))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of the same shape."""
        if tuple(state["state"].shape) != tuple(self.state.shape):
            raise ShapeError(
                f"load_state_dict: state has shape {tuple(state['state'].shape)}, "
                f"should be {tuple(self.state.shape)}"
            )
        self.state = slots.copy(state["state"])

    def _written(self, state: Any, keys: Any, values: Any, rates: Any, decays: Any) -> Any:
        """The state after a chunk: sums over pairs, each times the decays that come after it."""
        library = np if isinstance(state, np.ndarray) else slots.torch()
        # share[t, s]: what is left of pair s after the decays s + 1 … t; no division, decays may be
        # 0.
        n = keys.shape[-2]
        strict, below = self._triangle(n, -1), self._triangle(n, 0)
        share = library.cumprod(library.where(strict, decays[..., :, None], 1), -2)
        share = library.where(below, share, 0)
        since = library.cumprod(decays, -1)[..., None]
        added = rates[..., None] * values
        if self.rule == "delta":
            # What each pair adds depends on the earlier ones of the chunk: a triangular system.
            overlap = rates[..., None] * (keys @ keys.swapaxes(-1, -2)) * share
            system = library.where(strict, overlap, 0) + (below & ~strict)
            added = library.linalg.solve(system, added - rates[..., None] * since * (keys @ state))
        last = share[..., -1, :, None]
        return since[..., -1:, :] * state + (last * keys).swapaxes(-1, -2) @ added

    def _triangle(self, n: int, diagonal: int) -> Any:
        """(n, n) bool, True on and below a diagonal."""
        if isinstance(self.state, np.ndarray):
            return np.tri(n, n, diagonal, dtype=np.bool_)
        torch = slots.torch()
        return torch.ones((n, n), dtype=torch.bool, device=self.state.device).tril(diagonal)

    def _rows(self, name: str, rows: Any, dim: int, op: str = "write") -> Any:
        found = self._real(op, name, rows)
        if found.ndim < 2 or found.shape[-1] != dim:
            raise ShapeError(
                f"{op}: {name} has shape {tuple(found.shape)}, should be (…, n, {dim})"
            )
        lead = tuple(self.state.shape[:-2])
        if op == "write" and not _fits(tuple(found.shape[:-2]), lead):
            raise ShapeError(
                f"write: {name} has leading axes {tuple(found.shape[:-2])}, should be {lead}"
            )
        return found

    def _numbers(self, name: str, numbers: Any, lead: tuple[int, ...], n: int) -> Any:
        found = self._real("write", name, numbers)
        if not _fits(tuple(found.shape), (*lead, n)):
            raise ShapeError(
                f"write: {name} has shape {tuple(found.shape)}, should be {(*lead, n)}"
            )
        return self._spread(found, (*lead, n))

    def _real(self, op: str, name: str, array: Any) -> Any:
        """In the state's library and dtype, finite."""
        state = self.state
        if isinstance(state, np.ndarray):
            array = np.asarray(array) if isinstance(array, float) else array
            found = arrays.numbers(op, name, array).astype(state.dtype, copy=False)
        elif slots.is_tensor(array):
            found = array.to(state.dtype)
        else:
            found = slots.torch().as_tensor(array, dtype=state.dtype, device=state.device)
        if not slots.is_traced() and slots.first_not_finite(found[None]) is not None:
            raise InputError(f"{op}: {name} is not finite, should be")
        return found

    def _spread(self, array: Any, shape: tuple[int, ...]) -> Any:
        if isinstance(array, np.ndarray):
            return np.broadcast_to(array, shape)
        return array.expand(shape)


def _fits(shape: tuple[int, ...], wider: tuple[int, ...]) -> bool:
    tail = wider[len(wider) - len(shape) :]
    return len(shape) <= len(wider) and all(a in (1, b) for a, b in zip(shape, tail, strict=True))

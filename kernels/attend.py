"""attend and its backward over all keys: tiles, splits, and the kernels that run."""

from dataclasses import dataclass
from typing import Any

import torch
import triton

from . import cards, stream, stream_backward
from .layout import Rows, of_two, over

# How many programs fill a card; with fewer, what a program walks over is split.
_PROGRAMS = 264
# Tiles that a split has at least, so that joining the parts stays small.
_SPLIT_TILES = 4


@dataclass(frozen=True)
class Tile:
    """What a program holds at a time.

    Attributes:
        Q: queries.
        N: keys.
        columns: of a row of keys or values.
        n_warps: warps that share it.
        n_stages: tiles that are on their way.
    """

    Q: int
    N: int
    columns: int
    n_warps: int
    n_stages: int


# By kernel and width or kind of the rows, so that registers suffice (tests/kernels/table.json).
TILES = {
    ("forward", "half"): Tile(64, 64, 128, 4, 3),
    ("forward", "fp32"): Tile(64, 32, 64, 4, 3),
    ("forward", "fp64"): Tile(32, 32, 32, 4, 2),
    ("masked forward", "half"): Tile(64, 64, 128, 8, 2),
    ("masked forward", "fp32"): Tile(32, 32, 64, 8, 2),
    ("masked forward", "fp64"): Tile(16, 32, 32, 4, 2),
    ("few", "half"): Tile(16, 64, 128, 4, 3),
    ("few", "fp32"): Tile(16, 64, 64, 4, 2),
    ("few", "fp64"): Tile(16, 32, 32, 4, 2),
    ("queries", "half"): Tile(64, 64, 128, 8, 2),
    ("queries", "fp16"): Tile(64, 32, 128, 8, 2),
    ("queries", "fp32"): Tile(64, 32, 64, 4, 3),
    ("queries", "fp64"): Tile(32, 32, 32, 8, 2),
    ("keys", "half"): Tile(32, 64, 128, 8, 2),
    ("keys", "fp32"): Tile(32, 32, 64, 8, 2),
    ("keys", "fp64"): Tile(16, 32, 32, 8, 2),
    ("masked queries", "fp32"): Tile(32, 32, 64, 4, 2),
    ("masked queries", "fp64"): Tile(16, 16, 32, 8, 2),
    ("masked keys", "fp64"): Tile(16, 16, 32, 8, 2),
}


def tile_for(kernel: str, kind: str, width: str, *, is_masked: bool) -> Tile:
    """The tile of a kernel, the nearest to what its rows and mask ask for."""
    names = (f"masked {kernel}", kernel) if is_masked else (kernel,)
    return next(TILES[n, each] for n in names for each in (kind, width) if (n, each) in TILES)


# As what the rows of a dtype are multiplied with others of their dtype, and with computed numbers
# in a backward, whose range is wider than that of float16.
_KINDS = {
    torch.float64: ("fp64", "fp64"),
    torch.float32: ("fp32", "fp32"),
    torch.bfloat16: ("bf16", "bf16"),
    torch.float16: ("fp16", "tf32"),
    torch.int8: ("fp16", "tf32"),
}


def attend(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor | None,
    beta: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    exclude: torch.Tensor | None,
    out: torch.Tensor | None,
    lse: torch.Tensor,
    *,
    metric: str = "dot",
) -> None:
    """Write the read of each query into out (…, n_queries, value_dim), and lse (…, n_queries).

    Args: as `_core.attend`, in tensors of one device; a query that is not finite finds nothing.
        Beyond it, metric "l2" takes minus the squared distance in the place of the dot product.
    """
    plan = _Plan(queries, keys, values, beta, bias, mask, exclude, lse, metric)
    if not lse.numel():
        return
    tile = plan.tile("few" if plan.n_queries <= 16 else "forward")
    n_blocks = max(1, triton.cdiv(plan.value_dim, tile["V"]))
    n_splits = _splits(plan.programs(plan.n_queries, tile["Q"]) * n_blocks, plan.n_keys, tile["N"])
    reads = lse.new_empty((n_splits, *lse.shape, plan.value_dim)) if n_splits > 1 else out
    lses = lse.new_empty((n_splits, *lse.shape)) if n_splits > 1 else lse
    for is_careful in (False,) if values is None else (False, True):
        if is_careful:
            tile = plan.careful(tile)
            n_blocks = max(1, triton.cdiv(plan.value_dim, tile["V"]))
        stream.attend_kernel[(plan.programs(plan.n_queries, tile["Q"]), n_splits, n_blocks)](
            plan.given,
            reads if values is not None else None,
            lses,
            n_splits,
            IS_L2=metric == "l2",
            IS_CAREFUL=is_careful,
            KIND=plan.kind,
            VALUE_KIND=plan.value_kind,
            REAL=plan.real,
            **tile,
        )
    if n_splits == 1:
        return
    top = lses.amax(0)
    shares = torch.exp(lses - torch.where(top == -torch.inf, 0, top))
    total = shares.sum(0)
    lse.copy_(torch.where(total > 0, top + torch.log(total), -torch.inf))
    if out is not None and reads is not None:
        shares = shares / torch.where(total > 0, total, 1)
        # A part without a share adds nothing, even if it is not finite.
        parts = torch.where(shares[..., None] == 0, 0, shares[..., None] * reads)
        torch.sum(parts, 0, out=out)


def attend_backward(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor | None,
    beta: torch.Tensor,
    bias: torch.Tensor | None,
    mask: torch.Tensor | None,
    exclude: torch.Tensor | None,
    lse: torch.Tensor,
    out_grad: torch.Tensor | None,
    shift: torch.Tensor,
    query_grad: torch.Tensor | None,
    key_grad: torch.Tensor | None,
    value_grad: torch.Tensor | None,
    bias_grad: torch.Tensor | None,
    beta_grad: torch.Tensor | None,
    *,
    metric: str = "dot",
) -> None:
    """Write the gradients that are wanted, the others None; all are summed in one order.

    Args: as `_core.attend_backward`, in tensors of one device; metric as for `attend`, and with
        "l2" those of queries and beta are not there.
    """
    plan = _Plan(queries, keys, values, beta, bias, mask, exclude, lse, metric)
    grads = (query_grad, key_grad, value_grad, bias_grad, beta_grad)
    if not (lse.numel() and plan.n_keys):
        for grad in grads:
            if grad is not None:
                grad.zero_()
        return
    given = (
        lse.contiguous(),
        None if out_grad is None else out_grad.to(lse.dtype).contiguous(),
        shift.to(lse.dtype).contiguous(),
    )
    if query_grad is not None or beta_grad is not None:
        _of_queries(plan, given, query_grad, beta_grad)
    if key_grad is not None or value_grad is not None or bias_grad is not None:
        _of_keys(plan, given, metric, key_grad, value_grad, bias_grad)


class _Plan:
    """The arguments of both directions as kernels take them, and the tiles that fit them."""

    def __init__(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor | None,
        beta: torch.Tensor,
        bias: torch.Tensor | None,
        mask: torch.Tensor | None,
        exclude: torch.Tensor | None,
        lse: torch.Tensor,
        metric: str,
    ) -> None:
        asked, held = Rows.of(queries), Rows.of(keys)
        read = None if values is None else Rows.of(values)
        biases = None if bias is None else Rows.of(bias[..., None, :].to(lse.dtype))
        if mask is not None and lse.dtype is torch.float64:
            # Triton has no product of float64 with what was made of bytes.
            mask = mask.int()
        self.is_masked = mask is not None
        masks = None if mask is None else Rows.of(mask)
        self.n_batches, self.n_queries, self.n_keys = asked.n_batches, asked.n, held.n
        self.dim, self.value_dim = asked.dim, 0 if read is None else read.dim
        self.given = over(asked, held, read, beta, biases, masks, exclude)
        dtypes = {queries.dtype, keys.dtype}
        if len(dtypes) == 2:
            # int8 has no digit that a half has not.
            dtypes.discard(torch.int8)
        self.kind = _KINDS[dtypes.pop()][0] if len(dtypes) == 1 else "fp32"
        self.value_kind = self.kind if values is None else _KINDS[values.dtype][0]
        self.grad_kinds = [
            self.kind if each is None else _KINDS[each.dtype][1] for each in (queries, keys, values)
        ]
        self.real = of_two(lse)
        self.has_small_memory = not cards.has_large_memory(lse.device)
        self.width = "half"
        if self.kind == "fp64":
            self.width = "fp64"
        elif "fp32" in (self.kind, self.value_kind):
            self.width = "fp32"

    def tile(self, kernel: str) -> dict[str, int]:
        """The constants and options of a kernel."""
        tile = tile_for(kernel, self.kind, self.width, is_masked=self.is_masked)
        most = tile.columns // 2 if self.has_small_memory else tile.columns
        columns, value_columns = (
            min(most, max(16, triton.next_power_of_2(dim))) for dim in (self.dim, self.value_dim)
        )
        return {
            "Q": tile.Q if self.n_queries > 16 else 16,
            "N": tile.N,
            "D": columns,
            "V": value_columns,
            "DIM": triton.cdiv(self.dim, columns) * columns,
            "num_warps": tile.n_warps,
            "num_stages": tile.n_stages,
        }

    def careful(self, tile: dict[str, int]) -> dict[str, int]:
        """The tile of the second, careful pass: as many keys, so that splits are the same."""
        fewer = {"Q": min(tile["Q"], 32), "D": min(tile["D"], 64), "V": min(tile["V"], 64)}
        return {**tile, **fewer, "num_warps": 4, "num_stages": 2}

    def value_columns(self, tile: dict[str, int]) -> int:
        """The components of values in whole tiles."""
        return int(triton.cdiv(max(1, self.value_dim), tile["V"]) * tile["V"])

    def programs(self, n: int, n_at_once: int) -> int:
        """One for each tile of queries, or of keys, of each batch."""
        return int(self.n_batches * triton.cdiv(n, n_at_once))


def _splits(n_programs: int, n_walked: int, step: int) -> int:
    """Into how many parts goes what programs walk over, so that the card is full."""
    wanted = triton.cdiv(_PROGRAMS, n_programs)
    return max(1, min(wanted, n_walked // (_SPLIT_TILES * step)))


def _of_queries(
    plan: _Plan,
    given: tuple[Any, ...],
    query_grad: torch.Tensor | None,
    beta_grad: torch.Tensor | None,
) -> None:
    lse = given[0]
    tile = plan.tile("queries")
    n_programs = plan.programs(plan.n_queries, tile["Q"])
    n_blocks = 1 if query_grad is None else triton.cdiv(plan.dim, tile["D"])
    n_splits = _splits(n_programs * n_blocks, plan.n_keys, tile["N"])
    parts = _parts(query_grad, n_splits)
    betas = None if beta_grad is None else lse.new_empty((n_splits, *lse.shape))
    for is_careful in (False,) if parts is None else (False, True):
        stream_backward.attend_queries_kernel[(n_programs, n_splits, n_blocks)](
            plan.given,
            *given,
            parts,
            betas,
            n_splits,
            IS_CAREFUL=is_careful,
            KIND=plan.kind,
            VALUE_KIND=plan.grad_kinds[2],
            KEY_KIND=plan.grad_kinds[1],
            REAL=plan.real,
            VALUE_DIM=plan.value_columns(tile),
            **tile,
        )
    _join(parts, query_grad)
    if beta_grad is not None and betas is not None:
        beta_grad.copy_(betas.sum((0, -1), dtype=torch.float64))


def _of_keys(
    plan: _Plan,
    given: tuple[Any, ...],
    metric: str,
    key_grad: torch.Tensor | None,
    value_grad: torch.Tensor | None,
    bias_grad: torch.Tensor | None,
) -> None:
    tile = plan.tile("keys")
    n_programs = plan.programs(plan.n_keys, tile["N"])
    blocks = [1]
    if key_grad is not None:
        blocks.append(triton.cdiv(plan.dim, tile["D"]))
    if value_grad is not None:
        blocks.append(triton.cdiv(plan.value_dim, tile["V"]))
    n_blocks = max(blocks)
    n_splits = _splits(n_programs * n_blocks, plan.n_queries, tile["Q"])
    wanted = (key_grad, value_grad, bias_grad)
    parts = [_parts(grad, n_splits) for grad in wanted]
    stream_backward.attend_keys_kernel[(n_programs, n_splits, n_blocks)](
        plan.given,
        *given,
        *parts,
        n_splits,
        IS_L2=metric == "l2",
        KIND=plan.kind,
        VALUE_KIND=plan.grad_kinds[2],
        QUERY_KIND=plan.grad_kinds[0],
        REAL=plan.real,
        VALUE_DIM=plan.value_columns(tile),
        **tile,
    )
    for part, grad in zip(parts, wanted, strict=True):
        _join(part, grad)


def _parts(grad: torch.Tensor | None, n_splits: int) -> torch.Tensor | None:
    """Room for the shares of all splits in a gradient; the gradient itself if there is one."""
    if grad is None or n_splits == 1:
        return grad
    return grad.new_empty((n_splits, *grad.shape))


def _join(parts: torch.Tensor | None, grad: torch.Tensor | None) -> None:
    if parts is not None and grad is not None and parts is not grad:
        torch.sum(parts, 0, out=grad)

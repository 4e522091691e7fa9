"""What narrows or weighs a search of pages: conditions, candidates, weights and bounds."""

from dataclasses import dataclass, replace

import torch

from .arguments import LimitsView, ProgramsView


@dataclass(frozen=True)
class Conditions:
    """Programs of `where`, one after the other, on the device.

    Attributes:
        steps: (n, 4) int64; constants from where to where count from the first of all programs.
        constants: (n,) int64, floats as `where.ordered`.
        ends: (n_programs + 1,) int64, the steps of each program.
        index: (n_queries,) int64, the program of each query; -1 for all rows.
        is_shared: all queries have program 0.
    """

    steps: torch.Tensor
    constants: torch.Tensor
    ends: torch.Tensor
    index: torch.Tensor
    is_shared: bool

    @property
    def view(self) -> ProgramsView:
        """As kernels take them."""
        return ProgramsView(self.steps, self.constants, self.ends, self.index)


@dataclass(frozen=True)
class Limits:
    """What narrows or weighs a search; see `memcore.Arena.search`.

    Attributes:
        conditions: of each query, or None.
        candidates: (n_queries, m) int64 ids, or None; kernels take them in rising order.
        scale: a column of numbers, or None; so is bias.
        low: the least final score; high: the largest.
    """

    conditions: Conditions | None = None
    candidates: torch.Tensor | None = None
    scale: int | None = None
    bias: int | None = None
    low: float = -torch.inf
    high: float = torch.inf

    @property
    def view(self) -> LimitsView:
        """As kernels take them."""
        programs = None if self.conditions is None else self.conditions.view
        named = self.candidates
        n_named = 0 if named is None else named.shape[1]
        return LimitsView(programs, named, n_named, self.scale, self.bias, self.low, self.high)

    @property
    def is_open(self) -> bool:
        """Whether every row that meets the conditions may be returned, at its score."""
        weighs = self.scale is not None or self.bias is not None
        return not weighs and self.low == -torch.inf and self.high == torch.inf

    def of(self, queries: slice) -> "Limits":
        """The limits of some of the queries."""
        conditions, named = self.conditions, self.candidates
        if conditions is not None:
            conditions = replace(conditions, index=conditions.index[queries])
        named = None if named is None else named[queries]
        return replace(self, conditions=conditions, candidates=named)

    def ordered(self) -> "Limits":
        """The same with candidates in rising order."""
        named = self.candidates
        return self if named is None else replace(self, candidates=named.sort(1).values)

    def spread(self, n: int) -> "Limits":
        """The limits of each query n times."""
        conditions, named = self.conditions, self.candidates
        if conditions is not None:
            conditions = replace(conditions, index=conditions.index.repeat_interleave(n))
        named = None if named is None else named.repeat_interleave(n, 0)
        return replace(self, conditions=conditions, candidates=named)

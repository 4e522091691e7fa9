"""The lists of several banks side by side on a device, and which of them each query visits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore.index.probes import LEAST_NORM

Ints = NDArray[np.int64]

_INF = float("inf")


class There(NamedTuple):
    """What is on a device of one version of a partition.

    Attributes:
        version: of the partition.
        handles: (n,) int64, of the lists.
        centroids: (n, dim) float32, of these lists; zeros where there is only one list.
    """

    version: int
    handles: Any
    centroids: Any

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return sum(each.numel() * each.element_size() for each in (self.handles, self.centroids))


class Joint:
    """The lists of partitions, one partition after the other.

    Attributes:
        sizes: (n_queries,) how many lists the bank of each query has, as far as it is among them.
    """

    def __init__(
        self, torch: Any, mirror: Any, known: Sequence[There], owners: Ints, metric: str
    ) -> None:
        """Put lists side by side.

        Args:
            torch: the module.
            mirror: of the rows.
            known: of each partition.
            owners: (n_queries,) the place of each query's partition among them, or their number.
            metric: of the centroids' scores.
        """
        self._torch = torch
        self._mirror = mirror
        self._owners = owners
        self._metric = metric
        lengths = [len(each.handles) for each in known]
        # Queries at other banks have an empty part at the end.
        self._offsets = np.cumsum([0, *lengths, 0])
        self._is_one = len(known) == 1 and not owners.any()
        self._handles, self._centroids = known[0].handles, known[0].centroids
        if len(known) > 1:
            self._handles = torch.cat([each.handles for each in known])
            self._centroids = torch.cat([each.centroids for each in known])
        self.sizes: Ints = np.diff(self._offsets)[owners]

    def every(self) -> Any:
        """All lists of each query's bank: (n_queries, most) handles; -1 pads."""
        if self._is_one:
            return self._handles[None].expand(len(self._owners), -1)
        torch, sent = self._torch, self._mirror.sent
        column = torch.arange(int(self.sizes.max(initial=1)), device=self._mirror.device)
        at = sent(self._offsets[self._owners])[:, None] + column
        handles = self._handles[at.clamp(max=len(self._handles) - 1)]
        return torch.where(column < sent(self.sizes)[:, None], handles, -1)

    def likeliest(self, queries: Any, counts: Ints, gaps: NDArray[np.float64]) -> Any:
        """The lists that `probes.choose` would choose, likeliest first; -1 pads.

        Args:
            queries: (n_queries, dim), on the device.
            counts: (n_queries,) how many lists each visits at most.
            gaps: (n_queries,) by how much the score of a centroid may fall short of the best.
        """
        if (counts >= self.sizes).all() and np.isinf(gaps).all():
            return self.every()
        torch, mirror, kernels = self._torch, self._mirror, self._mirror.kernels
        most = int(counts.max())
        scores = torch.empty((len(queries), most), dtype=torch.float32, device=mirror.device)
        places = torch.empty_like(scores, dtype=torch.int64)
        parts = (None, None)
        if not self._is_one:
            parts = mirror.sent(self._offsets), mirror.sent(self._owners)
        rest = (None, None, None, None, -_INF, _INF, None, scores, places)
        kernels.search(queries, self._centroids, *parts, most, self._metric, *rest)
        norms = None
        if self._metric == "dot" and np.isfinite(gaps).any():
            norms = kernels.norms(queries)[1]
        reach: tuple[Any, Any] = most, float(gaps[0])
        if (counts != most).any() or (gaps != gaps[0]).any():
            reach = mirror.sent(counts), mirror.sent(gaps.astype(np.float32))
        return kernels.visits(scores, places, self._handles, norms, float(LEAST_NORM), *reach)

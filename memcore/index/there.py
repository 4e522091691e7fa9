"""Inverted files whose rows lie on a device too: lists are chosen and scanned there.

What the choice reads of a partition, its centroids and the handles of its lists, is sent once for
each change of the partition. The rows themselves follow the host's, as those of any bank do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memcore import tensors
from memcore.errors import BackendError
from memcore.index.lists import Lists
from memcore.index.members import Members
from memcore.index.partition import Partition
from memcore.index.probes import LEAST_NORM, reaches

Ints = NDArray[np.int64]

_INF = float("inf")


class _There(NamedTuple):
    """What is on the device of one version of a partition.

    Attributes:
        version: of the partition.
        handles: (n,) int64, of the lists.
        centroids: (n, dim) float32, of these lists; None where there is one list.
    """

    version: int
    handles: Any
    centroids: Any

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        both = (self.handles, self.centroids)
        return sum(each.numel() * each.element_size() for each in both if each is not None)


class ListsThere:
    """The reads of a store of lists by a device. All methods are for who holds its section.

    Attributes:
        mirror: of the rows.
    """

    def __init__(self, rows: Any, lists: Lists, members: Members) -> None:
        """Read these lists, whose rows are in a page store on a device."""
        self._lists = lists
        self._members = members
        self._rows = rows
        self._torch = tensors.library("Arena")
        self.mirror = rows.mirror

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory that are held, the rows' included."""
        known = [each.there for each in list(self._members.partitions.values())]
        return int(self.mirror.nbytes + sum(each.nbytes for each in known if each is not None))

    def search(
        self,
        handles: Any,
        queries: Any,
        k: Any,
        limits: tuple[Any, ...],
        first_pass: Any,
        scores: Any,
        ids: Any,
        n_probes: Any,
        recall: Any,
    ) -> bool:
        """Search on the device, unless the host must; whether it has.

        Args: as for `DevicePages.search_there`, with the handles of banks; n_probes and recall as
            for `probes.choose`. Handles on the device are read back.

        Raises:
            BackendError: a CUDA graph is captured: its replays would search the lists of now.
        """
        mirror, rest = self.mirror, (first_pass, scores, ids)
        self._check_not_captured("search")
        lists, parts = self._of("search", handles, len(queries))
        if not parts or queries.shape[1] != mirror.layout.dim:
            at = self._sent(handles, lists)
            return bool(self._rows.search_there(at, queries, k, limits, *rest))
        candidates = limits[2]

        def visited(partition: Partition, which: Any) -> Any:
            if candidates is not None:
                return self._named(partition, _some(candidates, which), len(_some(asked, which)))
            effort = (_some(n_probes, which), _some(recall, which))
            return self._probed(partition, _some(asked, which), _some(k, which), *effort)

        self._know(parts)
        with mirror.turns.reading("search"):
            asked = mirror.sent(queries)
            table = self._table(lists, parts, len(asked), visited)
        return bool(self._rows.search_there(table, asked, k, limits, *rest))

    def there(self, op: str, handles: Any) -> Any:
        """As `DevicePages.there`, of all lists of each bank; a partition's in one row for all."""
        self._check_not_captured(op)
        lists, parts = self._of(op, handles, len(handles))
        if not parts:
            return self._rows.there(op, self._sent(handles, lists))
        self._know(parts)
        with self.mirror.turns.reading(op):
            table = self._table(lists, parts, len(handles), self._all)
        return self._rows.there(op, table)

    def prefetch(self, handles: Ints) -> None:
        """As the page store, for all lists of banks."""
        lists, parts = self._of("prefetch", handles, len(handles))
        named = [partition.lists[partition.places] for partition, _ in parts]
        self._rows.prefetch(np.concatenate([lists[lists >= 0], *named]))

    def _check_not_captured(self, op: str) -> None:
        if self.mirror.is_capturing:
            raise BackendError(
                f"{op}: a CUDA graph is captured, should not be: the lists of an index change"
            )

    def _of(self, op: str, handles: Any, n: int) -> tuple[Ints, list[tuple[Partition, Any]]]:
        """As `Members.split`; a handle on the device that names no bank has -1 and no partition."""
        if isinstance(handles, np.ndarray):
            self._members.check(op, handles)
            return self._members.split(handles, n)
        owners = handles.cpu().numpy()
        lists, parts = self._members.split(owners, n)
        return np.where(self._lists.directory.alive(owners), lists, -1), parts

    def _sent(self, handles: Any, lists: Ints) -> Any:
        """The list of each handle, on the device if the handles are."""
        return lists if isinstance(handles, np.ndarray) else self.mirror.sent(lists)

    def _table(
        self,
        lists: Ints,
        parts: list[tuple[Partition, Any]],
        n: int,
        choose: Callable[[Partition, Any], Any],
    ) -> Any:
        """The lists of each query or row, (n, most) handles on the device; -1 pads."""
        if len(lists) == 1:
            return choose(parts[0][0], slice(0, n))
        sent = self.mirror.sent
        chosen = [(sent(which), choose(partition, which)) for partition, which in parts]
        most = max(each.shape[1] for _, each in chosen)
        table = self._torch.full((n, most), -1, dtype=self._torch.int64, device=self.mirror.device)
        table[:, 0] = sent(lists)
        for which, each in chosen:
            table[which, : each.shape[1]] = each
        return table

    def _all(self, partition: Partition, which: Any) -> Any:
        n = which.stop - which.start if isinstance(which, slice) else len(which)
        return partition.there.handles[None].expand(n, -1)

    def _named(self, partition: Partition, candidates: Any, n: int) -> Any:
        """The lists that candidates are in; all, where the host would have to wait to see."""
        if isinstance(candidates, np.ndarray) and candidates.shape[1] < len(partition.places):
            owner = np.array([partition.handle])
            places = self._lists.places(owner, candidates.reshape(-1)).reshape(candidates.shape)
            named = np.sort(np.where(places >= 0, partition.lists[places], -1), axis=1)
            named[:, 1:][named[:, 1:] == named[:, :-1]] = -1
            return self.mirror.sent(np.pad(named, ((0, 0), (0, 1)), constant_values=-1))
        return self._all(partition, slice(0, n))

    def _probed(self, partition: Partition, asked: Any, k: Any, n_probes: Any, recall: Any) -> Any:
        """The lists that `probes.choose` would choose, likeliest first; -1 pads."""
        known, mirror, torch, n = partition.there, self.mirror, self._torch, len(asked)
        if known.centroids is None or not n:
            return self._all(partition, slice(0, n))
        counts, within = reaches(self._lists, partition, k, n_probes, recall)
        most = int(counts.max())
        if most == len(known.handles) and counts.min() == most and np.isinf(within).all():
            return self._all(partition, slice(0, n))
        scores = torch.empty((n, most), dtype=torch.float32, device=mirror.device)
        places = torch.empty_like(scores, dtype=torch.int64)
        metric = partition.routes.metric
        rest = (None, None, None, None, -_INF, _INF, None, scores, places)
        mirror.kernels.search(asked, known.centroids, None, None, most, metric, *rest)
        kernels, reach = mirror.kernels, (most, float(within.max()))
        if counts.size > 1:
            near = within.astype(np.float32)
            reach = mirror.sent(counts.reshape(-1)), mirror.sent(near.reshape(-1))
        has_norms = metric == "dot" and np.isfinite(within).any()
        norms = kernels.norms(asked)[1] if has_norms else None
        return kernels.visits(scores, places, known.handles, norms, float(LEAST_NORM), *reach)

    def _know(self, parts: list[tuple[Partition, Any]]) -> None:
        """Have on the device what the choice reads of partitions; before what reads it."""
        changed = [each for each, _ in parts if not each.there or each.there[0] != each.version]
        if not changed:
            return
        sent = self.mirror.sent
        # The memory is used again, by what comes after all reads of it.
        with self.mirror.turns.writing(waits=False):
            for each in changed:
                places, centroids = each.places, None
                if each.n_centroids:
                    places = np.flatnonzero(each.has_centroid)
                    centroids = sent(each.routes.centroids(each.centroids, places))
                each.there = _There(each.version, sent(each.lists[places]), centroids)


def _some(values: Any, which: Any) -> Any:
    """values[which] of arrays of one for each query; what is one for all as it is."""
    if isinstance(which, slice) or values is None or np.ndim(values) == 0:
        return values
    if isinstance(values, np.ndarray):
        return values[which]
    return values[tensors.sent(which, values.device)]

"""Inverted files whose rows lie on a device too: lists are chosen and scanned there.

What the choice reads of a partition, its centroids and the handles of its lists, is sent once for
each change of the partition. The rows themselves follow the host's, as those of any bank do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import tensors
from memcore.errors import BackendError
from memcore.index.joint import Joint, There
from memcore.index.lists import Lists
from memcore.index.members import Members
from memcore.index.partition import Partition
from memcore.index.probes import reaches

Ints = NDArray[np.int64]


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
        candidates, asked = limits[2], mirror.sent(queries)

        def visited(joint: Joint) -> Any:
            if candidates is not None:
                return self._of_candidates(parts, joint, candidates)
            return joint.likeliest(asked, *self._reaches(parts, len(asked), k, n_probes, recall))

        table = self._table("search", lists, parts, len(asked), visited)
        if table is None:
            return False
        return bool(self._rows.search_there(table, asked, k, limits, *rest))

    def there(self, op: str, handles: Any) -> Any:
        """As `DevicePages.there`, of all lists of each bank; a partition's in one row for all."""
        self._check_not_captured(op)
        lists, parts = self._of(op, handles, len(handles))
        if not parts:
            return self._rows.there(op, self._sent(handles, lists))
        table = self._table(op, lists, parts, len(handles), Joint.every)
        return None if table is None else self._rows.there(op, table)

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
        op: str,
        lists: Ints,
        parts: list[tuple[Partition, Any]],
        n: int,
        choose: Callable[[Joint], Any],
    ) -> Any:
        """The lists of each query or row, (n, most) handles on the device; -1 pads.

        None where there is no memory for them.
        """
        mirror, torch = self.mirror, self._torch
        owners = np.full(n, len(parts))
        for i, (_, which) in enumerate(parts):
            owners[which] = i
        try:
            self._know([partition for partition, _ in parts])
            with mirror.turns.reading(op):
                known = [partition.there for partition, _ in parts]
                metric = parts[0][0].routes.metric
                table = choose(Joint(torch, mirror, known, owners, metric))
                if (lists >= 0).any():
                    # Banks of one list.
                    only = mirror.sent(lists)
                    table[:, 0] = torch.where(only >= 0, only, table[:, 0])
                return table
        except torch.OutOfMemoryError:
            return None

    def _reaches(
        self, parts: list[tuple[Partition, Any]], n: int, k: Any, n_probes: Any, recall: Any
    ) -> tuple[Ints, NDArray[np.float64]]:
        """How far each query goes, as `probes.reaches` says: (n,) each."""
        counts, gaps = np.ones((n, 1), np.int64), np.full((n, 1), np.inf)
        for partition, which in parts:
            if partition.n_centroids and n:
                effort = (_some(each, which) for each in (k, n_probes, recall))
                counts[which], gaps[which] = reaches(self._lists, partition, *effort)
        return counts[:, 0], gaps[:, 0]

    def _of_candidates(
        self, parts: list[tuple[Partition, Any]], joint: Joint, candidates: Any
    ) -> Any:
        """The lists that candidates are in; all, where the host would have to wait to see."""
        if not isinstance(candidates, np.ndarray) or candidates.shape[1] >= joint.sizes.max(
            initial=1
        ):
            return joint.every()
        n, m = candidates.shape
        table = np.full((n, m + 1), -1)
        for partition, which in parts:
            some, owner = candidates[which], np.array([partition.handle])
            places = self._lists.places(owner, some.reshape(-1)).reshape(some.shape)
            named = np.sort(np.where(places >= 0, partition.lists[places], -1), axis=1)
            named[:, 1:][named[:, 1:] == named[:, :-1]] = -1
            table[which, :m] = named
        return self.mirror.sent(table)

    def _know(self, partitions: list[Partition]) -> None:
        """Have on the device what the choice reads of partitions; before what reads it."""
        changed = [each for each in partitions if not each.there or each.there[0] != each.version]
        if not changed:
            return
        sent = self.mirror.sent
        # The memory is used again, by what comes after all reads of it.
        with self.mirror.turns.writing(waits=False):
            for each in changed:
                places, centroids = each.places, np.zeros((1, self.mirror.layout.dim), np.float32)
                if each.n_centroids:
                    places = np.flatnonzero(each.has_centroid)
                    centroids = each.routes.centroids(each.centroids, places)
                each.there = There(each.version, sent(each.lists[places]), sent(centroids))


def _some(values: Any, which: Any) -> Any:
    """values[which] of arrays of one for each query; what is one for all as it is."""
    return values[which] if isinstance(values, np.ndarray) else values

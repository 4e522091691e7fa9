"""What a search returns."""

from typing import Any, NamedTuple


class Hits(NamedTuple):
    """The best keys of each query, best first.

    Attributes:
        scores: (…, k) float32; larger is better, -inf where nothing was found.
        ids: (…, k) int64; -1 where nothing was found. Equal scores stand by the smaller id.

    Both are arrays of the caller's library, on the caller's device; `scores, ids = search(…)`
    unpacks them.
    """

    scores: Any
    ids: Any

    @property
    def valid(self) -> Any:
        """(…, k) bool: True where there is a hit."""
        return self.ids >= 0

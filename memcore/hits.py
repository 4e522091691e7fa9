"""What a search returns, and what an attend does."""

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


class Read(NamedTuple):
    """What an attend read, with what was asked for beside it; the rest is None.

    Attributes:
        out: (…, n_queries, value_dim), the weighted values; zeros over nothing.
        lse: (…, n_queries), the log-sum-exp of the logits; -inf over nothing. `merge_lse` joins
            reads by it.
        weights: (…, n_queries, n_ids), the softmax, with ids.
        ids: (…, n_queries, n_ids), the rows that the weights are of, best first where they were
            selected; -1 where nothing was found.
        dropped: (…, n_queries), the share of the softmax over all keys that was left out.
    """

    out: Any
    lse: Any = None
    weights: Any = None
    ids: Any = None
    dropped: Any = None

"""Gate: which rows are worth storing."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcore import arrays, scalars, slots
from memcore.errors import DtypeError, InputError, ShapeError, in_name_of
from memcore.ops import search as ops

Bools = NDArray[np.bool_]

METRICS = ("cosine", "dot", "l2")


class Gate:
    """Store only what is new (`threshold`), or only what is surprising (`z`).

    Exactly one of the two is given.

    - `threshold`: a row is admitted if its best score with the rows stored, and with the rows that
      the same call admitted before it, is below the threshold.
    - `z`: a score (a prediction error, say) is admitted if it is above mean + z sigma of the scores
      so far. Mean and variance are running averages, and they take in *every* score, stored ones
      too, each moved to within `clip` sigma of the mean. A gate that learned only from what it
      rejects would lock open: once all is admitted, nothing teaches it.

    Args:
        threshold: of the score, by `metric`.
        z: how many sigma, above 0.
        metric: "cosine", "dot" or "l2" (minus the squared distance), as `search` has them.
        rate: the share of each score in the running averages, in (0, 1].
        clip: sigma, above 1: at 1 or less the variance could not grow.
        n_warmup: scores, at least 2, that are averaged before the first may be admitted.

    Attributes:
        mean: of the scores, with `z`.
        variance: likewise.
        n_seen: scores so far.

    Example:
        >>> import numpy as np
        >>> Gate(0.98).admit(np.float32([[1, 0], [1, 0.01], [0, 1]]), np.float32([[0, 2]]))
        array([ True, False, False])
    """

    def __init__(
        self,
        threshold: float | None = None,
        *,
        z: float | None = None,
        metric: str = "cosine",
        rate: float = 0.01,
        clip: float = 4.0,
        n_warmup: int = 64,
    ) -> None:
        if (threshold is None) == (z is None):
            given = f"threshold is {scalars.shown(threshold)} and z {scalars.shown(z)}"
            raise InputError(f"Gate: {given}, should be one of them")
        self.metric = scalars.word("Gate", "metric", metric, METRICS)
        self.threshold: Any = threshold
        if threshold is not None:
            self.threshold = scalars.number("Gate", "threshold", threshold, -np.inf)
        self.z = None if z is None else scalars.number("Gate", "z", z, 0, is_open=True)
        self.rate = scalars.number("Gate", "rate", rate, 0, 1, is_open=True)
        self.clip = scalars.number("Gate", "clip", clip, 1, is_open=True)
        self.n_warmup = scalars.whole("Gate", "n_warmup", n_warmup, 2)
        self.mean = self.variance = 0.0
        self.n_seen = 0

    @slots.untraced
    def admit(self, given: Any, keys: Any = None) -> Any:
        """Which rows, or scores, to store: (n,) bool.

        Args:
            given: with `threshold`, rows (n, dim); with `z`, scores (n,), in their order: the
                answer is that of single calls.
            keys: with `threshold`, what is stored: (n_keys, dim) or a `Bank`.

        What lies on a device is searched there, and waited for.

        Raises:
            ShapeError, DtypeError, InputError: nothing was learned.
        """
        if (keys is None) != (self.z is not None):
            wanted = "the rows stored" if self.z is None else "None"
            raise InputError(f"admit: keys is {type(keys).__name__}, should be {wanted}")
        if self.z is not None:
            answer = self._surprising(given)
        else:
            with in_name_of("admit", queries="given"):
                answer = self._novel(given, keys)
        return arrays.like(given, answer)

    def state_dict(self) -> dict[str, Any]:
        """Mean, variance and count, as a list of numbers."""
        return {"statistics": [self.mean, self.variance, self.n_seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        given: Any = state
        if not isinstance(given, dict) or "statistics" not in given:
            raise InputError(
                f"load_state_dict: state is {scalars.shown(given)}, should be what state_dict gave"
            )
        found = arrays.numbers("load_state_dict", "statistics", state["statistics"])
        if found.shape != (3,):
            raise ShapeError(f"load_state_dict: statistics has shape {found.shape}, should be (3,)")
        mean, variance, n_seen = (float(x) for x in state["statistics"])
        self.mean, self.variance, self.n_seen = mean, variance, int(n_seen)

    def _novel(self, rows: Any, keys: Any) -> Bools:
        metric = (
            self.metric if isinstance(keys, np.ndarray) or not hasattr(keys, "metric") else None
        )
        found = ops.search(rows, keys, 1, metric=metric)
        best: Any = arrays.floats("admit", "scores", arrays.near(found.scores))
        admitted: Bools = best[:, 0] < self.threshold
        named = np.flatnonzero(admitted)
        if len(named) < 2:
            return admitted
        # Only rows that passed so far can keep each other out, and mostly they are few.
        passed = arrays.numbers("admit", "given", arrays.near(rows))[named]
        for i, at in enumerate(named[1:], 1):
            earlier = passed[:i][admitted[named[:i]]]
            found = ops.search(passed[i : i + 1], earlier, 1, metric=self.metric)
            admitted[at] = found.scores[0, 0] < self.threshold
        return admitted

    def _surprising(self, scores: Any) -> Bools:
        given = arrays.numbers("admit", "given", arrays.near(scores)).astype(np.float64)
        if given.ndim != 1:
            raise ShapeError(f"admit: given has shape {given.shape}, should be (n,) scores")
        if not np.isfinite(given).all():
            place = np.isfinite(given).argmin()
            raise InputError(f"admit: given[{place}] is {given[place]}, should be finite")
        if self.z is None:
            raise DtypeError("admit: z is None, should be a number")
        mean, variance, n_seen = self.mean, self.variance, self.n_seen
        admitted = np.zeros(len(given), np.bool_)
        for i, score in enumerate(given.tolist()):
            residual = score - mean
            sigma = variance**0.5
            is_warm = n_seen >= self.n_warmup
            admitted[i] = is_warm and residual > self.z * sigma
            # Where nothing has varied so far, there is nothing to clip by.
            if is_warm and sigma > 0:
                residual = min(max(residual, -self.clip * sigma), self.clip * sigma)
            n_seen += 1
            # The first scores weigh alike, as in a plain average.
            share = max(self.rate, 1 / n_seen)
            mean += share * residual
            variance = (1 - share) * (variance + share * residual * residual)
        self.mean, self.variance, self.n_seen = mean, variance, n_seen
        return admitted

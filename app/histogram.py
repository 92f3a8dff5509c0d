"""A histogram that costs one bisection per observation, and can be added to another."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric


class Histogram:
    """Observations in buckets. `bounds` are inclusive upper bounds, ascending; infinity is added."""

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name = name
        self.help = help
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count `value`."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self._counts)

    def state(self) -> tuple[list[int], float]:
        """(count per bucket, sum of all values)."""
        return self._counts.copy(), self._sum

    def absorb(self, state: tuple[list[int], float]) -> None:
        """Add the observations of another histogram with the same bounds."""
        counts, total = state
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, counts, strict=True)]
        self._sum += total

    def family(self, name: str, labels: dict[str, str]) -> Metric:
        """This histogram under `name`."""
        bounds = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(name, self.help, labels=tuple(labels))
        buckets = list(zip(bounds, map(float, accumulate(self._counts)), strict=True))
        family.add_metric(tuple(labels.values()), buckets, self._sum)
        return family

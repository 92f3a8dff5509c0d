"""How often values were how large: counts in buckets, and a sum. Knows neither names nor units."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field


@dataclass(slots=True)
class Distribution:
    """Observations in buckets; costs one bisection each, travels between processes, and adds up.

    bounds: inclusive upper bounds, ascending; infinity is added.   counts: one per bucket.
    """

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, so many times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self.counts)

    def absorb(self, counts: list[int], total: float) -> None:
        """Add what another with the same bounds has counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, counts, strict=True)]
        self.total += total

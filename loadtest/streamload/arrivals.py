"""When requests are sent: at once, Poisson, or in bursts. Knows nothing of what is sent.

A closed loop is `once` with a limit on open streams, which is the client's affair.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A renewal process whose gaps are gamma-distributed; shape 1 is Poisson, below 1 comes in bursts.

    rate: requests per second; None sends everything at once.
    """

    rate: float | None = None
    shape: float = 1.0

    def __post_init__(self) -> None:
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"the rate of arrivals must be above 0, got {self.rate:g}")
        if self.shape <= 0:
            raise ValueError(f"the shape of arrivals must be above 0, got {self.shape:g}")

    @classmethod
    def parse(cls, text: str) -> Arrivals:
        """`once`, `poisson:RATE` or `gamma:RATE:SHAPE`. Raises ValueError."""
        match text.split(":"):
            case ["once"]:
                return cls()
            case ["poisson", rate]:
                return cls(float(rate))
            case ["gamma", rate, shape]:
                return cls(float(rate), float(shape))
        raise ValueError(f"arrivals must be once, poisson:RATE or gamma:RATE:SHAPE, got {text!r}")

    def times(self, count: int, rng: random.Random) -> list[float]:
        """Seconds after the start, ascending; the first request is sent at 0."""
        if self.rate is None:
            return [0.0] * count
        times, now = [], 0.0
        for _ in range(count):
            times.append(now)
            now += rng.gammavariate(self.shape, 1 / (self.shape * self.rate))
        return times

"""What front ends count, as plain values that travel between processes and can be added up."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MetricsState:
    """Everything that one front end has counted.

    http: (route, status) -> responses.   histograms: name -> (count per bucket, sum).
    """

    ended: dict[str, int]
    http: dict[tuple[str, str], int]
    ignored: dict[str, int]
    num_open: int
    num_slow_readers: int
    histograms: dict[str, tuple[list[int], float]]


@dataclass(slots=True)
class FrontendCounts:
    """The front-end processes as the engine sees them. lost: cause -> how many died or were dropped."""

    num_running: int = 0
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("died", "dropped"), 0))

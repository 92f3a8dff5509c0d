"""What front ends count, as plain values that travel between processes and add up. Knows no scrape."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..scheduler.distribution import Distribution
from .frontend_histograms import LAG_S


@dataclass(frozen=True, slots=True)
class MetricsState:
    """Everything that one front end has counted.

    http: (route, status) -> responses.   errors: code -> responses.
    readings: (mode, outcome, API) -> texts in which tool calls were looked for.
    rejected: why -> requests that came when too many were here.
    response_s: route -> (count per bucket, sum).   histograms: name -> (count per bucket, sum).
    """

    ended: dict[str, int]
    refused: dict[str, int]
    http: dict[tuple[str, str], int]
    errors: dict[str, int]
    response_s: dict[str, tuple[list[int], float]]
    ignored: dict[str, int]
    readings: dict[tuple[str, str, str], int]
    rejected: dict[str, int]
    num_open: int
    num_slow_readers: int
    histograms: dict[str, tuple[list[int], float]]


@dataclass(slots=True)
class FrontendCounts:
    """The front-end processes as the engine sees them.

    lost: cause -> how many died or were dropped.   engine_lag_s: how late the engine's own loop woke timers.
    """

    num_running: int = 0
    lost: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("died", "dropped"), 0))
    engine_lag_s: Distribution = field(default_factory=lambda: Distribution(LAG_S))

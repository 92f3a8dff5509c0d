"""The clock by which an engine tells how long a step takes: a test puts it forward instead of waiting."""

from __future__ import annotations

import time


class EngineClock:
    """Stands where `octavo.scheduler.engine` has its module `time`."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def pass_s(self, seconds: float) -> None:
        """So long passes at once."""
        self._ahead_s += seconds

    def perf_counter(self) -> float:
        """Seconds, as `time.perf_counter` gives them."""
        return time.perf_counter() + self._ahead_s

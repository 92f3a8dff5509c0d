"""The engine's state for probes: stuck, full, or well. Plain values that travel; knows no engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pulse:
    """A moment.

    step_age_s: how long the current step has lasted; 0 if there is none.
    step_timeout_s: how long it may last; None is for ever.   max_waiting: None is any number.
    ttft_s: predicted time to the first token of one more request.   max_ttft_s: None is no bound.
    """

    step_age_s: float = 0.0
    step_timeout_s: float | None = None
    num_running: int = 0
    num_waiting: int = 0
    max_waiting: int | None = None
    ttft_s: float = 0.0
    max_ttft_s: float | None = None

    def trouble(self) -> str | None:
        """One sentence if the device is stuck, else None."""
        if self.step_timeout_s is None or self.step_age_s < self.step_timeout_s:
            return None
        return f"The device has not finished a step for {self.step_age_s:.3g} s."

    def saturation(self) -> str | None:
        """Why one more request would be refused; None if it would not."""
        if self.max_waiting is not None and self.num_waiting >= self.max_waiting:
            return f"The queue is full: {self.num_waiting} requests wait, and {self.max_waiting} may."
        if self.max_ttft_s is not None and self.ttft_s > self.max_ttft_s:
            return f"A first token would take {self.ttft_s:.3g} s, and {self.max_ttft_s:g} s may pass."
        return None

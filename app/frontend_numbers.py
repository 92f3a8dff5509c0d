"""What the engine keeps of front ends that are gone, so that no counter ever goes back. Knows no process."""

from __future__ import annotations

from dataclasses import replace

from .metrics import ServerMetrics
from .metrics_state import FrontendCounts, MetricsState


class FrontendNumbers:
    """counts: processes that run and that were lost."""

    def __init__(self) -> None:
        self.counts = FrontendCounts()
        self._gone = ServerMetrics("", "")

    @property
    def retired(self) -> list[MetricsState]:
        """All that lost front ends had counted, as if it were one more front end with nothing open."""
        return [replace(self._gone.state(), num_open=0)]

    def retire(self, last: MetricsState | None, *, num_cut: int) -> None:
        """Keep what a lost front end has told last; `num_cut` of its requests ended with it, by an error."""
        if last is not None:
            self._gone.absorb(last)
        self._gone.ended["error"] += num_cut

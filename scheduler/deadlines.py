"""When requests that have a limit run out of time, earliest first. Knows no clock and ends nobody."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

from .sequence import Sequence, SequenceStatus

_KEPT = 64
"""Moments of ended sequences kept beside the others before the heap is swept: amortised O(1)."""


class _Moment(NamedTuple):
    """order: of arrival, so that sequences are never compared.   queue: it limits waiting alone."""

    due_s: float
    order: int
    queue: bool
    sequence: Sequence

    @property
    def passed(self) -> bool:
        """Whether nothing depends on it any more."""
        sequence = self.sequence
        started = self.queue and sequence.timings.scheduled_s > 0
        return started or sequence.status is SequenceStatus.FINISHED


class Deadlines:
    """A heap of moments on the clock of time.monotonic; those that no longer matter are swept with others."""

    __slots__ = ("_heap", "_num_passed")

    def __init__(self) -> None:
        self._heap: list[_Moment] = []
        self._num_passed = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, sequence: Sequence) -> None:
        """Watch over a sequence; one without limits costs nothing."""
        claim, order = sequence.request.claim, sequence.order[1]
        for due_s, queue in ((claim.deadline_s, False), (claim.queue_deadline_s, True)):
            if due_s < math.inf:
                heapq.heappush(self._heap, _Moment(due_s, order, queue, sequence))

    def expired(self, now_s: float) -> list[tuple[Sequence, str]]:
        """Who has run out of time, with the reason in one sentence; each is told of once."""
        due: dict[Sequence, str] = {}
        while self._heap and self._heap[0].due_s <= now_s:
            moment = heapq.heappop(self._heap)
            if moment.passed:
                self._num_passed = max(0, self._num_passed - 1)
            else:
                due.setdefault(moment.sequence, _reason(moment))
        return list(due.items())

    def ended(self, sequence: Sequence) -> None:
        """A sequence has ended, for whatever reason."""
        claim = sequence.request.claim
        self._num_passed += (claim.deadline_s < math.inf) + (claim.queue_deadline_s < math.inf)
        if self._num_passed > len(self._heap) // 2 + _KEPT:
            self._heap = [moment for moment in self._heap if not moment.passed]
            heapq.heapify(self._heap)
            self._num_passed = 0


def _reason(moment: _Moment) -> str:
    limit_s = moment.due_s - moment.sequence.request.claim.arrival_s
    done = "did not start" if moment.queue else "was not finished"
    return f"the request {done} within its {limit_s:.3g} s"

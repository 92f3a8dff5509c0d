"""The queue of sequences that wait for a slot, earliest first. Knows no slots, blocks or budgets."""

from __future__ import annotations

import heapq

from .sequence import Sequence, SequenceStatus

_KEPT = 64
"""Ended sequences kept beside the waiting ones before the heap is swept: amortised O(1)."""


class WaitingQueue:
    """A heap by (priority, arrival). One that ends while it waits is dropped later, with others."""

    __slots__ = ("_heap", "_length")

    def __init__(self) -> None:
        self._heap: list[Sequence] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, sequence: Sequence) -> None:
        """Queue a sequence; a preempted one comes before all that arrived after it."""
        heapq.heappush(self._heap, sequence)
        self._length += 1

    def first(self) -> Sequence | None:
        """Who is next, left in the queue."""
        while self._heap and self._heap[0].status is SequenceStatus.FINISHED:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def pop(self) -> None:
        """Take out what `first` returned."""
        heapq.heappop(self._heap)
        self._length -= 1

    def ended(self) -> None:
        """One of those that wait has ended; its status says which."""
        self._length -= 1
        if len(self._heap) > 2 * self._length + _KEPT:
            self._heap = [s for s in self._heap if s.status is not SequenceStatus.FINISHED]
            heapq.heapify(self._heap)

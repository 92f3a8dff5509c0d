"""The queue of sequences that wait for a slot. Knows no slots, blocks or budgets.

Among tenants the turn is fair_share.py's affair; a tenant's own wait by priority, then arrival. With one
tenant that is the order of all.
"""

from __future__ import annotations

import heapq
import math

from .fair_share import FairShare, Tenant
from .request import Claim
from .sequence import Sequence, SequenceStatus

_KEPT = 64
"""Ended sequences kept beside the waiting ones before a heap is swept: amortised O(1)."""


class _Line:
    """One tenant's heap by (priority, arrival); those that end are dropped later, together."""

    __slots__ = ("heap", "length", "num_tokens", "tenant")

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.heap: list[Sequence] = []
        self.length = 0
        self.num_tokens = 0

    def first(self) -> Sequence:
        while self.heap[0].status is SequenceStatus.FINISHED:
            heapq.heappop(self.heap)
        return self.heap[0]

    def ended(self) -> None:
        if len(self.heap) > 2 * self.length + _KEPT:
            self.heap = [s for s in self.heap if s.status is not SequenceStatus.FINISHED]
            heapq.heapify(self.heap)


class WaitingQueue:
    """A line for each tenant; O(log n) for each that comes or goes, nothing for those that wait."""

    __slots__ = ("_length", "_lines", "_share", "num_tokens")

    def __init__(self) -> None:
        self._share = FairShare()
        self._lines: dict[str, _Line] = {}
        self._length = 0
        self.num_tokens = 0

    def __len__(self) -> int:
        return self._length

    def push(self, sequence: Sequence) -> None:
        """Queue a sequence; a preempted one comes before all of its tenant's that arrived after it."""
        line = self._line(sequence)
        if sequence.charged:
            self._share.charge(line.tenant, -sequence.charged)  # its place was taken back
            sequence.charged = 0.0
        heapq.heappush(line.heap, sequence)
        self._count(line, sequence, 1)
        self._share.wait(line.tenant)

    def first(self) -> Sequence | None:
        """Who is next, left in the queue; the same until it is taken out or has ended."""
        tenant = self._share.next()
        return None if tenant is None else self._lines[tenant.name].first()

    def pop(self) -> None:
        """Take out what `first` returned."""
        sequence = self.first()
        assert sequence is not None, "nobody waits"
        line = self._line(sequence)
        heapq.heappop(line.heap)
        self._count(line, sequence, -1)
        # What it will generate is not known yet: as much as others of its tenant have, until it has ended.
        expected = min(line.tenant.mean_output, sequence.max_length - len(sequence.token_ids))
        sequence.charged = len(sequence.token_ids) + expected
        self._share.take(line.tenant, sequence.charged)

    def ended(self, sequence: Sequence) -> None:
        """One of those that wait has ended; its status says so."""
        line = self._line(sequence)
        self._count(line, sequence, -1)
        line.ended()

    def settle(self, sequence: Sequence) -> None:
        """One that had been taken out has ended: what it really got is what its tenant has had."""
        tenant = self._line(sequence).tenant
        self._share.charge(tenant, len(sequence.token_ids) - sequence.charged)
        self._share.learn(tenant, sequence.num_output)

    def ahead_of(self, claim: Claim) -> tuple[int, int]:
        """(requests, prompt tokens) that would be computed before a newcomer. O(tenants).

        All of its own tenant; of each other as much as its share allows meanwhile.
        """
        own = self._lines.get(claim.tenant)
        num_own = own.length if own else 0
        num_requests, num_tokens = num_own, own.num_tokens if own else 0
        for line in self._lines.values():
            if line is not own and line.length:
                turns = min(line.length, math.ceil((num_own + 1) * line.tenant.weight / claim.weight))
                num_requests += turns
                num_tokens += line.num_tokens * turns // line.length
        return num_requests, num_tokens

    def _line(self, sequence: Sequence) -> _Line:
        claim = sequence.request.claim
        line = self._lines.get(claim.tenant)
        if line is None:
            line = self._lines[claim.tenant] = _Line(self._share.tenant(claim.tenant, claim.weight))
        return line

    def _count(self, line: _Line, sequence: Sequence, change: int) -> None:
        # Prompts alone: a token in flight may still lengthen a preempted sequence while it waits.
        num_tokens = change * sequence.num_prompt
        self._length += change
        self.num_tokens += num_tokens
        line.length += change
        line.num_tokens += num_tokens
        if not line.length:
            line.heap.clear()
            self._share.leave(line.tenant)

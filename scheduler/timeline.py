"""The last steps and when they ran; exists only while somebody watches. Knows not who."""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import NamedTuple

from ..model.plan import StepPlan

_MAX_STEPS = 512
"""Steps kept: at four looks a second, all of them down to 0.5 ms each."""
_WATCHED_S = 3.0
"""For so long after a look, somebody is taken to watch."""


class StepRecord(NamedTuple):
    """A step from its predecessor's end, or its launch if nothing ran, to its own end (time.perf_counter).

    decode_rows: rows of one token.   prefill_tokens: tokens of longer chunks.   prefill_rows: those chunks.
    """

    number: int
    began_s: float
    ended_s: float
    decode_rows: int
    prefill_tokens: int
    prefill_rows: int


class Timeline:
    """The newest `_MAX_STEPS` steps. next_number: of the step that ends next."""

    def __init__(self, next_number: int) -> None:
        self._steps: deque[StepRecord] = deque(maxlen=_MAX_STEPS)
        self._next_number = next_number
        self._watched_until_s = 0.0

    def look(self, since: int, now_s: float) -> list[StepRecord]:
        """Steps with larger numbers than `since`, oldest first."""
        self._watched_until_s = now_s + _WATCHED_S
        newer = list(takewhile(lambda step: step.number > since, reversed(self._steps)))
        newer.reverse()
        return newer

    def record(self, plan: StepPlan, began_s: float, ended_s: float) -> bool:
        """A step has ended; False if nobody watches any more. O(chunks): rows of one token come first."""
        chunks = [row.length for row in takewhile(lambda row: row.length > 1, reversed(plan.slices))]
        self._steps.append(
            StepRecord(
                self._next_number,
                began_s,
                ended_s,
                plan.num_rows - len(chunks),
                sum(chunks),
                len(chunks),
            )
        )
        self._next_number += 1
        return ended_s <= self._watched_until_s

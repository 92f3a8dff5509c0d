"""What one step may spend on prompts, in tokens and in seconds. Knows no queue and no blocks.

Seconds are estimates of the device's time. A chunk of c tokens at position s costs what its tokens cost, and
what they attend to: token_s * c + work_s * (s * c + c * c / 2). So chunks shrink along a long prompt.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from collections.abc import Sequence as Ids

from .policy import remaining
from .sequence import Sequence
from .step_time import PromptCost

UNIT = 64
"""Kernels and graphs work in multiples of it; steps end on one where that costs little."""
_SMALLEST_CHUNK = 16
"""A chunk reads all of its context from memory: smaller ones would cost the same and bring less."""


class PromptBudget:
    """Tokens and seconds that are left. `cost` is None if only tokens count.

    others: tokens that the step carries beside these prompts.
    step_sizes: as in SchedulerConfig.
    whole: a chunk is all that remains of a prompt, or nothing.
    """

    __slots__ = ("_cost", "_seconds", "_step_sizes", "_total", "_whole", "tokens")

    def __init__(
        self,
        tokens: int,
        seconds: float = math.inf,
        cost: PromptCost | None = None,
        *,
        others: int = 0,
        whole: bool = False,
        step_sizes: Ids[int] = (),
    ) -> None:
        self.tokens = tokens
        self._seconds = seconds
        self._cost = cost
        self._total = others
        self._whole = whole
        self._step_sizes = step_sizes

    @property
    def is_spent(self) -> bool:
        """Whether nobody gets anything any more."""
        return self.tokens <= 0 or self._seconds <= 0

    def covers(self, prompts: Iterable[Sequence]) -> bool:
        """Whether all that remains of them fits."""
        tokens, seconds = self.tokens, self._seconds
        for sequence in prompts:
            length = remaining(sequence)
            tokens -= length
            seconds -= self._seconds_for(sequence.num_scheduled, length)
        return tokens >= 0 and seconds >= 0

    def take(self, start: int, left: int) -> int:
        """Spend on a prompt with `left` tokens from `start` on; how many it gets, 0 is none."""
        if self.is_spent or (self._whole and left > self.tokens):
            return 0
        length = min(left, self.tokens)
        cost = self._cost
        if cost is not None:
            each_s = cost.token_s + cost.work_s * start
            # The positive root of work_s / 2 * c^2 + each_s * c = seconds, without its cancellation.
            root = math.sqrt(each_s * each_s + 2 * cost.work_s * self._seconds)
            affordable = int(2 * self._seconds / (each_s + root))
            length = min(length, max(affordable, _SMALLEST_CHUNK))
        if length < left:
            length = self._rounded(length, min(left, self.tokens))
            self.tokens = length  # the rest is too small for another
        self.tokens -= length
        self._seconds -= self._seconds_for(start, length)
        self._total += length
        return length

    def _rounded(self, length: int, most: int) -> int:
        """`length`, so that the step ends on a size that the device likes."""
        total, sizes = self._total + length, self._step_sizes
        if not sizes or total > sizes[-1]:
            beyond = total % UNIT
            return length - beyond if beyond * 8 <= length else length
        index = bisect_right(sizes, total)
        # Up to the next size costs nothing beyond what is paid anyway.
        if index < len(sizes) and (sizes[index] - total) * 16 <= total:
            return min(most, sizes[index] - self._total)
        down = sizes[index - 1] - self._total if index else 0
        return down if down * 2 >= length else length

    def set_aside(self, share: float) -> PromptBudget:
        """Keep a share of what is left for somebody else, a unit at least; nothing of less than two units."""
        enough = share > 0 and self.tokens >= 2 * UNIT
        kept = PromptBudget(max(int(self.tokens * share), UNIT) if enough else 0, 0.0, self._cost)
        if kept.tokens:
            kept._seconds = self._seconds * share
            self.tokens -= kept.tokens
            self._seconds -= kept._seconds if self._cost else 0.0
        return kept

    def put_back(self, kept: PromptBudget) -> None:
        """What is left of what was set aside may be spent."""
        self.tokens += kept.tokens
        self._seconds += kept._seconds
        self._total += kept._total
        kept.tokens, kept._seconds, kept._total = 0, 0.0, 0

    def _seconds_for(self, start: int, length: int) -> float:
        cost = self._cost
        return 0.0 if cost is None else length * (cost.token_s + cost.work_s * (start + length / 2))

"""When a newcomer would get its first token; when who is refused should come back. Knows no queue, no clock.

From what was measured while there was work: how fast prompts are computed, how long a place is held.

    first token = time until a place is free, and until the prompts ahead and its own are computed
"""

from __future__ import annotations

import math
from typing import NamedTuple

_MEMORY_S = 30.0
"""Older steps count less and less: the pace of now is asked for, over many steps."""
_MEMORY_ENDS = 0.05
LONGEST_RETRY_S = 600


class Ahead(NamedTuple):
    """What is before a newcomer: requests that wait, prompt tokens to compute, and places that are free."""

    num_waiting: int
    num_tokens: int
    free_slots: int


class Forecast:
    """Predicts nothing, 0, until something was measured.

    num_slots: sequences that run at once.
    """

    __slots__ = ("_held_s", "_num_slots", "_prompt_s", "_prompt_tokens", "_promised_s")

    def __init__(self, num_slots: int) -> None:
        self._num_slots = num_slots
        self._prompt_tokens = 0.0
        self._prompt_s = 0.0
        self._held_s = 0.0
        self._promised_s = -math.inf

    def observe_step(self, prompt_tokens: int, step_s: float) -> None:
        """A step has ended. Those without prompt tokens say nothing of how fast prompts are computed."""
        if prompt_tokens:
            kept = math.exp(-step_s / _MEMORY_S)
            self._prompt_tokens = self._prompt_tokens * kept + prompt_tokens
            self._prompt_s = self._prompt_s * kept + step_s

    def observe_end(self, held_s: float) -> None:
        """A sequence has ended that held its place for so long."""
        self._held_s += (_MEMORY_ENDS if self._held_s else 1.0) * (held_s - self._held_s)

    def token_s(self) -> float:
        """Seconds for a prompt token, beside the tokens of those that decode."""
        return self._prompt_s / self._prompt_tokens if self._prompt_tokens else 0.0

    def turn_s(self) -> float:
        """Seconds from one place that becomes free to the next, when all are taken."""
        return self._held_s / self._num_slots

    def first_token_s(self, num_prompt: int, ahead: Ahead) -> float:
        """Seconds until a newcomer with so many tokens has its first one."""
        own_s = num_prompt * self.token_s()
        place_s = max(0, ahead.num_waiting + 1 - ahead.free_slots) * self.turn_s()
        return max(place_s, ahead.num_tokens * self.token_s()) + own_s

    def retry_after_s(self, now_s: float, excess_s: float, num_prompt: int) -> int:
        """When one that is refused should come back: in `excess_s`, and after those that were told so before.

        So they come at the pace at which they are served, not all at once to be refused again.
        """
        each_s = max(self.turn_s(), num_prompt * self.token_s())
        self._promised_s = max(self._promised_s, now_s + excess_s) + each_s
        self._promised_s = min(self._promised_s, now_s + LONGEST_RETRY_S)
        return max(1, math.ceil(self._promised_s - now_s))

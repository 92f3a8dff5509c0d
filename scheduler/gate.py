"""Whether one more request is taken while others wait: bounds of the queue and of the time to a first token.

Knows no blocks, and not whether a request fits them.
"""

from __future__ import annotations

import time

from . import policy
from .config import SchedulerConfig
from .errors import QueueFullError, TooLateError
from .forecast import Ahead, Forecast
from .request import Claim, Request
from .running import Running
from .waiting import WaitingQueue


class Gate:
    """Looks at who runs and who waits. forecast: learns from the steps and ends that were measured."""

    def __init__(self, config: SchedulerConfig, waiting: WaitingQueue, running: Running) -> None:
        self._config = config
        self._waiting = waiting
        self._running = running
        self.forecast = Forecast(config.max_num_seqs)

    def check(self, request: Request) -> None:
        """Raises BusyError if there is too much to do for one more."""
        limit, num_prompt = self._config.max_queued_requests, len(request.prompt_token_ids)
        if limit is not None and len(self._waiting) >= limit:
            retry_s = self.forecast.retry_after_s(time.monotonic(), 0.0, num_prompt)
            raise QueueFullError(f"{len(self._waiting)} requests wait already, and {limit} may", retry_s)
        limit_s = self._config.max_ttft_s
        if limit_s is None:
            return
        late_s = self.predict_ttft_s(request.claim, num_prompt) - limit_s
        if late_s > 0:
            retry_s = self.forecast.retry_after_s(time.monotonic(), late_s, num_prompt)
            raise TooLateError(
                f"the first token would come in about {late_s + limit_s:.3g} s, and {limit_s:g} s may pass",
                retry_s,
            )

    def predict_ttft_s(self, claim: Claim, num_prompt: int = 1) -> float:
        """Seconds until the first token of one more request. O(tenants + prompts under way)."""
        num_requests, num_tokens = self._waiting.ahead_of(claim)
        num_tokens += sum(map(policy.remaining, self._running.prefilling))
        free = self._config.max_num_seqs - len(self._running)
        return self.forecast.first_token_s(num_prompt, Ahead(num_requests, num_tokens, free))

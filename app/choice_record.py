"""One choice on its way through a front end: when its tokens came, how it ended. Knows no metric names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..scheduler.request import FinishReason, RequestTimings
from .errors import RequestError
from .generation import TextDelta

if TYPE_CHECKING:
    from .metrics import ServerMetrics

CAUSES = ("stop", "length", "disconnect", "deadline", "refused", "error", "drained")
"""Every choice ends in exactly one of these. Choices are what is counted, each a request to the engine; what
fails before it is known how many are asked for counts as one."""


class ChoiceRecord:
    """`end` may be called often, the first call counts.

    cause: one of CAUSES once it has ended.   timings: the engine's, if it has told them.
    """

    def __init__(self, metrics: ServerMetrics, num_prompt_tokens: int, arrival_s: float) -> None:
        self._metrics = metrics
        self._num_prompt_tokens = num_prompt_tokens
        self._arrival_s = arrival_s
        self.first_token_s = 0.0
        self.num_tokens = 0
        self.cause: str | None = None
        self.timings: RequestTimings | None = None
        metrics.num_open += 1

    def receive(self, delta: TextDelta) -> None:
        """Note what a delta says of time and of the request's end."""
        if delta.token_ids:
            if not self.first_token_s:
                self.first_token_s = time.monotonic()
                self._metrics.histograms.first_token.observe(self.first_token_s - self._arrival_s)
            self.num_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self._note_timings(delta)
            reason = delta.finish_reason
            self.end("disconnect" if reason is FinishReason.ABORT else reason.value)

    def end(self, cause: str) -> None:
        """The request has ended by `cause`, one of CAUSES."""
        assert cause in CAUSES, f"cause must be one of {CAUSES}, got {cause!r}"
        if self.cause is not None:
            return
        self.cause = cause
        metrics = self._metrics
        metrics.num_open -= 1
        metrics.ended[cause] += 1
        if cause == "refused":
            return  # it took no time and brought nothing
        histograms = metrics.histograms
        histograms.latency.observe(time.monotonic() - self._arrival_s)
        histograms.prompt_tokens.observe(self._num_prompt_tokens)
        histograms.output_tokens.observe(self.num_tokens)

    def _note_timings(self, delta: TextDelta) -> None:
        histograms, timings = self._metrics.histograms, delta.timings
        self.timings = timings
        if delta.detokenize_s:
            histograms.detokenize.observe(delta.detokenize_s)
        if timings is None or not timings.first_token_s:
            return
        if timings.scheduled_s:
            histograms.queue.observe(timings.scheduled_s - timings.arrival_s)
            histograms.prefill.observe(timings.first_token_s - timings.scheduled_s)
            histograms.inference.observe(timings.finished_s - timings.scheduled_s)
        decode_s = timings.finished_s - timings.first_token_s
        histograms.decode.observe(decode_s)
        if self.num_tokens > 1:
            histograms.per_token.observe(decode_s / (self.num_tokens - 1))
        histograms.computed_tokens.observe(self._num_prompt_tokens - timings.num_cached_tokens)
        histograms.preemptions.observe(timings.num_preemptions)


def cause_of_refusal(error: Exception) -> str:
    """Why a choice ended that the engine has not taken."""
    refused = isinstance(error, RequestError) and (error.status < 500 or error.status == 503)
    return "refused" if refused else "error"

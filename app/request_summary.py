"""What can be said of a request once it has ended, for logs and traces. Knows neither of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..model.sampling_params import SamplingParams
from ..scheduler.request import RequestTimings
from .choices import Choices


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSummary:
    """What the engine did for a request, its choices together.

    causes: one for each choice, see CAUSES.   timings: of the first choice, if the engine has told them.
    first_token_s: when the first token came (time.monotonic), 0 if none did.
    prompts, texts: only if they may be logged.
    """

    response_id: str
    model: str
    params: SamplingParams
    causes: tuple[str, ...]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    first_token_s: float
    timings: RequestTimings | None
    error: str | None = None
    prompts: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, choices: Choices, response_id: str, model: str, params: SamplingParams, prompts: Sequence[str]
    ) -> AnswerSummary:
        """What became of `choices`."""
        records = choices.records
        return cls(
            response_id=response_id,
            model=model,
            params=params,
            causes=tuple(record.cause or "disconnect" for record in records),
            num_prompt_tokens=choices.num_prompt_tokens,
            num_cached_tokens=choices.num_cached_tokens,
            num_output_tokens=choices.num_completion_tokens,
            first_token_s=min((r.first_token_s for r in records if r.first_token_s), default=0.0),
            timings=records[0].timings,
            error=choices.error,
            prompts=tuple(prompts),
            texts=tuple(choices.texts),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSummary:
    """One HTTP request. Times are seconds, moments on the clock of time.monotonic.

    route: as it was declared; `other` for paths that there are not.   status: 0 if no response began.
    error_code: the `code` of an error's body.   traceparent: the header, if there was one.
    generates: whether it asked for tokens; `answer` is None if it got as far as no engine.
    """

    request_id: str
    method: str
    route: str
    status: int
    client: str
    began_s: float
    ended_s: float
    error_code: str | None = None
    traceparent: str | None = None
    generates: bool = False
    answer: AnswerSummary | None = None

    @property
    def cause(self) -> str | None:
        """Why it ended, the first of its choices' causes; None if it did not ask for tokens."""
        if self.answer is not None:
            return self.answer.causes[0]
        if not self.generates:
            return None
        if self.status in (0, 499):
            return "disconnect"
        if self.status == 504:
            return "deadline"
        return "refused" if self.status < 500 or self.status == 503 else "error"


Observer = Callable[[RequestSummary], None]
"""Hears of every request when it has ended. Must not raise."""

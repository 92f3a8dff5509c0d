"""What can be said of an answer once it has ended. Knows neither HTTP nor who reads it."""

from __future__ import annotations

from collections.abc import Sequence
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

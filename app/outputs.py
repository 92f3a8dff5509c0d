"""Results of the offline API, with vLLM's names, so that a script moves by changing its import.

Knows no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..model.plan import TokenLogprobs
from ..model.sampling_params import SamplingParams
from ..scheduler.request import FinishReason, RequestTimings


@dataclass(frozen=True, slots=True)
class Logprob:
    """One token's log-probability (natural logarithm) at one position.

    rank: 1 for the likeliest.   decoded_token: None without a tokenizer.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One completion of a prompt.

    text: without the stop string that ended it, unless `include_stop_str_in_output`; empty if none is made.
    token_ids: every generated token, the one that ended it included.
    cumulative_logprob, logprobs: None unless asked for; per position {token id: Logprob}, sampled one first.
    finish_reason: "stop", "length", "abort", "error", or None while it runs.
    stop_reason: the stop string or stop token id; None for the end-of-sequence token and other reasons.
    error: one sentence when finish_reason is "error".
    """

    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None = None
    logprobs: Sequence[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    error: str | None = None

    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.finish_reason is not None


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A prompt and its completions, in the order of their indices.

    prompt: None if the prompt was given as token ids.
    prompt_logprobs: None unless asked for; per prompt token {token id: Logprob}, None for the first.
    metrics: moments on the clock of time.monotonic, of the first completion; None until it has finished.
    num_cached_tokens: prompt tokens that the prefix cache supplied; None until known.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: Sequence[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    finished: bool = False
    metrics: RequestTimings | None = None
    num_cached_tokens: int | None = None
    prompt_logprobs: Sequence[dict[int, Logprob] | None] | None = None


def request_output(
    request_id: str,
    prompt: str | None,
    prompt_token_ids: Sequence[int],
    builders: Sequence[CompletionBuilder],
    token_text: Callable[[int], str] | None,
) -> RequestOutput:
    """The result so far of a prompt whose completions are in `builders`."""
    timings = builders[0].timings
    told = builders[0].prompt_logprobs
    return RequestOutput(
        request_id=request_id,
        prompt=prompt,
        prompt_token_ids=prompt_token_ids,
        outputs=[builder.build(token_text) for builder in builders],
        finished=all(builder.finish_reason is not None for builder in builders),
        metrics=timings,
        num_cached_tokens=None if timings is None else timings.num_cached_tokens,
        prompt_logprobs=None if told is None else prompt_positions(prompt_token_ids, told, token_text),
    )


def prompt_positions(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs], token_text: Callable[[int], str] | None
) -> list[dict[int, Logprob] | None]:
    """vLLM's shape of a prompt's log-probabilities, `logprobs` those of all tokens but the first.

    As far as they are known: of an aborted request, perhaps its beginning only.
    """
    told = zip(token_ids[1:], logprobs, strict=False)
    return [None, *(_position(token_id, entry, token_text) for token_id, entry in told)]


class CompletionBuilder:
    """Gathers one completion as it arrives. Knows token ids and text, not where they come from.

    prompt_logprobs: what was told of the prompt; None if nothing was asked.
    """

    def __init__(self, index: int, params: SamplingParams) -> None:
        self._index = index
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] | None = None if params.logprobs is None else []
        self.prompt_logprobs: list[TokenLogprobs] | None = None if params.prompt_logprobs is None else []
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.timings: RequestTimings | None = None
        self.error: str | None = None

    def add(self, text: str, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        """Append what a delta brought."""
        self._texts.append(text)
        self._token_ids.extend(token_ids)
        if self._logprobs is not None:
            self._logprobs.extend(logprobs)

    def add_prompt(self, logprobs: Sequence[TokenLogprobs]) -> None:
        """Append what was told of the prompt."""
        if self.prompt_logprobs is not None:
            self.prompt_logprobs.extend(logprobs)

    def finish(
        self,
        reason: FinishReason,
        stop_reason: str | int | None = None,
        timings: RequestTimings | None = None,
        error: str | None = None,
    ) -> None:
        """Note why it ended."""
        self.finish_reason, self.stop_reason, self.timings, self.error = reason, stop_reason, timings, error

    @property
    def token_ids(self) -> Sequence[int]:
        """Tokens so far; not to be changed."""
        return self._token_ids

    def build(self, token_text: Callable[[int], str] | None) -> CompletionOutput:
        """The completion so far; later additions do not change it."""
        logprobs = cumulative = None
        if self._logprobs is not None:
            cumulative = sum(entry.logprob for entry in self._logprobs)
            logprobs = [
                _position(token_id, entry, token_text)
                for token_id, entry in zip(self._token_ids, self._logprobs, strict=True)
            ]
        return CompletionOutput(
            index=self._index,
            text="".join(self._texts),
            token_ids=list(self._token_ids),
            cumulative_logprob=cumulative,
            logprobs=logprobs,
            finish_reason=None if self.finish_reason is None else self.finish_reason.value,
            stop_reason=self.stop_reason,
            error=self.error,
        )


def _position(
    token_id: int, entry: TokenLogprobs, token_text: Callable[[int], str] | None
) -> dict[int, Logprob]:
    """vLLM's shape of one position: the sampled token first, then the likeliest."""

    def described(token: int, logprob: float, rank: int) -> Logprob:
        return Logprob(logprob, rank, None if token_text is None else token_text(token))

    position = {token_id: described(token_id, entry.logprob, entry.rank)}
    for rank, (token, logprob) in enumerate(entry.top, start=1):
        position.setdefault(token, described(token, logprob, rank))
    return position

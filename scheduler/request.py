"""What a client asked of the engine and what it hears back, in token ids. Knows no text and no blocks."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..model.plan import TokenLogprobs
from ..model.sampling_params import SamplingParams
from .thinking_limit import ThinkingLimit
from .token_limits import TokenLimits


class FinishReason(enum.StrEnum):
    """Why a request ended; each ends in exactly one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"
    DEADLINE = "deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Whose request it is, and how long it may take: on the clock of time.monotonic, in seconds.

    tenant: who shares the engine fairly with others, an API key's name.   weight: the tenant's share of it.
    arrival_s: what limits count from.   queue_deadline_s: when it must have started, deadline_s: ended.
    """

    tenant: str = ""
    weight: float = 1.0
    arrival_s: float = 0.0
    deadline_s: float = math.inf
    queue_deadline_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt, one completion. `n` completions are `n` requests, which share a cached prompt's blocks.

    eos_token_ids: the model's own end tokens; ignored if `params.ignore_eos`.
    max_tokens: resolved by the caller, so that prompt and output fit the model.
    priority: lower runs earlier; equal priorities run in order of arrival.
    cache_salt: requests with different salts share no cached blocks.
    arrival_s: on the clock of time.monotonic.
    claim: whose it is, and how long it may take.
    limits: tokens that it may not take; None is any.
    thinking: how long it may reason; None is as long as it likes.
    """

    request_id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams
    max_tokens: int
    eos_token_ids: frozenset[int] = frozenset()
    priority: int = 0
    cache_salt: str = ""
    arrival_s: float = 0.0
    claim: Claim = Claim()
    limits: TokenLimits | None = None
    thinking: ThinkingLimit | None = None

    @property
    def fixed_limits(self) -> TokenLimits | None:
        """What its slot's own mask allows; None if there need not be one."""
        if self.limits is None and self.thinking is not None:
            return TokenLimits(self.thinking.vocab_size)
        return self.limits

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end it: they are no part of its text, unlike a token that completes a grammar."""
        given = frozenset(self.params.stop_token_ids)
        return given if self.params.ignore_eos else given | self.eos_token_ids


@dataclass(slots=True)
class RequestTimings:
    """Moments on the clock of time.monotonic, in seconds, and counts, of one request in the engine."""

    arrival_s: float
    scheduled_s: float = 0.0
    first_token_s: float = 0.0
    finished_s: float = 0.0
    num_cached_tokens: int = 0
    num_preemptions: int = 0


class TokenOutput(NamedTuple):
    """What one step brought for one request; the last one has a finish reason.

    stop_reason: the stop token id that ended it, None for the end-of-sequence token and other reasons.
    timings: with the first token and the last output.   error: one sentence, for ERROR and DEADLINE.
    prompt_logprobs: of the prompt's next tokens, the first of all being its second; before any token.
    """

    request_id: str
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    timings: RequestTimings | None = None
    error: str | None = None
    prompt_logprobs: Sequence[TokenLogprobs] = ()

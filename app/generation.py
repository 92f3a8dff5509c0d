"""From a prompt in token ids to a completion under way: validation, limits, submission.

Stands between HTTP, terminal or LLM and the engine; knows neither HTTP nor scheduling.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..model.sampling_params import SamplingParams
from ..scheduler.request import Claim, Request
from ..scheduler.thinking_limit import ThinkingLimit
from .errors import ContextLengthError, RequestError
from .request_checks import check_ids, check_text, token_limits, with_numbers
from .text_assembly import TextDelta as TextDelta
from .text_stream import TextStream as TextStream

if TYPE_CHECKING:
    from .chat_template import ChatTemplate
    from .client import EngineClient
    from .tokenizer import Tokenizer

_MAX_SEED = 2**63
_TIMED_EVERY = 16
"""Of so many completions one, the first among them, tells how long its text takes to make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """What requests depend on of a model. Travels to front-end processes.

    max_model_len: tokens, prompt and output together.
    default_params: sampling values of the model's generation_config.json; callers merge them, not `start`.
    """

    name: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    default_params: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """What a request carries beside prompt and sampling settings; see scheduler.request.Request."""

    priority: int = 0
    cache_salt: str = ""
    claim: Claim = Claim()
    thinking: ThinkingLimit | None = None


DEFAULT_OPTIONS = RequestOptions()


class Generation:
    """Starts completions on one engine for one model. tokenizer: None serves token ids only."""

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer | None,
        chat_template: ChatTemplate | None,
        model: ServedModel,
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.model = model
        self._numbers = itertools.count()
        self._started = itertools.count()

    def engine_id(self, request_id: str) -> str:
        """An id that no other request of the engine has, although clients repeat theirs.

        Several processes may front one engine, hence the process id.
        """
        return f"{request_id}-{os.getpid():x}-{next(self._numbers):x}"

    def start(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> TextStream:
        """Submit one completion (`params.n` is not looked at: see `choice_params`) and return its stream.

        Raises RequestError if the request cannot run, ContextLengthError if it cannot fit, and what the
        client's `submit` raises (EngineOverloadedError, EngineDeadError).
        """
        request = self.request(prompt_token_ids, params, request_id=request_id, options=options)
        is_timed = next(self._started) % _TIMED_EVERY == 0
        return TextStream(self.client.submit(request), request, self.tokenizer, is_timed=is_timed)

    def request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str,
        options: RequestOptions = DEFAULT_OPTIONS,
    ) -> Request:
        """The validated request, `max_tokens` resolved; raises like `start` and submits nothing."""
        vocab_size = self.model.vocab_size
        params = with_numbers(params, vocab_size)
        check_ids(prompt_token_ids, params, vocab_size)
        check_text(params, self.tokenizer)
        max_tokens = self._resolve_max_tokens(len(prompt_token_ids), params.max_tokens)
        if params.min_tokens > max_tokens:
            raise RequestError(
                f"min_tokens must be at most {max_tokens}, the tokens that fit after a prompt of "
                f"{len(prompt_token_ids)}, got {params.min_tokens}",
                param="min_tokens",
            )
        return Request(
            request_id=request_id,
            prompt_token_ids=prompt_token_ids,
            params=params,
            max_tokens=max_tokens,
            eos_token_ids=self.model.eos_token_ids,
            priority=options.priority,
            cache_salt=options.cache_salt,
            arrival_s=time.monotonic(),
            claim=options.claim,
            limits=token_limits(params, self.tokenizer, vocab_size),
            thinking=options.thinking,
        )

    def default_max_tokens(self, prompt_len: int) -> int | None:
        """The model's own limit for a completion that the request does not limit, as far as it fits."""
        chosen: int | None = self.model.default_params.get("max_tokens")
        # At least 1: a prompt that leaves no room is refused when it is started.
        return None if chosen is None else max(1, min(chosen, self.model.max_model_len - prompt_len))

    def _resolve_max_tokens(self, prompt_len: int, max_tokens: int | None) -> int:
        room = self.model.max_model_len - prompt_len
        if room < 1 or (max_tokens or 0) > room:
            raise ContextLengthError(self.model.max_model_len, prompt_len, max_tokens)
        return room if max_tokens is None else max_tokens


def choice_params(params: SamplingParams) -> list[SamplingParams]:
    """`params` for each of `params.n` completions; a given seed counts up, so that they differ."""
    if params.n == 1:
        return [params]
    if params.seed is None:
        return [replace(params, n=1)] * params.n
    seeds = ((params.seed + i + _MAX_SEED) % (2 * _MAX_SEED) - _MAX_SEED for i in range(params.n))
    return [replace(params, n=1, seed=seed) for seed in seeds]

"""From a prompt in token ids to a stream of text: validation, detokenization, stop strings, abort.

Sits between whoever speaks to people (HTTP, terminal, LLM) and the engine; knows neither HTTP nor scheduling.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..model.plan import TokenLogprobs
from ..model.sampling_params import SamplingParams
from ..scheduler.request import Claim, FinishReason, Request, RequestTimings, TokenOutput
from .errors import ContextLengthError, RequestError
from .rate_limits import Quota
from .text_assembly import TextAssembler, TokenAssembler
from .text_assembly import TextDelta as TextDelta

if TYPE_CHECKING:
    from .chat_template import ChatTemplate
    from .client import EngineClient, OutputStream
    from .launch import Launched
    from .tokenizer import Tokenizer

_MAX_SEED = 2**63
NO_CLAIM = Claim()
"""Nobody in particular, and no hurry."""
_TIMED_EVERY = 16
"""Of so many outputs the assembly of one is timed: the clock costs a good part of what it measures."""


class Generation:
    """Starts completions on one engine for one model.

    tokenizer: None serves token ids only.   max_model_len: tokens, prompt and output together.
    default_params: sampling values of the model's generation_config.json; callers merge them, not `start`.
    """

    def __init__(
        self,
        client: EngineClient,
        tokenizer: Tokenizer | None,
        chat_template: ChatTemplate | None,
        *,
        model_name: str,
        max_model_len: int,
        vocab_size: int,
        eos_token_ids: frozenset[int],
        default_params: Mapping[str, Any],
    ) -> None:
        self.client = client
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.model_name = model_name
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self.eos_token_ids = eos_token_ids
        self.default_params = default_params
        self._numbers = itertools.count()

    @classmethod
    def of(cls, launched: Launched, client: EngineClient | None = None) -> Generation:
        """On a launched engine, through `client` if one is put in front of the engine's own."""
        return cls(
            launched.client if client is None else client,
            launched.tokenizer,
            launched.chat_template,
            model_name=launched.model_name,
            max_model_len=launched.max_model_len,
            vocab_size=launched.vocab_size,
            eos_token_ids=launched.eos_token_ids,
            default_params=launched.default_params,
        )

    def engine_id(self, request_id: str) -> str:
        """An id that no other request of the engine has: clients repeat theirs, and one has many choices.

        Several processes may front one engine, hence the process id.
        """
        return f"{request_id}-{os.getpid():x}-{next(self._numbers):x}"

    def start(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
        claim: Claim = NO_CLAIM,
    ) -> TextStream:
        """Submit one completion (`params.n` is not looked at: see `choice_params`) and return its stream.

        Raises RequestError if the request cannot run, ContextLengthError if it cannot fit, and what the
        client's `submit` raises (EngineOverloadedError, EngineDeadError).
        """
        request = self.request(
            prompt_token_ids,
            params,
            request_id=request_id,
            priority=priority,
            cache_salt=cache_salt,
            claim=claim,
        )
        return TextStream(self.client.submit(request), request, self.tokenizer)

    def request(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
        claim: Claim = NO_CLAIM,
    ) -> Request:
        """The validated request, `max_tokens` resolved; raises like `start` and submits nothing."""
        self._check_ids(prompt_token_ids, params)
        params = self._resolve_text(params)
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(params, name) or 0
            if asked > self.vocab_size:
                raise RequestError(
                    f"{name} must be at most {self.vocab_size}, the tokens there are, got {asked}", param=name
                )
        if params.grammar is not None and self.tokenizer is None:
            message = "structured_outputs must be left out: this server runs without a tokenizer"
            raise RequestError(message, param="structured_outputs")
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
            eos_token_ids=self.eos_token_ids,
            priority=priority,
            cache_salt=cache_salt,
            arrival_s=time.monotonic(),
            claim=claim,
        )

    def default_max_tokens(self, prompt_len: int) -> int | None:
        """What the model's authors allow a completion that has no limit of its own, as far as it fits."""
        chosen: int | None = self.default_params.get("max_tokens")
        # At least 1: a prompt that leaves no room is complained about when it is started.
        return None if chosen is None else max(1, min(chosen, self.max_model_len - prompt_len))

    def _check_ids(self, prompt_token_ids: Sequence[int], params: SamplingParams) -> None:
        if not prompt_token_ids:
            raise RequestError("prompt must not be empty", param="prompt")
        for param, ids in (
            ("prompt", prompt_token_ids),
            ("stop_token_ids", params.stop_token_ids),
            ("logit_bias", params.logit_bias or ()),
        ):
            if ids and not 0 <= min(ids) <= max(ids) < self.vocab_size:
                wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
                raise RequestError(
                    f"{param} must hold token ids in [0, {self.vocab_size}), got {wrong}", param=param
                )

    def _resolve_text(self, params: SamplingParams) -> SamplingParams:
        """`params`, -1 log-probabilities as the number of tokens; what the tokenizer cannot do is refused."""
        if params.stop and self.tokenizer is None:
            raise RequestError("stop must be empty: this server runs without a tokenizer", param="stop")
        shows_special = not (params.spaces_between_special_tokens or params.skip_special_tokens)
        if shows_special and self.tokenizer is not None and self.tokenizer.byte_table() is None:
            # A decoder that concatenates tokens puts no spaces between any; others do as they please.
            message = "spaces_between_special_tokens must be true: this model's decoder decides on spaces"
            raise RequestError(message, param="spaces_between_special_tokens", code="unsupported_value")
        if -1 not in (params.logprobs, params.prompt_logprobs):
            return params
        logprobs, of_prompt = (
            self.vocab_size if number == -1 else number
            for number in (params.logprobs, params.prompt_logprobs)
        )
        return replace(params, logprobs=logprobs, prompt_logprobs=of_prompt)

    def _resolve_max_tokens(self, prompt_len: int, max_tokens: int | None) -> int:
        room = self.max_model_len - prompt_len
        if room < 1 or (max_tokens or 0) > room:
            raise ContextLengthError(self.max_model_len, prompt_len, max_tokens)
        return room if max_tokens is None else max_tokens


def choice_params(params: SamplingParams) -> list[SamplingParams]:
    """One `n=1` value for each of `params.n` completions; a given seed counts up, so that they differ."""
    if params.n == 1:
        return [params]
    if params.seed is None:
        return [replace(params, n=1)] * params.n
    seeds = ((params.seed + i + _MAX_SEED) % (2 * _MAX_SEED) - _MAX_SEED for i in range(params.n))
    return [replace(params, n=1, seed=seed) for seed in seeds]


class TextStream:
    """Text deltas of one completion, in order: `async for delta in stream`; the last has a finish reason.

    prompt_logprobs: of all prompt tokens but the first, if asked for; complete with the first delta.
    The consumer calls `abort` when it stops early. Raises EngineDeadError when the engine is gone.
    """

    def __init__(self, outputs: OutputStream, request: Request, tokenizer: Tokenizer | None) -> None:
        self._outputs = outputs
        self._request = request
        self._first_token_s = 0.0
        self._num_heard = _TIMED_EVERY - 1  # so that the first is timed
        self._detokenize_s = 0.0
        self._timings: RequestTimings | None = None
        self._finished = False
        self._wants_prompt = request.params.prompt_logprobs is not None
        self.prompt_logprobs: list[TokenLogprobs] = []
        self._assembler = (
            TextAssembler(request, tokenizer)
            if tokenizer is not None and request.params.detokenize
            else TokenAssembler()
        )

    @property
    def max_tokens(self) -> int:
        """The most that it may get."""
        return self._request.max_tokens

    async def accepted(self) -> None:
        """Wait until the engine has taken the request; raises, like `Generation.start`, if it does not."""
        await self._outputs.accepted()

    def divert(self, ready: Callable[[], bool], heard: Callable[[TextDelta], None]) -> None:
        """Give deltas that carry text and no end to `heard` as they come, while `ready`, not to the iterator.

        The first delta, the last and those that say more than text go the usual way; order is kept.
        """
        assembler = self._assembler
        if self._wants_prompt or not isinstance(assembler, TextAssembler) or assembler.is_exact:
            return

        def take(outputs: Sequence[TokenOutput]) -> bool:
            if not self._first_token_s or outputs[-1].finish_reason is not None or not ready():
                return False
            began_s = time.perf_counter()
            delta = assembler.absorb(outputs)
            self._detokenize_s += time.perf_counter() - began_s
            if delta is not None:
                heard(delta)
            return True

        self._outputs.divert(take)

    @property
    def quota(self) -> Quota | None:
        """See OutputStream."""
        return self._outputs.quota

    def __aiter__(self) -> TextStream:
        return self

    async def __anext__(self) -> TextDelta:
        """The next delta that carries tokens or a finish reason."""
        if self._finished:
            raise StopAsyncIteration
        while True:
            outputs = await self._outputs.next()
            if not self._first_token_s:
                self._note_first(outputs)
            if self._wants_prompt:
                for output in outputs:
                    self.prompt_logprobs += output.prompt_logprobs
            self._num_heard += 1
            if self._num_heard % _TIMED_EVERY:
                delta = self._assembler.absorb(outputs)
            else:
                began_s = time.perf_counter()
                delta = self._assembler.absorb(outputs)
                self._detokenize_s += time.perf_counter() - began_s
            if delta is None:
                continue
            if delta.finish_reason is not None:
                self._finished = True
                num_timed = self._num_heard // _TIMED_EVERY
                delta = delta._replace(detokenize_s=self._detokenize_s / num_timed)
                if isinstance(delta.stop_reason, str):
                    # Stop strings are the front end's affair: the engine still runs and has not told the end.
                    self._outputs.abort(FinishReason.STOP)
                    delta = delta._replace(timings=self._timings_now())
            return delta

    def abort(self) -> None:
        """Stop the request if it still runs. Safe at any time, any number of times; no delta follows."""
        self._finished = True
        self._outputs.abort()

    def _note_first(self, outputs: Sequence[TokenOutput]) -> None:
        """The engine tells of queue, prefill and cache with the first output, and again with the last."""
        for output in outputs:
            self._timings = self._timings or output.timings
            if output.token_ids:
                self._first_token_s = time.monotonic()
                return

    def _timings_now(self) -> RequestTimings:
        """As if the engine had ended it now; `scheduled_s` stays 0 (not known) if it has told nothing."""
        now = time.monotonic()
        if self._timings is not None:
            # A copy: the engine still writes to its own.
            return replace(self._timings, finished_s=now)
        return RequestTimings(
            arrival_s=self._request.arrival_s, first_token_s=self._first_token_s, finished_s=now
        )

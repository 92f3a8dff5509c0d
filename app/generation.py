"""From a prompt in token ids to a stream of text: validation, detokenization, stop strings, abort.

Sits between whoever speaks to people (HTTP, terminal, LLM) and the engine; knows neither HTTP nor scheduling.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..model.plan import TokenLogprobs
from ..model.sampling_params import SamplingParams
from ..scheduler.request import FinishReason, Request, RequestTimings, TokenOutput
from .detokenizer import Detokenizer, StopChecker
from .errors import ContextLengthError, RequestError

if TYPE_CHECKING:
    from .chat_template import ChatTemplate
    from .client import EngineClient, OutputStream
    from .launch import Launched
    from .tokenizer import Tokenizer

_MAX_SEED = 2**63


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What came since the last delta. `text` is the text of `token_ids`, and of nothing else.

    text: empty if the request does not detokenize.   logprobs: one per token id, or empty if not asked for.
    stop_reason: the stop string or stop token id that ended it; None for the end-of-sequence token.
    timings: with the last delta only.   error: one sentence, when finish_reason is ERROR.
    """

    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    timings: RequestTimings | None = None
    error: str | None = None


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

    def start(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str = "",
    ) -> TextStream:
        """Submit one completion (`params.n` is not looked at: see `choice_params`) and return its stream.

        Raises RequestError if the request cannot run, ContextLengthError if it cannot fit, and what the
        client's `submit` raises (EngineOverloadedError, EngineDeadError).
        """
        request = self.request(
            prompt_token_ids, params, request_id=request_id, priority=priority, cache_salt=cache_salt
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
    ) -> Request:
        """The validated request, `max_tokens` resolved; raises like `start` and submits nothing."""
        self._check_ids(prompt_token_ids, params)
        if params.stop and self.tokenizer is None:
            raise RequestError("stop must be empty: this server runs without a tokenizer", param="stop")
        return Request(
            request_id=request_id,
            prompt_token_ids=prompt_token_ids,
            params=params,
            max_tokens=self._resolve_max_tokens(len(prompt_token_ids), params.max_tokens),
            eos_token_ids=self.eos_token_ids,
            priority=priority,
            cache_salt=cache_salt,
            arrival_s=time.monotonic(),
        )

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

    The consumer calls `abort` when it stops early. Raises EngineDeadError when the engine is gone.
    """

    def __init__(self, outputs: OutputStream, request: Request, tokenizer: Tokenizer | None) -> None:
        self._outputs = outputs
        self._request = request
        self._first_token_s = 0.0
        self._finished = False
        self._assembler = (
            _TextAssembler(request, tokenizer)
            if tokenizer is not None and request.params.detokenize
            else _TokenAssembler()
        )

    def __aiter__(self) -> TextStream:
        return self

    async def __anext__(self) -> TextDelta:
        """The next delta that carries tokens or a finish reason."""
        if self._finished:
            raise StopAsyncIteration
        while True:
            outputs = await self._outputs.next()
            if not self._first_token_s and any(output.token_ids for output in outputs):
                self._first_token_s = time.monotonic()
            delta = self._assembler.absorb(outputs)
            if delta is None:
                continue
            if delta.finish_reason is not None:
                self._finished = True
                if isinstance(delta.stop_reason, str):
                    # Stop strings are the front end's affair: the engine still runs and has told no timings.
                    self._outputs.abort()
                    delta = replace(delta, timings=self._observed_timings())
            return delta

    def abort(self) -> None:
        """Stop the request if it still runs. Safe at any time, any number of times; no delta follows."""
        self._finished = True
        self._outputs.abort()

    def _observed_timings(self) -> RequestTimings:
        """What this side saw; `scheduled_s` stays 0 (not known)."""
        return RequestTimings(
            arrival_s=self._request.arrival_s,
            first_token_s=self._first_token_s,
            finished_s=time.monotonic(),
        )


class _TokenAssembler:
    """Joins the outputs of a request that wants no text."""

    def absorb(self, outputs: Sequence[TokenOutput]) -> TextDelta | None:
        last = outputs[-1]
        if len(outputs) == 1:
            token_ids, logprobs = last.token_ids, last.logprobs
        else:
            token_ids = [token_id for output in outputs for token_id in output.token_ids]
            logprobs = [entry for output in outputs for entry in output.logprobs]
        if not token_ids and last.finish_reason is None:
            return None
        return TextDelta(
            "", token_ids, logprobs, last.finish_reason, last.stop_reason, last.timings, last.error
        )


class _TextAssembler:
    """Turns token outputs into deltas whose text is exactly the text of their tokens.

    Text waits here while it may still become a stop string, and tokens wait with their text: half a character
    waits for its other half.

        decoded text   |....emitted....|...scanned, cannot be a stop...|...may become one...|
        token ends     |   |     |     |     |                 |         |        |
                                       `-- delta: whole tokens only ----'
    """

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        params = request.params
        self._detokenizer = Detokenizer(tokenizer, request.prompt_token_ids, params.skip_special_tokens)
        self._checker = StopChecker(params.stop, params.include_stop_str_in_output) if params.stop else None
        self._params = params
        self._exact = bool(params.stop) or params.logprobs is not None
        self._num_tokens = 0
        self._text = ""  # decoded and not yet emitted
        self._safe = 0  # characters of _text that are no part of a stop string
        self._token_ids: list[int] = []  # not yet emitted
        self._logprobs: list[TokenLogprobs] = []
        self._ends: deque[tuple[int, int]] = (
            deque()
        )  # (tokens, characters) from the start of the waiting parts

    def absorb(self, outputs: Sequence[TokenOutput]) -> TextDelta | None:
        for output in outputs:
            token_ids = output.token_ids
            # The token that ended it is counted and reported, but is no part of the text.
            hidden = output.finish_reason is FinishReason.STOP and not self._params.include_stop_str_in_output
            visible = token_ids[:-1] if hidden else token_ids
            if self._exact:
                for i, token_id in enumerate(visible):
                    self._hold(token_ids[i : i + 1], output.logprobs[i : i + 1])
                    matched = self._decode((token_id,))
                    if matched is not None:
                        return self._finish(TokenOutput("", finish_reason=FinishReason.STOP), matched)
                self._hold(token_ids[len(visible) :], output.logprobs[len(visible) :])
            else:
                self._hold(token_ids, ())
                self._decode(visible)
            if output.finish_reason is not None:
                self._text += self._detokenizer.flush()
                self._safe = len(self._text)
                return self._finish(output, output.stop_reason)
        return self._release()

    def _hold(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> None:
        self._token_ids.extend(token_ids)
        self._logprobs.extend(logprobs)
        self._num_tokens += len(token_ids)

    def _decode(self, token_ids: Sequence[int]) -> str | None:
        """Add the tokens' text; returns the stop string that it completes."""
        text = self._detokenizer.push(token_ids)
        if not text:
            return None
        self._text += text
        self._ends.append((len(self._token_ids), len(self._text)))
        if self._checker is None or self._num_tokens <= self._params.min_tokens:
            self._safe = len(self._text)
            return None
        emitted, matched = self._checker.push(text)
        self._safe += len(emitted)
        return matched

    def _release(self) -> TextDelta | None:
        """The longest run of whole tokens whose text is safe."""
        num_tokens = num_chars = 0
        while self._ends and self._ends[0][1] <= self._safe:
            num_tokens, num_chars = self._ends.popleft()
        if num_tokens == 0:
            return None
        delta = TextDelta(self._text[:num_chars], self._token_ids[:num_tokens], self._logprobs[:num_tokens])
        self._text = self._text[num_chars:]
        self._safe -= num_chars
        del self._token_ids[:num_tokens], self._logprobs[:num_tokens]
        self._ends = deque((tokens - num_tokens, chars - num_chars) for tokens, chars in self._ends)
        return delta

    def _finish(self, output: TokenOutput, stop_reason: str | int | None) -> TextDelta:
        return TextDelta(
            self._text[: self._safe],
            self._token_ids,
            self._logprobs,
            output.finish_reason,
            stop_reason,
            output.timings,
            output.error,
        )


def completion_text(
    request: Request, tokenizer: Tokenizer, token_ids: Sequence[int], finish_reason: FinishReason | None
) -> str:
    """The text of a whole completion without stop strings, decoded in one go: what its deltas add up to."""
    params = request.params
    if finish_reason is FinishReason.STOP and not params.include_stop_str_in_output:
        token_ids = token_ids[:-1]
    detokenizer = Detokenizer(tokenizer, request.prompt_token_ids, params.skip_special_tokens)
    return detokenizer.push(token_ids) + detokenizer.flush()

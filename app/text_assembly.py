"""From token outputs to text deltas: detokenization, stop strings, and what has to wait for what.

Knows the tokens of one completion, neither where they come from nor who reads the text.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..model.plan import TokenLogprobs
from ..scheduler.request import FinishReason, Request, RequestTimings, TokenOutput
from .detokenizer import Detokenizer, StopChecker
from .tokenizer import Tokenizer


class TextDelta(NamedTuple):
    """What came since the last delta. `text` is the text of `token_ids`, and of nothing else.

    text: empty if the request does not detokenize.   logprobs: one per token id, or empty if not asked for.
    stop_reason: the stop string or stop token id that ended it; None for the end-of-sequence token.
    error: one sentence, when finish_reason is ERROR.
    timings: with the last delta only.   detokenize_s: likewise; seconds to make text of one step's tokens,
    the request's mean, if it is timed.
    """

    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    timings: RequestTimings | None = None
    error: str | None = None
    detokenize_s: float = 0.0


class TokenAssembler:
    """Joins the outputs of a request that wants no text."""

    def absorb(self, outputs: Sequence[TokenOutput]) -> TextDelta | None:
        """What `outputs` bring, None if nothing yet."""
        last = outputs[-1]
        if len(outputs) == 1:
            token_ids, logprobs = last.token_ids, last.logprobs
        else:
            token_ids = [token_id for output in outputs for token_id in output.token_ids]
            logprobs = [entry for output in outputs for entry in output.logprobs]
        if not token_ids and last.finish_reason is None:
            return None
        timings = None if last.finish_reason is None else last.timings
        return TextDelta("", token_ids, logprobs, last.finish_reason, last.stop_reason, timings, last.error)


class TextAssembler:
    """Turns token outputs into deltas whose text is exactly the text of their tokens.

    is_exact: tokens are looked at one by one, for stop strings and log-probabilities.
    Text waits here while it may become a stop string, half a character until it is whole; tokens wait with
    their text.

        decoded text   |....emitted....|...scanned, cannot be a stop...|...may become one...|
        token ends     |   |     |     |     |                 |         |        |
                                       `-- delta: whole tokens only ----'
    """

    def __init__(self, request: Request, tokenizer: Tokenizer) -> None:
        params = request.params
        self._detokenizer = Detokenizer(tokenizer, request.prompt_token_ids, params.skip_special_tokens)
        self._checker = StopChecker(params.stop, params.include_stop_str_in_output) if params.stop else None
        self._params = params
        self._hidden = frozenset() if params.include_stop_str_in_output else request.stop_ids
        self.is_exact = bool(params.stop) or params.logprobs is not None
        self._num_tokens = 0
        self._text = ""  # decoded and not yet emitted
        self._safe = 0  # characters of _text that are no part of a stop string
        self._token_ids: list[int] = []  # not yet emitted
        self._logprobs: list[TokenLogprobs] = []
        # (tokens, characters) from the start of the waiting parts
        self._ends: deque[tuple[int, int]] = deque()

    def absorb(self, outputs: Sequence[TokenOutput]) -> TextDelta | None:
        """The text that `outputs` make certain, None if none; nothing may follow a finish reason."""
        if len(outputs) == 1 and not (self.is_exact or self._token_ids or outputs[0].finish_reason):
            return self._pass(outputs[0].token_ids)
        for output in outputs:
            token_ids = output.token_ids
            # The token that ended it is reported, but is not part of the text.
            ended = output.finish_reason is FinishReason.STOP and token_ids and token_ids[-1] in self._hidden
            visible = token_ids[:-1] if ended else token_ids
            if self.is_exact:
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

    def _pass(self, token_ids: Sequence[int]) -> TextDelta | None:
        """The case of nearly every token: nothing waits, and nothing has to but half a character."""
        text = self._detokenizer.push(token_ids)
        if text:
            return TextDelta(text, token_ids)
        self._token_ids.extend(token_ids)
        return None

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
        if self._ends:
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


class StopWatch:
    """Times an assembler's `absorb`. For some requests: the clock costs a good part of what it measures."""

    def __init__(self, absorb: Callable[[Sequence[TokenOutput]], TextDelta | None]) -> None:
        self._absorb = absorb
        self._num_calls = 0
        self._total_s = 0.0

    def absorb(self, outputs: Sequence[TokenOutput]) -> TextDelta | None:
        """See TextAssembler."""
        began_s = time.perf_counter()
        delta = self._absorb(outputs)
        self._total_s += time.perf_counter() - began_s
        self._num_calls += 1
        return delta

    @property
    def mean_s(self) -> float:
        """Seconds of a call; there has been one."""
        return self._total_s / self._num_calls


def completion_text(
    request: Request, tokenizer: Tokenizer, token_ids: Sequence[int], finish_reason: FinishReason | None
) -> str:
    """The text of a whole completion without stop strings, decoded in one go: what its deltas add up to."""
    params = request.params
    ended = finish_reason is FinishReason.STOP and not params.include_stop_str_in_output
    if ended and token_ids and token_ids[-1] in request.stop_ids:
        token_ids = token_ids[:-1]
    detokenizer = Detokenizer(tokenizer, request.prompt_token_ids, params.skip_special_tokens)
    return detokenizer.push(token_ids) + detokenizer.flush()

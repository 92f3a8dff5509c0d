"""Text deltas of one completion: detokenization, stop strings, abort. Knows neither HTTP nor scheduling."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..model.plan import TokenLogprobs
from ..scheduler.request import FinishReason, Request, RequestTimings, TokenOutput
from .rate_limits import Quota
from .text_assembly import StopWatch, TextAssembler, TextDelta, TokenAssembler

if TYPE_CHECKING:
    from .client import OutputStream
    from .tokenizer import Tokenizer


class TextStream:
    """Text deltas of one completion, in order: `async for delta in stream`; the last has a finish reason.

    prompt_logprobs: of all prompt tokens but the first, if asked for; complete with the first delta.
    is_timed: whether the last delta tells how long it takes to make text.
    The consumer calls `abort` when it stops early. Raises EngineDeadError when the engine is gone.
    """

    def __init__(
        self,
        outputs: OutputStream,
        request: Request,
        tokenizer: Tokenizer | None,
        *,
        is_timed: bool = False,
    ) -> None:
        self._outputs = outputs
        self._request = request
        self._first_token_s = 0.0
        self._timings: RequestTimings | None = None
        self._begun = False  # whether its first delta was handed out
        self._end: TextDelta | None = None  # seen in `take`, which cannot hand it out
        self._finished = False
        self._wants_prompt = request.params.prompt_logprobs is not None
        self.prompt_logprobs: list[TokenLogprobs] = []
        assembler = (
            TextAssembler(request, tokenizer)
            if tokenizer is not None and request.params.detokenize
            else TokenAssembler()
        )
        self._watch = StopWatch(assembler.absorb) if is_timed else None
        self._assemble = assembler.absorb if self._watch is None else self._watch.absorb

    @property
    def max_tokens(self) -> int:
        """The most that it may get."""
        return self._request.max_tokens

    async def accepted(self) -> None:
        """Wait until the engine has taken the request; raises, like `Generation.start`, if it does not."""
        await self._outputs.accepted()

    def divert(self, ready: Callable[[], bool], heard: Callable[[TextDelta], None]) -> None:
        """Give deltas to `heard` as they come, while `ready`, and not to the iterator.

        The first delta and the last go the usual way; order is kept.
        """

        def take(outputs: Sequence[TokenOutput]) -> bool:
            if not self._begun or outputs[-1].finish_reason is not None or not ready():
                return False
            delta = self._assemble(outputs)
            if delta is None:
                return True
            if delta.finish_reason is not None:  # a stop string
                self._end = delta
                return False
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
            delta = self._end or self._assemble(outputs)
            if delta is None:
                continue
            self._begun = True
            if delta.finish_reason is not None:
                self._finished = True
                if self._watch is not None:
                    delta = delta._replace(detokenize_s=self._watch.mean_s)
                if isinstance(delta.stop_reason, str):
                    # Stop strings are found here: the engine still runs the request and has not ended it.
                    self._outputs.abort(FinishReason.STOP)
                    delta = delta._replace(timings=self._timings_now())
            return delta

    def abort(self) -> None:
        """Stop the request if it still runs. Safe at any time, any number of times; no delta follows."""
        self._finished = True
        self._outputs.abort()

    def _note_first(self, outputs: Sequence[TokenOutput]) -> None:
        """The engine sends timings of queue, prefill and cache with the first output and with the last."""
        for output in outputs:
            self._timings = self._timings or output.timings
            if output.token_ids:
                self._first_token_s = time.monotonic()
                return

    def _timings_now(self) -> RequestTimings:
        """As if the engine had ended it now; `scheduled_s` is 0 (not known) if the engine has sent none."""
        now = time.monotonic()
        if self._timings is not None:
            # A copy: the engine still writes to its own.
            return replace(self._timings, finished_s=now)
        return RequestTimings(
            arrival_s=self._request.arrival_s, first_token_s=self._first_token_s, finished_s=now
        )

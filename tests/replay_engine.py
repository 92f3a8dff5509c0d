"""An EngineClient that answers every request with the same outputs, over a tokenizer of single bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from http_harness import byte_tokenizer
from http_harness import make_generation as generation_over

from octavo.app.client import OutputStream
from octavo.app.generation import Generation, TextDelta
from octavo.model.plan import TokenLogprobs
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import FinishReason, Request, RequestTimings, TokenOutput

TOKENIZER = byte_tokenizer()


class ReplayStream(OutputStream):
    """Gives the scripted batches, then fails the test."""

    def __init__(self, batches: Sequence[Sequence[TokenOutput]], error: Exception | None = None) -> None:
        super().__init__(lambda reason: None)
        self.batches = list(batches)
        self.error = error
        self.num_aborts = 0

    async def accepted(self) -> None:
        """At once."""

    async def next(self) -> Sequence[TokenOutput]:
        await asyncio.sleep(0)
        if self.batches:
            return self.batches.pop(0)
        if self.error is not None:
            raise self.error
        raise AssertionError("next() after the last output")

    def divert(self, take: Callable[[Sequence[TokenOutput]], bool]) -> None:
        """All goes through `next`."""

    def abort(self, reason: FinishReason = FinishReason.ABORT) -> None:
        self.num_aborts += 1


class ReplayClient:
    """An EngineClient that answers every request with the same script."""

    def __init__(self, batches: Sequence[Sequence[TokenOutput]] = (), error: Exception | None = None) -> None:
        self.requests: list[Request] = []
        self.streams: list[ReplayStream] = []
        self._script = (batches, error)

    def submit(self, request: Request) -> ReplayStream:
        self.requests.append(request)
        self.streams.append(ReplayStream(*self._script))
        return self.streams[-1]


def make_generation(client: Any, **changes: Any) -> Generation:
    """That of the HTTP tests without a template and defaults, for short sequences."""
    plain = {"max_model_len": 100, "default_params": {}, "tokenizer": TOKENIZER, "chat_template": None}
    return generation_over(client, **(plain | changes))


def batches_of(
    token_ids: Sequence[int],
    sizes: Sequence[int] = (),
    reason: FinishReason = FinishReason.LENGTH,
    *,
    logprobs: bool = False,
) -> list[list[TokenOutput]]:
    """One output per token, bunched into batches of `sizes` (then of one); the last ends it with `reason`."""
    outputs = [
        TokenOutput("r", (token,), (TokenLogprobs(-float(token), 1, ()),) if logprobs else ())
        for token in token_ids
    ]
    outputs[-1] = outputs[-1]._replace(finish_reason=reason, timings=RequestTimings(1.0, num_cached_tokens=7))
    batches, left = [], list(sizes)
    while outputs:
        size = left.pop(0) if left else 1
        batches.append(outputs[:size])
        outputs = outputs[size:]
    return batches


def collect(client: ReplayClient, params: SamplingParams, **changes: Any) -> list[TextDelta]:
    async def run() -> list[TextDelta]:
        stream = make_generation(client, **changes).start([65, 66], params, request_id="r")
        return [delta async for delta in stream]

    return asyncio.run(run())


def joined(deltas: Sequence[TextDelta]) -> tuple[str, list[int]]:
    return "".join(d.text for d in deltas), [token for d in deltas for token in d.token_ids]

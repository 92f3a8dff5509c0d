"""Many prompts at once for callers who want whole results: submit all, gather in bulk, decode at the end.

Nothing is done per token: outputs pile up in their streams, which are awaited one after the other. Only stop
strings need the text while it grows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ..model.sampling_params import SamplingParams
from ..scheduler.request import Request
from .client import OutputStream
from .generation import Generation, RequestOptions, TextStream, choice_params
from .outputs import CompletionBuilder, RequestOutput, request_output
from .prompts import Prompt
from .text_assembly import completion_text

_SUBMIT_AT_ONCE = 64
"""Requests submitted before the engine gets a turn, so that it starts before all are submitted."""


class Job:
    """One prompt with all its completions. Raises RequestError when built, if it cannot run."""

    def __init__(
        self,
        generation: Generation,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str,
        priority: int = 0,
    ) -> None:
        self._generation = generation
        self._prompt = prompt
        self._request_id = request_id
        options = RequestOptions(priority=priority, cache_salt=prompt.cache_salt)
        self._requests = [
            generation.request(prompt.token_ids, one, request_id=f"{request_id}-{index}", options=options)
            for index, one in enumerate(choice_params(params))
        ]
        self._completions: list[_Whole | _Watched] = []

    def submit(self) -> None:
        """Queue all completions. Raises what the client's `submit` raises."""
        for index, request in enumerate(self._requests):
            kind = _Watched if request.params.stop else _Whole
            self._completions.append(kind(self._generation, request, index))

    async def result(self) -> RequestOutput:
        """All completions, ended. Raises EngineDeadError."""
        builders = [await completion.result() for completion in self._completions]
        tokenizer = self._generation.tokenizer
        token_text = None if tokenizer is None else tokenizer.token_text
        return request_output(
            self._request_id, self._prompt.text, self._prompt.token_ids, builders, token_text
        )

    def abort(self) -> None:
        """Stop what still runs."""
        for completion in self._completions:
            completion.abort()


async def run_jobs(jobs: Sequence[Job], on_finished: Callable[[], object]) -> list[RequestOutput]:
    """Submit all jobs; their results in order. Whatever happens, none of them runs on afterwards."""
    try:
        for number, job in enumerate(jobs, start=1):
            job.submit()
            if number % _SUBMIT_AT_ONCE == 0:
                await asyncio.sleep(0)
        results = []
        for job in jobs:
            results.append(await job.result())
            on_finished()
        return results
    finally:
        for job in jobs:
            job.abort()


class _Whole:
    """A completion that is read when it has ended."""

    def __init__(self, generation: Generation, request: Request, index: int) -> None:
        self._tokenizer = generation.tokenizer
        self._request = request
        self._builder = CompletionBuilder(index, request.params)
        self._stream: OutputStream = generation.client.submit(request)

    async def result(self) -> CompletionBuilder:
        builder = self._builder
        while builder.finish_reason is None:
            for output in await self._stream.next():
                builder.add("", output.token_ids, output.logprobs)
                builder.add_prompt(output.prompt_logprobs)
                if output.finish_reason is not None:
                    builder.finish(output.finish_reason, output.stop_reason, output.timings, output.error)
        if self._tokenizer is not None and self._request.params.detokenize:
            reason = builder.finish_reason
            builder.add(completion_text(self._request, self._tokenizer, builder.token_ids, reason), (), ())
        return builder

    def abort(self) -> None:
        self._stream.abort()


class _Watched:
    """A completion with stop strings: a task follows its text."""

    def __init__(self, generation: Generation, request: Request, index: int) -> None:
        self._builder = CompletionBuilder(index, request.params)
        self._stream = TextStream(generation.client.submit(request), request, generation.tokenizer)
        self._task = asyncio.create_task(self._follow())

    async def result(self) -> CompletionBuilder:
        await self._task
        self._builder.add_prompt(self._stream.prompt_logprobs)
        return self._builder

    def abort(self) -> None:
        self._task.cancel()
        self._stream.abort()

    async def _follow(self) -> None:
        async for delta in self._stream:
            self._builder.add(delta.text, delta.token_ids, delta.logprobs)
            if delta.finish_reason is not None:
                self._builder.finish(delta.finish_reason, delta.stop_reason, delta.timings, delta.error)

"""Generation inside the caller's event loop: an async iterator of growing results, as vLLM's `AsyncLLM`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any, Self

from ..model.sampling_params import SamplingParams
from ..scheduler.request import FinishReason
from ..scheduler.stats import EngineStats
from .generation import Generation, RequestOptions, TextStream, choice_params
from .launch import Launched, launch
from .llm import engine_config
from .outputs import CompletionBuilder, RequestOutput, request_output
from .prompts import Prompt, PromptInput, parse_prompt


class AsyncLLM:
    """A model in the running event loop, loaded by `start` or the first `generate`.

    settings: as for `LLM`, with the same errors. Use as an async context manager, or `close` it.
    """

    def __init__(self, model: str = "demo", **settings: Any) -> None:
        self.config = engine_config(model, settings)
        self._lock = asyncio.Lock()
        self._launched: Launched | None = None
        self._closed = False
        self._running: dict[str, _Completions] = {}

    async def start(self) -> Generation:
        """Load the model, if that has not been done. Raises StartupError."""
        async with self._lock:
            if self._closed:
                raise RuntimeError("this AsyncLLM is closed")
            if self._launched is None:
                self._launched = await launch(self.config)
            return self._launched.generation()

    async def generate(
        self, prompt: PromptInput, sampling_params: SamplingParams, request_id: str, *, priority: int = 0
    ) -> AsyncGenerator[RequestOutput]:
        """Results that grow: each holds the whole text and all tokens so far; the last one is `finished`.

        prompt: text, token ids, or a dict with one of them.   request_id: not that of a running request.
        Leaving the iterator (`aclose`, or a cancelled task) aborts the request.
        Raises ValueError, RequestError, EngineDeadError.
        """
        generation = await self.start()
        if request_id in self._running:
            raise ValueError(f"request_id must not be that of a running request, got {request_id!r}")
        parsed = parse_prompt(prompt, generation.tokenizer)
        completions = _Completions(generation, request_id, parsed)
        self._running[request_id] = completions
        try:
            completions.start(sampling_params, priority)
            finished = False
            while not finished:
                output = await completions.next()
                finished = output.finished
                yield output
        finally:
            completions.abort()
            del self._running[request_id]

    async def abort(self, request_id: str) -> None:
        """End a request, if it runs: its iterator gives a last result, with finish_reason "abort"."""
        if request_id in self._running:
            self._running[request_id].abort()

    @property
    def started(self) -> bool:
        """Whether the model is loaded."""
        return self._launched is not None

    def stats(self) -> EngineStats:
        """A moment of the engine. Raises RuntimeError before the model is loaded."""
        return self._loaded().engine.stats()

    def get_default_sampling_params(self) -> SamplingParams:
        """The model's generation_config.json. Raises RuntimeError before the model is loaded."""
        return SamplingParams(**self._loaded().model.default_params)

    def _loaded(self) -> Launched:
        if self._launched is None:
            raise RuntimeError("this AsyncLLM has not started")
        return self._launched

    async def close(self) -> None:
        """End what runs, free the model. Safe to call again."""
        async with self._lock:
            self._closed = True
            launched, self._launched = self._launched, None
            if launched is not None:
                for completions in self._running.values():
                    completions.abort()
                await launched.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class _Completions:
    """The completions of one prompt, growing together; a slow reader gets what has piled up."""

    def __init__(self, generation: Generation, request_id: str, prompt: Prompt) -> None:
        self._generation = generation
        self._request_id = request_id
        self._prompt = prompt
        self._changed = asyncio.Event()
        self._builders: list[CompletionBuilder] = []
        self._streams: list[TextStream] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, sampling_params: SamplingParams, priority: int) -> None:
        """Submit them all. Raises what `Generation.start` raises."""
        options = RequestOptions(priority=priority, cache_salt=self._prompt.cache_salt)
        for index, params in enumerate(choice_params(sampling_params)):
            stream = self._generation.start(
                self._prompt.token_ids,
                params,
                request_id=f"{self._request_id}-{index}",
                options=options,
            )
            builder = CompletionBuilder(index, params)
            self._streams.append(stream)
            self._builders.append(builder)
            self._tasks.append(asyncio.create_task(self._follow(stream, builder)))

    async def next(self) -> RequestOutput:
        """The result so far, once there is more than the last time. Raises what a stream raised."""
        await self._changed.wait()
        self._changed.clear()
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        tokenizer = self._generation.tokenizer
        token_text = None if tokenizer is None else tokenizer.token_text
        return request_output(
            self._request_id, self._prompt.text, self._prompt.token_ids, self._builders, token_text
        )

    def abort(self) -> None:
        """End those that run, with finish_reason "abort"."""
        for stream, task, builder in zip(self._streams, self._tasks, self._builders, strict=False):
            stream.abort()
            task.cancel()
            if builder.finish_reason is None:
                builder.finish(FinishReason.ABORT)
        self._changed.set()

    async def _follow(self, stream: TextStream, builder: CompletionBuilder) -> None:
        try:
            async for delta in stream:
                if not builder.token_ids:
                    builder.add_prompt(stream.prompt_logprobs)  # complete by now
                builder.add(delta.text, delta.token_ids, delta.logprobs)
                if delta.finish_reason is not None:
                    builder.finish(delta.finish_reason, delta.stop_reason, delta.timings, delta.error)
                self._changed.set()
        finally:
            self._changed.set()

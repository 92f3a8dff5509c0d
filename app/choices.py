"""The choices of one HTTP request: started, followed and stopped together. Knows no JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial

from ..model.plan import TokenLogprobs
from ..model.sampling_params import SamplingParams
from ..scheduler.request import FinishReason
from .choice_record import ChoiceRecord, cause_of_refusal
from .errors import DeadlineError, EngineStoppedError, GenerationError
from .generation import DEFAULT_OPTIONS, Generation, RequestOptions, TextDelta, TextStream, choice_params
from .metrics import ServerMetrics
from .request_checks import check_number
from .request_times import RequestTimes

Batch = list[tuple[int, TextDelta]]
"""(index of the choice, what it brought), as many as have come."""


class Choices:
    """`params.n` choices for each of `prompts`; choice i of prompt p has index p * n + i.

    max_queued: choices that the engine lets wait; more at once could never start.
    keep_texts: whether to keep their texts, in `texts`.   error: what ended them early, in words.
    Raises what Generation.start raises, with nothing left running and all of them counted. The owner calls
    `stop` in the end.
    """

    def __init__(
        self,
        generation: Generation,
        metrics: ServerMetrics,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        request_id: str,
        options: RequestOptions = DEFAULT_OPTIONS,
        arrival_s: float,
        max_queued: int | None = None,
        keep_texts: bool = False,
    ) -> None:
        self.num_prompt_tokens = sum(map(len, prompts))
        self.num_cached_tokens = 0
        self.times = RequestTimes(arrival_s)
        self._n = params.n
        self._metrics = metrics
        self._streams: list[TextStream] = []
        self._records: list[ChoiceRecord] = []
        self.error: str | None = None
        num_choices = len(prompts) * params.n
        self.texts = [""] * num_choices if keep_texts else []
        try:
            check_number(len(prompts), params.n, max_queued)
            for prompt in prompts:
                for each in choice_params(params):
                    stream = generation.start(
                        prompt,
                        each,
                        request_id=generation.engine_id(request_id),
                        options=options,
                    )
                    self._streams.append(stream)
                    metrics.histograms.max_tokens.observe(stream.max_tokens)
                    self._records.append(metrics.begin(len(prompt), arrival_s))
        except Exception as error:
            self._not_taken(error, num_choices - len(self._records))
            raise
        metrics.histograms.choices.observe(params.n)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def num_completion_tokens(self) -> int:
        """Tokens heard so far, of all choices."""
        return sum(record.num_tokens for record in self._records)

    def prompt_logprobs(self, index: int) -> Sequence[TokenLogprobs]:
        """The log-probabilities of the prompt of choice `index`, which must have begun."""
        return self._streams[index].prompt_logprobs

    @property
    def records(self) -> Sequence[ChoiceRecord]:
        """Of each choice, when its tokens came and how it ended."""
        return self._records

    def quota_headers(self) -> dict[str, str]:
        """What their tenant has left, if it is limited; known once all are accepted."""
        quota = self._streams[-1].quota
        return {} if quota is None else quota.headers()

    async def accepted(self) -> None:
        """Wait until the engine has taken all choices. Raises like the constructor, with nothing running."""
        try:
            for stream in self._streams:
                await stream.accepted()
        except Exception as error:
            self.error = str(error)
            self._not_taken(error)
            raise

    def _not_taken(self, error: Exception, num_unrecorded: int = 0) -> None:
        """Stop what runs, and count it and `num_unrecorded` choices that were not started."""
        metrics = self._metrics
        before = metrics.ended["refused"]
        cause = _cause(error, cause_of_refusal(error))
        metrics.count_end(cause, num_unrecorded)
        self.stop(cause)
        metrics.count_refused(error, metrics.ended["refused"] - before)

    def divert(self, ready: Callable[[], bool], heard: Callable[[TextDelta], None]) -> None:
        """See TextStream.divert. Several choices are not diverted: together they are one write."""
        if len(self._streams) == 1:
            self._streams[0].divert(ready, partial(self._divert, heard))

    def _divert(self, heard: Callable[[TextDelta], None], delta: TextDelta) -> None:
        """What `_hear` comes to for a delta that is neither the first nor the last: once for every token."""
        self._records[0].num_tokens += len(delta.token_ids)
        if self.texts:
            self.texts[0] += delta.text
        heard(delta)

    async def batches(self) -> AsyncGenerator[Batch]:
        """The deltas of all choices, until each has ended.

        Raises GenerationError, DeadlineError and EngineDeadError.
        """
        try:
            if len(self._streams) == 1:
                async for delta in self._streams[0]:
                    self._hear(0, delta)
                    yield [(0, delta)]
            else:
                async with aclosing(self._merged()) as merged:
                    async for batch in merged:
                        for index, delta in batch:
                            self._hear(index, delta)
                        yield batch
        except Exception as error:
            self.error = str(error)
            self.stop(_cause(error, "error"))
            raise
        self._metrics.histograms.longest_choice.observe(max(record.num_tokens for record in self._records))

    def stop(self, cause: str = "disconnect") -> None:
        """Abort what still runs and count it as ended by `cause`. Safe to call at any time."""
        for stream in self._streams:
            stream.abort()
        for record in self._records:
            record.end(cause)

    def _hear(self, index: int, delta: TextDelta) -> None:
        self._records[index].receive(delta)
        if self.texts:
            self.texts[index] += delta.text
        if delta.finish_reason is not None:
            self._hear_end(index, delta)

    def _hear_end(self, index: int, delta: TextDelta) -> None:
        if delta.finish_reason is FinishReason.DEADLINE:
            raise DeadlineError(delta.error or "the request ran out of time")
        if delta.finish_reason is FinishReason.ERROR:
            raise GenerationError(delta.error or "The engine failed at this request.")
        if delta.timings is not None:
            self.times.absorb(delta.timings)
            if index % self._n == 0:
                # Only the first choice counts: its siblings find in the cache what it has just written.
                self.num_cached_tokens += delta.timings.num_cached_tokens

    async def _merged(self) -> AsyncGenerator[Batch]:
        heard: asyncio.Queue[tuple[int, TextDelta] | Exception | None] = asyncio.Queue()

        async def listen(index: int, stream: TextStream) -> None:
            try:
                async for delta in stream:
                    heard.put_nowait((index, delta))
            except Exception as error:
                heard.put_nowait(error)  # raised below, in the task that asked
            heard.put_nowait(None)

        tasks = [asyncio.create_task(listen(i, stream)) for i, stream in enumerate(self._streams)]
        num_listening = len(tasks)
        try:
            while num_listening:
                entries = [await heard.get()]
                while not heard.empty():
                    entries.append(heard.get_nowait())
                batch: Batch = []
                for entry in entries:
                    if entry is None:
                        num_listening -= 1
                    elif isinstance(entry, Exception):
                        raise entry
                    else:
                        batch.append(entry)
                if batch:
                    yield batch
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _cause(error: Exception, otherwise: str) -> str:
    """The cause of an end by `error`."""
    if isinstance(error, EngineStoppedError):
        return "drained"
    return "deadline" if isinstance(error, DeadlineError) else otherwise

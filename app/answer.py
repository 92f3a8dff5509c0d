"""From the choices of a request to its response, streamed or whole, as chat and completions share it.

The shape of choices and log-probabilities comes from the shape.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..scheduler.request import Claim, FinishReason
from .answer_grammar import tools_complaint
from .answer_parts import delta_json
from .asked import AnswerShape, Asked
from .choices import Batch, Choices
from .chunks import DONE, ChunkEncoder, error_frame
from .context import ServerContext
from .direct_writer import DirectWriter
from .disconnect import unless_disconnected
from .errors import GenerationError, RequestError
from .generation import RequestOptions, TextDelta
from .json_response import ignored_header
from .prompt_echo import PromptEcho
from .protocol import client_names, usage
from .request_summary import AnswerSummary
from .sse import EventStream

log = logging.getLogger(__name__)

TIMES_HEADER = "server-timing"


class Answer:
    """One request under way. Building it starts its choices; raises RequestError if they cannot start."""

    def __init__(
        self, server: ServerContext, shape: AnswerShape, asked: Asked, *, request_id: str, claim: Claim
    ) -> None:
        self._server = server
        self._shape = shape
        self._asked = asked
        response_id = f"{shape.id_prefix}{request_id}"
        self._encoder: ChunkEncoder | None = None
        self._common = {
            "id": response_id,
            "object": shape.object,
            "created": int(time.time()),
            "model": asked.model,
            "system_fingerprint": f"octavo-{server.settings.version}",
        }
        num_writers = len(asked.prompts) * asked.params.n if asked.params.logprobs is not None else 0
        as_ids = asked.fields.return_tokens_as_token_ids
        self._writers = [shape.logprobs(as_ids) for _ in range(num_writers)]
        num_choices = len(asked.prompts) * asked.params.n
        self._parts = [] if asked.parts is None else [asked.parts() for _ in range(num_choices)]
        count_reading = server.metrics.tool_readings(shape.id_prefix, streams=asked.fields.stream)
        for parts in self._parts:
            parts.count_readings(count_reading, every_push=asked.fields.stream)
        fields = asked.fields
        self._is_plain = not (
            self._writers or self._parts or fields.return_token_ids or fields.continuous_usage
        )
        self._unopened: set[int] = set()
        try:
            self._choices = Choices(
                server.generation,
                server.metrics,
                asked.prompts,
                asked.params,
                request_id=response_id,
                options=RequestOptions(
                    priority=fields.priority,
                    cache_salt=fields.cache_salt or "",
                    claim=claim,
                    thinking=asked.thinking,
                ),
                arrival_s=claim.arrival_s,
                max_queued=server.settings.max_queued_requests,
                keep_texts=server.settings.log_prompts,
            )
        except RequestError as error:
            raise self._client_names(error) from None
        self._prompts = PromptEcho(asked, self._choices, server.generation.tokenizer)

    async def respond(self, request: Request) -> Response:
        """The response. Raises RequestError, and ClientDisconnect if nobody waits for it any more."""
        await self._accepted()
        headers = {**ignored_header(self._asked.ignored), **self._choices.quota_headers()}
        times = self._choices.times
        if self._asked.fields.stream:
            headers[TIMES_HEADER] = times.opening_header(time.monotonic())
            return EventStream(
                self._frames(),
                on_close=self._choices.stop,
                headers=headers,
                keep_alive_s=self._server.settings.keep_alive_s,
                on_direct=self._write_directly,
            )
        try:
            body = await unless_disconnected(request.receive, self._whole())
        finally:
            self._choices.stop()
        headers[TIMES_HEADER] = times.header(time.monotonic())
        return Response(body, media_type="application/json", headers=headers)

    def summary(self) -> AnswerSummary:
        """How it ended, for logs and traces."""
        asked, server = self._asked, self._server
        tokenizer = server.generation.tokenizer if server.settings.log_prompts else None
        prompts = () if tokenizer is None else [tokenizer.decode(ids, False) for ids in asked.prompts]
        return AnswerSummary.of(self._choices, str(self._common["id"]), asked.model, asked.params, prompts)

    async def _accepted(self) -> None:
        try:
            await self._choices.accepted()
        except RequestError as error:
            raise self._client_names(error) from None

    def _client_names(self, error: RequestError) -> RequestError:
        asked = self._asked
        names = {
            "prompt": asked.prompt_field,
            "max_tokens": asked.max_tokens_field,
            "structured_outputs": asked.grammar_field or asked.fields.grammar_field,
        }
        if error.param == "structured_outputs" and asked.grammar_field == "tools":
            error.message = tools_complaint(error.message)
        return client_names(error, names)

    async def _whole(self) -> bytes:
        deltas: list[list[TextDelta]] = [[] for _ in range(len(self._choices))]
        async for batch in self._batches():
            for index, delta in batch:
                deltas[index].append(delta)
        choices = [self._choice(index, heard) for index, heard in enumerate(deltas)]
        beside = {} if self._shape.chunk.prompt_in_choice else self._prompts.told(0)
        return msgspec.json.encode(
            {**self._common, "choices": choices, "usage": self._final_usage(), **beside}
        )

    async def _batches(self) -> AsyncGenerator[Batch]:
        async with aclosing(self._choices.batches()) as batches:
            async for batch in batches:
                if self._asked.prompt_only:
                    yield [(index, _emptied(delta)) for index, delta in batch]
                else:
                    yield batch

    def _choice(self, index: int, deltas: Sequence[TextDelta]) -> dict[str, Any]:
        last = deltas[-1]
        assert last.finish_reason is not None, "a choice ends with a finish reason"
        logprobs = None
        token_ids = [token for delta in deltas for token in delta.token_ids]
        if self._writers:
            entries = [entry for delta in deltas for entry in delta.logprobs]
            echoed_ids, echoed = self._prompts.logprobs(index)
            logprobs = self._writers[index]([*echoed_ids, *token_ids], [*echoed, *entries])
        text, echo = "".join(delta.text for delta in deltas), self._prompts.text(index)
        reason = last.finish_reason.value
        choice = self._shape.choice(index, echo + text, logprobs, reason, last.stop_reason)
        if self._parts:
            choice["message"] |= self._parts[index].message(text, echo)
            choice["finish_reason"] = self._parts[index].finish_reason(last.finish_reason)
        if self._asked.fields.return_token_ids:
            choice["token_ids"] = token_ids
        return {**choice, **self._prompts.told(index)} if self._shape.chunk.prompt_in_choice else choice

    async def _frames(self) -> AsyncGenerator[bytes]:
        """The events of a stream; an error is one of them, and the last is always [DONE]."""
        fields = self._asked.fields
        encoder = self._encoder = ChunkEncoder(
            self._shape.chunk,
            self._common,
            with_usage=fields.include_usage,
            with_ids=fields.return_token_ids,
            prompt_keys=tuple(self._prompts.told(0)),
        )
        self._unopened = set(range(len(self._choices)))
        try:
            async for batch in self._batches():
                frames = b"".join(self._delta_frames(index, delta) for index, delta in batch)
                if frames:
                    yield frames
            if fields.include_usage:
                yield encoder.usage(self._final_usage())
        except RequestError as error:
            yield error_frame(error.body())
        except Exception:
            # The status line has been sent: the client can only be told in the stream.
            response_id = self._common["id"]
            log.exception("request %s failed", response_id, extra={"fields": {"response_id": response_id}})
            yield error_frame(GenerationError("The server failed at this request.").body())
        yield DONE

    def _write_directly(self, writer: DirectWriter) -> None:
        """From now on, all outputs but the last go straight to the connection, without waking a task."""
        write, frames_of = writer.write, self._delta_frames

        def heard(delta: TextDelta) -> None:
            if frames := frames_of(0, delta):
                write(frames)

        self._choices.divert(writer.ready, heard)

    def _delta_frames(self, index: int, delta: TextDelta) -> bytes:
        """The events of a choice's `delta`."""
        encoder = self._encoder
        assert encoder is not None, "a stream begins before it is written"
        if self._is_plain and delta.finish_reason is None and index not in self._unopened:
            return encoder.text(index, delta.text) if delta.text else b""  # nearly every token comes here
        frames = []
        if index in self._unopened:
            self._unopened.remove(index)
            frames += self._opening_frames(encoder, index)
        logprobs = self._writers[index](delta.token_ids, delta.logprobs) if self._writers else None
        tells_tokens = logprobs is not None or self._asked.fields.return_token_ids
        if self._parts:
            frames += self._part_frames(encoder, index, delta, logprobs, tells_tokens)
        elif delta.text or (tells_tokens and delta.token_ids):
            frames.append(encoder.text(index, delta.text, logprobs, self._running_usage(), delta.token_ids))
        if delta.finish_reason is not None:
            reason = delta.finish_reason
            told = self._parts[index].finish_reason(reason) if self._parts else reason.value
            frames.append(encoder.closing(index, told, delta.stop_reason, self._running_usage()))
        return b"".join(frames)

    def _opening_frames(self, encoder: ChunkEncoder, index: int) -> list[bytes]:
        echo = self._prompts.text(index)
        frames = [encoder.opening(index, self._running_usage(), self._prompts.told(index))]
        if echo:
            ids, entries = self._prompts.logprobs(index)
            logprobs = self._writers[index](ids, entries) if ids else None
            frames.append(encoder.text(index, echo, logprobs, self._running_usage()))
        return frames

    def _part_frames(
        self, encoder: ChunkEncoder, index: int, delta: TextDelta, logprobs: Any, tells_tokens: bool
    ) -> list[bytes]:
        """Chunks of an answer in parts; the first has the delta's token ids and log-probabilities."""
        pieces = self._parts[index].push(delta.text, final=delta.finish_reason is not None)
        deltas = [delta_json(piece) for piece in pieces]
        if tells_tokens and delta.token_ids and not deltas:
            deltas = [b"{}"]
        frames, token_ids = [], delta.token_ids
        for each in deltas:
            frames.append(encoder.part(index, each, logprobs, self._running_usage(), token_ids))
            logprobs, token_ids = None, ()
        return frames

    def _running_usage(self) -> dict[str, Any] | None:
        return self._usage() if self._asked.fields.continuous_usage else None

    def _final_usage(self) -> dict[str, Any]:
        return {**self._usage(), "timings": self._choices.times.usage()}

    def _usage(self) -> dict[str, Any]:
        choices = self._choices
        num_completion = 0 if self._asked.prompt_only else choices.num_completion_tokens
        return usage(choices.num_prompt_tokens, num_completion, choices.num_cached_tokens)


def _emptied(delta: TextDelta) -> TextDelta:
    """`delta` without its token, for an answer that is only the prompt."""
    ended = None if delta.finish_reason is None else FinishReason.LENGTH
    return TextDelta(finish_reason=ended, timings=delta.timings)

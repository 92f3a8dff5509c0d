"""The answer of an API that streams named events of one choice. A writer knows the API's objects.

event: NAME
data: {"type": NAME, ...}
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from ..scheduler.request import Claim
from .answer import Answer
from .answer_parts import Piece
from .asked import AnswerShape, Asked
from .chunks import CHAT_CHUNK
from .context import ServerContext
from .errors import GenerationError, RequestError
from .generation import TextDelta
from .logprobs import LogprobsWriter
from .protocol_chat import chat_choice
from .tool_stream import Content
from .translation import Translation

log = logging.getLogger(__name__)


class Counts(NamedTuple):
    """Tokens of a request so far. cached: of the prompt's; known at the end."""

    prompt: int
    completion: int
    cached: int


class Ending(NamedTuple):
    """Why an answer ended, and what it took. times: as in the usage of a chat completion."""

    finish_reason: str
    stop_reason: str | int | None
    counts: Counts
    times: Mapping[str, Any]


class EventWriter(Protocol):
    """Writes one answer: as frames by opening, piece ..., and closing or failure, or as one object by piece
    ... and whole.

    logprobs: entries of a chat answer's `logprobs.content` that came with the piece.
    """

    def opening(self, counts: Counts) -> bytes: ...

    def piece(self, piece: Piece, logprobs: list[Any]) -> bytes: ...

    def closing(self, ending: Ending) -> bytes: ...

    def failure(self, error: RequestError) -> bytes: ...

    def whole(self, ending: Ending) -> dict[str, Any]: ...


class AnswerHead(NamedTuple):
    """What a writer is told when the answer begins. created_s: seconds since 1970."""

    request_id: str
    created_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslatedAsked(Asked):
    """A request of another API, read. writer: makes the writer of its answer."""

    translation: Translation
    writer: Callable[[AnswerHead], EventWriter]


class EventAnswer(Answer):
    """One request of such an API under way; see Answer."""

    _asked: TranslatedAsked

    def __init__(
        self,
        server: ServerContext,
        id_prefix: str,
        logprobs: Callable[[bool], LogprobsWriter],
        asked: TranslatedAsked,
        *,
        request_id: str,
        claim: Claim,
    ) -> None:
        shape = AnswerShape(
            id_prefix=id_prefix, object="", chunk=CHAT_CHUNK, choice=chat_choice, logprobs=logprobs
        )
        super().__init__(server, shape, asked, request_id=request_id, claim=claim)
        self._waiting_logprobs: list[Any] = []
        self._writer = asked.writer(AnswerHead(request_id, int(time.time())))

    async def _whole(self) -> bytes:
        last = TextDelta()
        async for batch in self._choices.batches():
            for _, last in batch:
                self._pieces(last)
        return msgspec.json.encode(self._writer.whole(self._ending(last)))

    async def _frames(self) -> AsyncGenerator[bytes]:
        writer = self._writer
        try:
            yield writer.opening(self._counts())
            async for batch in self._choices.batches():
                frames = b"".join(self._delta_frames(index, delta) for index, delta in batch)
                if frames:
                    yield frames
        except RequestError as error:
            yield writer.failure(error)
        except Exception:
            # The status line is out; the client can only be told in the stream.
            log.exception("request %s failed", self._common["id"])
            yield writer.failure(GenerationError("The server failed at this request."))

    def _delta_frames(self, index: int, delta: TextDelta) -> bytes:
        frames = self._pieces(delta)
        return frames if delta.finish_reason is None else frames + self._writer.closing(self._ending(delta))

    def _pieces(self, delta: TextDelta) -> bytes:
        """The frames of `delta`. Log-probabilities wait for content to be sent with."""
        self._waiting_logprobs += self._logprobs(delta)
        if self._parts:
            pieces = self._parts[0].push(delta.text, final=delta.finish_reason is not None)
        else:
            pieces = [Content(delta.text)] if delta.text or self._waiting_logprobs else []
        frames = b""
        for piece in pieces:
            logprobs: list[Any] = []
            if isinstance(piece, Content):
                logprobs, self._waiting_logprobs = self._waiting_logprobs, []
            frames += self._writer.piece(piece, logprobs)
        return frames

    def _client_names(self, error: RequestError) -> RequestError:
        return self._asked.translation.clients(super()._client_names(error))

    def _logprobs(self, delta: TextDelta) -> list[Any]:
        if not self._writers or not delta.token_ids:
            return []
        content: list[Any] = self._writers[0](delta.token_ids, delta.logprobs)["content"]
        return content

    def _ending(self, delta: TextDelta) -> Ending:
        assert delta.finish_reason is not None, "a choice ends with a finish reason"
        times = self._choices.times.usage()
        reason = delta.finish_reason
        told = self._parts[0].finish_reason(reason) if self._parts else reason.value
        return Ending(told, delta.stop_reason, self._counts(), times)

    def _counts(self) -> Counts:
        choices = self._choices
        return Counts(choices.num_prompt_tokens, choices.num_completion_tokens, choices.num_cached_tokens)


def event_frame(data: Mapping[str, Any]) -> bytes:
    """The frame of an event, named by its `type`."""
    return b"event: %b\ndata: %b\n\n" % (str(data["type"]).encode(), msgspec.json.encode(data))

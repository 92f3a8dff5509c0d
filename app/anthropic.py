"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from .anthropic_writer import MESSAGE_PREFIX, AnthropicWriter
from .body import read_body
from .chat import ChatReader, logprobs_writer
from .context import ServerContext
from .endpoint import GenerationEndpoint
from .errors import RequestError
from .event_answer import EventAnswer, TranslatedAsked, translated
from .ignored_fields import ignored_header
from .json_response import json_response
from .prompt_encoder import PromptEncoder
from .protocol_anthropic import CountRequest, MessagesRequest, read_messages_request
from .validation import decode_object


def anthropic_messages(server: ServerContext, encoder: PromptEncoder) -> GenerationEndpoint[TranslatedAsked]:
    """The handler of /v1/messages."""
    reader = ChatReader(server, encoder)

    def read(body: bytes) -> TranslatedAsked:
        fields = decode_object(body)
        _, translation = read_messages_request(fields, MessagesRequest, strict=server.settings.strict)
        return translated(reader, translation, lambda asked, head: AnthropicWriter(head, asked.model))

    start = partial(EventAnswer, server, MESSAGE_PREFIX, partial(logprobs_writer, encoder))
    return GenerationEndpoint(server, read, start)


class CountTokens:
    """The handler of /v1/messages/count_tokens: how long a prompt is, without generating."""

    def __init__(self, server: ServerContext, encoder: PromptEncoder) -> None:
        self._server = server
        self._reader = ChatReader(server, encoder)

    async def post(self, request: Request) -> Response:
        """The number of input tokens."""
        body = await read_body(request, self._server.settings.max_body_bytes)
        return await self._server.read(self._count, body)

    def _count(self, body: bytes) -> Response:
        fields, strict = decode_object(body), self._server.settings.strict
        _, translation = read_messages_request(fields, CountRequest, strict=strict)
        try:
            count = self._reader.count(translation.chat)
        except RequestError as error:
            raise translation.clients(error) from error
        return json_response({"input_tokens": count}, headers=ignored_header(translation.ignored))

"""Routes of APIs that are translated to chat completions: /v1/responses, and Anthropic's /v1/messages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from .anthropic_writer import MESSAGE_PREFIX, AnthropicWriter
from .asked import Asked
from .chat import ChatReader, logprobs_writer
from .context import ServerContext
from .endpoint import Handler, generation_handler
from .errors import RequestError
from .event_answer import AnswerHead, EventAnswer, EventWriter, TranslatedAsked
from .json_response import ignored_header, json_response
from .prompt_encoder import PromptEncoder
from .protocol_anthropic import CountRequest, MessagesRequest, read_messages_request
from .protocol_responses import read_responses
from .responses_writer import RESPONSE_PREFIX, ResponsesWriter
from .translation import Translation
from .validation import decode_object


def responses_api(server: ServerContext, encoder: PromptEncoder) -> Handler:
    """The handler of /v1/responses, stateless."""
    reader = ChatReader(server, encoder)

    def read(body: bytes) -> TranslatedAsked:
        request, translation = read_responses(decode_object(body), strict=server.settings.strict)
        return _translated(
            reader,
            translation,
            lambda asked, head: ResponsesWriter(head, asked.model, request, asked.params),
        )

    start = partial(EventAnswer, server, RESPONSE_PREFIX, partial(logprobs_writer, encoder))
    return generation_handler(server, read, start)


def anthropic_messages(server: ServerContext, encoder: PromptEncoder) -> Handler:
    """The handler of /v1/messages."""
    reader = ChatReader(server, encoder)

    def read(body: bytes) -> TranslatedAsked:
        fields = decode_object(body)
        _, translation = read_messages_request(fields, MessagesRequest, strict=server.settings.strict)
        return _translated(reader, translation, lambda asked, head: AnthropicWriter(head, asked.model))

    start = partial(EventAnswer, server, MESSAGE_PREFIX, partial(logprobs_writer, encoder))
    return generation_handler(server, read, start)


def count_tokens(server: ServerContext, encoder: PromptEncoder) -> Handler:
    """The handler of /v1/messages/count_tokens: how long a prompt is, without generating."""
    reader = ChatReader(server, encoder)

    def count(body: bytes) -> Response:
        fields = decode_object(body)
        _, translation = read_messages_request(fields, CountRequest, strict=server.settings.strict)
        try:
            num_tokens = reader.count(translation.chat)
        except RequestError as error:
            raise translation.clients(error) from error
        return json_response({"input_tokens": num_tokens}, headers=ignored_header(translation.ignored))

    async def post(request: Request) -> Response:
        return await server.read(request, count)

    return post


def _translated(
    reader: ChatReader, translation: Translation, writer: Callable[[Asked, AnswerHead], EventWriter]
) -> TranslatedAsked:
    """What the translated request asks for. Raises RequestError in the client's words."""
    try:
        asked = reader.read(translation.chat)
    except RequestError as error:
        raise translation.clients(error) from error
    fields = {field.name: getattr(asked, field.name) for field in dataclasses.fields(asked)}
    return TranslatedAsked(
        **{**fields, "ignored": translation.ignored}, translation=translation, writer=partial(writer, asked)
    )

"""POST /v1/responses: OpenAI's newer API, stateless."""

from __future__ import annotations

from functools import partial

from .chat import ChatReader, logprobs_writer
from .context import ServerContext
from .endpoint import GenerationEndpoint
from .event_answer import EventAnswer, TranslatedAsked, translated
from .prompt_encoder import PromptEncoder
from .protocol_responses import read_responses
from .responses_writer import RESPONSE_PREFIX, ResponsesWriter
from .validation import decode_object


def responses_api(server: ServerContext, encoder: PromptEncoder) -> GenerationEndpoint[TranslatedAsked]:
    """The route's handler."""
    reader = ChatReader(server, encoder)

    def read(body: bytes) -> TranslatedAsked:
        request, translation = read_responses(decode_object(body), strict=server.settings.strict)
        return translated(
            reader,
            translation,
            lambda asked, head: ResponsesWriter(head, asked.model, request, asked.params),
        )

    start = partial(EventAnswer, server, RESPONSE_PREFIX, partial(logprobs_writer, encoder))
    return GenerationEndpoint(server, read, start)

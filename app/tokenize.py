"""POST /tokenize and /detokenize: texts and conversations to token ids and back, without generating."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from .chat_messages import read_messages
from .context import ServerContext
from .errors import RequestError
from .json_response import ignored_header, json_response
from .prompt_encoder import PromptEncoder
from .protocol_chat import check_template_flags
from .tool_types import read_tools
from .validation import Refused, check_fields, convert, decode_object, refuse_unknown

TOKENIZE_REFUSED: Refused = {
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
}


class TokenizeRequest(Struct, kw_only=True):
    """Either `prompt` or `messages`; add_special_tokens defaults to true for the one, false for the other."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Any] | None = None
    tools: list[Any] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeRequest(Struct, kw_only=True):
    """`tokens`: ids in the model's vocabulary."""

    tokens: list[int]
    model: str | None = None


class Tokenize:
    """The handlers of both routes."""

    def __init__(self, server: ServerContext, encoder: PromptEncoder) -> None:
        self._server = server
        self._encoder = encoder

    async def tokenize(self, request: Request) -> Response:
        """Token ids and their number."""
        return await self._server.read(request, self._tokenize)

    async def detokenize(self, request: Request) -> Response:
        """The text of token ids."""
        return await self._server.read(request, self._detokenize)

    def _tokenize(self, body: bytes) -> Response:
        fields = decode_object(body)
        ignored = check_fields(fields, TokenizeRequest, TOKENIZE_REFUSED)
        known = self._known(TokenizeRequest, TOKENIZE_REFUSED)
        refuse_unknown(ignored, known)
        asked = convert(fields, TokenizeRequest)
        self._server.served_name(asked.model)
        ids = self._ids(asked, ignored)
        refuse_unknown(ignored, known)
        tokenizer = self._encoder.tokenizer
        answer = {
            "count": len(ids),
            "max_model_len": self._server.generation.model.max_model_len,
            "tokens": ids,
            "token_strs": [tokenizer.token_text(token) for token in ids] if asked.return_token_strs else None,
        }
        return json_response(answer, headers=ignored_header(ignored))

    def _detokenize(self, body: bytes) -> Response:
        fields = decode_object(body)
        ignored = check_fields(fields, DetokenizeRequest, {})
        refuse_unknown(ignored, self._known(DetokenizeRequest, {}))
        asked = convert(fields, DetokenizeRequest)
        self._server.served_name(asked.model)
        vocab_size = self._server.generation.model.vocab_size
        for i, token in enumerate(asked.tokens):
            if not 0 <= token < vocab_size:
                path = f"tokens[{i}]"
                raise RequestError(f"{path} must be a token id in [0, {vocab_size}), got {token}", param=path)
        text = self._encoder.tokenizer.decode(asked.tokens, skip_special_tokens=False)
        return json_response({"prompt": text}, headers=ignored_header(ignored))

    def _ids(self, asked: TokenizeRequest, ignored: list[str]) -> list[int]:
        if (asked.prompt is None) == (asked.messages is None):
            raise RequestError("Exactly one of prompt and messages must be given", param="prompt")
        if asked.prompt is not None:
            return self._encoder.encode(asked.prompt, "prompt", asked.add_special_tokens is not False)
        if asked.chat_template is not None:
            self._server.settings.check_trusts_templates()
        text = self._encoder.render(
            read_messages(asked.messages or [], ignored),
            tools=read_tools(asked.tools, None, True, ignored),
            add_generation_prompt=check_template_flags(
                asked.add_generation_prompt, asked.continue_final_message
            ),
            continue_final_message=asked.continue_final_message,
            variables=asked.chat_template_kwargs,
            source=asked.chat_template,
        )
        return self._encoder.encode(text, "messages", bool(asked.add_special_tokens))

    def _known(self, into: type[Struct], refused: Refused) -> set[str] | None:
        return {*into.__struct_fields__, *refused} if self._server.settings.strict else None

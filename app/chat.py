"""POST /v1/chat/completions: from a body to a prompt and settings. Other APIs are translated to this one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..model.sampling_params import SamplingParams
from .answer import Answer
from .asked import AnswerShape, Asked
from .chat_formats import ChatFormats, check_combination
from .chunks import CHAT_CHUNK
from .context import ServerContext
from .endpoint import Handler, generation_handler
from .errors import RequestError
from .logprobs import LogprobsWriter, chat_logprobs
from .prompt_encoder import PromptEncoder, truncation
from .protocol import sampling_params
from .protocol_chat import (
    ChatPrompt,
    ChatRequest,
    chat_choice,
    check_template_flags,
    read_chat,
)
from .tool_types import ToolUse
from .validation import decode_object


def chat_completions(server: ServerContext, encoder: PromptEncoder) -> Handler:
    """The route's handler."""
    shape = AnswerShape(
        id_prefix="chatcmpl-",
        object="chat.completion",
        chunk=CHAT_CHUNK,
        choice=chat_choice,
        logprobs=partial(logprobs_writer, encoder),
    )
    reader = ChatReader(server, encoder)
    return generation_handler(
        server, lambda body: reader.read(decode_object(body)), partial(Answer, server, shape)
    )


def logprobs_writer(encoder: PromptEncoder, as_ids: bool) -> LogprobsWriter:
    """Writes the log-probabilities of one chat choice; as_ids: with tokens named by their ids."""
    return partial(chat_logprobs, token_bytes=encoder.tokenizer.token_bytes, as_ids=as_ids)


class ChatReader:
    """Reads the fields of chat requests for one model."""

    def __init__(self, server: ServerContext, encoder: PromptEncoder) -> None:
        self._server = server
        self._encoder = encoder

    def read(self, fields: Mapping[str, Any]) -> Asked:
        """What a request without nulls asks for. Raises RequestError."""
        request, messages, tools, ignored = asked = self._check(fields)
        model = self._server.served_name(request.model)
        text = self._render(asked)
        began_s = time.perf_counter()
        prompt = self._encoder.encode_prompt(
            text, "messages", request.add_special_tokens, truncation(request, request.max_output_tokens)
        )
        tokenize_s = time.perf_counter() - began_s
        generation, max_tokens = self._server.generation, request.max_output_tokens
        params = sampling_params(
            request,
            generation.model.default_params,
            max_tokens=generation.default_max_tokens(len(prompt)) if max_tokens is None else max_tokens,
            max_tokens_field=request.max_tokens_field,
            logprobs=request.num_logprobs,
            prompt_logprobs=request.prompt_logprobs,
        )
        check_combination(tools, params.grammar, request.grammar_field)
        formats = self._encoder.formats.beside(params.grammar)
        params = self._in_parts(params, formats, tools, text)
        return Asked(
            fields=request,
            model=model,
            prompts=[prompt],
            params=params,
            ignored=ignored,
            echoes=[_last_words(messages)] if request.echo else (),
            told=[_told(request, text, prompt)],
            parts=formats.parts(tools, text, request.include_reasoning),
            prompt_field="messages",
            max_tokens_field=request.max_tokens_field,
            tokenize_s=tokenize_s,
            grammar_field=request.grammar_field or "tools",
            thinking=self._encoder.formats.thinking_limit(
                request.thinking_token_budget, text, self._encoder.tokenizer, generation.model.vocab_size
            ),
        )

    def _in_parts(
        self, params: SamplingParams, formats: ChatFormats, tools: ToolUse | None, prompt: str
    ) -> SamplingParams:
        """`params` with the grammar of an answer in parts, and with special tokens if they mark the parts."""
        tokenizer = self._encoder.tokenizer
        if formats.needs_special_tokens(tools, tokenizer):
            params = replace(params, skip_special_tokens=False)
        try:
            grammar = formats.grammar(tools, params.grammar, prompt, tokenizer)
        except ValueError as error:
            raise RequestError(f"tools: {error}", param="tools") from error
        return params if grammar is params.grammar else replace(params, structured_outputs=grammar)

    def count(self, fields: Mapping[str, Any]) -> int:
        """Tokens of the prompt, however many. Raises RequestError."""
        asked = self._check(fields)
        request = asked.request
        self._server.served_name(request.model)
        text = self._render(asked)
        return len(self._encoder.encode(text, "messages", request.add_special_tokens))

    def _check(self, fields: Mapping[str, Any]) -> ChatPrompt:
        settings = self._server.settings
        return read_chat(fields, strict=settings.strict, max_logprobs=settings.max_logprobs)

    def _render(self, asked: ChatPrompt) -> str:
        request = asked.request
        if request.chat_template is not None:
            self._server.settings.check_trusts_templates()
        return self._encoder.render(
            asked.messages,
            add_generation_prompt=check_template_flags(
                request.add_generation_prompt, request.continue_final_message
            ),
            continue_final_message=request.continue_final_message,
            variables=request.chat_template_kwargs,
            documents=request.documents,
            source=request.chat_template,
            tools=asked.tools,
            reasoning_effort=request.reasoning_effort,
        )


def _last_words(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text of a last message that is the assistant's, which the answer continues and `echo` repeats."""
    last = messages[-1]
    return last["content"] if last["role"] == "assistant" else ""


def _told(request: ChatRequest, text: str, prompt: Sequence[int]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if request.return_token_ids:
        told["prompt_token_ids"] = prompt
    if request.return_prompt_text:
        told["prompt_text"] = text
    return told

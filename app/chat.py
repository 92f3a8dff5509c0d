"""POST /v1/chat/completions: from a body to a prompt and sampling settings."""

from __future__ import annotations

from functools import partial

from .answer import Asked, Route
from .chunks import CHAT_CHUNK
from .context import ServerContext
from .endpoint import GenerationEndpoint
from .prompt_encoder import PromptEncoder
from .protocol import sampling_params
from .protocol_chat import (
    chat_choice,
    chat_logprobs,
    check_template_flags,
    read_chat,
)
from .validation import decode_object


def chat_completions(server: ServerContext, encoder: PromptEncoder) -> GenerationEndpoint:
    """The route's handler."""
    route = Route(
        id_prefix="chatcmpl-",
        object="chat.completion",
        chunk=CHAT_CHUNK,
        choice=chat_choice,
        logprobs=lambda: partial(chat_logprobs, token_bytes=encoder.tokenizer.token_bytes),
    )

    def read(body: bytes) -> Asked:
        request, messages, ignored = read_chat(decode_object(body), strict=server.settings.strict)
        model = server.served_name(request.model)
        text = encoder.render(
            messages,
            add_generation_prompt=check_template_flags(
                request.add_generation_prompt, request.continue_final_message
            ),
            continue_final_message=request.continue_final_message,
            variables=request.chat_template_kwargs,
        )
        prompt = encoder.encode_prompt(text, "messages", request.add_special_tokens)
        generation, max_tokens = server.generation, request.max_output_tokens
        params = sampling_params(
            request,
            generation.default_params,
            max_tokens=generation.default_max_tokens(len(prompt)) if max_tokens is None else max_tokens,
            max_tokens_field=request.max_tokens_field,
            logprobs=request.num_logprobs,
        )
        return Asked(
            fields=request,
            model=model,
            prompts=[prompt],
            params=params,
            ignored=ignored,
            prompt_field="messages",
            max_tokens_field=request.max_tokens_field,
        )

    return GenerationEndpoint(server, route, read)

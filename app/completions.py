"""POST /v1/completions: from a body to prompts and sampling settings."""

from __future__ import annotations

import time
from functools import partial

from .answer import Answer
from .asked import AnswerShape, Asked
from .chunks import COMPLETION_CHUNK
from .context import ServerContext
from .endpoint import Handler, generation_handler
from .errors import RequestError
from .logprobs import CompletionLogprobs
from .prompt_encoder import PromptEncoder, truncation
from .protocol import sampling_params
from .protocol_completion import (
    CompletionRequest,
    completion_choice,
    read_completion,
)
from .request_checks import check_number
from .validation import decode_object


def completions(server: ServerContext, encoder: PromptEncoder) -> Handler:
    """The route's handler."""
    shape = AnswerShape(
        id_prefix="cmpl-",
        object="text_completion",
        chunk=COMPLETION_CHUNK,
        choice=completion_choice,
        logprobs=lambda as_ids: CompletionLogprobs(encoder.tokenizer.token_bytes, as_ids).build,
    )

    def read(body: bytes) -> Asked:
        settings = server.settings
        request, prompts, ignored = read_completion(
            decode_object(body), strict=settings.strict, max_logprobs=settings.max_logprobs
        )
        model = server.served_name(request.model)
        params = sampling_params(
            request,
            server.generation.model.default_params,
            max_tokens=1 if request.prompt_only else request.max_tokens,
            max_tokens_field="max_tokens",
            logprobs=request.logprobs,
            prompt_logprobs=request.num_prompt_logprobs,
        )
        # Before the prompts are encoded, since millions of short ones take a minute.
        check_number(len(prompts), params.n, settings.max_queued_requests)
        began_s = time.perf_counter()
        encoded = _encode(prompts, encoder, request)
        tokenize_s = time.perf_counter() - began_s
        return Asked(
            fields=request,
            model=model,
            prompts=encoded,
            params=params,
            ignored=ignored,
            echoes=_echoes(prompts, encoded, encoder, request) if request.echo else (),
            prompt_only=request.prompt_only,
            told=[{"prompt_token_ids": ids} for ids in encoded] if request.return_token_ids else (),
            tokenize_s=tokenize_s,
        )

    return generation_handler(server, read, partial(Answer, server, shape))


def _encode(
    prompts: list[str | list[int]], encoder: PromptEncoder, request: CompletionRequest
) -> list[list[int]]:
    if request.logprobs is not None or request.prompt_logprobs is not None:
        _ = encoder.tokenizer  # Raises if there is none: log-probabilities are told with the tokens' texts.
    encoded = []
    cut = truncation(request, request.max_tokens)
    for i, prompt in enumerate(prompts):
        field = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
        ids = (
            encoder.encode_prompt(prompt, field, request.add_special_tokens, cut)
            if isinstance(prompt, str)
            else encoder.fitting(prompt, field, cut)
        )
        if not ids:
            raise RequestError(f"{field} must hold at least one token, got {prompt!r}", param=field)
        encoded.append(ids)
    return encoded


def _echoes(
    prompts: list[str | list[int]],
    encoded: list[list[int]],
    encoder: PromptEncoder,
    request: CompletionRequest,
) -> list[str]:
    """The prompts' texts; what is left of them, if they may have been truncated."""
    whole = request.truncate_prompt_tokens is None
    return [
        prompt
        if isinstance(prompt, str) and whole
        else encoder.tokenizer.decode(ids, skip_special_tokens=False)
        for prompt, ids in zip(prompts, encoded, strict=True)
    ]

"""POST /v1/completions: from a body to prompts and sampling settings."""

from __future__ import annotations

from .answer import Asked, Route
from .chunks import COMPLETION_CHUNK
from .context import ServerContext
from .endpoint import GenerationEndpoint
from .errors import RequestError
from .prompt_encoder import PromptEncoder
from .protocol import sampling_params
from .protocol_completion import (
    CompletionRequest,
    LogprobsBuilder,
    completion_choice,
    read_completion,
)
from .validation import decode_object


def completions(server: ServerContext, encoder: PromptEncoder) -> GenerationEndpoint:
    """The route's handler."""
    route = Route(
        id_prefix="cmpl-",
        object="text_completion",
        chunk=COMPLETION_CHUNK,
        choice=completion_choice,
        logprobs=lambda: LogprobsBuilder(encoder.tokenizer.token_bytes).build,
    )

    def read(body: bytes) -> Asked:
        request, prompts, ignored = read_completion(decode_object(body), strict=server.settings.strict)
        model = server.served_name(request.model)
        params = sampling_params(
            request,
            server.generation.default_params,
            max_tokens=request.max_tokens,
            max_tokens_field="max_tokens",
            logprobs=request.logprobs,
        )
        encoded = _encode(prompts, encoder, request)
        echoes = _echoes(prompts, encoder) if request.echo else ()
        return Asked(
            fields=request, model=model, prompts=encoded, params=params, ignored=ignored, echoes=echoes
        )

    return GenerationEndpoint(server, route, read)


def _encode(
    prompts: list[str | list[int]], encoder: PromptEncoder, request: CompletionRequest
) -> list[list[int]]:
    if request.logprobs is not None:
        _ = encoder.tokenizer  # Log-probabilities are told by the tokens' texts.
    encoded = []
    for i, prompt in enumerate(prompts):
        field = "prompt" if len(prompts) == 1 else f"prompt[{i}]"
        ids = (
            encoder.encode_prompt(prompt, field, request.add_special_tokens)
            if isinstance(prompt, str)
            else encoder.fitting(prompt, field)
        )
        if not ids:
            raise RequestError(f"{field} must hold at least one token, got {prompt!r}", param=field)
        encoded.append(ids)
    return encoded


def _echoes(prompts: list[str | list[int]], encoder: PromptEncoder) -> list[str]:
    return [
        prompt if isinstance(prompt, str) else encoder.tokenizer.decode(prompt, skip_special_tokens=False)
        for prompt in prompts
    ]

"""Types of the server's answers, for the OpenAPI document. Answers are not built from them: they are bytes.

Tests read the server's answers into these types, unknown fields forbidden, so that they stay true.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class ErrorDetails(Struct):
    """What went wrong. param: the field at fault, if one is.   code: a word that programs compare."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(Struct):
    """The body of every error, and in streams of chat and text completions an event."""

    error: ErrorDetails


class AnthropicErrorBody(Struct):
    """The body of every error below /v1/messages, and in its streams an event."""

    type: Literal["error"]
    error: ErrorDetails
    request_id: str


class PromptTokensDetails(Struct):
    """Of the prompt's tokens, those whose keys and values were found in the cache."""

    cached_tokens: int


class Times(Struct):
    """Where the time went, in milliseconds; null for what did not come about."""

    queue_ms: float | None
    prefill_ms: float | None
    decode_ms: float | None
    preemptions: int


class Usage(Struct):
    """Tokens of the request, all choices together. timings: not while they still run."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    timings: Times | None = None


class ChatMessage(Struct, omit_defaults=True):
    """An answer. reasoning: a key of models that reason.   tool_calls: a key of answers that call tools."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] = []


class ChatChoice(Struct, omit_defaults=True):
    """One answer, and why it ended. stop_reason: the stop string or token, if one ended it."""

    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: str
    stop_reason: str | int | None
    token_ids: list[int] = []


class ChatCompletion(Struct, omit_defaults=True):
    """The answer of /v1/chat/completions, whole."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] = []
    prompt_text: str = ""
    prompt_logprobs: list[Any] | None = None


class ChatDelta(Struct, omit_defaults=True):
    """What a chunk adds to a message."""

    role: str = ""
    content: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = []


class ChatChunkChoice(Struct, omit_defaults=True):
    """What a chunk adds to a choice."""

    index: int
    delta: ChatDelta
    logprobs: dict[str, Any] | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] = []


class ChatCompletionChunk(Struct, omit_defaults=True):
    """An event of a streamed chat completion. usage: a key of all chunks if the client asked for usage."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None
    prompt_text: str | None = None


class CompletionChoice(Struct, omit_defaults=True):
    """One text, and why it ended; null while it is streamed."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: str | None
    stop_reason: str | int | None
    token_ids: list[int] = []
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[Any] | None = None


class Completion(Struct, omit_defaults=True):
    """The answer of /v1/completions, whole or an event. usage: as in chat completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ModelCard(Struct):
    """A name under which the model is served. default_sampling_params: of requests that say nothing."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: None
    max_model_len: int
    default_sampling_params: dict[str, Any]


class ModelList(Struct):
    """All names."""

    object: Literal["list"]
    data: list[ModelCard]


class Tokens(Struct):
    """The answer of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Text(Struct):
    """The answer of /detokenize."""

    prompt: str


class Status(Struct):
    """The answer of /livez."""

    status: Literal["ok"]


class Readiness(Struct):
    """The answer of a probe that looks at the engine. step_age_s: of the step under way, 0 if none.

    predicted_ttft_s: seconds until one more request would have its first token.
    """

    status: Literal["ok"]
    step_age_s: float
    running: int
    waiting: int
    predicted_ttft_s: float


class Version(Struct):
    """The answer of /version."""

    version: str

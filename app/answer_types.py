"""What the server answers, as types, for the OpenAPI document. Nothing is built from them: answers are bytes.

Tests read the server's own answers into these types, unknown fields forbidden, so that they stay true.
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


class OutputText(Struct):
    """A part of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(Struct):
    """An item of a response's output."""

    id: str
    type: Literal["message"]
    status: str
    role: Literal["assistant"]
    content: list[OutputText]


class ResponseUsage(Struct):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int
    timings: Times


class ResponseObject(Struct):
    """The answer of /v1/responses, whole, and part of its first two events and of the last."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False]
    error: dict[str, str] | None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, Any]
    model: str
    output: list[OutputMessage]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class TextBlock(Struct):
    """A block of a message's content."""

    type: Literal["text"]
    text: str
    citations: None


class MessageUsage(Struct):
    """Tokens of a message; those from the cache are not part of input_tokens. timings: when it has ended."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    timings: Times | None = None


class Message(Struct):
    """The answer of /v1/messages, whole, and part of its first event."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(Struct):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: int


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
    """The answer of a probe."""

    status: Literal["ok"]


class Version(Struct):
    """The answer of /version."""

    version: str

"""What /v1/responses and /v1/messages answer, as types, for the OpenAPI document; see answer_types.py."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from .answer_types import Times


class OutputText(Struct):
    """A part of an answer."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(Struct, tag_field="type", tag="message"):
    """An item of a response's output: words."""

    id: str
    status: str
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(Struct, tag_field="type", tag="reasoning"):
    """An item of a response's output: thoughts."""

    id: str
    status: str
    summary: list[Any]
    content: list[dict[str, str]]


class OutputCall(Struct, tag_field="type", tag="function_call"):
    """An item of a response's output: the call of a tool."""

    id: str
    status: str
    call_id: str
    name: str
    arguments: str


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
    output: list[OutputMessage | OutputReasoning | OutputCall]
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


class TextBlock(Struct, tag_field="type", tag="text"):
    """A block of a message's content: words."""

    text: str
    citations: None


class ThinkingBlock(Struct, tag_field="type", tag="thinking"):
    """A block of a message's content: thoughts."""

    thinking: str
    signature: str


class ToolUseBlock(Struct, tag_field="type", tag="tool_use"):
    """A block of a message's content: the call of a tool."""

    id: str
    name: str
    input: dict[str, Any]


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
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(Struct):
    """The answer of /v1/messages/count_tokens."""

    input_tokens: int

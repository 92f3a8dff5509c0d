"""/v1/responses: the request's fields, and the chat request that asks for the same. Knows no HTTP, no answer.

Stateless: nothing is stored, so whatever would refer to a stored response is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from .errors import RequestError
from .translation import ExtendedFields, Translation, json_schema_format, passed_on
from .validation import Refused, check_fields, convert, refuse_unknown, show, without_nulls

_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
}
ROLES = ("system", "developer", "user", "assistant")
_LOGPROBS = "message.output_text.logprobs"
# Asks for a part of reasoning items, of which there are none.
_INCLUDED = (_LOGPROBS, "reasoning.encrypted_content")

RESPONSES_REFUSED: Refused = {
    # OpenAI
    "background": (False,),
    "context_management": ([],),
    "conversation": (),
    "max_tool_calls": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "prompt_cache_options": ({},),
    "prompt_cache_retention": ("in_memory",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "truncation": ("disabled",),
    # vLLM
    "chat_template": (),
    "enable_response_messages": (False,),
    "include_reasoning": (True,),
    "kv_transfer_params": (),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "n": (1,),
    "previous_input_messages": ([],),
    "thinking_token_budget": (),
    "vllm_xargs": ({},),
}
_TEXT_REFUSED: Refused = {"verbosity": ("medium",)}
_REASONING_REFUSED: Refused = {
    "context": ("auto",),
    "effort": ("none",),
    "generate_summary": (),
    "mode": ("auto",),
    "summary": ("auto",),
}
_STREAM_OPTIONS_REFUSED: Refused = {"include_obfuscation": (False,)}
_PART_REFUSED: Refused = {"annotations": ([],), "logprobs": ([],), "prompt_cache_breakpoint": ()}


class TextFormat(Struct, kw_only=True):
    """`text.format`: type is text, json_object or json_schema; the last one has a schema."""

    type: str
    schema: dict[str, Any] | bool | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class TextSettings(Struct, kw_only=True):
    """`text`: the form of the answer."""

    format: TextFormat | None = None


class ResponsesRequest(ExtendedFields, kw_only=True):
    """The fields that are understood; items of `input` are checked one by one.

    metadata, user, safety_identifier and prompt_cache_key are labels: they come back and change no answer.
    parallel_tool_calls and stream_options have one accepted meaning without tools and obfuscation.
    """

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: list[str] = []
    stream_options: dict[str, Any] | None = None
    text: TextSettings | None = None
    reasoning: dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    stop: str | list[str] | None = None


class _Nothing(Struct):
    """No field is understood."""


class _Item(Struct, kw_only=True):
    """A message. Answers that come back as input carry id, status and phase, which say nothing new."""

    role: str
    content: str | list[Any]
    type: str = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class _Part(Struct, kw_only=True):
    type: str
    text: str


class ResponsesPrompt(NamedTuple):
    """A request, checked."""

    request: ResponsesRequest
    translation: Translation


def read_responses(body: Mapping[str, Any], *, strict: bool = False) -> ResponsesPrompt:
    """From a body without nulls. Raises RequestError with the path of the field at fault."""
    ignored = check_fields(body, ResponsesRequest, RESPONSES_REFUSED)
    for path, into, refused in (
        ("text", TextSettings, _TEXT_REFUSED),
        ("reasoning", _Nothing, _REASONING_REFUSED),
        ("stream_options", _Nothing, _STREAM_OPTIONS_REFUSED),
    ):
        if isinstance(body.get(path), dict):
            body = {**body, path: without_nulls(body[path])}
            ignored += check_fields(body[path], into, refused, path)
    form = body["text"].get("format") if isinstance(body.get("text"), dict) else None
    if isinstance(form, dict):
        form = without_nulls(form)
        ignored += check_fields(form, TextFormat, {}, "text.format")
    known = {*ResponsesRequest.__struct_fields__, *RESPONSES_REFUSED} if strict else None
    refuse_unknown(ignored, known)
    request = convert(body, ResponsesRequest)
    _check(request)
    chat = {**passed_on(body), **_chat_fields(request)}
    if form is not None:
        chat["response_format"] = json_schema_format(form)
    messages, places = _messages(request, ignored)
    refuse_unknown(ignored, known)
    translation = Translation(
        chat={**chat, "messages": messages},
        names=_NAMES,
        places=places,
        ignored=ignored,
    )
    return ResponsesPrompt(request, translation)


def _check(request: ResponsesRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise RequestError("stream_options must be left out unless stream is true", param="stream_options")
    for i, name in enumerate(request.include):
        if name not in _INCLUDED:
            path = f"include[{i}]"
            rule = f"must be one of {', '.join(_INCLUDED)}"
            raise RequestError(f"{path} {rule}, got {show(name)}", param=path, code="unsupported_value")
    top = request.top_logprobs
    if top and _LOGPROBS not in request.include:
        message = f"top_logprobs must be 0 or left out unless include names {_LOGPROBS}"
        raise RequestError(message, param="top_logprobs")


def _chat_fields(request: ResponsesRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if request.max_output_tokens is not None:
        fields["max_completion_tokens"] = request.max_output_tokens
    if request.stop is not None:
        fields["stop"] = request.stop
    if _LOGPROBS in request.include:
        fields |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return fields


def _messages(request: ResponsesRequest, ignored: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages of the conversation, and where each comes from."""
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    if request.instructions is not None:
        messages.append({"role": "system", "content": request.instructions})
        places.append("instructions")
    if isinstance(request.input, str):
        return [*messages, {"role": "user", "content": request.input}], [*places, "input"]
    if not request.input:
        raise RequestError("input must hold at least one item, got []", param="input")
    for i, entry in enumerate(request.input):
        messages.append(_message(entry, f"input[{i}]", ignored))
        places.append(f"input[{i}]")
    return messages, places


def _message(entry: Any, path: str, ignored: list[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise RequestError(f"{path} must be an object, got {show(entry)}", param=path, code="invalid_type")
    kind = entry.get("type", "message")
    if kind is not None and kind != "message":
        message = f'{path}.type must be "message" on this server, got {show(kind)}'
        raise RequestError(message, param=f"{path}.type", code="unsupported_value")
    ignored += check_fields(entry, _Item, {}, path)
    item = convert(without_nulls(entry), _Item, path)
    if item.role not in ROLES:
        rule = f"must be one of {', '.join(ROLES)}"
        raise RequestError(f"{path}.role {rule}, got {show(item.role)}", param=f"{path}.role")
    content = item.content
    if isinstance(content, list):
        content = [_part(part, item.role, f"{path}.content[{i}]", ignored) for i, part in enumerate(content)]
    return {"role": item.role, "content": content}


def _part(entry: Any, role: str, path: str, ignored: list[str]) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    given = entry.get("type") if isinstance(entry, dict) else None
    if isinstance(given, str) and given not in ("input_text", "output_text"):
        message = f'{path}.type must be "{kind}" on this server, got {show(given)}'
        raise RequestError(message, param=f"{path}.type", code="unsupported_value")
    part = convert(entry, _Part, path)
    ignored += check_fields(entry, _Part, _PART_REFUSED, path)
    return {"type": "text", "text": part.text}

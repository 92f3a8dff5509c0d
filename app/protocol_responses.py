"""/v1/responses: the request's fields, and their translation to a chat request. Knows no HTTP and no answer.

Nothing is stored, so whatever refers to a stored response is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from .errors import RequestError
from .responses_input import InputReader
from .translation import ExtendedFields, Translation, json_schema_format, passed_on
from .validation import (
    Refused,
    check_fields,
    convert,
    read_object,
    refuse_unknown,
    show,
    without_nulls,
    wrong,
)

_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "tool_choice.function": "tool_choice",
    "tool_choice.allowed_tools": "tool_choice",
}
_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")
_LOGPROBS = "message.output_text.logprobs"
# The latter asks for a part that reasoning items do not have here.
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
    "vllm_xargs": ({},),
}
_TEXT_REFUSED: Refused = {"verbosity": ("medium",)}
_REASONING_REFUSED: Refused = {
    "context": ("auto",),
    "generate_summary": (),
    "mode": ("auto",),
    "summary": ("auto",),
}
_STREAM_OPTIONS_REFUSED: Refused = {"include_obfuscation": (False,)}


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


class _Nothing(Struct):
    """No field is understood."""


class ReasoningSettings(Struct, kw_only=True):
    """`reasoning`: how much the model thinks, as far as its chat template knows of that."""

    effort: str | None = None


class ResponsesRequest(ExtendedFields, kw_only=True):
    """The fields that are understood; items of `input` are checked one by one.

    metadata, user, safety_identifier and prompt_cache_key are labels: they come back and change no answer.
    stream_options have one accepted value. Settings of reasoning and tools are those of chat completions.
    """

    input: str | list[Any]
    instructions: str | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: list[str] = []
    stream_options: dict[str, Any] | None = None
    text: TextSettings | None = None
    reasoning: ReasoningSettings | None = None
    tools: list[Any] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    stop: str | list[str] | None = None


class FunctionTool(Struct, kw_only=True):
    """A tool. strict: arguments keep to the schema."""

    name: str
    type: str = "function"
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponsesPrompt(NamedTuple):
    """A request, checked."""

    request: ResponsesRequest
    translation: Translation


def read_responses(body: Mapping[str, Any], *, strict: bool = False) -> ResponsesPrompt:
    """From a body without nulls. Raises RequestError with the path of the field at fault."""
    ignored = check_fields(body, ResponsesRequest, RESPONSES_REFUSED)
    for path, into, refused in (
        ("text", TextSettings, _TEXT_REFUSED),
        ("reasoning", ReasoningSettings, _REASONING_REFUSED),
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
    chat = {**passed_on(body), **_chat_fields(request), **_tool_fields(request, ignored)}
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
            raise wrong(f"include[{i}]", f"one of {', '.join(_INCLUDED)}", name, "unsupported_value")
    top = request.top_logprobs
    if top and _LOGPROBS not in request.include:
        message = f"top_logprobs must be 0 or left out unless include names {_LOGPROBS}"
        raise RequestError(message, param="top_logprobs")


def _chat_fields(request: ResponsesRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if request.max_output_tokens is not None:
        fields["max_completion_tokens"] = request.max_output_tokens
    if request.reasoning is not None and request.reasoning.effort is not None:
        fields["reasoning_effort"] = request.reasoning.effort
    if request.stop is not None:
        fields["stop"] = request.stop
    if _LOGPROBS in request.include:
        fields |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    return fields


def _messages(request: ResponsesRequest, ignored: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages of the conversation, and where each comes from."""
    reader = InputReader(ignored)
    if request.instructions is not None:
        reader.add_text("system", request.instructions, "instructions")
    if isinstance(request.input, str):
        reader.add_text("user", request.input, "input")
        return reader.messages, reader.places
    for i, entry in enumerate(request.input):
        reader.add(entry, f"input[{i}]")
    if not request.input or not reader.messages:
        raise RequestError(f"input must hold a message, got {show(request.input)}", param="input")
    return reader.messages, reader.places


def _tool_fields(request: ResponsesRequest, ignored: list[str]) -> dict[str, Any]:
    """tools, tool_choice and parallel_tool_calls of the chat request."""
    if not request.tools:
        if request.tool_choice in (None, "auto", "none"):
            return {}
        raise RequestError("tool_choice must be left out unless tools are given", param="tool_choice")
    tools = []
    for i, entry in enumerate(request.tools):
        path = f"tools[{i}]"
        kind = entry.get("type", "function") if isinstance(entry, dict) else "function"
        if kind != "function":
            raise wrong(f"{path}.type", '"function" on this server', kind, "unsupported_value")
        entry = read_object(entry, FunctionTool, {}, path, ignored)
        tool = convert(entry, FunctionTool, path)
        function = {name: entry[name] for name in _FUNCTION_FIELDS if name in entry}
        tools.append({"type": tool.type, "function": function})
    choice = {} if request.tool_choice is None else {"tool_choice": _choice(request.tool_choice)}
    return {"tools": tools, "parallel_tool_calls": request.parallel_tool_calls, **choice}


def _choice(choice: str | dict[str, Any]) -> Any:
    if isinstance(choice, str):
        return choice
    below = {name: value for name, value in choice.items() if name != "type"}
    match choice.get("type"):
        case "function":
            return {"type": "function", "function": below}
        case "allowed_tools":
            listed = below.get("tools")
            if isinstance(listed, list):
                below["tools"] = [_choice(entry) if isinstance(entry, dict) else entry for entry in listed]
            return {"type": "allowed_tools", "allowed_tools": below}
        case kind:
            raise wrong("tool_choice.type", '"function" or "allowed_tools"', kind, "unsupported_value")

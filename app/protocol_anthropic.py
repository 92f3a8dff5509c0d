"""/v1/messages of Anthropic's API: the request's fields, and their translation to a chat request.

Knows no HTTP and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from .anthropic_input import MessagesReader
from .errors import RequestError
from .translation import ExtendedFields, Translation, json_schema_format, passed_on
from .validation import (
    Refused,
    check_fields,
    convert,
    missing,
    read_object,
    refuse_unknown,
    without_nulls,
    wrong,
)

MESSAGES_REFUSED: Refused = {
    # Anthropic
    "container": (),
    "context_management": (),
    "diagnostics": (),
    "fallbacks": ([],),
    "inference_geo": (),
    "mcp_servers": ([],),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    # vLLM
    "chat_template": (),
    "kv_transfer_params": (),
}
_OUTPUT_REFUSED: Refused = {"effort": (), "task_budget": ()}
_THINKING_REFUSED: Refused = {"display": ("summarized",)}
_TOOL_REFUSED: Refused = {
    "allowed_callers": ([],),
    "defer_loading": (False,),
    "eager_input_streaming": (False, True),
    "input_examples": ([],),
}


class OutputFormat(Struct, kw_only=True):
    """`output_config.format`, which was `output_format` once; the type is json_schema."""

    type: str
    schema: dict[str, Any] | bool


class OutputConfig(Struct, kw_only=True):
    """`output_config`: the form of the answer."""

    format: OutputFormat | None = None


class Thinking(Struct, kw_only=True):
    """Whether the model's reasoning is shown, and for how many tokens it may last: type is enabled, with
    budget_tokens, or adaptive or disabled, without."""

    type: str
    budget_tokens: int | None = None


class CustomTool(Struct, kw_only=True):
    """A tool. strict: its input keeps to the schema."""

    name: str
    input_schema: dict[str, Any]
    type: str = "custom"
    description: str | None = None
    cache_control: dict[str, Any] | None = None
    strict: bool = False


class ToolChoice(Struct, kw_only=True):
    """Whether tools are used: type is auto, any, tool (the one named) or none."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool = False


class CountRequest(ExtendedFields, kw_only=True):
    """What a count of tokens needs; messages and blocks are checked one by one.

    cache_control asks for what prefix caching does for every request. How an answer is to be sampled, and its
    form, change no count.
    """

    messages: list[Any]
    system: str | list[Any] | None = None
    tools: list[Any] | None = None
    tool_choice: ToolChoice | None = None
    cache_control: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """The fields that are understood. metadata.user_id is a label: no answer depends on it."""

    max_tokens: int
    metadata: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None


class MessagesPrompt(NamedTuple):
    """A request, checked."""

    request: CountRequest
    translation: Translation


def read_messages_request(
    body: Mapping[str, Any], into: type[CountRequest], *, strict: bool = False
) -> MessagesPrompt:
    """From a body without nulls. Raises RequestError with the path of the field at fault."""
    ignored = check_fields(body, into, MESSAGES_REFUSED)
    body, form, form_path = _read_format(body, ignored)
    known = {*into.__struct_fields__, *MESSAGES_REFUSED} if strict else None
    if isinstance(thinking := body.get("thinking"), dict):
        thinking = without_nulls(thinking)
        ignored += check_fields(thinking, Thinking, _THINKING_REFUSED, "thinking")
        body = {**body, "thinking": thinking}
    refuse_unknown(ignored, known)
    request = convert(body, into)
    chat = {**passed_on(body), **_tool_fields(request, ignored), **_thinking_fields(request)}
    if isinstance(request, MessagesRequest):
        chat["max_completion_tokens"] = request.max_tokens
        if form is not None:
            chat["response_format"] = json_schema_format(form)
        if request.stop_sequences is not None:
            chat["stop"] = request.stop_sequences
    messages, places = _messages(request, ignored)
    refuse_unknown(ignored, known)
    # A client may have written the beginning of the answer.
    last = messages[-1] if messages else {}
    prefilled = last.get("role") == "assistant" and "content" in last and "tool_calls" not in last
    translation = Translation(
        chat={**chat, "messages": messages, "continue_final_message": prefilled},
        names={
            "max_completion_tokens": "max_tokens",
            "stop": "stop_sequences",
            "response_format.json_schema": form_path,
            "response_format": form_path,
            "tool_choice.function": "tool_choice",
            "thinking_token_budget": "thinking" if request.thinking else "thinking_token_budget",
        },
        tool_names={".parameters": ".input_schema"},
        places=places,
        ignored=ignored,
    )
    return MessagesPrompt(request, translation)


def _read_format(
    body: Mapping[str, Any], ignored: list[str]
) -> tuple[Mapping[str, Any], Mapping[str, Any] | None, str]:
    """`body` without nulls in output_config, the form that the answer must have, and where that is asked."""
    form, path = body.get("output_format"), "output_format"
    config = body.get("output_config")
    if isinstance(config, dict):
        config = without_nulls(config)
        ignored += check_fields(config, OutputConfig, _OUTPUT_REFUSED, "output_config")
        body = {**body, "output_config": config}
        if "format" in config:
            form, path = config["format"], "output_config.format"
    if isinstance(form, dict):
        ignored += check_fields(form, OutputFormat, {}, path)
        if form.get("type") not in (None, "json_schema"):
            raise wrong(f"{path}.type", '"json_schema"', form["type"], "unsupported_value")
    return body, form if isinstance(form, dict) else None, path


def _messages(request: CountRequest, ignored: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages of the conversation, and where each comes from."""
    reader = MessagesReader(ignored)
    if request.system:
        reader.add_system(request.system)
    if not request.messages:
        raise RequestError("messages must hold at least one message, got []", param="messages")
    for i, entry in enumerate(request.messages):
        reader.add(entry, f"messages[{i}]")
    return reader.messages, reader.places


def _tool_fields(request: CountRequest, ignored: list[str]) -> dict[str, Any]:
    """tools, tool_choice and parallel_tool_calls of the chat request."""
    choice = request.tool_choice
    if not request.tools:
        if choice is None or choice.type in ("auto", "none"):
            return {}
        raise RequestError("tool_choice must be left out unless tools are given", param="tool_choice")
    tools = []
    for i, entry in enumerate(request.tools):
        path = f"tools[{i}]"
        kind = entry.get("type") if isinstance(entry, dict) else None
        if kind not in (None, "custom"):
            raise wrong(f"{path}.type", '"custom" on this server', kind, "unsupported_value")
        tool = convert(read_object(entry, CustomTool, _TOOL_REFUSED, path, ignored), CustomTool, path)
        function = {"name": tool.name, "parameters": tool.input_schema, "strict": tool.strict}
        if tool.description is not None:
            function["description"] = tool.description
        tools.append({"type": "function", "function": function})
    fields: dict[str, Any] = {"tools": tools}
    if choice is not None:
        fields["tool_choice"] = _choice(choice)
        fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields


def _thinking_fields(request: CountRequest) -> dict[str, Any]:
    """include_reasoning and thinking_token_budget of the chat request."""
    thinking = request.thinking
    if thinking is None:
        return {}
    if request.thinking_token_budget is not None:
        message = "thinking_token_budget must be left out beside thinking, which has budget_tokens"
        raise RequestError(message, param="thinking_token_budget")
    budget, path = thinking.budget_tokens, "thinking.budget_tokens"
    if thinking.type not in ("enabled", "adaptive", "disabled"):
        rule = "one of enabled, adaptive, disabled"
        raise wrong("thinking.type", rule, thinking.type, "unsupported_value")
    if thinking.type != "enabled":
        if budget is not None:
            raise RequestError(f'{path} must be left out unless thinking.type is "enabled"', param=path)
        return {"include_reasoning": thinking.type == "adaptive"}
    if budget is None:
        raise missing(path)
    if budget < 1 or (isinstance(request, MessagesRequest) and budget >= request.max_tokens):
        raise RequestError(f"{path} must be at least 1 and less than max_tokens, got {budget}", param=path)
    return {"thinking_token_budget": budget}


def _choice(choice: ToolChoice) -> Any:
    match choice.type:
        case "auto" | "none":
            return choice.type
        case "any":
            return "required"
        case "tool":
            if choice.name is None:
                raise missing("tool_choice.name")
            return {"type": "function", "function": {"name": choice.name}}
    raise wrong("tool_choice.type", "one of auto, any, tool, none", choice.type)

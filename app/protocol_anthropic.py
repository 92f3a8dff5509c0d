"""/v1/messages of Anthropic's API: the request's fields, and the chat request that asks for the same.

Knows no HTTP and no answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from .errors import RequestError
from .translation import ExtendedFields, Translation, json_schema_format, passed_on
from .validation import Refused, check_fields, convert, refuse_unknown, show, without_nulls

ROLES = ("user", "assistant", "system")

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
    "thinking": ({"type": "disabled"},),
    "tool_choice": ({"type": "none"},),
    "tools": ([],),
    # vLLM
    "chat_template": (),
    "kv_transfer_params": (),
}
_OUTPUT_REFUSED: Refused = {"effort": (), "task_budget": ()}
_BLOCK_REFUSED: Refused = {"citations": ([],)}


class OutputFormat(Struct, kw_only=True):
    """`output_config.format`, which was `output_format` once; the type is json_schema."""

    type: str
    schema: dict[str, Any] | bool


class OutputConfig(Struct, kw_only=True):
    """`output_config`: the form of the answer."""

    format: OutputFormat | None = None


class CountRequest(ExtendedFields, kw_only=True):
    """What a count of tokens needs; messages and blocks are checked one by one.

    cache_control asks for what prefix caching does for every request. How an answer is to be sampled, and its
    form, change no count.
    """

    messages: list[Any]
    system: str | list[Any] | None = None
    cache_control: dict[str, Any] | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """The fields that are understood. metadata.user_id is a label: no answer depends on it."""

    max_tokens: int
    metadata: dict[str, Any] | None = None
    stop_sequences: list[str] | None = None


class _Message(Struct, kw_only=True):
    role: str
    content: str | list[Any]


class _Block(Struct, kw_only=True):
    type: str
    text: str
    cache_control: dict[str, Any] | None = None


class MessagesPrompt(NamedTuple):
    """A request, checked. stream: whether events are wanted."""

    request: CountRequest
    translation: Translation


def read_messages_request(
    body: Mapping[str, Any], into: type[CountRequest], *, strict: bool = False
) -> MessagesPrompt:
    """From a body without nulls. Raises RequestError with the path of the field at fault."""
    ignored = check_fields(body, into, MESSAGES_REFUSED)
    body, form, form_path = _read_format(body, ignored)
    known = {*into.__struct_fields__, *MESSAGES_REFUSED} if strict else None
    refuse_unknown(ignored, known)
    request = convert(body, into)
    chat = passed_on(body)
    if isinstance(request, MessagesRequest):
        chat["max_completion_tokens"] = request.max_tokens
        if form is not None:
            chat["response_format"] = json_schema_format(form)
        if request.stop_sequences is not None:
            chat["stop"] = request.stop_sequences
    messages, places = _messages(request, ignored)
    refuse_unknown(ignored, known)
    # An answer whose beginning the client has written goes on from there.
    prefilled = messages[-1]["role"] == "assistant"
    translation = Translation(
        chat={**chat, "messages": messages, "continue_final_message": prefilled},
        names={
            "max_completion_tokens": "max_tokens",
            "stop": "stop_sequences",
            "response_format.json_schema": form_path,
            "response_format": form_path,
        },
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
            message = f'{path}.type must be "json_schema", got {show(form["type"])}'
            raise RequestError(message, param=f"{path}.type", code="unsupported_value")
    return body, form if isinstance(form, dict) else None, path


def _messages(request: CountRequest, ignored: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages of the conversation, and where each comes from."""
    messages: list[dict[str, Any]] = []
    places: list[str] = []
    if request.system:
        messages.append({"role": "system", "content": _content(request.system, "system", ignored)})
        places.append("system")
    if not request.messages:
        raise RequestError("messages must hold at least one message, got []", param="messages")
    for i, entry in enumerate(request.messages):
        messages.append(_message(entry, f"messages[{i}]", ignored))
        places.append(f"messages[{i}]")
    return messages, places


def _message(entry: Any, path: str, ignored: list[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise RequestError(f"{path} must be an object, got {show(entry)}", param=path, code="invalid_type")
    ignored += check_fields(entry, _Message, {}, path)
    message = convert(without_nulls(entry), _Message, path)
    if message.role not in ROLES:
        rule = f"must be one of {', '.join(ROLES)}"
        raise RequestError(f"{path}.role {rule}, got {show(message.role)}", param=f"{path}.role")
    return {"role": message.role, "content": _content(message.content, f"{path}.content", ignored)}


def _content(content: str | list[Any], path: str, ignored: list[str]) -> str:
    if isinstance(content, str):
        return content
    if not content:
        raise RequestError(f"{path} must hold at least one block, got []", param=path)
    return "".join(_text(block, f"{path}[{i}]", ignored) for i, block in enumerate(content))


def _text(entry: Any, path: str, ignored: list[str]) -> str:
    kind = entry.get("type") if isinstance(entry, dict) else None
    if isinstance(kind, str) and kind != "text":
        message = f'{path}.type must be "text" on this server, got {show(kind)}'
        raise RequestError(message, param=f"{path}.type", code="unsupported_value")
    ignored += check_fields(entry, _Block, _BLOCK_REFUSED, path) if isinstance(entry, dict) else []
    return convert(without_nulls(entry) if isinstance(entry, dict) else entry, _Block, path).text

"""The tools that a chat request offers and how they may be used, checked. Knows no model and no format."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec import UNSET, Struct, UnsetType

from .errors import RequestError
from .validation import convert, missing, read_object, show, wrong

MAX_TOOLS = 512
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_NAME_RULE = "1 to 128 letters, digits, underscores, dots and dashes"
_NO_PARAMETERS = {"type": "object", "properties": {}}


class ToolMode(enum.StrEnum):
    """Whether the model calls."""

    AUTO = "auto"
    """As it likes."""
    REQUIRED = "required"
    """At least once."""
    NAMED = "named"
    """The one tool, once."""


class Tool(NamedTuple):
    """A function. parameters: the JSON schema of its arguments.   strict: arguments must keep to it."""

    name: str
    description: str | None
    parameters: Mapping[str, Any]
    strict: bool

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it."""
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None:
            function["description"] = self.description
        return {"type": "function", "function": {**function, "parameters": self.parameters}}


class ToolUse(NamedTuple):
    """What a request offers.

    tools: all that the model is told of.   allowed: those that it may call.
    parallel: whether it may make several calls.
    """

    tools: Sequence[Tool]
    allowed: Sequence[Tool]
    mode: ToolMode
    parallel: bool

    @property
    def names(self) -> frozenset[str]:
        """Of the tools that may be called."""
        return frozenset(tool.name for tool in self.allowed)


class _Tool(Struct, kw_only=True):
    type: str
    function: dict[str, Any]


class _Function(Struct, kw_only=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool = False


class _Choice(Struct, kw_only=True):
    type: str
    function: dict[str, Any] | UnsetType = UNSET
    allowed_tools: dict[str, Any] | UnsetType = UNSET


class _Named(Struct, kw_only=True):
    name: str


class _Allowed(Struct, kw_only=True):
    mode: str
    tools: list[Any]


def read_tools(
    tools: Sequence[Any] | None, choice: str | Mapping[str, Any] | None, parallel: bool, ignored: list[str]
) -> ToolUse | None:
    """The fields `tools`, `tool_choice` and `parallel_tool_calls`; None if the model is told of no tools.

    Unknown fields' paths go to `ignored`. Raises RequestError with the path of what is wrong.
    """
    if tools is None:
        if choice not in (None, "none"):
            raise RequestError("tool_choice must be left out unless tools are given", param="tool_choice")
        return None
    if not 1 <= len(tools) <= MAX_TOOLS:
        raise RequestError(f"tools must hold 1 to {MAX_TOOLS} tools, got {len(tools)}", param="tools")
    offered = [_read_tool(entry, f"tools[{i}]", ignored) for i, entry in enumerate(tools)]
    by_name: dict[str, Tool] = {}
    for i, tool in enumerate(offered):
        if by_name.setdefault(tool.name, tool) is not tool:
            path = f"tools[{i}].function.name"
            raise RequestError(f"{path} must differ from the others', got {show(tool.name)}", param=path)
    if choice == "none":
        return None
    mode, allowed = _read_choice("auto" if choice is None else choice, by_name, ignored)
    return ToolUse(offered, allowed, mode, parallel and mode is not ToolMode.NAMED)


def _read_tool(entry: Any, path: str, ignored: list[str]) -> Tool:
    tool = convert(_known(entry, _Tool, path, ignored), _Tool, path)
    _require(tool.type == "function", f"{path}.type", '"function"', tool.type)
    path = f"{path}.function"
    function = convert(_known(tool.function, _Function, path, ignored), _Function, path)
    _require(_NAME.fullmatch(function.name) is not None, f"{path}.name", _NAME_RULE, function.name)
    schema = _NO_PARAMETERS if not function.parameters else function.parameters
    kind = schema.get("type", "object")
    _require(kind == "object", f"{path}.parameters.type", '"object", as arguments have names', kind)
    properties = schema.get("properties", {})
    _require(isinstance(properties, dict), f"{path}.parameters.properties", "an object", properties)
    required = schema.get("required", [])
    is_list = isinstance(required, list) and all(isinstance(name, str) for name in required)
    _require(is_list, f"{path}.parameters.required", "a list of strings", required)
    return Tool(function.name, function.description, schema, function.strict)


def _read_choice(
    choice: str | Mapping[str, Any], tools: Mapping[str, Tool], ignored: list[str]
) -> tuple[ToolMode, list[Tool]]:
    if isinstance(choice, str):
        known = choice in (ToolMode.AUTO, ToolMode.REQUIRED)
        _require(
            known,
            "tool_choice",
            'none, auto, required, or an object such as {"type": "function", "function": {"name": NAME}}',
            choice,
        )
        return ToolMode(choice), list(tools.values())
    given = convert(_known(choice, _Choice, "tool_choice", ignored), _Choice, "tool_choice")
    if given.type == "function":
        return ToolMode.NAMED, [_named(given.function, tools, "tool_choice.function", ignored)]
    _require(given.type == "allowed_tools", "tool_choice.type", '"function" or "allowed_tools"', given.type)
    path = "tool_choice.allowed_tools"
    limits = convert(_known(given.allowed_tools, _Allowed, path, ignored), _Allowed, path)
    _require(
        limits.mode in (ToolMode.AUTO, ToolMode.REQUIRED), f"{path}.mode", "auto or required", limits.mode
    )
    _require(bool(limits.tools), f"{path}.tools", "a list of at least one tool", limits.tools)
    allowed = []
    for i, entry in enumerate(limits.tools):
        where = f"{path}.tools[{i}]"
        tool = convert(_known(entry, _Tool, where, ignored), _Tool, where)
        _require(tool.type == "function", f"{where}.type", '"function"', tool.type)
        allowed.append(_named(tool.function, tools, f"{where}.function", ignored))
    return ToolMode(limits.mode), allowed


def _named(value: Any, tools: Mapping[str, Tool], path: str, ignored: list[str]) -> Tool:
    name = convert(_known(value, _Named, path, ignored), _Named, path).name
    _require(name in tools, f"{path}.name", "the name of one of the tools", name)
    return tools[name]


def _known(value: Any, into: type[Struct], path: str, ignored: list[str]) -> Any:
    """`value` without nulls; its unknown fields' paths go to `ignored`."""
    if value is UNSET:
        raise missing(path)
    return read_object(value, into, {}, path, ignored)


def _require(holds: bool, path: str, rule: str, value: object) -> None:
    if not holds:
        raise wrong(path, rule, value)

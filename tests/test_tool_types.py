"""Tools and the choice among them: what is read, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.app.errors import RequestError
from octavo.app.tool_types import ToolMode, read_tools

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA, "strict": True},
}
TIME = {"type": "function", "function": {"name": "time"}}
NAMED = {"type": "function", "function": {"name": "time"}}


def test_tools_as_a_template_takes_them() -> None:
    ignored: list[str] = []
    use = read_tools([WEATHER, {**TIME, "cache_control": {}}], None, True, ignored)
    assert use is not None and use.mode is ToolMode.AUTO and use.parallel
    assert [tool.for_template() for tool in use.tools] == [
        {
            "type": "function",
            "function": {"name": "get_weather", "description": "Weather.", "parameters": SCHEMA},
        },
        {
            "type": "function",
            "function": {"name": "time", "parameters": {"type": "object", "properties": {}}},
        },
    ]
    assert [tool.strict for tool in use.tools] == [True, False]
    assert ignored == ["tools[1].cache_control"]


@pytest.mark.parametrize(
    "choice, mode, names",
    [
        ("auto", ToolMode.AUTO, {"get_weather", "time"}),
        ("required", ToolMode.REQUIRED, {"get_weather", "time"}),
        (NAMED, ToolMode.NAMED, {"time"}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
            ToolMode.REQUIRED,
            {"time"},
        ),
    ],
)
def test_choices(choice: Any, mode: ToolMode, names: set[str]) -> None:
    use = read_tools([WEATHER, TIME], choice, True, [])
    assert use is not None
    assert use.mode is mode and use.names == names and len(use.tools) == 2
    assert use.parallel is (mode is not ToolMode.NAMED)


def test_no_tools() -> None:
    assert read_tools(None, None, True, []) is None
    assert read_tools(None, "none", False, []) is None
    assert read_tools([TIME], "none", True, []) is None


def function(**fields: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


@pytest.mark.parametrize(
    "tools, choice, param, rule",
    [
        (None, "auto", "tool_choice", "unless tools are given"),
        (None, NAMED, "tool_choice", "unless tools are given"),
        ([], None, "tools", "must hold 1 to 512 tools, got 0"),
        ([TIME] * 513, None, "tools", "got 513"),
        (["f"], None, "tools[0]", "must be an object"),
        ([{"function": {"name": "f"}}], None, "tools[0].type", "is required"),
        ([{"type": "function"}], None, "tools[0].function", "is required"),
        ([{"type": "custom", "function": {}}], None, "tools[0].type", 'must be "function", got "custom"'),
        ([{"type": "function", "function": 1}], None, "tools[0].function", "must be an object, got 1"),
        ([{"type": "function", "function": {}}], None, "tools[0].function.name", "is required"),
        (function(name=""), None, "tools[0].function.name", "1 to 128 letters"),
        (function(name="a b"), None, "tools[0].function.name", 'got "a b"'),
        (function(parameters=[]), None, "tools[0].function.parameters", "must be an object"),
        (function(parameters={"type": "array"}), None, "tools[0].function.parameters.type", '"object"'),
        (
            function(parameters={"type": "object", "properties": []}),
            None,
            "tools[0].function.parameters.properties",
            "an object",
        ),
        (
            function(parameters={"type": "object", "required": "a"}),
            None,
            "tools[0].function.parameters.required",
            "a list of strings",
        ),
        (function(strict="yes"), None, "tools[0].function.strict", "must be a boolean"),
        ([TIME, WEATHER, TIME], None, "tools[2].function.name", 'differ from the others\', got "time"'),
        ([TIME], "always", "tool_choice", "none, auto, required"),
        ([TIME], {"type": "custom"}, "tool_choice.type", '"function" or "allowed_tools"'),
        ([TIME], {"type": "function"}, "tool_choice.function", "is required"),
        ([TIME], {"type": "function", "function": {}}, "tool_choice.function.name", "is required"),
        (
            [TIME],
            {"type": "function", "function": {"name": "tme"}},
            "tool_choice.function.name",
            'one of the tools, got "tme"',
        ),
        (
            [TIME],
            {"type": "allowed_tools", "allowed_tools": {"mode": "some", "tools": [NAMED]}},
            "tool_choice.allowed_tools.mode",
            "auto or required",
        ),
        (
            [TIME],
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
            "tool_choice.allowed_tools.tools",
            "at least one",
        ),
        (
            [WEATHER],
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}},
            "tool_choice.allowed_tools.tools[0].function.name",
            'got "time"',
        ),
    ],
)
def test_what_is_wrong_is_named(tools: Any, choice: Any, param: str, rule: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_tools(tools, choice, True, [])
    assert caught.value.param == param
    assert rule in caught.value.message

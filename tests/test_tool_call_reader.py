"""Single calls, a character at a time: what is certain when, and what is no call."""

from __future__ import annotations

import json

import pytest

from octavo.app.tool_call_reader import ArgumentsReader, CallReader, ObjectReader

TOOLS = frozenset({"f", "g"})


def read(reader: CallReader, text: str) -> tuple[str, int]:
    """The arguments handed out, and how many characters were read."""
    arguments = ""
    for i, char in enumerate(text):
        arguments += reader.push(char)
        if reader.broken or reader.ended:
            return arguments, i + (not reader.broken)
    return arguments, len(text)


@pytest.mark.parametrize(
    "text, arguments",
    [
        ('{"name": "f", "arguments": {"a": [1, {"b": "}"}]}}', '{"a": [1, {"b": "}"}]}'),
        ('{"arguments": {"a": 1}, "name": "f"}', '{"a": 1}'),
        ('{"name":"f","parameters":{}}', "{}"),
        ('{"type": "function", "name": "f", "id": 7, "parameters": { }}', "{ }"),
        ('{"name": "f"}', "{}"),
        ('{"name": "f", "arguments": null}', "{}"),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', '{"a": 1}'),
        ('{"arguments": "{\\"a\\": 1}", "name": "f"}', '{"a": 1}'),
        ('{"name": "\\u0066", "arguments": {}}', "{}"),
        ('{"name": "f", "arguments": {"code": "a\nb\\n"}}', '{"code": "a\\nb\\n"}'),
        ('{"arguments": {"code": "\t"}, "name": "f"}', '{"code": "\\t"}'),
    ],
)
def test_calls(text: str, arguments: str) -> None:
    reader = ObjectReader(TOOLS)
    assert read(reader, text + "}") == (arguments, len(text))
    assert (reader.name, reader.ended, reader.broken) == ("f", True, False)
    assert isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "h", "arguments": {}}',
        '{"name": 1, "arguments": {}}',
        '{"answer": 42}',
        '{"arguments": {}}',
        "{}",
        "[1]",
        '"f"',
        "f",
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "text"}',
        '{"name": "f", "arguments": "[1]"}',
        '{"name": "f", "arguments": 1.5}',
        '{"name": "f", "name": "f"}',
        '{"name": "f", }',
        "{'name': 'f'}",
        '{"name": "f" "arguments": {}}',
        '{"arguments": {"a": 01}, "name": "f"}',
    ],
)
def test_what_is_no_call(text: str) -> None:
    reader = ObjectReader(TOOLS)
    arguments, _ = read(reader, text)
    assert (arguments, reader.name, reader.broken) == ("", None, True)


@pytest.mark.parametrize(
    "text, arguments",
    [
        ('{"name": "f", "arguments": {"a": 01}}', '{"a": 01'),
        ('{"name": "f", "arguments": {"a": 1}, "b": 1}', '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": 1}, "parameters": {}}', '{"a": 1}'),
        ('{"name": "f", "arguments": {"a": 1}</tool_call>', '{"a": 1}'),
    ],
)
def test_a_call_that_breaks_after_it_was_certain(text: str, arguments: str) -> None:
    reader = ObjectReader(TOOLS)
    assert read(reader, text)[0] == arguments
    assert (reader.name, reader.broken, reader.ended) == ("f", True, False)


def test_arguments_come_as_soon_as_the_call_is_certain() -> None:
    reader = ObjectReader(TOOLS)
    assert [reader.push(char) for char in '{"name": "f", "arguments":'] == [""] * 26
    assert reader.name is None
    assert [reader.push(char) for char in ' {"a'] == ["", "{", '"', "a"]
    assert reader.name == "f"
    late = ObjectReader(TOOLS)
    assert read(late, '{"arguments": {"a": 1}, "name": "f')[0] == "" and late.name is None
    assert late.push('"') == '{"a": 1}' and late.name == "f"


def test_arguments_alone() -> None:
    reader = ArgumentsReader("f")
    assert read(reader, '{"a": "\n"} x') == ('{"a": "\\n"}', 10)
    assert reader.ended and not reader.broken
    for text, arguments in (("[1]", ""), ('{"a" 1}', '{"a" ')):
        broken = ArgumentsReader("f")
        assert read(broken, text)[0] == arguments and broken.broken

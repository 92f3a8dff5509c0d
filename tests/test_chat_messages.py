"""Messages: what a template gets of them, and what is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.app.chat_messages import read_messages
from octavo.app.errors import RequestError

HELLO = [{"role": "user", "content": "hello"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def test_messages_become_what_a_template_takes() -> None:
    ignored: list[str] = []
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": "very"},
        {
            "role": "user",
            "name": "ann",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"role": "assistant", "content": "ok", "refusal": None, "tool_calls": [], "annotations": []},
    ]
    assert read_messages(messages, ignored) == [
        {"role": "system", "content": "be brief"},
        {"role": "system", "content": "very"},
        {"role": "user", "content": "a\nb", "name": "ann"},
        {"role": "assistant", "content": "ok"},
    ]
    assert ignored == []


def test_calls_and_their_results() -> None:
    ignored: list[str] = []
    streamed = {**CALL, "index": 0, "function": {"name": "g", "arguments": ""}}
    messages = [
        {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [CALL, streamed]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "7"}]},
        {"role": "assistant", "content": "Seven.", "reasoning_content": "So it is."},
    ]
    assert read_messages(messages, ignored) == [
        {
            "role": "assistant",
            "content": "",
            "reasoning": "Hm.",
            "reasoning_content": "Hm.",
            "tool_calls": [
                CALL,
                {"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "content": "7", "tool_call_id": "call_1"},
        {
            "role": "assistant",
            "content": "Seven.",
            "reasoning": "So it is.",
            "reasoning_content": "So it is.",
        },
    ]
    assert ignored == []


def test_what_an_assistant_said_comes_back_though_it_said_nothing() -> None:
    """An answer that was cut off in its reasoning, or was empty, has no content."""
    messages: list[Any] = [
        {"role": "assistant", "content": None, "reasoning": "Hm."},
        {"role": "assistant", "reasoning": "Hm."},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None},
        {
            "role": "assistant",
            "content": [{"type": "refusal", "refusal": "No."}, {"type": "text", "text": "x"}],
        },
    ]
    thought = {"role": "assistant", "content": "", "reasoning": "Hm.", "reasoning_content": "Hm."}
    assert read_messages(messages, []) == [
        thought,
        thought,
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "No.\nx"},
    ]


def called(call: Any) -> list[Any]:
    return [{"role": "assistant", "tool_calls": [call]}]


@pytest.mark.parametrize(
    "messages, param, rule",
    [
        ([], "messages", "at least one"),
        (["hello"], "messages[0]", 'must be an object, got "hello"'),
        ([{}], "messages[0].role", "is required"),
        ([{"role": 1, "content": ""}], "messages[0].role", "must be a string, got 1"),
        ([{"role": "robot", "content": ""}], "messages[0].role", "must be one of system, developer"),
        ([{"role": "function", "content": ""}], "messages[0].role", "must be one of"),
        ([*HELLO, {"role": "user"}], "messages[1].content", "is required"),
        ([*HELLO, {"role": "user", "content": None}], "messages[1].content", "is required"),
        ([{"role": "assistant", "tool_calls": []}], "messages[0].content", "is required"),
        ([{"role": "assistant"}], "messages[0].content", "is required"),
        (
            [{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}],
            "messages[0].content[0].type",
            'must be "text", got "refusal"',
        ),
        (
            [{"role": "assistant", "content": [{"type": "image"}]}],
            "messages[0].content[0].type",
            'must be "text" or "refusal", got "image"',
        ),
        ([{"role": "tool", "tool_call_id": "x"}], "messages[0].content", "is required"),
        ([{"role": "user", "content": 3}], "messages[0].content", "must be a string or a list, got 3"),
        ([{"role": "user", "content": []}], "messages[0].content", "at least one part"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]", "must be an object"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text", "is required"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "messages[0].content[0].type",
            'must be "text", got "image_url"',
        ),
        ([{"role": "user", "content": "", "tool_calls": [1]}], "messages[0].tool_calls", "must be []"),
        ([{"role": "user", "content": "", "tool_call_id": "x"}], "messages[0].tool_call_id", "not supported"),
        ([{"role": "user", "content": "", "reasoning": "x"}], "messages[0].reasoning", 'must be ""'),
        ([{"role": "user", "content": "", "audio": {}}], "messages[0].audio", "not supported"),
        (
            [{"role": "assistant", "function_call": {"name": "f"}}],
            "messages[0].function_call",
            "not supported",
        ),
        (called("f"), "messages[0].tool_calls[0]", "must be an object"),
        (called({"id": "x"}), "messages[0].tool_calls[0].function", "is required"),
        (called({**CALL, "type": "custom"}), "messages[0].tool_calls[0].type", 'must be "function"'),
        (called({"function": {}}), "messages[0].tool_calls[0].function.name", "is required"),
        (
            called({"function": {"name": "f", "arguments": {"a": 1}}}),
            "messages[0].tool_calls[0].function.arguments",
            "must be a string",
        ),
    ],
)
def test_bad_messages_name_the_place(messages: Any, param: str, rule: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_messages(messages, [])
    assert caught.value.param == param
    assert rule in caught.value.message


def test_unknown_fields_are_named() -> None:
    ignored: list[str] = []
    read_messages(
        called({**CALL, "mood": 1, "function": {"name": "f", "arguments": "", "speed": 1}}), ignored
    )
    assert ignored == ["messages[0].tool_calls[0].mood", "messages[0].tool_calls[0].function.speed"]

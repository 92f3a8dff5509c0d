"""Tools in plain messages, through a template that knows of none."""

from __future__ import annotations

from typing import Any

from tool_templates import PLAIN, QWEN

from octavo.app.chat_template import ChatTemplate
from octavo.app.tool_formats import HERMES, LLAMA3_JSON
from octavo.app.tool_prompt import plain_messages

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Use f."},
    {"role": "assistant", "content": "Well.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "1", "tool_call_id": "1"},
    {"role": "tool", "content": "2", "tool_call_id": "2"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
]


def test_nothing_of_a_conversation_is_lost() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    assert plain_messages(TALK, (), HERMES) == [
        {"role": "user", "content": "Use f."},
        {"role": "assistant", "content": f"Well.\n{call}\n{call}"},
        {
            "role": "user",
            "content": "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>",
        },
        {"role": "assistant", "content": call},
        {"role": "user", "content": "<tool_response>\n3\n</tool_response>"},
    ]


def test_the_first_message_tells_of_the_tools() -> None:
    (told,) = plain_messages(TALK[:1], TOOLS, LLAMA3_JSON)
    text = told["content"].removesuffix("\n\nUse f.")
    assert '{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}' in text
    assert '{"name": "NAME", "parameters": ARGUMENTS}' in text
    mine = {"role": "system", "content": "Be brief."}
    both = plain_messages([mine, *TALK[:1]], TOOLS, LLAMA3_JSON)
    assert both == [{"role": "system", "content": f"Be brief.\n\n{text}"}, *TALK[:1]]
    assert mine["content"] == "Be brief.", "the caller's message is not touched"


def test_only_for_templates_that_know_of_none() -> None:
    plain, qwen = ChatTemplate(PLAIN), ChatTemplate(QWEN)
    assert not plain.shows_tools and qwen.shows_tools
    assert '"name":"f"' in plain.render(TALK, tools=TOOLS)
    assert plain.render(TALK).count('{"name": "f", "arguments": {"a": 1}}') == 3
    assert "NAME" not in qwen.render(TALK, tools=TOOLS)
    hello = [{"role": "user", "content": "hi"}]
    assert plain.render(hello, tools=[]) == plain.render(hello)

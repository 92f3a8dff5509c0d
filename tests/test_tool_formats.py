"""Formats: which one a template teaches, ids, and calls as the templates themselves write them."""

from __future__ import annotations

from typing import Any

import pytest
from tool_templates import DEEPSEEK_R1, LLAMA31, PLAIN, QWEN, TOKENS
from tool_templates import MISTRAL as MISTRAL_TEMPLATE
from tool_templates import MISTRAL_ARGS as MISTRAL_ARGS_TEMPLATE

from octavo.app.chat_template import ChatTemplate
from octavo.app.config import ServerConfig
from octavo.app.tool_formats import (
    HERMES,
    LLAMA3_JSON,
    LLAMA3_JSON_SINGLE,
    MISTRAL,
    MISTRAL_ARGS,
    ToolFormat,
    WrittenCall,
    tool_format,
)


@pytest.mark.parametrize(
    "template, expected",
    [
        (QWEN, HERMES),
        (LLAMA31, LLAMA3_JSON_SINGLE),
        (LLAMA31.replace("single tool-calls", "few"), LLAMA3_JSON),
        (MISTRAL_TEMPLATE, MISTRAL),
        (MISTRAL_ARGS_TEMPLATE, MISTRAL_ARGS),
        (PLAIN, None),
        (DEEPSEEK_R1, None),
        ("{{ tools }}<tool_call>\n<function=NAME>", None),
        ("{{ tools }}<tool_call>NAME<arg_key>", None),
    ],
)
def test_the_template_tells_the_format(template: str, expected: ToolFormat | None) -> None:
    assert tool_format("auto", template) is expected


def test_a_setting_overrides_the_template() -> None:
    for parser in ("auto", "hermes", "llama3_json", "mistral"):
        assert ServerConfig(tool_call_parser=parser).tool_call_parser == parser
    assert tool_format("hermes", LLAMA31) is HERMES
    assert tool_format("llama3_json", QWEN) is LLAMA3_JSON
    assert tool_format("llama3_json", LLAMA31) is LLAMA3_JSON_SINGLE
    assert tool_format("mistral", QWEN) is MISTRAL


@pytest.mark.parametrize(
    "template, form", [(QWEN, HERMES), (LLAMA31, LLAMA3_JSON), (MISTRAL_TEMPLATE, MISTRAL)]
)
def test_calls_are_written_as_the_template_writes_them(template: str, form: ToolFormat) -> None:
    """So a conversation that is continued finds its prefix in the cache."""
    function = {"name": "f", "arguments": '{"city": "Köln", "n": [1, 2]}'}
    call = {"id": "abcdefghi", "type": "function", "function": function}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    text = ChatTemplate(template, TOKENS).render(messages, add_generation_prompt=False)
    written = form.write([WrittenCall("f", function["arguments"])])
    if form is MISTRAL:
        text = text.replace(', "id": "abcdefghi"', "")
    assert written in text


def test_ids() -> None:
    assert HERMES.new_id() != HERMES.new_id() and HERMES.new_id().startswith("call_")
    made = MISTRAL.new_id()
    assert len(made) == 9 and made.isalnum() and made != MISTRAL.new_id()
    assert HERMES.fitting_id("anything") == "anything"
    assert MISTRAL.fitting_id(made) == made
    fitting = MISTRAL.fitting_id("call_3f2a")
    assert len(fitting) == 9 and fitting.isalnum()
    assert fitting == MISTRAL.fitting_id("call_3f2a") != MISTRAL.fitting_id("call_3f2b")

"""A model's habits, read off its template, and what they do to a request."""

from __future__ import annotations

from typing import Any

import pytest
from http_harness import byte_tokenizer
from tokenizers import AddedToken
from tool_templates import DEEPSEEK_R1, LLAMA31, MISTRAL, PLAIN, QWEN, TOKENS

from octavo.app.chat_formats import ChatFormats, effort_variables
from octavo.app.chat_template import ChatTemplate
from octavo.app.errors import RequestError
from octavo.app.tool_formats import HERMES, LLAMA3_JSON_SINGLE
from octavo.app.tool_formats import MISTRAL as MISTRAL_FORMAT
from octavo.app.tool_types import ToolUse, read_tools

CALLS = '{"name": "f", "parameters": {}}; {"name": "f", "parameters": {}}'


def formats(source: str, tool_parser: str = "auto", reasoning_parser: str = "auto") -> ChatFormats:
    return ChatFormats.of(ChatTemplate(source, TOKENS), tool_parser, reasoning_parser)


def tools(choice: Any = None, parallel: bool = True) -> ToolUse:
    use = read_tools([{"type": "function", "function": {"name": "f"}}], choice, parallel, [])
    assert use is not None
    return use


def test_habits() -> None:
    assert formats(QWEN).tools is HERMES and formats(QWEN).reasoning is not None
    assert formats(LLAMA31) == (LLAMA3_JSON_SINGLE, None)
    assert formats(PLAIN) == (HERMES, None), "the model is told in Hermes' form"
    assert formats(QWEN, "mistral", "none") == (MISTRAL_FORMAT, None)


def test_tools_of_a_model_whose_format_is_unknown_are_refused() -> None:
    unknown = formats("{{ tools }}")
    unknown.check(None)
    with pytest.raises(RequestError, match="--tool-call-parser") as caught:
        unknown.check(tools())
    assert caught.value.param == "tools"
    formats("{{ tools }}", "hermes").check(tools())


def test_answers_that_are_content_are_not_taken_apart() -> None:
    assert formats(LLAMA31).parts(None, "", True) is None
    assert formats(QWEN, "auto", "none").parts(None, "", True) is None
    assert formats(QWEN).parts(None, "", True) is not None


def test_answers_are_taken_apart_as_the_request_asks() -> None:
    parallel = formats(LLAMA31.replace("single tool-calls", "few"))
    for form, use, num_calls in (
        (parallel, tools(), 2),
        (parallel, tools(parallel=False), 1),
        (formats(LLAMA31), tools(), 1),
    ):
        make = form.parts(use, "", True)
        assert make is not None
        assert len(make().message(CALLS)["tool_calls"]) == num_calls


def test_where_an_answer_begins() -> None:
    form = formats(DEEPSEEK_R1)
    for prompt, message in (
        ("<|Assistant|><think>\n", {"content": "b", "reasoning": "a"}),
        ("<|Assistant|>", {"content": "a</think>b", "reasoning": None}),
    ):
        make = form.parts(None, prompt, True)
        assert make is not None and make().message("a</think>b") == message


def test_special_tokens_stay_in_the_text_where_they_are_markers() -> None:
    plain, special = byte_tokenizer(), byte_tokenizer()
    special.backend.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True)])
    special = type(special)(special.backend)
    form = formats(MISTRAL)
    assert form.needs_special_tokens(tools(), special)
    assert not form.needs_special_tokens(tools(), plain)
    assert not form.needs_special_tokens(None, special)


def test_ids_of_another_server_fit_the_template() -> None:
    call = {"id": "call_0123456789", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "1", "tool_call_id": "call_0123456789"},
    ]
    template = ChatTemplate(MISTRAL, TOKENS)
    fitted = formats(MISTRAL).fitting_ids(messages)
    assert fitted[1]["tool_calls"][0]["id"] == fitted[2]["tool_call_id"] != "call_0123456789"
    assert fitted[2]["tool_call_id"] in template.render(fitted)
    assert messages[2]["tool_call_id"] == "call_0123456789", "the caller's messages are not touched"
    assert formats(QWEN).fitting_ids(messages) == messages


def test_effort() -> None:
    qwen = ChatTemplate(QWEN)
    assert effort_variables(None, qwen) == {}
    assert effort_variables("none", qwen) == {"enable_thinking": False}
    assert effort_variables("high", qwen) == {"enable_thinking": True}
    assert effort_variables("low", ChatTemplate("{{ reasoning_effort }}")) == {"reasoning_effort": "low"}
    for effort, template, rule in (
        ("most", qwen, "one of none, minimal"),
        ("low", ChatTemplate(LLAMA31), "knows nothing"),
    ):
        with pytest.raises(RequestError, match=rule) as caught:
            effort_variables(effort, template)
        assert caught.value.param == "reasoning_effort"

"""Chat templates against transformers' rendering, and against templates that misbehave."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from octavo.app.chat_template import ChatTemplate, TemplateError, find_chat_template
from octavo.app.errors import RequestError, StartupError

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>' + call.function.name + call.function.arguments | tojson + '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
        {%- continue %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
LLAMA2 = (
    "{% if messages[0]['role'] != 'user' %}{{ raise_exception('the user must begin') }}{% endif %}"
    "{% set ns = namespace(turn=0) %}"
    "{% for message in messages %}{% set ns.turn = ns.turn + 1 %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}{# {{ ns.turn }} #}"
)
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "What's <b> & “quotes”?  "},
    {"role": "assistant", "content": "Bold, "},
    {"role": "user", "content": "漢字 😀"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "x": "<é>"}}}]


def theirs(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    rendered: Any = render_jinja_template([messages], chat_template=source, **{**TOKENS, **options})
    return str(rendered[0][0])  # texts and the places of the generated parts, though the annotation says str


@pytest.mark.parametrize("source", [CHATML, LLAMA2])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False}])
def test_renders_as_transformers(
    source: str, add_generation_prompt: bool, tools: Any, variables: dict[str, Any]
) -> None:
    options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, "tools": tools}
    ours = ChatTemplate(source, TOKENS).render(CHAT, **options, variables=variables)
    if tools and source == LLAMA2:  # knows of none, so plain messages tell
        assert '"name":"f"' in ours and "What's <b> & “quotes”?" in ours
    else:
        assert ours == theirs(source, CHAT, **options, **variables)


def test_variables_may_have_any_name_that_is_not_ours() -> None:
    template = ChatTemplate("{{ bos_token }}{{ args }}{{ source }}{{ variables }}", TOKENS)
    given = {"self": 1, "args": 2, "source": 3, "variables": 4, "not a name": 5}
    assert template.render(CHAT, variables=given) == "<s>234"
    for name in ("messages", "tools", "documents", "continue_final_message", "raise_exception"):
        with pytest.raises(TemplateError, match="must be left out") as caught:
            template.render(CHAT, variables={name: 1})
        assert caught.value.param == f"chat_template_kwargs.{name}"


@pytest.mark.parametrize("source", [CHATML, LLAMA2])
@pytest.mark.parametrize("content", ["Bold,", "Bold, ", " \n Bold\n", "x"])
def test_continues_the_final_message_as_transformers(source: str, content: str) -> None:
    messages = [CHAT[0], {"role": "assistant", "content": content}]
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    assert ChatTemplate(source, TOKENS).render(messages, **options) == theirs(source, messages, **options)


def test_arguments_of_tool_calls_are_objects_for_the_template() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "é"]}'}}
    broken = {"id": "2", "type": "function", "function": {"name": "g", "arguments": '{"a": '}}
    message = {"role": "assistant", "content": "", "tool_calls": [call, broken]}
    text = ChatTemplate(CHATML).render([message], add_generation_prompt=False)
    assert '<tool_call>f{"a": [1, "é"]}</tool_call>' in text
    assert '<tool_call>g"{\\"a\\": "</tool_call>' in text
    assert call["function"]["arguments"] == '{"a": [1, "é"]}', "the caller's message is not touched"  # type: ignore[index]


def test_json_dates_and_unset_tokens() -> None:
    template = ChatTemplate(
        "{{ {'b': '<&>', 'a': 1} | tojson(indent=2, sort_keys=true) }}{{ bos_token }}{{ strftime_now('%Y') }}"
    )
    today = str(datetime.datetime.now().year)
    assert template.render([]) == '{\n  "a": 1,\n  "b": "<&>"\n}' + today


def test_a_template_for_tools_is_used_with_tools_only() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "tools"})
    assert template.render(CHAT) == "plain"
    assert template.render(CHAT, tools=[]) == "plain"
    assert template.render(CHAT, tools=TOOLS) == "tools"


def test_what_the_template_refuses_is_one_request_error() -> None:
    with pytest.raises(TemplateError, match="the user must begin") as caught:
        ChatTemplate(LLAMA2).render([{"role": "assistant", "content": ""}])
    assert isinstance(caught.value, RequestError)
    assert (caught.value.param, caught.value.status) == ("messages", 400)


@pytest.mark.parametrize(
    "source",
    [
        "{{ missing.attribute }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% set n = namespace() %}{% set n.__class__ = 1 %}{{ n }}",
        "{{ namespace(__init__=1) }}",
        "{{ range(1000000) | list }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ 'x' * 10000 }}{% endfor %}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_templates_that_misbehave_end_in_a_template_error(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source).render(CHAT)


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"role": "user", "content": None}]])
def test_nothing_to_continue(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(TemplateError, match="needs a last message whose content is text"):
        ChatTemplate("x").render(messages, add_generation_prompt=False, continue_final_message=True)


def test_continuing_needs_a_template_that_shows_the_message() -> None:
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    with pytest.raises(TemplateError, match="leaves out the last message's text"):
        ChatTemplate("constant").render(CHAT, **options)
    with pytest.raises(TemplateError, match="cannot both be true") as caught:
        ChatTemplate(CHATML).render(CHAT, continue_final_message=True)
    assert caught.value.param == "continue_final_message"


def test_the_last_part_of_a_message_of_parts_is_continued() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two "}]
    source = "{% for part in messages[-1].content %}{{ part.text }}{% endfor %}</s>"
    options: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}
    assert ChatTemplate(source).render([{"role": "assistant", "content": parts}], **options) == "one two "


def test_invalid_templates_are_found_when_they_are_loaded() -> None:
    with pytest.raises(StartupError, match=r"the chat template is not valid Jinja: line 2: "):
        ChatTemplate("{{ 1 }}\n{% if %}")
    with pytest.raises(StartupError, match="chat templates tool_use, rag but none named default"):
        ChatTemplate({"tool_use": "x", "rag": "y"})


# ----- where templates are found


def test_files_in_order_of_precedence(tmp_path: Path) -> None:
    assert find_chat_template(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "config"}))
    assert find_chat_template(tmp_path) == "config"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert find_chat_template(tmp_path) == "json"
    (tmp_path / "chat_template.jinja").write_text("jinja é")
    assert find_chat_template(tmp_path) == "jinja é"


def test_several_named_templates(tmp_path: Path) -> None:
    templates = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    assert find_chat_template(tmp_path) == {"default": "a", "tool_use": "b"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": ["a"]}))
    with pytest.raises(StartupError, match="chat_template list without names and templates"):
        find_chat_template(tmp_path)


def test_a_template_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(StartupError, match=r"chat_template\.jinja cannot be read"):
        find_chat_template(tmp_path)

"""Tool calls and reasoning as the official client hears them, from a server whose model follows a script."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from http_harness import ScriptedClient, make_app, serve
from openai import OpenAI
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageFunctionToolCall
from tool_templates import LLAMA31, MISTRAL, QWEN, TOKENS

from octavo.app.chat_template import ChatTemplate

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
MESSAGES: list[Any] = [{"role": "user", "content": "How is the weather in Köln?"}]
ARGUMENTS = '{"city": "Köln"}'
HERMES = f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
REPLIES = {
    "hermes": (QWEN, HERMES),
    "llama3_json": (LLAMA31, f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}'),
    "mistral": (MISTRAL, f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {ARGUMENTS}}}]'),
}


@contextlib.contextmanager
def answering(reply: str, template: str = QWEN, **settings: Any) -> Iterator[tuple[OpenAI, ScriptedClient]]:
    engine = ScriptedClient(reply)
    app = make_app(engine, settings, chat_template=ChatTemplate(template, TOKENS))
    with (
        serve(app) as url,
        OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=30) as client,
    ):
        yield client, engine


def calls_of(message: ChatCompletionMessage) -> list[ChatCompletionMessageFunctionToolCall]:
    calls = message.tool_calls or []
    assert all(call.type == "function" for call in calls)
    return [call for call in calls if call.type == "function"]


def prompt_of(engine: ScriptedClient) -> str:
    return bytes(token for token in engine.requests[-1].prompt_token_ids if token < 256).decode()


@pytest.mark.parametrize("name", REPLIES)
def test_a_call(name: str) -> None:
    template, reply = REPLIES[name]
    with answering(reply, template) as (client, engine):
        whole = client.chat.completions.create(model="toy", messages=MESSAGES, tools=[TOOL])
        assert '"get_weather"' in prompt_of(engine)
        (choice,) = whole.choices
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        (call,) = calls_of(choice.message)
        assert (call.function.name, call.function.arguments) == ("get_weather", ARGUMENTS)
        with client.chat.completions.stream(model="toy", messages=MESSAGES, tools=[TOOL]) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_completion().choices[0]
        assert (
            "tool_calls.function.arguments.delta" in kinds and "tool_calls.function.arguments.done" in kinds
        )
        (streamed,) = calls_of(final.message)
        assert streamed.function.arguments == ARGUMENTS and final.finish_reason == "tool_calls"
        # The conversation goes on, through the template.
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Rain at 7 degrees."}
        answer: Any = choice.message.model_dump(exclude_none=True)
        client.chat.completions.create(model="toy", messages=[*MESSAGES, answer, result], tools=[TOOL])
        prompt = prompt_of(engine)
        assert ARGUMENTS in prompt and "Rain at 7 degrees." in prompt


def test_chunks_of_a_call() -> None:
    reply = f"One moment.\n{HERMES}\n{HERMES}\nDone."
    with answering(reply) as (client, _):
        chunks = list(
            client.chat.completions.create(model="toy", messages=MESSAGES, tools=[TOOL], stream=True)
        )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    heads = [call for call in calls if call.id is not None]
    assert [call.index for call in heads] == [0, 1] and heads[0].id != heads[1].id
    for head in heads:
        assert head.type == "function" and head.function is not None
        assert (head.function.name, head.function.arguments) == ("get_weather", "")
        rest = [call for call in calls if call.index == head.index and call is not head]
        assert len(rest) > 3, "arguments come in pieces"
        assert all(call.type is None and call.function and call.function.name is None for call in rest)
        told = "".join(call.function.arguments or "" for call in rest if call.function)
        assert told == ARGUMENTS
    assert "".join(delta.content or "" for delta in deltas) == "One moment.\nDone."
    assert all(not (delta.content and delta.tool_calls) for delta in deltas)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "tool_calls"
    assert deltas[-1].model_dump(exclude_unset=True) == {}


def test_not_parallel_is_one_call() -> None:
    with answering(HERMES * 2) as (client, _):
        settings: Any = {"model": "toy", "messages": MESSAGES, "tools": [TOOL], "parallel_tool_calls": False}
        whole = client.chat.completions.create(**settings)
        assert len(whole.choices[0].message.tool_calls or ()) == 1
        chunks = client.chat.completions.create(**settings, stream=True)
        assert {call.index for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()} == {0}


def test_what_is_no_call_is_content() -> None:
    reply = HERMES.replace("get_weather", "get_wether")
    with answering(reply) as (client, _):
        for stream in (False, True):
            answer: Any = client.chat.completions.create(
                model="toy", messages=MESSAGES, tools=[TOOL], stream=stream
            )
            if stream:
                chunks = list(answer)
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                reason = chunks[-1].choices[0].finish_reason
            else:
                text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
            assert (text, reason) == (reply, "stop")


def test_none_says_nothing_of_tools_to_the_model() -> None:
    with answering(HERMES) as (client, engine):
        answer = client.chat.completions.create(
            model="toy", messages=MESSAGES, tools=[TOOL], tool_choice="none"
        )
        assert answer.choices[0].message.content == HERMES and not answer.choices[0].message.tool_calls
        assert "get_weather" not in prompt_of(engine)
        plain = client.chat.completions.create(model="toy", messages=MESSAGES)
        assert plain.choices[0].message.content == HERMES


def test_a_cut_call_says_so() -> None:
    with answering(HERMES) as (client, _):
        answer = client.chat.completions.create(model="toy", messages=MESSAGES, tools=[TOOL], max_tokens=58)
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert [call.function.arguments for call in calls_of(choice.message)] == ['{"city": ']


def test_every_choice_has_its_own_calls_and_logprobs() -> None:
    with answering(HERMES) as (client, _):
        settings: Any = {"model": "toy", "messages": MESSAGES, "tools": [TOOL], "n": 2, "logprobs": True}
        whole = client.chat.completions.create(**settings)
        first, second = (calls_of(choice.message) for choice in whole.choices)
        assert len(first) == len(second) == 1 and first[0].id != second[0].id
        told = [0, 0]
        for chunk in client.chat.completions.create(**settings, stream=True):
            for choice in chunk.choices:
                if choice.logprobs is not None:
                    told[choice.index] += len(choice.logprobs.content or ())
        assert told == [len((choice.logprobs and choice.logprobs.content) or ()) for choice in whole.choices]
        assert told == [len(HERMES.encode()) + 1] * 2


def test_readings_are_counted_once_a_choice_or_once_a_delta() -> None:
    with answering(HERMES) as (client, _):
        settings: Any = {"model": "toy", "messages": MESSAGES, "tools": [TOOL]}
        client.chat.completions.create(**settings, n=2)
        num_chunks = len(list(client.chat.completions.create(**settings, stream=True)))
        text = httpx.get(str(client.base_url).replace("/v1/", "/metrics")).text
    name = "vllm:tool_call_parser_invocations_total"
    counted = {
        (mode, outcome): float(count)
        for mode, outcome, count in re.findall(
            name + r'{mode="(\w+)",model_name="\w+",outcome="(\w+)",request_type="chat_completions"} (.*)',
            text,
        )
    }
    assert counted["non_streaming", "tool_call"] == 2 and counted["non_streaming", "no_tool_call"] == 0
    assert 0 < counted["streaming", "tool_call"] <= num_chunks
    assert counted["streaming", "no_tool_call"] > 0


@pytest.mark.parametrize(
    "choice, reason",
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "get_weather"}}, "stop")],
)
def test_asked_for_calls_are_bound_by_a_grammar(choice: Any, reason: str) -> None:
    with answering(HERMES) as (client, engine):
        answer = client.chat.completions.create(
            model="toy", messages=MESSAGES, tools=[TOOL], tool_choice=choice
        )
        assert answer.choices[0].finish_reason == reason and len(calls_of(answer.choices[0].message)) == 1
        grammar = engine.requests[-1].params.grammar
        assert grammar is not None and "get_weather" in grammar.source
        client.chat.completions.create(model="toy", messages=MESSAGES, tools=[TOOL])
        assert engine.requests[-1].params.grammar is None
        strict: Any = {**TOOL, "function": {**TOOL["function"], "strict": True}}
        client.chat.completions.create(model="toy", messages=MESSAGES, tools=[strict])
        assert engine.requests[-1].params.grammar is not None
        assert "strict" not in prompt_of(engine)


def test_a_grammar_leaves_room_for_reasoning() -> None:
    with answering('<think>\nHm.\n</think>\n\n{"a": 1}') as (client, engine):
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
        message = (
            client.chat.completions.create(model="toy", messages=MESSAGES, response_format=form)
            .choices[0]
            .message
        )
        assert (message.content, message.model_extra) == ('{"a": 1}', {"reasoning": "Hm."})
        grammar = engine.requests[-1].params.grammar
        assert grammar is not None and "thought" in grammar.source
        regex = client.chat.completions.create(
            model="toy", messages=MESSAGES, extra_body={"structured_outputs": {"regex": ".*"}}
        )
        assert regex.choices[0].message.content == engine.reply


def test_reasoning() -> None:
    reply = f"<think>\nRain, I guess.\n</think>\n\nLet me see.\n{HERMES}"
    with answering(reply) as (client, _):
        settings: Any = {"model": "toy", "messages": MESSAGES, "tools": [TOOL]}
        message = client.chat.completions.create(**settings).choices[0].message
        assert message.model_extra == {"reasoning": "Rain, I guess."}
        assert message.content == "Let me see." and len(message.tool_calls or ()) == 1
        deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**settings, stream=True)]
        thought = "".join((delta.model_extra or {}).get("reasoning", "") for delta in deltas)
        assert thought == "Rain, I guess."
        assert "".join(delta.content or "" for delta in deltas) == "Let me see."
        hidden = client.chat.completions.create(**settings, extra_body={"include_reasoning": False})
        assert hidden.choices[0].message.model_extra == {"reasoning": None}
        assert hidden.choices[0].message.content == "Let me see."
        usage = hidden.usage
        assert usage is not None and usage.completion_tokens == len(reply.encode()) + 1


def test_reasoning_goes_back_through_the_template() -> None:
    with answering("ok") as (client, engine):
        thoughtful: Any = {"role": "assistant", "content": "Wet", "reasoning": "It rains."}
        client.chat.completions.create(
            model="toy",
            messages=[*MESSAGES, thoughtful],
            extra_body={"continue_final_message": True},
        )
        assert prompt_of(engine).endswith("<think>\nIt rains.\n</think>\n\nWet")


def test_effort_reaches_the_template() -> None:
    with answering("ok") as (client, engine):
        client.chat.completions.create(model="toy", messages=MESSAGES, reasoning_effort="none")
        assert prompt_of(engine).endswith("<think>\n\n</think>\n\n")
    with answering("ok", LLAMA31) as (client, _), pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="toy", messages=MESSAGES, reasoning_effort="low")
    assert caught.value.param == "reasoning_effort"


def test_settings_override_the_template() -> None:
    with answering(HERMES, LLAMA31, tool_call_parser="hermes", reasoning_parser="deepseek_r1") as (client, _):
        settings: Any = {"model": "toy", "messages": MESSAGES, "tools": [TOOL]}
        message = client.chat.completions.create(**settings).choices[0].message
    assert message.model_extra == {"reasoning": HERMES} and not message.tool_calls


def test_tokenize_counts_tools() -> None:
    engine = ScriptedClient()
    with (
        serve(make_app(engine, chat_template=ChatTemplate(QWEN))) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        body = {"messages": MESSAGES, "tools": [TOOL]}
        tokens = http.post("/tokenize", json=body).json()["tokens"]
        http.post("/v1/chat/completions", json=body)
        assert tokens == engine.requests[-1].prompt_token_ids
        assert json.dumps(TOOL["function"]["parameters"]) in bytes(tokens).decode()

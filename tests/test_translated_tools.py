"""Tools and reasoning through /v1/responses and /v1/messages, as their official clients hear them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from anthropic import Anthropic
from http_harness import ScriptedClient, make_app, serve
from openai import OpenAI
from test_tools_http import ARGUMENTS, HERMES, prompt_of
from tool_templates import QWEN, TOKENS

from octavo.app.chat_template import ChatTemplate

QUESTION = "How is the weather in Köln?"
PROPERTIES = {"type": "object", "properties": {"city": {"type": "string"}}}
THOUGHTFUL = f"<think>\nRain, I guess.\n</think>\n\nLet me see.\n{HERMES}"
FUNCTION: Any = {"type": "function", "name": "get_weather", "parameters": PROPERTIES}
TOOL: Any = {"name": "get_weather", "description": "Looks out.", "input_schema": PROPERTIES}


@contextlib.contextmanager
def answering(reply: str) -> Iterator[tuple[OpenAI, Anthropic, ScriptedClient]]:
    engine = ScriptedClient(reply)
    app = make_app(engine, chat_template=ChatTemplate(QWEN, TOKENS))
    with (
        serve(app) as url,
        OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=30) as openai,
        Anthropic(base_url=url, api_key="x", max_retries=0, timeout=30) as anthropic,
    ):
        yield openai, anthropic, engine


def test_responses() -> None:
    asked: dict[str, Any] = {"model": "toy", "input": QUESTION, "tools": [FUNCTION]}
    with answering(THOUGHTFUL) as (client, _, engine):
        whole = client.responses.create(**asked)
        assert '"get_weather"' in prompt_of(engine)
        assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
        assert whole.status == "completed" and whole.output_text == "Let me see."
        reasoning, _, call = whole.output
        assert reasoning.type == "reasoning" and reasoning.content is not None
        assert reasoning.content[0].text == "Rain, I guess."
        assert call.type == "function_call"
        assert (call.name, call.arguments, call.status) == ("get_weather", ARGUMENTS, "completed")
        with client.responses.stream(**asked) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        for kind in ("reasoning_text", "output_text", "function_call_arguments"):
            assert f"response.{kind}.delta" in kinds and f"response.{kind}.done" in kinds
        assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 3
        assert [item.type for item in final.output] == [item.type for item in whole.output]
        streamed = final.output[2]
        assert streamed.type == "function_call" and streamed.arguments == ARGUMENTS
        # The conversation goes on, through the template.
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "7 degrees."}
        client.responses.create(
            model="toy",
            input=[{"role": "user", "content": QUESTION}, *whole.output, result],
            tools=[FUNCTION],
        )
        prompt = prompt_of(engine)
        assert ARGUMENTS in prompt and "7 degrees." in prompt and prompt.count("<|im_start|>assistant") == 2


def test_responses_without_tools_and_with_effort() -> None:
    with answering("<think>\nHm.\n</think>\n\nWet.") as (client, _, engine):
        asked: dict[str, Any] = {
            "model": "toy",
            "input": QUESTION,
            "tools": [FUNCTION],
            "tool_choice": "none",
        }
        response = client.responses.create(**asked, reasoning={"effort": "low"})
        assert "get_weather" not in prompt_of(engine)
        assert response.output_text == "Wet." and response.tool_choice == "none"
        assert response.reasoning is not None and response.reasoning.effort == "low"


def test_messages() -> None:
    asked: dict[str, Any] = {
        "model": "toy",
        "max_tokens": 500,
        "messages": [{"role": "user", "content": QUESTION}],
        "tools": [TOOL],
    }
    with answering(THOUGHTFUL) as (_, client, engine):
        whole = client.messages.create(
            **asked, tool_choice={"type": "auto", "disable_parallel_tool_use": True}
        )
        assert '"get_weather"' in prompt_of(engine) and "Looks out." in prompt_of(engine)
        assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
        assert whole.stop_reason == "tool_use"
        thinking, text, use = whole.content
        assert thinking.type == "thinking" and thinking.thinking == "Rain, I guess."
        assert text.type == "text" and text.text == "Let me see."
        assert use.type == "tool_use" and (use.name, use.input) == ("get_weather", json.loads(ARGUMENTS))
        with client.messages.stream(**asked) as stream:
            final = stream.get_final_message()
        assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
        assert final.stop_reason == "tool_use" and final.content[2].model_dump()["input"] == use.input
        # The conversation goes on, through the template.
        result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "7 degrees."}
        asked["messages"] += [
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
        ]
        client.messages.create(**asked)
        prompt = prompt_of(engine)
        assert ARGUMENTS.replace(" ", "") in prompt.replace(" ", "")
        assert "7 degrees." in prompt and "Well?" in prompt and prompt.count("<|im_start|>assistant") == 2
        assert client.messages.count_tokens(
            model="toy", messages=asked["messages"], tools=[TOOL]
        ).input_tokens == len(engine.requests[-1].prompt_token_ids)


def test_messages_that_do_not_tell_their_thoughts() -> None:
    with answering("<think>\nHm.\n</think>\n\nWet.") as (_, client, _engine):
        message = client.messages.create(
            model="toy",
            max_tokens=100,
            messages=[{"role": "user", "content": QUESTION}],
            thinking={"type": "disabled"},
        )
        assert [block.type for block in message.content] == ["text"]


def test_a_call_that_is_cut_off() -> None:
    with answering(HERMES) as (openai, anthropic, _):
        cut = len(HERMES.encode()) - 16
        response = openai.responses.create(
            model="toy", input=QUESTION, tools=[FUNCTION], max_output_tokens=cut
        )
        assert response.status == "incomplete" and response.output[-1].type == "function_call"
        assert response.output[-1].status == "incomplete"
        message = anthropic.messages.create(
            model="toy", max_tokens=cut, messages=[{"role": "user", "content": QUESTION}], tools=[TOOL]
        )
        assert message.stop_reason == "max_tokens"

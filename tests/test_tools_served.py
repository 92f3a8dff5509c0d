"""Calls that must be made, by the demo model in a server process, heard by the official client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import msgspec
import openai
import pytest
from openai import OpenAI
from server_process import CLIENT_KEY, CLIENT_MODEL

MESSAGES: list[Any] = [{"role": "user", "content": "Paint the door, then wait."}]


class Paint(msgspec.Struct, forbid_unknown_fields=True):
    """What the arguments of `paint` must be; the schema below says the same."""

    colour: Literal["red", "blue"]
    coats: int


def paint(**schema: Any) -> Any:
    properties = {
        "colour": {"type": "string", "enum": ["red", "blue"]},
        "coats": {"type": "integer", "minimum": 1, "maximum": 9},
    }
    parameters = {"type": "object", "properties": properties, "required": [*properties], **schema}
    return {"type": "function", "function": {"name": "paint", "parameters": parameters}}


WAIT: Any = {"type": "function", "function": {"name": "wait"}}
PAINT_CHOICE: Any = {"type": "function", "function": {"name": "paint"}}


@pytest.fixture
def client(demo_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{demo_url}/v1", api_key=CLIENT_KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.mark.parametrize("choice, reason", [("required", "tool_calls"), (PAINT_CHOICE, "stop")])
def test_arguments_keep_to_their_schema(client: OpenAI, choice: Any, reason: str) -> None:
    answer = client.chat.completions.create(
        model=CLIENT_MODEL,
        messages=MESSAGES,
        tools=[paint(), WAIT],
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=1.2,
        seed=3,
        n=2,
        max_tokens=100,
    )
    assert [choice.finish_reason for choice in answer.choices] == [reason] * 2
    for each in answer.choices:
        assert each.message.content is None
        (call,) = each.message.tool_calls or []
        assert call.type == "function"
        if call.function.name == "paint":
            msgspec.json.decode(call.function.arguments, type=Paint)
        else:
            assert (call.function.name, call.function.arguments) == ("wait", "{}")


def test_streamed_is_whole(client: OpenAI) -> None:
    settings: dict[str, Any] = {
        "model": CLIENT_MODEL,
        "messages": MESSAGES,
        "tools": [paint(), WAIT],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 30,
    }
    whole = client.chat.completions.create(**settings).choices[0].message.tool_calls or []
    told: list[list[str]] = []
    for chunk in client.chat.completions.create(**settings, stream=True):
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            if call.id is not None:
                told.append([call.function.name or "", ""])
            told[call.index][1] += call.function.arguments or ""
    assert told == [[c.function.name, c.function.arguments] for c in whole if c.type == "function"]
    assert told


def test_strict_and_structured_beside_tools(client: OpenAI) -> None:
    strict = paint(additionalProperties=False)
    strict["function"]["strict"] = True
    settings: dict[str, Any] = {
        "model": CLIENT_MODEL,
        "messages": MESSAGES,
        "tools": [strict],
        "max_tokens": 12,
    }
    assert client.chat.completions.create(**settings).choices[0].finish_reason in ("stop", "length")
    schema = {"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    settings |= {"max_tokens": 40, "temperature": 0, "response_format": form}
    message = client.chat.completions.create(**settings).choices[0].message
    assert message.tool_calls or isinstance(msgspec.json.decode(message.content or "")["done"], bool)


def test_a_schema_that_cannot_be_kept_to_is_named(client: OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model=CLIENT_MODEL,
                messages=MESSAGES,
                tools=[paint(properties={"colour": {"type": "color"}})],
                tool_choice="required",
                stream=stream,
            )
        assert caught.value.param == "tools"
        assert "cannot be kept to: Invalid type: color" in caught.value.message

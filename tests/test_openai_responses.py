"""The official `openai` client's Responses API against a server process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai import OpenAI
from server_process import CLIENT_KEY, CLIENT_MODEL

QUESTION = "What is the capital of France?"
ASKED: dict[str, Any] = {"model": CLIENT_MODEL, "temperature": 0, "max_output_tokens": 12}


@pytest.fixture
def client(demo_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{demo_url}/v1", api_key=CLIENT_KEY, max_retries=0, timeout=120) as client:
        yield client


def test_response(client: OpenAI) -> None:
    response = client.responses.create(input=QUESTION, instructions="Answer in one sentence.", **ASKED)
    assert response.status == "completed" and "Paris" in response.output_text
    assert response.error is None and response.incomplete_details is None
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    again = client.responses.create(
        input=[{"role": "user", "content": QUESTION}, *map_output(response)], **ASKED
    )
    assert again.usage is not None and again.usage.input_tokens > response.usage.input_tokens - 20


def map_output(response: Any) -> list[Any]:
    """A conversation is continued by sending the output items back."""
    return [*(item.model_dump() for item in response.output), {"role": "user", "content": "And of Italy?"}]


def test_stream_in_the_order_that_the_client_expects(client: OpenAI) -> None:
    events = list(client.responses.create(input=QUESTION, stream=True, **ASKED))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1]
    assert last.type == "response.completed" and "".join(texts) == last.response.output_text


def test_accumulating_helper_of_the_client(client: OpenAI) -> None:
    include: Any = ["message.output_text.logprobs"]
    with client.responses.stream(input=QUESTION, include=include, top_logprobs=1, **ASKED) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text and "Paris" in final.output_text
    assert final.status == "completed"


def test_cut_off(client: OpenAI) -> None:
    response = client.responses.create(input=QUESTION, **{**ASKED, "max_output_tokens": 2})
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_must_be_made(client: OpenAI, stream: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Paris"]}}, "required": ["city"]}
    tool: Any = {"type": "function", "name": "look", "parameters": {**schema, "additionalProperties": False}}
    choice = {"type": "function", "name": "look"} if stream else "required"
    asked = {**ASKED, "max_output_tokens": 60, "tools": [tool], "tool_choice": choice}
    asked["parallel_tool_calls"] = False
    if stream:
        with client.responses.stream(input=QUESTION, **asked) as events:
            response: Any = events.get_final_response()
    else:
        response = client.responses.create(input=QUESTION, **asked)
    call = response.output[0]
    assert (response.status, call.type, call.name) == ("completed", "function_call", "look")
    assert json.loads(call.arguments)["city"] in ("Rome", "Paris")


def test_structured_output(client: OpenAI) -> None:
    class Capital(pydantic.BaseModel):
        city: Literal["Rome", "Paris"]

    response = client.responses.parse(
        input=QUESTION, text_format=Capital, **{**ASKED, "max_output_tokens": 60}
    )
    assert response.output_parsed is not None and response.output_parsed.city in ("Rome", "Paris")


@pytest.mark.parametrize(
    "fields, error, code",
    [
        ({"store": True}, openai.BadRequestError, "unsupported_value"),
        ({"previous_response_id": "resp_0"}, openai.BadRequestError, "unsupported_parameter"),
        ({"max_output_tokens": 10**6}, openai.BadRequestError, "context_length_exceeded"),
        ({"model": "gpt-5"}, openai.NotFoundError, "model_not_found"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_become_the_clients_own(
    client: OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.responses.create(**{"input": QUESTION, "stream": stream, **ASKED, **fields})
    assert (caught.value.code, caught.value.param) == (code, next(iter(fields)))

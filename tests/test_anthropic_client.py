"""The official `anthropic` client against a server process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic
from server_process import CLIENT_KEY, CLIENT_MODEL

MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
ASKED: dict[str, Any] = {"model": CLIENT_MODEL, "max_tokens": 12, "messages": MESSAGES}
GREEDY = {"temperature": 0}  # which this version of the client has no argument for any more


@pytest.fixture
def client(demo_url: str) -> Iterator[Anthropic]:
    with Anthropic(base_url=demo_url, api_key=CLIENT_KEY, max_retries=0, timeout=120) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def test_message(client: Anthropic) -> None:
    message = client.messages.create(
        extra_body=GREEDY, **ASKED, system="Answer in one sentence.", metadata={"user_id": "me"}
    )
    assert "Paris" in text_of(message)
    assert (message.role, message.model, message.stop_reason) == ("assistant", CLIENT_MODEL, "end_turn")
    assert message._request_id is not None and message.id == f"msg_{message._request_id}"


def test_stream_is_the_message(client: Anthropic) -> None:
    whole = client.messages.create(extra_body=GREEDY, **ASKED)
    with client.messages.stream(extra_body=GREEDY, **ASKED) as stream:
        texts = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(texts) == text_of(final) == text_of(whole)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    cached = [each.usage.cache_read_input_tokens or 0 for each in (final, whole)]
    assert final.usage.input_tokens + cached[0] == whole.usage.input_tokens + cached[1]


def test_plain_stream_of_events(client: Anthropic) -> None:
    kinds = [event.type for event in client.messages.create(extra_body=GREEDY, **ASKED, stream=True)]
    assert kinds[:2] == ["message_start", "content_block_start"]  # the client hides pings
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


def test_reasons_to_stop(client: Anthropic) -> None:
    cut = client.messages.create(extra_body=GREEDY, **{**ASKED, "max_tokens": 2})
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 2
    stopped = client.messages.create(extra_body=GREEDY, **ASKED, stop_sequences=["capital"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "capital")
    assert text_of(stopped) == "The "


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_must_be_made(client: Anthropic, stream: bool) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Paris"]}}, "required": ["city"]}
    tool: Any = {"name": "look", "input_schema": {**schema, "additionalProperties": False}}
    asked: Any = {
        **ASKED,
        "max_tokens": 100,
        "tools": [tool],
        "tool_choice": {
            "disable_parallel_tool_use": True,
            **({"type": "tool", "name": "look"} if stream else {"type": "any"}),
        },
    }
    if stream:
        with client.messages.stream(extra_body=GREEDY, **asked) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(extra_body=GREEDY, **asked)
    (block,) = message.content
    assert message.stop_reason == "tool_use" and block.type == "tool_use" and block.name == "look"
    assert block.input["city"] in ("Rome", "Paris")


def test_count_tokens(client: Anthropic) -> None:
    counted = client.messages.count_tokens(model=CLIENT_MODEL, messages=MESSAGES)
    usage = client.messages.create(extra_body=GREEDY, **{**ASKED, "max_tokens": 1}).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_the_clients_models(client: Anthropic) -> None:
    assert [model.id for model in client.models.list()] == [CLIENT_MODEL]


@pytest.mark.parametrize(
    "fields, error",
    [
        ({"max_tokens": 10**6}, anthropic.BadRequestError),
        ({"temperature": 9}, anthropic.BadRequestError),
        ({"container": "c"}, anthropic.BadRequestError),
        ({"model": "claude"}, anthropic.NotFoundError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_become_the_clients_own(
    client: Anthropic, fields: dict[str, Any], error: type[anthropic.APIStatusError], stream: bool
) -> None:
    with pytest.raises(error) as caught:
        client.messages.create(extra_body=fields, stream=stream, **ASKED)
    body: Any = caught.value.body
    assert body["type"] == "error" and body["error"]["param"] == next(iter(fields))
    assert caught.value.request_id == body["request_id"]


def test_wrong_key(demo_url: str) -> None:
    with (
        Anthropic(base_url=demo_url, api_key="wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError, match="API key is not valid"),
    ):
        client.messages.create(extra_body=GREEDY, **ASKED)

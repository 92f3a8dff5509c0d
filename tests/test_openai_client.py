"""The official `openai` client against a server process: what people's programs will do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from server_process import CLIENT_KEY as KEY
from server_process import wait_idle

MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
PROMPT = "The capital of France is"


@pytest.fixture
def client(demo_url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{demo_url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smol"]
    assert client.models.retrieve("smol").owned_by == "octavo"


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smol",
        messages=MESSAGES,
        temperature=0,
        max_completion_tokens=12,
        logprobs=True,
        top_logprobs=2,
    )
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content is not None and "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == (
        answer.usage.prompt_tokens + answer.usage.completion_tokens
    )
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    told = b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content)
    assert told.startswith(choice.message.content.encode())
    assert all(len(entry.top_logprobs) == 2 for entry in choice.logprobs.content)


def test_chat_streamed_is_chat(client: OpenAI) -> None:
    settings: dict[str, Any] = {"model": "smol", "messages": MESSAGES, "temperature": 0, "max_tokens": 10}
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_accumulating_helper_of_the_client(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="smol", messages=MESSAGES, temperature=0, max_tokens=10, logprobs=True
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= kinds
    assert final.choices[0].message.content is not None and "Paris" in final.choices[0].message.content


def test_completions(client: OpenAI) -> None:
    answer = client.completions.create(
        model="smol", prompt=[PROMPT, PROMPT], n=2, max_tokens=4, temperature=0, logprobs=1, echo=False
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in answer.choices}) == 1 and "Paris" in answer.choices[0].text
    assert answer.choices[0].logprobs is not None
    assert "".join(answer.choices[0].logprobs.tokens or ()) == answer.choices[0].text


def test_completions_streamed_with_extensions(client: OpenAI) -> None:
    extra = {"top_k": 1, "min_tokens": 3, "ignore_eos": True, "repetition_penalty": 1.0}
    stream = client.completions.create(
        model="smol", prompt=PROMPT, max_tokens=5, stream=True, seed=3, stop=["never there"], extra_body=extra
    )
    assert "Paris" in "".join(chunk.choices[0].text for chunk in stream)


def test_async_streams_together(demo_url: str) -> None:
    async def ask(client: AsyncOpenAI, number: int) -> tuple[str, str | None]:
        stream = await client.chat.completions.create(
            model="smol",
            messages=[{"role": "user", "content": f"What is {number} plus one?"}],
            temperature=0,
            max_tokens=4,
            stream=True,
        )
        text, reason = "", None
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        return text, reason

    async def ask_all() -> list[tuple[str, str | None]]:
        async with AsyncOpenAI(base_url=f"{demo_url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
            return await asyncio.gather(*(ask(client, number % 4) for number in range(16)))

    answers = asyncio.run(ask_all())
    assert all(text and reason in ("length", "stop") for text, reason in answers)
    assert answers[:4] * 4 == answers


def test_stream_closed_early_stops_the_engine(client: OpenAI, demo_url: str) -> None:
    settings: dict[str, Any] = {"extra_body": {"ignore_eos": True}, "max_tokens": 900}
    left = 'octavo_requests_total{cause="disconnect"}'
    with httpx.Client(base_url=demo_url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http:
        before = wait_idle(http)
        stream = client.chat.completions.create(model="smol", messages=MESSAGES, stream=True, **settings)
        next(iter(stream))
        stream.close()
        assert wait_idle(http)[left] - before[left] == 1


@pytest.mark.parametrize(
    "settings, error, code, param",
    [
        ({"temperature": 3}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"max_tokens": 10**6}, openai.BadRequestError, "context_length_exceeded", "max_tokens"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"tools": []}, openai.BadRequestError, "invalid_value", "tools"),
        ({"model": "gpt-4"}, openai.NotFoundError, "model_not_found", "model"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_become_the_clients_own(
    client: OpenAI,
    settings: dict[str, Any],
    error: type[openai.APIStatusError],
    code: str,
    param: str,
    stream: bool,
) -> None:
    with pytest.raises(error) as caught:
        client.chat.completions.create(
            **{"model": "smol", "messages": MESSAGES, "stream": stream, **settings}
        )
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.request_id
    assert caught.value.type == "invalid_request_error"


def test_wrong_key(demo_url: str) -> None:
    with (
        OpenAI(base_url=f"{demo_url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_no_such_route(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="smol", input="x")
    assert caught.value.code == "not_found"


def test_unknown_fields_do_not_disturb(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="smol", messages=MESSAGES, max_tokens=1, extra_body={"chat_id": "7", "tab": {"x": 1}}
    )
    assert raw.headers["x-octavo-ignored-fields"] == "chat_id, tab"
    assert raw.parse().choices[0].finish_reason == "length"

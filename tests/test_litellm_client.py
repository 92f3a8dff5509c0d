"""LiteLLM, as a client of each API that it can speak, against a server process."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import os
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from server_process import CLIENT_KEY, CLIENT_MODEL

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read when it is imported: it would ask the network

import litellm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its use of pydantic

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module", autouse=True)
def _loop() -> Iterator[None]:
    """LiteLLM asks for an event loop, and would leave it and its connections to whoever collects them."""
    untyped: Any = litellm
    with asyncio.Runner() as runner:
        asyncio.set_event_loop(runner.get_loop())
        yield
        runner.run(untyped.close_litellm_async_clients())
    asyncio.set_event_loop(None)
    clients = untyped.in_memory_llm_clients_cache
    for client in [*clients.cache_dict.values(), litellm.module_level_client]:
        if hasattr(client, "close") and not inspect.iscoroutinefunction(client.close):
            client.close()
    clients.flush_cache()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def asked(demo_url: str) -> dict[str, Any]:
    return {"api_key": CLIENT_KEY, "api_base": f"{demo_url}/v1", "temperature": 0, "max_retries": 0}


def test_chat(asked: dict[str, Any]) -> None:
    answer: Any = litellm.completion(f"openai/{CLIENT_MODEL}", MESSAGES, max_tokens=12, **asked)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 1


def test_chat_streamed_keeps_the_usage_chunk(asked: dict[str, Any]) -> None:
    chunks = list(
        litellm.completion(
            f"openai/{CLIENT_MODEL}",
            MESSAGES,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
            **asked,
        )
    )
    built: Any = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert "Paris" in built.choices[0].message.content
    assert built.choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == built.usage.completion_tokens > 1


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_a_call_that_must_be_made(asked: dict[str, Any], demo_url: str, provider: str) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome", "Paris"]}}, "required": ["city"]}
    tool = {"name": "look", "parameters": {**schema, "additionalProperties": False}}
    settings = {**asked, "api_base": demo_url if provider == "anthropic" else asked["api_base"]}
    answer: Any = litellm.completion(
        f"{provider}/{CLIENT_MODEL}",
        MESSAGES,
        max_tokens=60,
        tools=[{"type": "function", "function": tool}],
        tool_choice="required",
        parallel_tool_calls=False,
        **settings,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "look" and answer.choices[0].finish_reason == "tool_calls"
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Paris")


@pytest.mark.parametrize("stream", [False, True])
def test_completion(asked: dict[str, Any], stream: bool) -> None:
    answer: Any = litellm.text_completion(
        prompt="The capital of France is",
        model=f"text-completion-openai/{CLIENT_MODEL}",
        max_tokens=4,
        stream=stream,
        **asked,
    )
    texts = (
        [chunk.choices[0].text or "" for chunk in answer if chunk.choices]
        if stream
        else [answer.choices[0].text]
    )
    assert "Paris" in "".join(texts)


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic(asked: dict[str, Any], demo_url: str, stream: bool) -> None:
    answer: Any = litellm.completion(
        f"anthropic/{CLIENT_MODEL}", MESSAGES, max_tokens=12, stream=stream, **{**asked, "api_base": demo_url}
    )
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
    assert "Paris" in text


def test_responses(asked: dict[str, Any]) -> None:
    answer: Any = litellm.responses(
        model=f"openai/{CLIENT_MODEL}", input="What is the capital of France?", max_output_tokens=12, **asked
    )
    assert answer.status == "completed" and "Paris" in answer.output[0].content[0].text


@pytest.mark.parametrize(
    "changes, error",
    [
        ({"temperature": 3}, litellm.exceptions.BadRequestError),
        ({"max_tokens": 10**6}, litellm.exceptions.ContextWindowExceededError),
        ({"model": "openai/gpt"}, litellm.exceptions.NotFoundError),
        ({"api_key": "wrong"}, litellm.exceptions.AuthenticationError),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_become_the_clients_own(
    asked: dict[str, Any], changes: dict[str, Any], error: type[Exception], stream: bool
) -> None:
    fields = {"model": f"openai/{CLIENT_MODEL}", **asked, **changes}
    with pytest.raises(error):
        litellm.completion(messages=MESSAGES, stream=stream, **fields)

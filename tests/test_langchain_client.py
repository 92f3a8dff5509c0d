"""LangChain's ChatOpenAI against a server process, over chat completions and over responses."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel
from server_process import CLIENT_KEY, CLIENT_MODEL

LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
QUESTION = "What is the capital of France?"


def model(demo_url: str, **settings: Any) -> ChatOpenAI:
    fields = {"model": CLIENT_MODEL, "temperature": 0, "max_tokens": 12, "max_retries": 0} | settings
    return ChatOpenAI(base_url=f"{demo_url}/v1", api_key=CLIENT_KEY, timeout=120, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_invoke(demo_url: str, use_responses_api: bool) -> None:
    answer = model(demo_url, use_responses_api=use_responses_api).invoke(
        [("system", "Answer in one sentence."), ("human", QUESTION)]
    )
    assert "Paris" in answer.text
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 1


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_stream(demo_url: str, use_responses_api: bool) -> None:
    chunks = list(model(demo_url, use_responses_api=use_responses_api, stream_usage=True).stream(QUESTION))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert len(chunks) > 3 and "Paris" in whole.text
    assert whole.usage_metadata is not None and whole.usage_metadata["output_tokens"] > 1


def test_logprobs_and_stop(demo_url: str) -> None:
    answer = model(demo_url).bind(logprobs=True, top_logprobs=1, stop=["capital"]).invoke(QUESTION)
    assert answer.text == "The "
    assert answer.response_metadata["logprobs"]["content"][0]["token"] == "The"


def test_batch_and_async(demo_url: str) -> None:
    short = model(demo_url, max_tokens=3)
    answers = short.batch([QUESTION, QUESTION])
    assert answers[0].text == answers[1].text == asyncio.run(short.ainvoke(QUESTION)).text


def test_completion(demo_url: str) -> None:
    llm = OpenAI(
        model=CLIENT_MODEL,
        temperature=0,
        max_tokens=4,
        base_url=f"{demo_url}/v1",
        api_key=CLIENT_KEY,  # type: ignore[arg-type]
    )
    assert "Paris" in llm.invoke("The capital of France is")
    assert "Paris" in "".join(llm.stream("The capital of France is"))


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_a_call_that_must_be_made(demo_url: str, use_responses_api: bool) -> None:
    """`required`, one call of what is bound, and what the conversation is then."""
    asked = model(demo_url, use_responses_api=use_responses_api, max_tokens=60)
    bound = asked.bind_tools([LOOK], tool_choice="required", parallel_tool_calls=False)
    answer = bound.invoke(QUESTION)
    (call,) = answer.tool_calls
    assert call["name"] == "look" and call["args"]["city"] in ("Rome", "Paris") and call["id"]
    result = ToolMessage("It rains.", tool_call_id=call["id"])
    last = asked.bind_tools([LOOK], tool_choice="none").invoke([HumanMessage(QUESTION), answer, result])
    assert last.text and not last.tool_calls


def test_structured_output(demo_url: str) -> None:
    class Capital(BaseModel):
        """A city."""

        city: Literal["Rome", "Paris"]

    for method in ("json_schema", "function_calling"):
        asked = model(demo_url, max_tokens=60).with_structured_output(Capital, method=method)
        answer = asked.invoke(QUESTION)
        assert isinstance(answer, Capital)


@pytest.mark.parametrize("use_responses_api", [False, True])
def test_errors_become_the_clients_own(demo_url: str, use_responses_api: bool) -> None:
    with pytest.raises(openai.BadRequestError):
        model(demo_url, use_responses_api=use_responses_api, max_tokens=10**6).invoke(QUESTION)
    with pytest.raises(openai.NotFoundError):
        list(model(demo_url, use_responses_api=use_responses_api, model="gpt").stream(QUESTION))

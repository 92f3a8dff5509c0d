"""`thinking_token_budget` and Anthropic's `thinking`, from each route to what the engine is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_harness import ScriptedClient, byte_tokenizer, make_app, serve
from tokenizers import AddedToken
from tool_templates import QWEN, TOKENS

from octavo.app.chat_template import ChatTemplate
from octavo.app.tokenizer import Tokenizer
from octavo.scheduler.thinking_limit import ThinkingLimit

MESSAGES = [{"role": "user", "content": "hi"}]
OPENING, CLOSING, VOCAB_SIZE = 257, 258, 259
CHAT, RESPONSES, ANTHROPIC = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def thinking_tokenizer() -> Tokenizer:
    """With tokens for the tags, which are no special ones, as in Qwen3."""
    plain = byte_tokenizer()
    plain.backend.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return Tokenizer(plain.backend, eos_token_ids=plain.eos_token_ids)


@pytest.fixture(scope="module")
def engine() -> ScriptedClient:
    return ScriptedClient("<think>Hm.</think>Yes.")


@pytest.fixture(scope="module")
def http(engine: ScriptedClient) -> Iterator[httpx.Client]:
    template = ChatTemplate(QWEN, TOKENS)
    app = make_app(engine, chat_template=template, tokenizer=thinking_tokenizer(), vocab_size=VOCAB_SIZE)
    with serve(app) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": MESSAGES, "thinking_token_budget": 7}),
        (RESPONSES, {"input": "hi", "thinking_token_budget": 7}),
        (ANTHROPIC, {"messages": MESSAGES, "max_tokens": 90, "thinking_token_budget": 7}),
        (
            ANTHROPIC,
            {"messages": MESSAGES, "max_tokens": 90, "thinking": {"type": "enabled", "budget_tokens": 7}},
        ),
    ],
)
def test_every_route_asks_for_it(
    http: httpx.Client, engine: ScriptedClient, path: str, fields: dict[str, Any]
) -> None:
    response = http.post(path, json=fields)
    assert response.status_code == 200, response.text
    assert "Hm." in response.text and "x-octavo-ignored-fields" not in response.headers
    assert engine.requests[-1].thinking == ThinkingLimit(7, OPENING, CLOSING, False, VOCAB_SIZE)


def test_all_choices_have_it_and_nobody_else(http: httpx.Client, engine: ScriptedClient) -> None:
    before = len(engine.requests)
    http.post(CHAT, json={"messages": MESSAGES, "n": 2, "temperature": 1, "thinking_token_budget": 0})
    assert [r.thinking and r.thinking.num_tokens for r in engine.requests[before:]] == [0, 0]
    http.post(CHAT, json={"messages": MESSAGES})
    http.post(ANTHROPIC, json={"messages": MESSAGES, "max_tokens": 90, "thinking": {"type": "adaptive"}})
    assert [request.thinking for request in engine.requests[-2:]] == [None, None]


def test_a_prompt_that_opens_the_reasoning(http: httpx.Client, engine: ScriptedClient) -> None:
    message = {"role": "assistant", "content": "<think>"}
    fields = {"messages": [*MESSAGES, message], "continue_final_message": True, "thinking_token_budget": 3}
    assert http.post(CHAT, json=fields).status_code == 200
    assert engine.requests[-1].thinking == ThinkingLimit(3, OPENING, CLOSING, True, VOCAB_SIZE)


@pytest.mark.parametrize(
    ("value", "code"),
    [(-1, "invalid_value"), ("7", "invalid_type"), (1.5, "invalid_type"), (True, "invalid_type")],
)
def test_wrong_values(http: httpx.Client, value: Any, code: str) -> None:
    response = http.post(CHAT, json={"messages": MESSAGES, "thinking_token_budget": value})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, code, "thinking_token_budget")


@pytest.mark.parametrize(
    ("source", "cause"),
    [(QWEN, "no tokens of their own"), ("{{ messages[0].content }}", "not known to reason")],
)
def test_a_model_whose_reasoning_cannot_be_limited(source: str, cause: str) -> None:
    app = make_app(ScriptedClient(), chat_template=ChatTemplate(source, TOKENS))
    with serve(app) as url:
        response = httpx.post(url + CHAT, json={"messages": MESSAGES, "thinking_token_budget": 7}, timeout=60)
        text = httpx.post(
            url + "/v1/completions", json={"prompt": "x", "thinking_token_budget": 7}, timeout=60
        )
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "unsupported_parameter")
    assert error["param"] == "thinking_token_budget" and cause in error["message"]
    assert text.status_code == 400 and text.json()["error"]["param"] == "thinking_token_budget"

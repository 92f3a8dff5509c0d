"""What fields of a request change in its answer, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_harness import CHAT, COMPLETIONS, EOS, HELLO, MAX_MODEL_LEN, REPLY, ScriptedClient, make_app, serve

PROMPT = b"user: hi\nassistant: "
REPLY_IDS = [*REPLY.encode(), EOS]


@pytest.fixture(scope="module")
def engine() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(scope="module")
def http(engine: ScriptedClient) -> Iterator[httpx.Client]:
    settings = {"trust_request_chat_template": True, "max_logprobs": -1}
    with serve(make_app(engine, settings)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def chunks(http: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    text = http.post(path, json={**body, "stream": True}).text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def test_token_ids_of_a_chat(http: httpx.Client) -> None:
    body = {**HELLO, "return_token_ids": True, "return_prompt_text": True}
    whole = http.post(CHAT, json=body).json()
    assert whole["prompt_token_ids"] == list(PROMPT)
    assert whole["prompt_text"] == PROMPT.decode()
    assert whole["choices"][0]["token_ids"] == REPLY_IDS
    first, *others = chunks(http, CHAT, {**body, "stream_options": {"include_usage": True}})
    assert (first["prompt_token_ids"], first["prompt_text"]) == (list(PROMPT), PROMPT.decode())
    assert all(chunk["prompt_token_ids"] is chunk["prompt_text"] is None for chunk in others)
    assert {tuple(chunk) for chunk in others} == {tuple(first)}
    told = [choice["token_ids"] for chunk in (first, *others) for choice in chunk["choices"]]
    assert [token for ids in told for token in ids] == REPLY_IDS


def test_token_ids_of_completions(http: httpx.Client) -> None:
    body = {"prompt": ["ab", "c"], "max_tokens": 3, "n": 2, "return_token_ids": True}
    whole = http.post(COMPLETIONS, json=body).json()["choices"]
    assert [choice["prompt_token_ids"] for choice in whole] == [[97, 98]] * 2 + [[99]] * 2
    assert [choice["token_ids"] for choice in whole] == [REPLY_IDS[:3]] * 4
    prompts: dict[int, Any] = {}
    ids: dict[int, list[int]] = {}
    keys = set()
    for chunk in chunks(http, COMPLETIONS, body):
        (choice,) = chunk["choices"]
        keys.add(tuple(choice))
        if choice["prompt_token_ids"] is not None:
            assert choice["index"] not in ids, "the first chunk of a choice tells of its prompt"
            prompts[choice["index"]] = choice["prompt_token_ids"]
        ids.setdefault(choice["index"], []).extend(choice["token_ids"])
    assert len(keys) == 1
    assert prompts == {i: choice["prompt_token_ids"] for i, choice in enumerate(whole)}
    assert ids == dict.fromkeys(range(4), REPLY_IDS[:3])


def test_nobody_who_did_not_ask_is_told(http: httpx.Client) -> None:
    whole = http.post(CHAT, json=HELLO).json()
    assert not {"prompt_token_ids", "prompt_text"} & whole.keys()
    assert "token_ids" not in whole["choices"][0]


def test_tokens_named_by_their_ids(http: httpx.Client) -> None:
    chat = {**HELLO, "logprobs": True, "top_logprobs": 1, "return_tokens_as_token_ids": True}
    entry = http.post(CHAT, json=chat).json()["choices"][0]["logprobs"]["content"][0]
    assert (entry["token"], entry["bytes"]) == ("token_id:71", [71])
    assert entry["top_logprobs"][0]["token"] == "token_id:65"
    body = {"prompt": "a", "logprobs": 1, "max_tokens": 2, "return_tokens_as_token_ids": True}
    told = http.post(COMPLETIONS, json=body).json()["choices"][0]["logprobs"]
    assert told["tokens"] == ["token_id:71", "token_id:114"]
    assert told["top_logprobs"][0] == {"token_id:71": -0.5, "token_id:65": -0.5}
    assert told["text_offset"] == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_chat_echo_begins_with_what_the_assistant_said(http: httpx.Client, stream: bool) -> None:
    said = [*HELLO["messages"], {"role": "assistant", "content": "Well, "}]
    body = {"messages": said, "echo": True, "continue_final_message": True}
    assert said_by(http, body, stream) == "Well, " + REPLY
    assert said_by(http, {**HELLO, "echo": True}, stream) == REPLY  # a user's words are not echoed


def said_by(http: httpx.Client, body: dict[str, Any], stream: bool) -> str:
    if stream:
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks(http, CHAT, body)]
        return "".join(delta.get("content", "") for delta in deltas)
    text: str = http.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize(
    "fields, kept",
    [
        ({"truncate_prompt_tokens": 3}, b"nt: "[1:]),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, b"use"),
        ({"truncate_prompt_tokens": 100}, PROMPT),
        ({"truncate_prompt_tokens": -1}, PROMPT),
    ],
)
def test_prompts_are_truncated(
    http: httpx.Client, engine: ScriptedClient, fields: dict[str, Any], kept: bytes
) -> None:
    assert http.post(CHAT, json={**HELLO, **fields}).status_code == 200
    assert bytes(engine.requests[-1].prompt_token_ids) == kept


def test_truncation_makes_a_long_prompt_fit(http: httpx.Client, engine: ScriptedClient) -> None:
    body = {"prompt": "x" * MAX_MODEL_LEN + "end", "max_tokens": 5}
    assert http.post(COMPLETIONS, json=body).status_code == 400
    assert http.post(COMPLETIONS, json={**body, "truncate_prompt_tokens": -1}).status_code == 200
    assert len(engine.requests[-1].prompt_token_ids) == MAX_MODEL_LEN - 5
    assert bytes(engine.requests[-1].prompt_token_ids).endswith(b"end")
    short = {**body, "prompt": [1, 2, 3], "truncate_prompt_tokens": 2, "echo": True, "max_tokens": 4}
    assert http.post(COMPLETIONS, json=short).json()["choices"][0]["text"] == "\x02\x03" + REPLY[:3]
    assert list(engine.requests[-1].prompt_token_ids) == [2, 3]


def test_a_template_and_documents_of_the_request(http: httpx.Client, engine: ScriptedClient) -> None:
    body = {
        **HELLO,
        "chat_template": "{{ messages[0].content }}|{{ documents[0].text }}|{{ mood }}",
        "chat_template_kwargs": {"mood": "good"},
        "documents": [{"text": "sky"}],
    }
    assert http.post(CHAT, json=body).status_code == 200
    assert bytes(engine.requests[-1].prompt_token_ids) == b"hi|sky|good"
    told = http.post("/tokenize", json={**HELLO, "chat_template": "{{ messages[0].role }}"}).json()
    assert bytes(told["tokens"]) == b"user"


def test_a_template_that_is_no_template(http: httpx.Client) -> None:
    error = http.post(CHAT, json={**HELLO, "chat_template": "{% if %}"}).json()["error"]
    assert error["param"] == "chat_template"


def test_templates_of_requests_need_trust() -> None:
    with serve(make_app(ScriptedClient())) as url:
        for path in (CHAT, "/tokenize"):
            response = httpx.post(f"{url}{path}", json={**HELLO, "chat_template": "x"}, timeout=60)
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (400, "chat_template")
            assert "--trust-request-chat-template" in error["message"]


def test_all_alternatives(http: httpx.Client, engine: ScriptedClient) -> None:
    body = {**HELLO, "logprobs": True, "top_logprobs": -1, "max_tokens": 1}
    content = http.post(CHAT, json=body).json()["choices"][0]["logprobs"]["content"]
    assert engine.requests[-1].params.logprobs == 300 == len(content[0]["top_logprobs"])


def test_prompt_logprobs(http: httpx.Client) -> None:
    whole = http.post(CHAT, json={**HELLO, "prompt_logprobs": 1}).json()
    told = whole["prompt_logprobs"]
    assert len(told) == len(PROMPT) and told[0] is None
    assert told[1] == {
        "115": {"logprob": -0.125, "rank": 2, "decoded_token": "s"},
        "65": {"logprob": -0.5, "rank": 1, "decoded_token": "A"},
    }
    body = {"prompt": ["ab", "cde"], "max_tokens": 2, "n": 2, "prompt_logprobs": 0}
    choices = http.post(COMPLETIONS, json=body).json()["choices"]
    assert [len(choice["prompt_logprobs"]) for choice in choices] == [2, 2, 3, 3]
    assert choices[3]["prompt_logprobs"][2] == {"101": {"logprob": -0.25, "rank": 2, "decoded_token": "e"}}


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_echoed_logprobs(http: httpx.Client, max_tokens: int) -> None:
    """What evaluation harnesses ask: how likely is this text?"""
    body = {"prompt": ["abc", "d"], "echo": True, "logprobs": 1, "max_tokens": max_tokens}
    whole = http.post(COMPLETIONS, json=body).json()
    first, second = whole["choices"]
    # "Gr" and half of a character, which a text cut there shows as U+FFFD.
    said = ["G", "r", "\ufffd"][:max_tokens]
    assert first["text"] == "abc" + "".join(said)
    assert first["finish_reason"] == "length"
    assert first["logprobs"] == {
        "tokens": ["a", "b", "c", *said],
        "token_logprobs": [None, -0.125, -0.25, *[-0.5] * max_tokens],
        "text_offset": list(range(3 + max_tokens)),
        "top_logprobs": [None, {"b": -0.125, "A": -0.5}, {"c": -0.25, "A": -0.5}]
        + [{token: -0.5, "A": -0.5} for token in said],
    }
    assert second["logprobs"]["token_logprobs"] == [None, *[-0.5] * max_tokens]
    assert whole["usage"]["completion_tokens"] == 2 * max_tokens
    told: dict[int, list[Any]] = {0: [], 1: []}
    texts = {0: "", 1: ""}
    for chunk in chunks(http, COMPLETIONS, body):
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        if choice["logprobs"] is not None:
            told[choice["index"]] += choice["logprobs"]["token_logprobs"]
    assert texts == {i: choice["text"] for i, choice in enumerate(whole["choices"])}
    assert told == {i: choice["logprobs"]["token_logprobs"] for i, choice in enumerate(whole["choices"])}


def test_echo_alone(http: httpx.Client) -> None:
    answer = http.post(COMPLETIONS, json={"prompt": "abc", "echo": True, "max_tokens": 0}).json()
    choice = answer["choices"][0]
    assert (choice["text"], choice["logprobs"], answer["usage"]["completion_tokens"]) == ("abc", None, 0)

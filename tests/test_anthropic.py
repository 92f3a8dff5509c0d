"""/v1/messages and its count of tokens over HTTP: Anthropic's objects, events, errors and headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_harness import REPLY, ScriptedClient, make_app, serve
from test_responses_api import events_of, prompt_of

from octavo.model.grammar import StructuredOutputsParams

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
HELLO: dict[str, Any] = {"max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
KEY = "secret"


@pytest.fixture(scope="module")
def engine() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(scope="module")
def http(engine: ScriptedClient) -> Iterator[httpx.Client]:
    app = make_app(engine, {"api_keys": (KEY,)})
    with serve(app) as url, httpx.Client(base_url=url, timeout=60, headers={"x-api-key": KEY}) as client:
        yield client


def ask(http: httpx.Client, text: str, **fields: Any) -> httpx.Response:
    return http.post(PATH, json={**HELLO, "messages": [{"role": "user", "content": text}], **fields})


def check_error(response: httpx.Response, status: int, kind: str, code: str, param: str | None) -> None:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["type", "error", "request_id"] and body["type"] == "error"
    assert list(body["error"]) == ["type", "message", "param", "code"]
    assert (body["error"]["type"], body["error"]["code"], body["error"]["param"]) == (kind, code, param)
    assert body["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    assert "max_completion_tokens" not in body["error"]["message"]


def test_whole(http: httpx.Client, engine: ScriptedClient) -> None:
    system = [{"type": "text", "text": "be ", "cache_control": {"type": "ephemeral"}}]
    system += [{"type": "text", "text": "brief"}]
    response = ask(http, "hi", system=system, top_k=3, temperature=0.5, metadata={"user_id": "me"})
    body = response.json()
    assert prompt_of(engine) == "system: be brief\nuser: hi\nassistant: "
    assert body["id"] == f"msg_{response.headers['request-id']}"
    assert (body["type"], body["role"], body["model"]) == ("message", "assistant", "toy")
    assert body["content"] == [{"type": "text", "text": REPLY, "citations": None}]
    assert (body["stop_reason"], body["stop_sequence"]) == ("end_turn", None)
    assert body["usage"].pop("timings")["decode_ms"] >= 0
    assert body["usage"] == {
        "input_tokens": len(engine.requests[-1].prompt_token_ids) - 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 3,
        "output_tokens": len(REPLY.encode()) + 1,
    }
    params = engine.requests[-1].params
    assert (params.top_k, params.temperature, engine.requests[-1].max_tokens) == (3, 0.5, 100)


def test_stream_builds_up_the_message(http: httpx.Client) -> None:
    events = events_of(ask(http, "hi", stream=True).text)
    names = [name for name, _ in events]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert set(names[3:-3]) == {"content_block_delta"}
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta") == REPLY
    whole = ask(http, "hi").json()
    built = {**events[0][1]["message"], **events[-2][1]["delta"], "usage": events[-2][1]["usage"]}
    built["content"] = [{**events[2][1]["content_block"], "text": REPLY}]
    assert built["usage"].pop("timings") and whole["usage"].pop("timings")
    assert {**built, "id": None} == {**whole, "id": None}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"max_tokens": 3}, ("max_tokens", None)),
        ({"stop_sequences": ["nie", "an"]}, ("stop_sequence", "an")),
        ({"stop_token_ids": [ord("r")]}, ("end_turn", None)),
    ],
)
def test_reasons_to_stop(
    http: httpx.Client, fields: dict[str, Any], expected: tuple[str, str | None], stream: bool
) -> None:
    response = ask(http, "hi", stream=stream, **fields)
    told = events_of(response.text)[-2][1]["delta"] if stream else response.json()
    assert (told["stop_reason"], told["stop_sequence"]) == expected


def test_an_answer_that_has_begun_goes_on(http: httpx.Client, engine: ScriptedClient) -> None:
    block = [{"type": "text", "text": "Grü"}]
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": block}]
    assert http.post(PATH, json={**HELLO, "messages": messages}).status_code == 200
    assert prompt_of(engine) == "user: hi\nassistant: Grü"


@pytest.mark.parametrize("old", [False, True])
def test_form_of_the_answer(http: httpx.Client, engine: ScriptedClient, old: bool) -> None:
    form = {"type": "json_schema", "schema": {"type": "null"}}
    assert ask(
        http, "hi", **({"output_format": form} if old else {"output_config": {"format": form}})
    ).is_success
    grammar = StructuredOutputsParams(json={"type": "null"}).to_grammar()
    assert engine.requests[-1].params.structured_outputs == grammar


def test_count_tokens_counts_the_prompt(http: httpx.Client, engine: ScriptedClient) -> None:
    asked = {"system": "be brief", "messages": HELLO["messages"]}
    num_requests = len(engine.requests)
    counted = http.post(COUNT, json=asked).json()
    assert len(engine.requests) == num_requests
    http.post(PATH, json={**asked, "max_tokens": 1})
    assert counted == {"input_tokens": len(engine.requests[-1].prompt_token_ids)}


@pytest.mark.parametrize("word, message", [("broken", "NaN"), ("dead", "died")])
def test_failure_in_the_stream(http: httpx.Client, word: str, message: str) -> None:
    name, last = events_of(ask(http, word, stream=True).text)[-1]
    assert name == "error" and last["error"]["type"] == "api_error"
    assert message in last["error"]["message"]


@pytest.mark.parametrize(
    "fields, code, param",
    [
        ({"max_tokens": None}, "missing_required_parameter", "max_tokens"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"max_tokens": 10**6}, "context_length_exceeded", "max_tokens"),
        ({"messages": None}, "missing_required_parameter", "messages"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": ["x"]}, "invalid_type", "messages[0]"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": []}]}, "invalid_value", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "unsupported_value",
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "missing_required_parameter",
            "messages[0].content[0].text",
        ),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "invalid_type", "messages[0].content[0]"),
        ({"system": 7}, "invalid_type", "system"),
        ({"system": [{"type": "image"}]}, "unsupported_value", "system[0].type"),
        ({"stop_sequences": [""]}, "invalid_value", "stop_sequences"),
        ({"stop_sequences": "x"}, "invalid_type", "stop_sequences"),
        ({"temperature": -1}, "invalid_value", "temperature"),
        ({"tools": [{"name": "f"}]}, "missing_required_parameter", "tools[0].input_schema"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "unsupported_value", "tools[0].type"),
        (
            {"tools": [{"name": "f", "input_schema": {"type": "array"}}]},
            "invalid_value",
            "tools[0].input_schema.type",
        ),
        ({"tool_choice": {"type": "any"}}, "invalid_value", "tool_choice"),
        (
            {"tools": [{"name": "f", "input_schema": {}}], "tool_choice": {"type": "tool"}},
            "missing_required_parameter",
            "tool_choice.name",
        ),
        ({"thinking": {"type": "enabled"}}, "missing_required_parameter", "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 100}}, "invalid_value", "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "invalid_value", "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": "1"}}, "invalid_type", "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "unsupported_parameter", "thinking"),
        ({"thinking": {"type": "adaptive", "budget_tokens": 5}}, "invalid_value", "thinking.budget_tokens"),
        ({"thinking": {"type": "deep"}}, "unsupported_value", "thinking.type"),
        ({"thinking": {}}, "missing_required_parameter", "thinking.type"),
        ({"thinking": 5}, "invalid_type", "thinking"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "unsupported_value", "thinking.display"),
        (
            {"thinking": {"type": "adaptive"}, "thinking_token_budget": 5},
            "invalid_value",
            "thinking_token_budget",
        ),
        ({"output_config": {"effort": "low"}}, "unsupported_parameter", "output_config.effort"),
        ({"output_config": {"format": {"type": "x"}}}, "unsupported_value", "output_config.format.type"),
        ({"output_format": {"type": "json_schema"}}, "missing_required_parameter", "output_format.schema"),
        ({"mcp_servers": [{}]}, "unsupported_value", "mcp_servers"),
    ],
)
def test_refusals(http: httpx.Client, fields: dict[str, Any], code: str, param: str) -> None:
    response = http.post(PATH, json={**HELLO, **fields})
    check_error(response, 400, "invalid_request_error", code, param)


def test_refusals_of_other_kinds(http: httpx.Client) -> None:
    check_error(ask(http, "hi", model="x"), 404, "not_found_error", "model_not_found", "model")
    check_error(ask(http, "full"), 503, "overloaded_error", "server_overloaded", None)
    check_error(ask(http, "broken"), 500, "api_error", "generation_failed", None)
    check_error(http.get(PATH), 405, "invalid_request_error", "method_not_allowed", None)
    check_error(http.post(f"{PATH}/batches"), 404, "not_found_error", "not_found", None)
    check_error(
        http.post(COUNT, json={"messages": 1}), 400, "invalid_request_error", "invalid_type", "messages"
    )


@pytest.mark.parametrize(
    "header", [{"x-api-key": "wrong"}, {"x-api-key": ""}, {"authorization": "Bearer no"}]
)
@pytest.mark.parametrize("path", [PATH, COUNT])
def test_wrong_key(http: httpx.Client, header: dict[str, str], path: str) -> None:
    response = httpx.post(str(http.base_url.join(path)), json=HELLO, headers=header, timeout=60)
    check_error(response, 401, "authentication_error", "invalid_api_key", None)


def test_both_ways_to_give_the_key(http: httpx.Client) -> None:
    for header in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}", "x-api-key": "placeholder"}):
        assert httpx.get(str(http.base_url.join("/v1/models")), headers=header, timeout=60).status_code == 200


def test_unknown_fields_are_named(http: httpx.Client) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "hi", "mood": 1}]}
    response = http.post(PATH, json={**HELLO, "messages": [message], "tab": 1})
    assert response.headers["x-octavo-ignored-fields"] == "tab, messages[0].content[0].mood"

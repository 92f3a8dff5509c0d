"""/v1/responses over HTTP: the object, the order of its events, and everything that is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_harness import REPLY, ScriptedClient, check_error, make_app, serve

from octavo.model.grammar import StructuredOutputsParams

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def engine() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(scope="module")
def http(engine: ScriptedClient) -> Iterator[httpx.Client]:
    with serve(make_app(engine)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def events_of(content: str) -> list[tuple[str, dict[str, Any]]]:
    """(name, data) of each event; checks that the stream is nothing but named events."""
    assert content.endswith("\n\n")
    events = []
    for frame in content.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    assert all(name == data["type"] for name, data in events)
    return events


def prompt_of(engine: ScriptedClient) -> str:
    return bytes(engine.requests[-1].prompt_token_ids).decode()


def test_whole(http: httpx.Client, engine: ScriptedClient) -> None:
    labels = {"metadata": {"k": "v"}, "user": "me", "prompt_cache_key": "p", "safety_identifier": "s"}
    asked = {"input": "hi", "instructions": "be brief", "temperature": 0.5, "top_p": 0.75, **labels}
    response = http.post(PATH, json=asked)
    body = response.json()
    assert response.headers.get("x-octavo-ignored-fields") is None
    assert prompt_of(engine) == "system: be brief\nuser: hi\nassistant: "
    assert body["id"] == f"resp_{response.headers['x-request-id']}"
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "toy")
    assert body["store"] is False and body["previous_response_id"] is None
    assert (body["temperature"], body["top_p"], body["instructions"]) == (0.5, 0.75, "be brief")
    assert {name: body[name] for name in labels} == labels
    (item,) = body["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": REPLY, "annotations": [], "logprobs": []}]
    num_prompt, num_output = len(engine.requests[-1].prompt_token_ids), len(REPLY.encode()) + 1
    assert body["usage"].pop("timings")["decode_ms"] >= 0
    assert body["usage"] == {
        "input_tokens": num_prompt,
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens": num_output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_prompt + num_output,
    }
    params = engine.requests[-1].params
    assert (params.temperature, params.top_p) == (0.5, 0.75)


def test_items_become_messages(http: httpx.Client, engine: ScriptedClient) -> None:
    answer = http.post(PATH, json={"input": "hi"}).json()["output"][0]
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    items = [
        {"role": "developer", "content": "x"},
        {"type": "message", "role": "user", "content": parts},
        answer,
        {"role": "user", "content": "y"},
    ]
    assert http.post(PATH, json={"input": items}).status_code == 200
    expected = f"system: x\nuser: a\nb\nassistant: {REPLY}\nuser: y\nassistant: "
    assert prompt_of(engine) == expected


def test_stream_builds_up_the_response(http: httpx.Client) -> None:
    asked = {"input": "hi", "metadata": {"k": "v"}}
    response = http.post(PATH, json={**asked, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = events_of(response.text)
    names = [name for name, _ in events]
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(names[4:-4]) == {"response.output_text.delta"}
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert "".join(data["delta"] for name, data in events if name.endswith("text.delta")) == REPLY
    final = events[-1][1]["response"]
    assert final["output"] == [events[-2][1]["item"]]
    assert final["output"][0]["content"] == [events[-3][1]["part"]]
    assert events[-4][1]["text"] == REPLY
    whole = http.post(PATH, json=asked).json()
    for answer in (final, whole):
        for name in ("id", "created_at", "completed_at"):
            assert answer.pop(name)
        assert answer["output"][0].pop("id") and answer["usage"].pop("timings")
    assert final == whole


def test_cut_off_is_incomplete(http: httpx.Client) -> None:
    asked = {"input": "hi", "max_output_tokens": 3}
    body = http.post(PATH, json=asked).json()
    assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert body["completed_at"] is None
    name, last = events_of(http.post(PATH, json={**asked, "stream": True}).text)[-1]
    assert name == "response.incomplete" and last["response"]["status"] == "incomplete"


def test_logprobs(http: httpx.Client) -> None:
    asked = {"input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    (part,) = http.post(PATH, json=asked).json()["output"][0]["content"]
    told = bytes(byte for entry in part["logprobs"] for byte in entry["bytes"])
    assert told == REPLY.encode() + b"<end>"
    assert {len(entry["top_logprobs"]) for entry in part["logprobs"]} == {2}
    events = events_of(http.post(PATH, json={**asked, "stream": True}).text)
    streamed = [entry for _, data in events if "delta" in data for entry in data["logprobs"]]
    assert streamed == part["logprobs"]


def test_extensions_reach_the_engine(http: httpx.Client, engine: ScriptedClient) -> None:
    extensions = {"top_k": 5, "min_p": 0.25, "seed": 7, "min_tokens": 2, "ignore_eos": True, "stop": ["zz"]}
    assert http.post(PATH, json={"input": "hi", "max_output_tokens": 9, **extensions}).status_code == 200
    request = engine.requests[-1]
    params = request.params
    assert (params.top_k, params.min_p, params.seed, params.min_tokens) == (5, 0.25, 7, 2)
    assert (params.ignore_eos, tuple(params.stop), request.max_tokens) == (True, ("zz",), 9)


def test_form_of_the_answer(http: httpx.Client, engine: ScriptedClient) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    body = http.post(PATH, json={"input": "hi", "text": {"format": form, "verbosity": "medium"}}).json()
    assert body["text"]["format"] == {**form, "description": None}
    assert engine.requests[-1].params.structured_outputs == StructuredOutputsParams(json=schema).to_grammar()
    body = http.post(PATH, json={"input": "hi", "text": {"format": {"type": "json_object"}}}).json()
    assert body["text"]["format"] == {"type": "json_object"}


@pytest.mark.parametrize("word, message", [("broken", "NaN"), ("dead", "died")])
def test_failure_in_the_stream(http: httpx.Client, word: str, message: str) -> None:
    name, last = events_of(http.post(PATH, json={"input": word, "stream": True}).text)[-1]
    assert name == "response.failed" and last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert message in last["response"]["error"]["message"]
    assert http.post(PATH, json={"input": word}).status_code == 500


def test_full_queue(http: httpx.Client) -> None:
    response = http.post(PATH, json={"input": "full", "stream": True})
    check_error(response, 503, "server_overloaded", None)
    assert response.headers["retry-after"] == "7"


@pytest.mark.parametrize(
    "fields, code, param",
    [
        ({"input": None}, "missing_required_parameter", "input"),
        ({"input": 7}, "invalid_type", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": ["x"]}, "invalid_type", "input[0]"),
        ({"input": [{"role": "user"}]}, "missing_required_parameter", "input[0].content"),
        ({"input": [{"role": "robot", "content": "x"}]}, "invalid_value", "input[0].role"),
        ({"input": [{"role": "user", "content": []}]}, "invalid_value", "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "unsupported_value", "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "unsupported_value",
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": 7}]}]},
            "invalid_type",
            "input[0].content[0].text",
        ),
        ({"store": True}, "unsupported_value", "store"),
        ({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
        ({"conversation": "conv_1"}, "unsupported_parameter", "conversation"),
        ({"background": True}, "unsupported_value", "background"),
        ({"truncation": "auto"}, "unsupported_value", "truncation"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_value", "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "invalid_value", "tools[0].name"),
        ({"tools": [TOOL], "tool_choice": {"type": "x"}}, "unsupported_value", "tool_choice.type"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}},
            "invalid_value",
            "tool_choice.name",
        ),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "unsupported_value", "text.format.type"),
        ({"text": {"format": {"type": "json_schema"}}}, "missing_required_parameter", "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": 7}}}, "invalid_type", "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "unsupported_value", "text.verbosity"),
        ({"reasoning": {"effort": "high"}}, "unsupported_parameter", "reasoning.effort"),
        ({"reasoning": {"summary": "detailed"}}, "unsupported_value", "reasoning.summary"),
        ({"stream_options": {"include_obfuscation": False}}, "invalid_value", "stream_options"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "unsupported_value",
            "stream_options.include_obfuscation",
        ),
        ({"include": ["file_search_call.results"]}, "unsupported_value", "include[0]"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        (
            {"include": ["message.output_text.logprobs"], "top_logprobs": 21},
            "invalid_value",
            "top_logprobs",
        ),
        ({"n": 2}, "unsupported_value", "n"),
        ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
        ({"max_output_tokens": 10**6}, "context_length_exceeded", "max_output_tokens"),
        ({"input": "x" * 3000}, "context_length_exceeded", "input"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"chat_template_kwargs": {"forbidden": True}}, "invalid_value", "input"),
    ],
)
def test_refusals_name_the_clients_field(
    http: httpx.Client, fields: dict[str, Any], code: str, param: str
) -> None:
    message = check_error(http.post(PATH, json={"input": "hi", **fields}), 400, code, param)
    assert "messages" not in message and "max_completion_tokens" not in message


def test_unknown_fields_are_named(http: httpx.Client) -> None:
    asked = {"input": [{"role": "user", "content": "hi", "mood": "calm"}], "text": {"tone": 1}, "tab": 1}
    response = http.post(PATH, json=asked)
    assert response.headers["x-octavo-ignored-fields"] == "tab, text.tone, input[0].mood"


def test_unknown_model(http: httpx.Client) -> None:
    check_error(http.post(PATH, json={"input": "hi", "model": "gpt"}), 404, "model_not_found", "model")

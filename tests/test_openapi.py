"""The OpenAPI document and the server agree: on routes, on what answers look like, on errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from http_harness import CHAT, ScriptedClient, make_app, serve
from starlette.routing import Route

MESSAGES = [{"role": "user", "content": "hi"}]
KEY = "secret"


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    headers = {"authorization": f"Bearer {KEY}"}
    with (
        serve(make_app(ScriptedClient(), {"api_keys": (KEY,)})) as url,
        httpx.Client(base_url=url, timeout=60, headers=headers) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(str(http.base_url.join("/openapi.json")), timeout=60).json()
    return found


def complaints(value: Any, schema: dict[str, Any], document: dict[str, Any], path: str = "$") -> list[str]:
    """Where `value` is not as the schema says, keys that it does not mention included."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        options = [complaints(value, option, document, path) for option in schema["anyOf"]]
        return min(options, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path}: {value!r} is none of {schema['enum']}"]
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "null": type(None),
    }
    kind = schema.get("type")
    if kind == "number":
        return [] if isinstance(value, int | float) else [f"{path}: {value!r} is no number"]
    if kind is not None and not isinstance(value, kinds[kind]):
        return [f"{path}: {value!r} is no {kind}"]
    found: list[str] = []
    if "properties" in schema:
        known = schema["properties"]
        found += [f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value]
        found += [f"{path}.{name} is not declared" for name in value if name not in known]
        for name in value.keys() & known.keys():
            found += complaints(value[name], known[name], document, f"{path}.{name}")
    if kind == "array":
        for i, entry in enumerate(value):
            found += complaints(entry, schema.get("items", {}), document, f"{path}[{i}]")
    return found


def answered(document: dict[str, Any], method: str, path: str, status: int) -> dict[str, Any]:
    """The schema that is declared for an answer in JSON."""
    declared = document["paths"][path][method]["responses"][str(status)]["content"]
    schema: dict[str, Any] = declared["application/json"]["schema"]
    return schema


def test_routes_are_those_of_the_document(document: dict[str, Any]) -> None:
    app = make_app(ScriptedClient())
    routes = {
        (route.path.replace(":path}", "}"), method.lower())
        for route in app.routes
        if isinstance(route, Route) and route.include_in_schema
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert routes == {(path, method) for path, methods in document["paths"].items() for method in methods}


ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("post", CHAT, {"messages": MESSAGES}),
    ("post", CHAT, {"messages": MESSAGES, "logprobs": True, "return_token_ids": True, "n": 2}),
    ("post", CHAT, {"messages": MESSAGES, "max_tokens": 2, "return_prompt_text": True, "stop": "r"}),
    ("post", "/v1/completions", {"prompt": "hi", "logprobs": 1, "return_token_ids": True}),
    ("post", "/v1/responses", {"input": "hi"}),
    (
        "post",
        "/v1/responses",
        {"input": "hi", "max_output_tokens": 2, "include": ["message.output_text.logprobs"]},
    ),
    ("post", "/v1/messages", {"messages": MESSAGES, "max_tokens": 9}),
    ("post", "/v1/messages/count_tokens", {"messages": MESSAGES}),
    ("post", "/tokenize", {"prompt": "hi", "return_token_strs": True}),
    ("post", "/detokenize", {"tokens": [70, 71]}),
    ("get", "/v1/models", {}),
    ("get", "/v1/models/toy", {}),
    ("get", "/health", {}),
    ("get", "/readyz", {}),
    ("get", "/livez", {}),
    ("get", "/version", {}),
]


@pytest.mark.parametrize("method, path, body", ASKED)
def test_answers_are_as_declared(
    http: httpx.Client, document: dict[str, Any], method: str, path: str, body: dict[str, Any]
) -> None:
    response = http.request(method, path, json=body or None)
    declared = answered(document, method, path.replace("toy", "{model}"), 200)
    assert response.status_code == 200 and not complaints(response.json(), declared, document)


@pytest.mark.parametrize(
    "path, body, kind",
    [
        (CHAT, {"messages": MESSAGES}, "ChatCompletionChunk"),
        (CHAT, {"messages": MESSAGES, "return_token_ids": True, "logprobs": True}, "ChatCompletionChunk"),
        (CHAT, {"messages": MESSAGES, "stream_options": {"include_usage": True}}, "ChatCompletionChunk"),
        ("/v1/completions", {"prompt": "hi", "return_token_ids": True}, "Completion"),
    ],
)
def test_events_are_as_declared(
    http: httpx.Client, document: dict[str, Any], path: str, body: dict[str, Any], kind: str
) -> None:
    text = http.post(path, json={**body, "stream": True}).text
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert len(events) > 3
    for event in events:
        assert not complaints(event, {"$ref": f"#/components/schemas/{kind}"}, document)


def test_errors_are_as_declared(http: httpx.Client, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            url = path.replace("{model}", "no")
            if "requestBody" in operation:
                response = http.request(method, url, json={"model": 7})
                assert response.status_code == 400
                assert not complaints(response.json(), answered(document, method, path, 400), document)
            response = httpx.request(method, str(http.base_url.join(url)), timeout=60)
            assert (response.status_code == 401) == ("401" in operation["responses"]), path
            if response.status_code == 401:
                assert not complaints(response.json(), answered(document, method, path, 401), document)


def test_refused_fields_are_refused(http: httpx.Client, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        refused = methods.get("post", {}).get("x-octavo-refused", {})
        for name, accepted in refused.items():
            response = http.post(path, json={name: ["odd"]})
            assert response.status_code == 400 and response.json()["error"]["param"] == name, path
            for value in accepted:
                response = http.post(path, json={name: json.loads(value)})
                assert response.json()["error"]["param"] != name, path


def test_items_of_a_responses_input_are_declared_as_they_are_read(
    http: httpx.Client, document: dict[str, Any]
) -> None:
    schemas = document["components"]["schemas"]
    whole = {**schemas["ResponsesRequest"]["properties"]["input"], "components": document["components"]}
    declared = jsonschema.Draft202012Validator(whole)
    message = {"role": "user", "content": "hi"}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c", "output": "1"}
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    for items, fits in (
        ("hi", True),
        ([message], True),
        ([{**message, "type": "message"}, thought, call, result, message], True),
        ([{**message, "type": "file"}], False),
        ([{"role": "user"}], False),
        ([{key: value for key, value in call.items() if key != "name"}], False),
        ([{key: value for key, value in result.items() if key != "type"}], False),
        (["hi"], False),
        (7, False),
    ):
        assert declared.is_valid(items) == fits, items
        response = http.post("/v1/responses", json={"input": items})
        assert response.status_code == (200 if fits else 400), response.text

"""Routes over HTTP: what each answers, and that every error has the OpenAI API's shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from http_harness import (
    CHAT,
    COMPLETIONS,
    HELLO,
    MAX_MODEL_LEN,
    REPLY,
    ScriptedClient,
    check_error,
    make_app,
    metric,
    serve,
)


@pytest.fixture(scope="module")
def engine() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(scope="module")
def http(engine: ScriptedClient) -> Iterator[httpx.Client]:
    with serve(make_app(engine)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_chat_answer(http: httpx.Client) -> None:
    response = http.post(CHAT, json={**HELLO, "logprobs": True, "top_logprobs": 2})
    body = response.json()
    assert list(body) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert body["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert (body["object"], body["model"]) == ("chat.completion", "toy")
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": REPLY, "refusal": None}
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    content = choice["logprobs"]["content"]
    # The end token is counted and reported, and is no part of the text.
    assert bytes(byte for entry in content for byte in entry["bytes"]) == REPLY.encode() + b"<end>"
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    prompt_tokens, completion_tokens = len("user: hi\nassistant: "), len(REPLY.encode()) + 1
    assert body["usage"].pop("timings")["queue_ms"] >= 0
    assert body["usage"] == {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


def test_completion_answers_each_prompt_n_times(http: httpx.Client) -> None:
    body = {"prompt": ["count", "hi"], "n": 2, "seed": 5, "max_tokens": 3, "logprobs": 1}
    answer = http.post(COMPLETIONS, json=body).json()
    assert answer["object"] == "text_completion"
    assert [(c["index"], c["text"], c["finish_reason"]) for c in answer["choices"]] == [
        (0, "5", "stop"),
        (1, "6", "stop"),
        (2, "Gr\ufffd", "length"),
        (3, "Gr\ufffd", "length"),
    ]
    assert answer["choices"][2]["logprobs"] == {
        "text_offset": [0, 1, 2],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "tokens": ["G", "r", "\ufffd"],
        "top_logprobs": [{"G": -0.5, "A": -0.5}, {"r": -0.5, "A": -0.5}, {"\ufffd": -0.5, "A": -0.5}],
    }
    assert answer["usage"]["prompt_tokens"] == len("counthi")
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 6}


def test_streamed_text_is_the_whole_text(http: httpx.Client) -> None:
    for stop in (None, "bis", "ü", "🙂 u", "e an alle,"):
        body = {"prompt": "hi", "max_tokens": 200, "stop": stop, "n": 2}
        whole = http.post(COMPLETIONS, json=body).json()["choices"]
        texts, reasons = ["", ""], [None, None]
        with http.stream("POST", COMPLETIONS, json={**body, "stream": True}) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    choice = json.loads(line[6:])["choices"][0]
                    texts[choice["index"]] += choice["text"]
                    reasons[choice["index"]] = choice["stop_reason"]
        assert texts == [choice["text"] for choice in whole]
        assert reasons == [choice["stop_reason"] for choice in whole] == [stop, stop]
        assert texts[0] == (REPLY.split(stop)[0] if stop else REPLY)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["hey ", [104, 101, 121, 32]])
def test_echo_puts_the_prompt_first(http: httpx.Client, prompt: Any, stream: bool) -> None:
    body = {"prompt": prompt, "echo": True, "max_tokens": 100, "stream": stream}
    response = http.post(COMPLETIONS, json=body)
    if stream:
        frames = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        text = "".join(frame["choices"][0]["text"] for frame in frames)
    else:
        text = response.json()["choices"][0]["text"]
    assert text == "hey " + REPLY


def test_settings_reach_the_engine(http: httpx.Client, engine: ScriptedClient) -> None:
    body = {
        **HELLO,
        "model": "Org/alias",
        "max_completion_tokens": 4,
        "max_tokens": 9,
        "top_p": 0.5,
        "temperature": None,
        "logit_bias": {"7": 3},
        "priority": -2,
        "cache_salt": "tenant",
        "request_id": "mine-1",
        "user": "ann",
        "metadata": {"a": "b"},
        "store": False,
    }
    response = http.post(CHAT, json=body)
    request = engine.requests[-1]
    assert response.json()["model"] == "Org/alias"
    assert (request.max_tokens, request.priority, request.cache_salt) == (4, -2, "tenant")
    # What the request left open comes from the model's defaults.
    assert (request.params.temperature, request.params.top_k, request.params.top_p) == (0.25, 7, 0.5)
    assert request.params.logit_bias == {7: 3.0}
    assert response.json()["id"] == "chatcmpl-mine-1" and response.headers["x-request-id"] == "mine-1"
    assert request.request_id.startswith("chatcmpl-mine-1-")
    assert "x-octavo-ignored-fields" not in response.headers


def test_without_max_tokens_a_chat_may_fill_the_model(http: httpx.Client, engine: ScriptedClient) -> None:
    http.post(CHAT, json=HELLO)
    assert engine.requests[-1].max_tokens == MAX_MODEL_LEN - len("user: hi\nassistant: ")
    http.post(COMPLETIONS, json={"prompt": "hi", "max_tokens": None})
    assert engine.requests[-1].max_tokens == 16


def test_template_is_steered(http: httpx.Client, engine: ScriptedClient) -> None:
    messages = [*HELLO["messages"], {"role": "assistant", "content": "Well"}]
    http.post(CHAT, json={"messages": messages, "continue_final_message": True})
    assert bytes(engine.requests[-1].prompt_token_ids) == b"user: hi\nassistant: Well"
    http.post(CHAT, json={**HELLO, "add_generation_prompt": False})
    assert bytes(engine.requests[-1].prompt_token_ids) == b"user: hi\n"
    refused = http.post(CHAT, json={**HELLO, "chat_template_kwargs": {"forbidden": True}})
    assert "forbidden was set" in check_error(refused, 400, "invalid_value", "messages")
    for path in (CHAT, "/tokenize"):
        named = http.post(path, json={**HELLO, "chat_template_kwargs": {"self": 1, "messages_": []}})
        assert named.status_code == 200, named.text
        refused = http.post(path, json={**HELLO, "chat_template_kwargs": {"messages": []}})
        check_error(refused, 400, "invalid_value", "chat_template_kwargs.messages")


def test_unknown_fields_are_named_in_a_header_and_counted(http: httpx.Client) -> None:
    before = metric(http, 'octavo_ignored_fields_total{field="foo"}')
    for stream in (False, True):
        response = http.post(CHAT, json={**HELLO, "foo": 1, "bär\r\nx: y": 2, "stream": stream})
        assert response.status_code == 200
        assert response.headers["x-octavo-ignored-fields"] == "foo, b%C3%A4r%0D%0Ax%3A%20y"
    assert metric(http, 'octavo_ignored_fields_total{field="foo"}') == before + 2


def test_models(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [card["id"] for card in listed["data"]] == ["toy", "Org/alias"]
    assert listed["data"][0]["max_model_len"] == MAX_MODEL_LEN
    assert http.get("/v1/models/Org/alias").json() == listed["data"][1]
    assert check_error(http.get("/v1/models/nope"), 404, "model_not_found", "model")
    check_error(http.get("/v1/models/"), 404, "not_found", None)
    counted = 'octavo_http_responses_total{route="/v1/models/{model:path}",status="200"}'
    before = metric(http, counted)
    assert http.get("/v1/models/toy").status_code == 200
    assert metric(http, counted) == before + 1


def test_tokenize_and_back(http: httpx.Client) -> None:
    ids = list("grüß".encode())
    answer = http.post("/tokenize", json={"prompt": "grüß", "return_token_strs": True}).json()
    assert (answer["count"], answer["tokens"], answer["max_model_len"]) == (len(ids), ids, MAX_MODEL_LEN)
    assert answer["token_strs"][:2] == ["g", "r"]
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "grüß"}
    chat = http.post("/tokenize", json={**HELLO, "extra": 1})
    assert bytes(chat.json()["tokens"]) == b"user: hi\nassistant: "
    assert chat.headers["x-octavo-ignored-fields"] == "extra"
    # Longer than the model is fine here: people ask to find out.
    assert http.post("/tokenize", json={"prompt": "x" * 5000}).json()["count"] == 5000
    check_error(http.post("/tokenize", json={}), 400, "invalid_value", "prompt")
    check_error(http.post("/tokenize", json={**HELLO, "prompt": "x"}), 400, "invalid_value", "prompt")
    check_error(http.post("/detokenize", json={"tokens": [1, 300]}), 400, "invalid_value", "tokens[1]")
    check_error(http.post("/detokenize", json={"tokens": ["a"]}), 400, "invalid_type", "tokens[0]")


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
def test_probes(http: httpx.Client, path: str) -> None:
    assert http.get(path).json()["status"] == "ok"


def test_version(http: httpx.Client) -> None:
    assert http.get("/version").json() == {"version": "9.9"}


def test_metrics_are_prometheus_text(http: httpx.Client) -> None:
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "octavo_engine_requests_running 0.0" in response.text
    assert "process_resident_memory_bytes" in response.text
    assert metric(http, "octavo_event_loop_lag_seconds_count") > 0
    openmetrics = http.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.text.endswith("# EOF\n")


def test_request_id_of_the_client_is_kept_if_fit(http: httpx.Client) -> None:
    for path in ("/version", "/nope"):
        assert http.get(path, headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
        for unfit in ("a b", "x" * 200, "é"):
            given = http.get(path, headers={b"x-request-id": unfit.encode()}).headers["x-request-id"]
            assert given != unfit and 0 < len(given) <= 64
    answer = http.post(CHAT, json={**HELLO, "request_id": "body"}, headers={"x-request-id": "header"})
    assert answer.json()["id"] == "chatcmpl-header"


def test_same_request_id_twice_at_once(http: httpx.Client) -> None:
    with http.stream(
        "POST", COMPLETIONS, json={"prompt": "slow", "stream": True, "request_id": "x"}
    ) as first:
        assert http.post(COMPLETIONS, json={"prompt": "hi", "request_id": "x"}).status_code == 200
        assert first.status_code == 200


def test_no_such_route_or_method(http: httpx.Client) -> None:
    assert "POST /v1/nope" in check_error(http.post("/v1/nope"), 404, "not_found", None)
    response = http.get(CHAT)
    check_error(response, 405, "method_not_allowed", None)
    assert response.headers["allow"] == "POST"
    check_error(http.delete("/v1/models"), 405, "method_not_allowed", None)


def test_overload_and_failures(http: httpx.Client) -> None:
    full = http.post(COMPLETIONS, json={"prompt": "full"})
    check_error(full, 503, "server_overloaded", None)
    assert full.headers["retry-after"] == "7"
    check_error(http.post(COMPLETIONS, json={"prompt": "broken"}), 500, "generation_failed", None)
    check_error(http.post(COMPLETIONS, json={"prompt": "dead"}), 500, "engine_dead", None)


def test_choices_that_cannot_all_start_leave_none_running(http: httpx.Client, engine: ScriptedClient) -> None:
    check_error(http.post(COMPLETIONS, json={"prompt": ["slow", "full"]}), 503, "server_overloaded", None)
    assert not engine.running


def test_every_request_is_counted_once(http: httpx.Client) -> None:
    causes = ("stop", "length", "disconnect", "refused", "error")

    def counts() -> list[float]:
        return [metric(http, f'octavo_requests_total{{cause="{cause}"}}') for cause in causes]

    before = counts()
    http.post(COMPLETIONS, json={"prompt": "hi", "max_tokens": 100})
    http.post(COMPLETIONS, json={"prompt": "hi", "max_tokens": 2, "n": 2})
    http.post(COMPLETIONS, json={"prompt": "hi", "max_tokens": 99, "stop": "bis"})
    http.post(COMPLETIONS, json={"prompt": ""})
    http.post(COMPLETIONS, json={"prompt": "full"})
    http.post(COMPLETIONS, json={"prompt": "dead", "stream": True})
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [2, 2, 0, 2, 1]
    http.post(COMPLETIONS, json={"prompt": ["slow", "full", "hi"], "n": 2})
    assert counts()[3] - before[3] == 2 + 6, "all choices are refused, those that had started too"
    assert metric(http, "octavo_requests_open") == 0


def test_scripts_of_other_origins_may_call(http: httpx.Client) -> None:
    origin = {"origin": "http://localhost:3000"}
    asked = http.options(CHAT, headers={**origin, "access-control-request-method": "POST"})
    assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == "*"
    assert http.get("/v1/models", headers=origin).headers["access-control-allow-origin"] == "*"

"""Wrong requests: the contract's error, and a server that goes on as if nothing had been."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from bad_input import BAD_INPUTS, CHAT, COMPLETIONS, BadInput
from http_harness import ScriptedClient, check_error, make_app, serve


@pytest.fixture(scope="module")
def engine() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(scope="module")
def http(engine: ScriptedClient) -> Iterator[httpx.Client]:
    with serve(make_app(engine)) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_complaint_names_what_is_wrong(http: httpx.Client, engine: ScriptedClient, bad: BadInput) -> None:
    num_requests = len(engine.requests)
    response = http.post(bad.path, content=bad.body)
    message = check_error(response, bad.status, bad.code, bad.param)
    assert len(message) < 500
    if bad.param is not None and bad.code in ("invalid_value", "invalid_type"):
        assert bad.param.partition("[")[0].split(".")[0] in message
    assert len(engine.requests) == num_requests and not engine.running


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_streams_are_refused_before_they_begin(http: httpx.Client, path: str) -> None:
    response = http.post(path, json={"stream": True, "prompt": "", "messages": []})
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/json"


def test_numbers_of_a_refusal_are_right(http: httpx.Client) -> None:
    response = http.post(COMPLETIONS, json={"prompt": "x" * 50, "max_tokens": 1990})
    message = check_error(response, 400, "context_length_exceeded", "max_tokens")
    assert "2000 tokens" in message and "2040 tokens (50 in the prompt, 1990" in message and "1950" in message
    assert http.post(COMPLETIONS, json={"prompt": "x" * 50, "max_tokens": 1950}).status_code == 200
    response = http.post(COMPLETIONS, json={"prompt": "x" * 2000})
    assert "your prompt has 2000 tokens" in check_error(response, 400, "context_length_exceeded", "prompt")


def test_ten_megabytes_of_text(http: httpx.Client) -> None:
    text = "long " * 2_000_000
    chat = {"messages": [{"role": "user", "content": text}]}
    check_error(http.post(CHAT, json=chat), 400, "context_length_exceeded", "messages")
    check_error(http.post(COMPLETIONS, json={"prompt": text}), 400, "context_length_exceeded", "prompt")
    ids = {"prompt": [7] * 3_000_000}
    check_error(http.post(COMPLETIONS, json=ids), 400, "context_length_exceeded", "prompt")


def read_all(connection: socket.socket) -> bytes:
    """Head and body may come apart; the answer ends with the connection, which may be reset."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            said += part
    return said


@pytest.mark.parametrize("framing", ["content-length: 20000000", "transfer-encoding: chunked"])
def test_larger_bodies_are_refused_unread(http: httpx.Client, framing: str) -> None:
    parts = urlsplit(str(http.base_url))
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        if "chunked" in framing:
            with contextlib.suppress(ConnectionError):  # it may have been refused before all is sent
                for _ in range(17):
                    connection.sendall(b"100000\r\n" + b" " * 2**20 + b"\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ") and b'"code":"request_too_large"' in answer


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/tokenize", "/detokenize"])
def test_larger_bodies_are_refused_to_clients_that_send_them(http: httpx.Client, path: str) -> None:
    response = http.post(path, content=b'{"messages": "' + b"x" * (17 * 2**20) + b'"}')
    check_error(response, 413, "request_too_large", None)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, "/v1/responses", "/v1/messages", "/tokenize"])
def test_compressed_bodies_are_not_taken_for_bad_json(http: httpx.Client, path: str) -> None:
    body = gzip.compress(b'{"prompt": "hi"}')
    response = http.post(path, content=body, headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    message = response.json()["error"]["message"]
    assert message == "The header content-encoding must be identity or absent, got 'gzip'."
    assert http.post(path, content=b"{", headers={"content-encoding": "identity"}).status_code == 400


def test_compressed_chunks_are_not_taken_for_bad_json(http: httpx.Client) -> None:
    parts = urlsplit(str(http.base_url))
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        framing = "transfer-encoding: gzip, chunked"
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}"
        connection.sendall(f"{head}\r\n\r\n0\r\n\r\n".encode())
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"The header transfer-encoding must be chunked or absent, got 'gzip, chunked'." in answer


def test_api_keys(engine: ScriptedClient) -> None:
    with (
        serve(make_app(engine, {"api_keys": ("secret-a", "secret-ü")})) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        for path in ("/v1/models", "/tokenize", "/v1/nope", "/version", "/metrics", CHAT):
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret-a"}):
                response = http.request("GET", path, headers=headers)
                check_error(response, 401, "invalid_api_key", None)
                assert response.headers["www-authenticate"] == "Bearer"
        for key in (b"secret-a", "secret-ü".encode()):
            assert http.get("/v1/models", headers={b"authorization": b"Bearer " + key}).status_code == 200
        for path in ("/health", "/livez", "/readyz", "/"):
            assert http.get(path).status_code == 200
        counted = http.get("/metrics", headers={"authorization": "Bearer secret-a"})
        assert 'status="401"' in counted.text


def test_strict(engine: ScriptedClient) -> None:
    hello = [{"role": "user", "content": "hi"}]
    with serve(make_app(engine, {"strict": True})) as url, httpx.Client(base_url=url, timeout=60) as http:
        response = http.post(CHAT, json={"messages": hello, "temprature": 1})
        message = check_error(response, 400, "unknown_field", "temprature")
        assert message == 'Unknown field "temprature"; did you mean temperature?'
        nested = {"messages": [{**hello[0], "mood": "good"}]}
        check_error(http.post(CHAT, json=nested), 400, "unknown_field", "messages[0].mood")
        check_error(http.post("/tokenize", json={"promt": "x"}), 400, "unknown_field", "promt")
        assert http.post(CHAT, json={"messages": hello, "user": "ann"}).status_code == 200


def test_not_ready(engine: ScriptedClient) -> None:
    app = make_app(engine, complaint=lambda: "The engine has died: out of luck")
    with serve(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        for path in ("/health", "/readyz"):
            response = http.get(path)
            assert "out of luck" in check_error(response, 503, "server_not_ready", None)
            assert response.headers["retry-after"] == "1"
        assert http.get("/livez").status_code == 200


def test_model_without_tokenizer_or_template(engine: ScriptedClient) -> None:
    app = make_app(engine, tokenizer=None, chat_template=None)
    hello = {"messages": [{"role": "user", "content": "hi"}]}
    with serve(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        answer = http.post(COMPLETIONS, json={"prompt": [104, 105], "max_tokens": 3}).json()
        assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("", 3)
        for body in ({"prompt": "hi"}, {"prompt": [1], "logprobs": 1}, {"prompt": [1], "echo": True}):
            check_error(http.post(COMPLETIONS, json=body), 400, "unsupported_value", "prompt")
        check_error(http.post(CHAT, json=hello), 400, "unsupported_value", "messages")


def test_bug_is_an_error_in_the_same_shape(engine: ScriptedClient) -> None:
    class Broken:
        def get(self, name: str) -> None:
            raise ZeroDivisionError

    app = make_app(engine, default_params=Broken())
    with serve(app) as url, httpx.Client(base_url=url, timeout=60) as http:
        origin = {"origin": "http://localhost:3000"}
        response = http.post(COMPLETIONS, content=json.dumps({"prompt": "hi"}), headers=origin)
        check_error(response, 500, "internal_error", None)
        assert response.headers["access-control-allow-origin"] == "*", "or a browser hides the answer"
        assert http.get("/health").status_code == 200
        assert 'octavo_requests_total{cause="error"} 1.0' in http.get("/metrics").text
        assert (
            'octavo_http_responses_total{route="/v1/completions",status="500"} 1.0'
            in http.get("/metrics").text
        )

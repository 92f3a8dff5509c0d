"""Event streams as bytes on a socket: frames, keep-alive comments, errors, and clients that vanish."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from http_harness import CHAT, COMPLETIONS, REPLY, ScriptedClient, make_app, serve
from patience import at_some_pace
from toy_server import wait_for


@pytest.fixture(scope="module")
def client() -> ScriptedClient:
    return ScriptedClient()


@pytest.fixture(scope="module")
def url(client: ScriptedClient) -> Iterator[str]:
    with serve(make_app(client, {"keep_alive_s": 0.1})) as url:
        yield url


def connect(url: str, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which the request has been sent."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    return connection


def exchange(
    url: str, path: str, body: dict[str, Any], heard: Callable[[bytes], None] = lambda raw: None
) -> tuple[bytes, bytes]:
    """Response head and body, the chunked transfer coding taken off.   heard: told all that came so far."""
    with connect(url, path, body) as connection:
        raw = b""
        while part := connection.recv(65536):
            raw += part
            heard(raw)
    head, _, rest = raw.partition(b"\r\n\r\n")
    content = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        content, rest = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return head, content


def chunks_of(content: bytes) -> list[dict[str, Any]]:
    """Parsed data frames; checks that the stream is nothing but frames and comments, and how it ends."""
    assert content.endswith(b"data: [DONE]\n\n") and b"\r" not in content
    frames = content.split(b"\n\n")[:-2]
    assert all(frame.startswith((b"data: {", b": ")) for frame in frames)
    return [json.loads(frame[6:]) for frame in frames if frame.startswith(b"data: ")]


def user(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "stream": True}


def test_chat_stream_from_first_byte_to_last(url: str) -> None:
    head, content = exchange(url, CHAT, {**user("hi"), "stream_options": {"include_usage": True}})
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    headers = head.lower()
    assert b"content-type: text/event-stream" in headers
    assert b"cache-control: no-store" in headers
    assert b"x-accel-buffering: no" in headers
    assert b"x-request-id: " in headers
    chunks = chunks_of(content)
    assert len({tuple(chunk) for chunk in chunks}) == 1, "every chunk has the same keys"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    role, *deltas, closing, usage = chunks
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in deltas) == REPLY
    assert closing["choices"][0] == {
        "index": 0,
        "delta": {},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
    }
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert usage["choices"] == []
    # Tokens are bytes, and the end token is one.
    assert usage["usage"]["completion_tokens"] == len(REPLY.encode()) + 1
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


def test_no_delta_holds_half_a_character(url: str) -> None:
    _, content = exchange(url, CHAT, user("hi"))
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks_of(content)]
    assert "\ufffd" not in "".join(texts)
    assert "ü" in texts and "🙂" in texts


def test_without_include_usage_there_is_no_usage(url: str) -> None:
    _, content = exchange(url, CHAT, user("hi"))
    assert not [chunk for chunk in chunks_of(content) if "usage" in chunk]


def test_completions_stream(url: str) -> None:
    _, content = exchange(url, COMPLETIONS, {"prompt": "hi", "stream": True, "max_tokens": 5})
    chunks = chunks_of(content)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == REPLY.encode()[:5].decode(
        errors="replace"
    )
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "length"]
    assert chunks[-1]["choices"][0]["text"] == ""


def test_running_usage_is_on_every_chunk(url: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    _, content = exchange(url, CHAT, {**user("hi"), "stream_options": options})
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks_of(content)]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] == len(REPLY.encode()) + 1


def test_comments_while_a_request_waits(client: ScriptedClient, url: str) -> None:
    def heard(raw: bytes) -> None:
        if raw.count(b": keep-alive\n\n") == 3:
            client.go.set()

    _, content = exchange(url, CHAT, user("held"), heard)
    first_data = content.index(b"data: ")
    waiting = content[:first_data]
    assert waiting.count(b": keep-alive\n\n") >= 3
    assert waiting.replace(b": keep-alive\n\n", b"") == b""
    assert chunks_of(content)[0]["choices"][0]["delta"]["role"] == "assistant"


def test_no_comments_while_text_flows(url: str) -> None:
    def check(pace: float) -> None:
        _, content = exchange(url, CHAT, {**user("slow"), "max_tokens": 40})
        assert b": keep-alive" not in content

    at_some_pace(check, paces=(1.0,) * 10)  # a machine that stands still for 0.1 s makes one


@pytest.mark.parametrize("word, code", [("broken", "generation_failed"), ("dead", "engine_dead")])
def test_error_in_the_middle_is_an_event_then_done(url: str, word: str, code: str) -> None:
    head, content = exchange(url, CHAT, user(word))
    assert head.startswith(b"HTTP/1.1 200")
    *chunks, error = chunks_of(content)
    assert chunks[1]["choices"][0]["delta"]["content"] == "G"
    assert list(error) == ["error"]
    assert list(error["error"]) == ["message", "type", "param", "code"]
    assert error["error"]["code"] == code


def test_choices_are_told_apart(url: str) -> None:
    _, content = exchange(url, CHAT, {**user("count"), "n": 3, "seed": 40, "temperature": 1})
    texts = {0: "", 1: "", 2: ""}
    ends: dict[int, str] = {}
    for chunk in chunks_of(content):
        choice = chunk["choices"][0]
        assert choice["index"] not in ends, "nothing follows a choice's end"
        texts[choice["index"]] += choice["delta"].get("content", "")
        if choice["finish_reason"] is not None:
            ends[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "40", 1: "41", 2: "42"}
    assert ends == {0: "stop", 1: "stop", 2: "stop"}


def test_a_long_text_comes_as_it_is_made(url: str) -> None:
    def check(pace: float) -> None:
        num_tokens = int(100 * pace)
        body = {"prompt": "slow", "stream": True, "max_tokens": num_tokens}
        with connect(url, COMPLETIONS, body) as connection:
            moments = []
            while part := connection.recv(65536):
                moments += [time.monotonic()] * part.count(b"data: {")
        assert len(moments) == num_tokens + 1
        assert moments[-1] - moments[0] > 0.005 * num_tokens, "tokens at 10 ms each cannot come at once"

    at_some_pace(check)


@pytest.mark.parametrize("path, num_choices", [(CHAT, 1), (CHAT, 3), (COMPLETIONS, 1)])
@pytest.mark.parametrize("num_bytes", [0, 1, 3000])
def test_client_that_vanishes_stops_the_engine(
    client: ScriptedClient, url: str, path: str, num_choices: int, num_bytes: int
) -> None:
    body = user("slow") if path == CHAT else {"prompt": "slow", "stream": True}
    before = set(client.aborted)
    connection = connect(url, path, {**body, "max_tokens": 1900, "n": num_choices})
    received = 0
    while received < num_bytes:
        received += len(connection.recv(1000))
    wait_for(lambda: len(client.running) == num_choices)
    connection.close()
    wait_for(lambda: not client.running)
    assert len(client.aborted - before) == num_choices, "the streams themselves go on for 19 s"


def test_client_that_vanishes_from_a_whole_answer_stops_the_engine(client: ScriptedClient, url: str) -> None:
    connection = connect(url, COMPLETIONS, {"prompt": "slow", "max_tokens": 1900})
    before = set(client.aborted)
    wait_for(lambda: client.running)
    connection.close()
    wait_for(lambda: not client.running)
    assert len(client.aborted - before) == 1


def test_half_a_request_costs_nothing(client: ScriptedClient, url: str) -> None:
    before = len(client.requests)
    parts = urlsplit(url)
    for sent in (b"", b"POST /v1/comp", b'POST /v1/completions HTTP/1.1\r\nContent-Length: 99\r\n\r\n{"pro'):
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(sent)
    _, content = exchange(url, COMPLETIONS, {"prompt": "hi", "stream": True, "max_tokens": 2})
    assert chunks_of(content)
    assert len(client.requests) == before + 1

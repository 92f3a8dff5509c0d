"""What a connection lets in, within bounds of bytes and time, and refusals in the usual shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

import pytest
import uvloop
from http_harness import live
from patience import at_some_pace
from starlette.types import Receive, Scope, Send

from octavo.app.http_server import HttpServer
from octavo.app.listener import bind
from octavo.app.server_settings import EdgeSettings

LIMIT = 2000
GET = b"GET / HTTP/1.1\r\nhost: x\r\n"


class Whoami:
    """Answers with who asks, as the server believes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        body = f"{scope['client'][0]} {scope['scheme']} {scope['path']}".encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def exchange(
    parts: Iterable[bytes], edge: EdgeSettings, *, every_s: float = 0.002, max_silent_s: float = 30
) -> bytes:
    """All that the server says to a connection that sends `parts`, one after the other."""

    async def talk() -> bytes:
        listener = bind("127.0.0.1", 0)
        server = HttpServer(Whoami(), lambda: None, edge=edge, max_silent_s=max_silent_s)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        heard = asyncio.create_task(reader.read())
        try:
            for part in parts:
                if heard.done():
                    break  # the server has closed
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(every_s)
            return await asyncio.wait_for(heard, 60)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()
            server.should_exit = True
            await serving

    return run(talk)


def run(work: Callable[[], Awaitable[bytes]]) -> bytes:
    async def bounded() -> bytes:
        return await asyncio.wait_for(work(), 120)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(bounded())


def check_refusal(answer: bytes, status: bytes, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status), answer
    assert b"\r\nconnection: close" in head and b"\r\nx-request-id: " in head
    error = json.loads(body)["error"]
    assert list(error) == ["message", "type", "param", "code"] and error["code"] == code


@pytest.mark.parametrize(
    "parts",
    [
        [GET, b"x-long: " + b"a" * LIMIT + b"\r\n\r\n"],
        [GET, b"x-long: ", *[b"a" * 100] * 40],
        [GET, *[b"x-%d: a\r\n" % i for i in range(500)], b"\r\n"],
        [b"GET /" + b"a" * LIMIT + b" HTTP/1.1\r\n\r\n"],
        [b"GET /", *[b"a" * 100] * 40],
        [GET + b"transfer-encoding: chunked\r\n\r\n0\r\n", *[b"x-%d: a\r\n" % i for i in range(500)]],
    ],
    ids=["one header", "a header without an end", "many", "address", "address without an end", "trailers"],
)
def test_too_many_bytes_of_headers(parts: list[bytes]) -> None:
    def check(pace: float) -> None:
        # Nothing is heard where the system drops what was written for somebody who still sends.
        answer = exchange(parts, EdgeSettings(max_header_bytes=LIMIT))
        check_refusal(answer, b"431", "request_headers_too_large")

    at_some_pace(check, paces=(1.0,) * 5)


def test_headers_and_bodies_that_fit() -> None:
    """Bodies and earlier requests of the connection do not count, and headers may be nearly as long."""
    post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9000\r\n\r\n" + b"b" * 9000
    header = b"x-long: " + b"a" * (LIMIT - 100) + b"\r\n"
    last = GET + header + b"connection: close\r\n\r\n"
    answer = exchange([post, post[:5000], post[5000:], last], EdgeSettings(max_header_bytes=LIMIT))
    assert answer.count(b"HTTP/1.1 200") == 3


def test_what_is_no_request() -> None:
    check_refusal(exchange([b"\x16\x03\x01 hello\r\n\r\n"], EdgeSettings()), b"400", "invalid_http")


@pytest.mark.parametrize(
    ("trusted", "believed"),
    [
        (("127.0.0.1",), b"9.8.7.6 https"),
        (("127.0.0.0/8",), b"9.8.7.6 https"),
        (("10.0.0.1",), b"127.0.0.1 http"),
    ],
)
def test_proxies_are_believed_if_they_are_known(trusted: tuple[str, ...], believed: bytes) -> None:
    forwarded = GET + b"x-forwarded-for: 9.8.7.6\r\nx-forwarded-proto: https\r\nconnection: close\r\n\r\n"
    answer = exchange([forwarded], EdgeSettings(forwarded_allow_ips=trusted))
    assert answer.endswith(believed + b" /")


def test_a_prefix_is_taken_off() -> None:
    asked = b"GET /llm/v1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    assert exchange([asked], EdgeSettings(root_path="/llm")).endswith(b" /v1")


def test_a_connection_beyond_the_limit_of_files_is_told_so_and_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("octavo.app.http_server.max_connections", lambda: 2)

    async def talk() -> bytes:
        listener = bind("127.0.0.1", 0)
        server = HttpServer(Whoami(), lambda: None)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        address = listener.getsockname()
        opened = [await asyncio.open_connection(*address) for _ in range(2)]
        for reader, writer in opened:
            writer.write(GET + b"\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        reader, writer = await asyncio.open_connection(*address)
        refusal = await reader.read()
        for each in (writer, *(one for _, one in opened)):
            each.close()
        said = b""
        while not said.startswith(b"HTTP/1.1 200 "):  # there is room again once the server has seen them go
            await asyncio.sleep(0.02)
            reader, writer = await asyncio.open_connection(*address)
            writer.write(GET + b"\r\n")
            with suppress(ConnectionError):
                said = await reader.readline()
            writer.close()
        server.should_exit = True
        await serving
        return refusal

    answer = run(talk)
    check_refusal(answer, b"503", "server_overloaded")
    assert b"\r\nretry-after: 1\r\n" in answer and b"ulimit -n" in answer


POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 12\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET / HT"],
        [GET],
        [GET, *[b"x: y\r\n"] * 100],  # a line now and then, for ever
        [POST + b"\r\n12345"],
        [GET + b"\r\n", GET],
    ],
    ids=["line", "headers", "drop by drop", "body", "second request"],
)
def test_a_request_that_is_left_half_sent_is_not_waited_for(parts: list[bytes]) -> None:
    def check(pace: float) -> None:
        # Nothing is heard where the system drops what was written for somebody who still sends.
        answer = exchange(parts, EdgeSettings(max_header_bytes=LIMIT), every_s=0.05, max_silent_s=0.5)
        check_refusal(answer[answer.rfind(b"HTTP/1.1 ") :], b"408 Request Timeout", "request_timeout")

    at_some_pace(check, paces=(1.0,) * 5)


def test_a_connection_that_sends_nothing_is_closed_without_a_word() -> None:
    assert exchange([], EdgeSettings(), max_silent_s=0.2) == b""


def test_a_body_may_take_long_as_long_as_some_of_it_comes() -> None:
    parts = [POST + b"connection: close\r\n\r\n", *[b"x"] * 12]

    def check(pace: float) -> None:
        answer = exchange(parts, EdgeSettings(), every_s=0.1 * pace, max_silent_s=0.9 * pace)
        assert answer.startswith(b"HTTP/1.1 200 OK"), answer

    at_some_pace(check)

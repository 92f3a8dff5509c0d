"""Requests that offer another protocol than HTTP/1.1, as Java's client does: answered in HTTP/1.1."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from http_harness import live
from patience import at_some_pace
from starlette.types import Receive, Scope, Send

from octavo.app.http_server import HttpServer
from octavo.app.listener import bind


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with method, path and body."""
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    body = f"<{scope['method']} {scope['path']} ".encode()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    body += b">"
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def exchange(parts: list[bytes]) -> bytes:
    """All that the server says to a connection that sends `parts`, one after the other."""

    async def talk() -> bytes:
        server = HttpServer(echo, lambda: None)
        listener = bind("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await server.ready.wait()
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        server.should_exit = True
        await serving
        return answer

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(talk())


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_an_offer_is_passed_over(protocol: str, size: int) -> None:
    """The body counts, however the bytes arrive, and so do the requests behind it."""
    offer = f"connection: upgrade, http2-settings\r\nhttp2-settings: AAM\r\nupgrade: {protocol}\r\n"
    sent = (
        f"POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n{offer}\r\nhello"
        f"POST /2 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n{offer}\r\n3\r\nbye\r\n0\r\n\r\n"
        f"POST /3 HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n{offer}\r\n"
        f"GET /4 HTTP/1.1\r\nhost: x\r\n{offer}\r\n"
        "GET /5 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    ).encode()
    answer = exchange([sent[at : at + size] for at in range(0, len(sent), size)])
    bodies = [piece[: piece.index(b">") + 1] for piece in answer.split(b"\r\n\r\n")[1:]]
    assert bodies == [b"<POST /1 hello>", b"<POST /2 bye>", b"<POST /3 >", b"<GET /4 >", b"<GET /5 >"]


def test_bytes_of_headers_are_counted_beside_an_offer() -> None:
    offer = b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 1\r\nx: "

    def check(pace: float) -> None:
        # The connection is reset, and the answer lost with it, where the server had not read all.
        answer = exchange([b"POST / HTTP/1.1\r\nhost: x\r\n" + offer + b"a" * 66_000 + b"\r\n\r\n"])
        assert answer.startswith(b"HTTP/1.1 431 ") and b"request_headers_too_large" in answer

    at_some_pace(check, paces=(1.0,) * 5)

"""DirectWriter: what it writes is what `send` would have written, and only where and while that is so."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.app.direct_writer import DirectWriter, direct_writer
from octavo.app.http_server import HttpServer

Handler = Callable[[Send], Coroutine[Any, Any, None]]


def application(handler: Handler) -> ASGIApp:
    """Begins a response, lets `handler` write its body, and ends it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for word in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{word}.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await handler(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def talk(handler: Handler, client: Callable[[socket.socket], Coroutine[Any, Any, None]]) -> None:
    """Serve `handler` while `client` does what it does with a connection."""
    server = HttpServer(application(handler), lambda: None)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]))
    await asyncio.wait_for(server.ready.wait(), 60)
    connection = socket.socket()
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, listener.getsockname())
    try:
        await asyncio.wait_for(client(connection), 120)
    finally:
        connection.close()
        server.should_exit = True
        await serving


async def ask(connection: socket.socket, method: str = "GET") -> None:
    request = f"{method} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(connection, request.encode())


async def read_body(connection: socket.socket) -> bytes:
    """To the end; the chunked transfer coding is checked and taken off."""
    raw = b""
    with suppress(ConnectionResetError):
        while part := await asyncio.get_running_loop().sock_recv(connection, 1 << 16):
            raw += part
    _, _, rest = raw.partition(b"\r\n\r\n")
    body, ended = b"", False
    while rest and not ended:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        assert rest[length : length + 2] == b"\r\n"
        body, rest, ended = body + rest[:length], rest[length + 2 :], length == 0
    assert ended and not rest
    return body


async def send_part(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def test_parts_written_and_sent_arrive_whole_and_in_order() -> None:
    rng = random.Random(0)
    parts = [bytes([65 + i % 26]) * rng.randint(1, 400) for i in range(500)]

    async def handler(send: Send) -> None:
        writer = direct_writer(send)
        assert writer is not None and not writer.has_written
        for i, part in enumerate(parts):
            if i % 7 == 0 or not writer.ready():
                await send_part(send, part)
            else:
                writer.write(part)
        assert writer.has_written

    async def client(connection: socket.socket) -> None:
        await ask(connection)
        assert await read_body(connection) == b"".join(parts)

    asyncio.run(talk(handler, client))


def test_a_client_that_does_not_read_is_not_written_to_and_one_that_left_neither() -> None:
    writers: list[DirectWriter] = []
    full, left = asyncio.Event(), asyncio.Event()

    async def handler(send: Send) -> None:
        writer = direct_writer(send)
        assert writer is not None
        writers.append(writer)
        for _ in range(100_000):
            if not writer.ready():
                break
            writer.write(b"x" * 1000)
            await asyncio.sleep(0)
        full.set()
        await left.wait()

    async def client(connection: socket.socket) -> None:
        await ask(connection)
        await full.wait()
        assert not writers[0].ready(), "a hundred megabytes were taken from a writer that nobody reads"
        connection.close()
        await asyncio.sleep(0.05)
        assert not writers[0].ready()
        left.set()

    asyncio.run(talk(handler, client))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_only_a_chunked_body_under_way_is_written_to(method: str) -> None:
    found: list[DirectWriter | None] = []

    async def handler(send: Send) -> None:
        found.append(direct_writer(send))

    async def client(connection: socket.socket) -> None:
        await ask(connection, method)
        while await asyncio.get_running_loop().sock_recv(connection, 1 << 16):
            pass

    asyncio.run(talk(handler, client))
    (writer,) = found
    assert (writer is None) == (method == "HEAD")
    assert writer is None or not writer.ready(), "the response has ended"


def test_another_server_is_left_to_its_send() -> None:
    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent")

    class Other:
        async def send(self, message: Any) -> None:
            await send(message)

    assert direct_writer(send) is None
    assert direct_writer(Other().send) is None

"""The HTTP server on a real socket: a client that does not read is cut off, one that reads slowly is not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import uvloop
from http_harness import live
from patience import at_some_pace
from starlette.types import Receive, Scope, Send

from octavo.app.http_server import HttpServer

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PART = bytes(100_000)


class Flood:
    """An ASGI application that sends until nobody is there; `ended` holds how many parts it sent."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        await receive()
        gone = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        num_parts = 0
        while not gone.done():
            await send({"type": "http.response.body", "body": PART, "more_body": True})
            num_parts += 1
            await asyncio.sleep(0)
        self.ended.set_result(num_parts)


@contextlib.asynccontextmanager
async def client_of(app: Flood, slow: list[None], max_stalled_s: float) -> AsyncIterator[socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(app, lambda: slow.append(None), max_stalled_s=max_stalled_s)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await server.ready.wait()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    with client:
        await loop.sock_connect(client, listener.getsockname())
        await loop.sock_sendall(client, REQUEST)
        try:
            yield client
        finally:
            client.close()
            server.should_exit = True
            await serving


def run(visit: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(visit(), 120)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def test_a_client_that_does_not_read_is_cut_and_counted() -> None:
    async def visit() -> None:
        app, slow = Flood(), list[None]()
        async with client_of(app, slow, max_stalled_s=0.2):
            num_parts = await app.ended
            assert len(slow) == 1
            assert num_parts * len(PART) < 50_000_000  # what the system's buffers hold, and no more

    run(visit)


def test_a_client_that_reads_slowly_is_kept() -> None:
    async def visit(pace: float) -> None:
        app, slow = Flood(), list[None]()
        async with client_of(app, slow, max_stalled_s=0.5 * pace) as client:
            loop = asyncio.get_running_loop()
            until = loop.time() + 1.2 * pace
            while loop.time() < until:
                await loop.sock_recv(client, 1 << 20)
                await asyncio.sleep(0.01)
            assert not slow and not app.ended.done()
            client.close()
            await app.ended

    at_some_pace(lambda pace: run(partial(visit, pace)))

"""A server that sends fixed SSE frames as fast as it can, in its own processes: what the client can take.

Like an engine it goes from stream to stream, a frame each, a write each; so the client meets what a real
server's steps bring. `pace_s` makes every round take that long, to compare latencies seen with those meant.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from time import monotonic
from typing import cast

import uvloop

from .file_limit import raise_file_limit

_MAX_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK = (
    '{"id":"cmpl-00000000000000000000000000000000","object":"text_completion","created":1700000000,'
    '"model":"null","system_fingerprint":"null-0.0.0","choices":[{"index":0,"text":"%s","logprobs":null,'
    '"finish_reason":null,"stop_reason":null}],"usage":null}'
)
_MAX_STREAMS = 4096
_USAGE = '{"id":"cmpl-00000000000000000000000000000000","choices":[],"usage":{"completion_tokens":%d}}'


def token(index: int) -> str:
    """The text of a stream's token: its number, so that nothing can be lost or moved unseen."""
    return f"{index:05d} "


def _http_chunk(data: str) -> bytes:
    frame = f"data: {data}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(frame), frame)


class _Frames:
    """Frames by token number, written once."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []

    def get(self, index: int) -> bytes:
        while len(self._frames) <= index:
            self._frames.append(_http_chunk(_CHUNK % token(len(self._frames))))
        return self._frames[index]

    def end(self, count: int) -> bytes:
        """Usage, [DONE] and the end of the response."""
        return _http_chunk(_USAGE % count) + _http_chunk("[DONE]") + b"0\r\n\r\n"


class _Stream(asyncio.Protocol):
    """A connection: a request, then its tokens, then perhaps another."""

    def __init__(self, open_streams: set[_Stream], frames: _Frames, wake: asyncio.Event) -> None:
        self._open = open_streams
        self._frames = frames
        self._wake = wake
        self._received = b""
        self._next, self._count = 0, 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or length is None or len(body) < int(length[1]):
            return
        asked = _MAX_TOKENS.search(body)
        self._received, self._next, self._count = b"", 0, int(asked[1]) if asked else 16
        self._transport.write(_HEAD)
        self._open.add(self)
        self._wake.set()

    def step(self) -> None:
        """Send the next token."""
        if self._paused:
            return
        self._transport.write(self._frames.get(self._next))
        self._next += 1
        if self._next == self._count:
            self._open.discard(self)
            self._transport.write(self._frames.end(self._count))


async def _serve(listener: socket.socket, pace_s: float) -> None:
    loop = asyncio.get_running_loop()
    streams: set[_Stream] = set()
    frames, wake = _Frames(), asyncio.Event()
    server = await loop.create_server(lambda: _Stream(streams, frames, wake), sock=listener, backlog=8192)
    async with server:
        round_s = monotonic()
        while True:
            if not streams:
                wake.clear()
                await wake.wait()
                round_s = monotonic()
            for stream in list(streams):
                stream.step()
            round_s = max(round_s + pace_s, monotonic() - pace_s)
            await asyncio.sleep(max(0.0, round_s - monotonic()))


def _work(pipe: Pipe, port: int, pace_s: float) -> None:
    raise_file_limit(_MAX_STREAMS)
    listener = _listener(port)
    pipe.send("ready")
    uvloop.run(_serve(listener, pace_s))


def _listener(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    return listener


@contextmanager
def null_server(num_processes: int, pace_s: float = 0.0) -> Iterator[str]:
    """Processes that share a free port; gives the URL."""
    context = multiprocessing.get_context("spawn")
    with _listener(0) as holder:  # bound but not listening: it holds the port and gets no connection
        port: int = holder.getsockname()[1]
        processes = []
        for _ in range(num_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, port, pace_s), daemon=True)
            process.start()
            processes.append(process)
            assert ours.recv() == "ready"
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            for process in processes:
                process.kill()
                process.join()

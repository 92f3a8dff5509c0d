"""One client process: sends its share of requests on time and records the answers. Computes no figures.

Requests are written out before the start, answers are parsed after the end, and the garbage collector is off
in between: what happens while the clock runs is connection.py and a task for each request.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from time import monotonic, process_time
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from .answer import Answer, read_answer
from .ask import Ask, Target
from .connection import Connection, Recording
from .file_limit import raise_file_limit
from .streams import Observed, Streams, collect

_FRESH_S = 1.0
"""Connections idle for longer are not used again: the server may be closing them at this moment."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one client process does.   max_open: streams at a time; None sends each request when it is due."""

    index: int
    target: Target
    asks: Sequence[Ask]
    max_open: int | None
    timeout_s: float


class ClientResult(NamedTuple):
    """cpu_s: processor time while the clock ran, of wall_s."""

    streams: Streams
    cpu_s: float
    wall_s: float


def work(pipe: Pipe, share: Share) -> None:
    """The process's life: prepare, say so, wait for the time of the start, run, send the result."""
    raise_file_limit(len(share.asks) if share.max_open is None else share.max_open)
    requests = [request_bytes(share.target, ask) for ask in share.asks]
    gc.collect()
    gc.disable()
    pipe.send("ready")
    zero_s: float = pipe.recv()
    recorder = _Recorder(share, requests, zero_s)
    began_cpu_s = process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        recorded = runner.run(recorder.run())
        cpu_s, wall_s = process_time() - began_cpu_s, monotonic() - zero_s
    observed = [Observed(ask, begin_s, late_s, _read(seen)) for ask, begin_s, late_s, seen in recorded]
    pipe.send(ClientResult(collect(observed, share.index, zero_s), cpu_s, wall_s))
    pipe.close()


def request_bytes(target: Target, ask: Ask) -> bytes:
    """The request as it goes over the wire."""
    parts = urlsplit(target.url)
    key = f"Authorization: Bearer {target.api_key}\r\n" if target.api_key else ""
    head = (
        f"POST {parts.path.rstrip('/')}{target.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{key}"
        f"Content-Type: application/json\r\nContent-Length: {len(ask.body)}\r\n\r\n"
    )
    return head.encode() + ask.body


def _read(seen: Recording | str) -> Answer:
    if isinstance(seen, str):
        return read_answer(Recording([], [], seen))
    return read_answer(seen)


_Recorded = tuple[Ask, float, float, Recording | str]
"""(request, begin, lateness, what came or why there was no connection); times in seconds since the start."""


class _Recorder:
    """Sends the requests of one share, over connections that are used again when they are free."""

    def __init__(self, share: Share, requests: Sequence[bytes], zero_s: float) -> None:
        self._share = share
        self._requests = requests
        self._zero_s = zero_s
        self._recorded: list[_Recorded] = []
        self._idle: deque[tuple[Connection, float]] = deque()
        parts = urlsplit(share.target.url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = (parts.hostname or "localhost", parts.port or (443 if self._tls else 80))

    async def run(self) -> list[_Recorded]:
        """Everything, in the order in which it ended."""
        if self._share.max_open is None:
            await asyncio.gather(*(self._when_due(i) for i in range(len(self._requests))))
        else:
            todo = iter(range(len(self._requests)))
            workers = min(self._share.max_open, len(self._requests))
            await asyncio.gather(*(self._one_by_one(todo) for _ in range(workers)))
        for connection, _ in self._idle:
            connection.abort()
        return self._recorded

    async def _when_due(self, index: int) -> None:
        due_s = self._share.asks[index].due_s
        await asyncio.sleep(max(0.0, self._zero_s + due_s - monotonic()))
        await self._send(index, due_s, self._now_s() - due_s)

    async def _one_by_one(self, todo: Iterator[int]) -> None:
        for index in todo:
            wait_s = self._share.asks[index].due_s - self._now_s()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            await self._send(index, self._now_s(), 0.0)

    async def _send(self, index: int, begin_s: float, late_s: float) -> None:
        ask = self._share.asks[index]
        seen: Recording | str
        try:
            connection = await self._connect()
        except OSError as error:
            seen = f"connect: {error.strerror or type(error).__name__}"
        else:
            seen = await connection.exchange(self._requests[index], ask.cut_after, self._share.timeout_s)
            if connection.usable:
                self._idle.append((connection, monotonic()))
        self._recorded.append((ask, begin_s, late_s, seen))

    async def _connect(self) -> Connection:
        while self._idle:
            connection, since_s = self._idle.pop()
            if connection.usable and monotonic() - since_s < _FRESH_S:
                return connection
            connection.abort()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, *self._address, ssl=self._tls)
        return connection

    def _now_s(self) -> float:
        return monotonic() - self._zero_s

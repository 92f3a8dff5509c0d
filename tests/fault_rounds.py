"""Rounds of faults against a toy server with real processes, and what must hold after each.

A round is streams that are under way and one fault at a random moment. Each stream must end: whole and right,
with an error event and [DONE], refused, not answered since the server went first, or cut with the front end
that served it. Nothing may hang or be left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
from server_process import wait_idle
from toy_server import ToyServer, alive, answer_of, toy_server, wait_for

MAX_TOKENS = 60
WITHIN_S = 120.0
SLOW_S = 2.0
"""A slow reader is slow for so long: a pause for each of its bytes would be ten seconds at best, a minute if
the machine is busy."""


def kill_frontend(server: ToyServer) -> None:
    os.kill(random.choice(server.frontends()), signal.SIGKILL)


def kill_engine(server: ToyServer) -> None:
    server.process.kill()


def stop_server(server: ToyServer) -> None:
    server.process.terminate()


def pause_frontend(server: ToyServer) -> None:
    victim = random.choice(server.frontends())
    os.kill(victim, signal.SIGSTOP)
    time.sleep(0.5)
    os.kill(victim, signal.SIGCONT)


def pause_engine(server: ToyServer) -> None:
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    server.process.send_signal(signal.SIGCONT)


def _send(server: ToyServer, data: bytes, times: int) -> None:
    """What comes back, if anything does, is not looked at."""
    host, port = server.url.removeprefix("http://").split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 10) as connection:
        connection.settimeout(10)
        for _ in range(times):
            connection.sendall(data)
        connection.recv(4096)


def flood_headers(server: ToyServer) -> None:
    _send(server, b"GET / HTTP/1.1\r\nhost: x\r\n", 1)
    _send(server, b"GET / HTTP/1.1\r\n" + b"x-filler: " + b"y" * 60_000 + b"\r\n", 100)


def flood_body(server: ToyServer) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    _send(server, head, 1)
    _send(server, head + (b"10000\r\n" + b"z" * 65536 + b"\r\n") * 40, 12)


def send_nonsense(server: ToyServer) -> None:
    for _ in range(20):
        _send(server, random.randbytes(200) + b"\r\n\r\n", 1)


FATAL = (kill_engine, stop_server)
FAULTS: tuple[Callable[[ToyServer], None], ...] = (
    kill_frontend,
    kill_engine,
    stop_server,
    pause_frontend,
    pause_engine,
    flood_headers,
    flood_body,
    send_nonsense,
)


async def stream(http: httpx.AsyncClient, prompt: str, leaves_s: float | None, slow: bool) -> str:
    """How a stream ended; asserts that it is one of the ways that were promised."""
    body = {"prompt": prompt, "max_tokens": MAX_TOKENS, "stream": True}
    raw, begun = b"", False
    try:
        async with asyncio.timeout(leaves_s), http.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                assert response.status_code in (429, 500, 503), response.status_code
                return str(response.status_code)
            begun = True
            slow_until_s = time.monotonic() + SLOW_S if slow else 0
            async for data in response.aiter_raw(1 if slow else None):
                raw += data
                if not slow:
                    await asyncio.sleep(0)
                elif time.monotonic() < slow_until_s:
                    await asyncio.sleep(0.001)
    except TimeoutError:
        return "left"
    except httpx.TransportError:
        return "cut" if begun else "not answered"
    events = [line.removeprefix("data: ") for line in raw.decode().splitlines() if line.startswith("data: ")]
    assert events and events[-1] == "[DONE]", f"half a stream: {raw[-200:]!r}"
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks if "choices" in chunk)
    if any("error" in chunk for chunk in chunks):
        return "error event"
    assert text == answer_of(prompt, MAX_TOKENS), "a wrong answer"
    return "whole"


async def _round(
    server: ToyServer, fault: Callable[[ToyServer], None], num_streams: int, within_s: float
) -> Counter[str]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, timeout=within_s, limits=limits) as http:
        running = [
            asyncio.create_task(
                stream(http, f"stream {i}", random.uniform(0, 1) if i % 8 == 0 else None, slow=i % 16 == 1)
            )
            for i in range(num_streams)
        ]
        await asyncio.sleep(random.uniform(0, 1.0))
        await asyncio.to_thread(fault, server)
        return Counter(await asyncio.wait_for(asyncio.gather(*running), within_s))


def run_round(
    folder: Path, fault: Callable[[ToyServer], None], num_streams: int, within_s: float = WITHIN_S
) -> Counter[str]:
    """One round; how its streams ended. within_s: who takes longer hangs."""
    with toy_server(folder, max_queued=300) as server:
        pids = [server.process.pid, *server.frontends()]
        ends = asyncio.run(_round(server, fault, num_streams, within_s))
        if fault not in FATAL:
            wait_for(lambda: len(server.frontends()) == 2)
            with httpx.Client(base_url=server.url, timeout=WITHIN_S) as http:
                again = http.post("/v1/completions", json={"prompt": "again", "max_tokens": MAX_TOKENS})
                assert again.json()["choices"][0]["text"] == answer_of("again", MAX_TOKENS)
                wait_idle(http)
            pids += server.frontends()
            server.process.terminate()
        code = server.end(within_s=WITHIN_S)
        # Where the front end lives, what has begun is told its end.
        assert fault is kill_frontend or not ends["cut"], ends
        assert fault in (kill_frontend, *FATAL) or not ends["not answered"], ends
        assert code == (-signal.SIGKILL if fault is kill_engine else 0), server.log
        wait_for(lambda: not any(map(alive, pids)))
    return ends

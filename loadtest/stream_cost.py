"""What a token costs in a front end from the engine's output to the socket, for each kind of stream.

    python loadtest/stream_cost.py [--streams 256] [--rounds 30]

Application, server and streams are octavo's own; outputs are pushed as an engine brings them, and a thread
reads what is written. Microseconds of processor time for a token, the best of all rounds: through the
response's task, as for a client that lags, and past it. loadtest/event_cost.py has the pieces.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvloop
from event_cost import read
from starlette.types import ASGIApp
from toy import toy_model, write_tokenizer

from octavo.app.application import create_app
from octavo.app.client import OutputStream
from octavo.app.drain import OpenRequests
from octavo.app.errors import EngineStoppedError
from octavo.app.generation import Generation
from octavo.app.http_server import HttpServer
from octavo.app.live import Live
from octavo.app.metrics import ServerMetrics
from octavo.app.model_source import read_texts
from octavo.app.server_settings import ServerSettings
from octavo.model.plan import TokenLogprobs
from octavo.scheduler.request import Request, TokenOutput
from octavo.scheduler.view import EngineView

_ASKED = [{"role": "user", "content": "x"}]
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("completions", {"prompt": "x"}),
    "chat": ("chat/completions", {"messages": _ASKED}),
    "chat, log-probabilities": ("chat/completions", {"messages": _ASKED, "logprobs": True}),
    "chat, running usage": (
        "chat/completions",
        {"messages": _ASKED, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ),
    "chat, stop string": ("chat/completions", {"messages": _ASKED, "stop": ["zzz"]}),
    "completions, 4 choices": ("completions", {"prompt": "x", "n": 4}),
    "responses": ("responses", {"input": "x", "store": False}),
    "messages": ("messages", {"model": "toy", "messages": _ASKED, "max_tokens": 4000}),
}
"""Route and request of each kind."""
_WARM_UP = 10


class PushedClient:
    """An EngineClient whose outputs somebody else pushes."""

    def __init__(self) -> None:
        self.streams: list[tuple[Request, OutputStream]] = []

    def submit(self, request: Request) -> OutputStream:
        """See EngineClient."""
        stream = OutputStream(lambda reason: None)
        stream.accept()
        self.streams.append((request, stream))
        return stream

    def push(self, token: int) -> None:
        """A step: one token for every stream."""
        for request, stream in self.streams:
            told = () if request.params.logprobs is None else (TokenLogprobs(-0.5, 1, ((token, -0.5),)),)
            stream.push(TokenOutput(request.request_id, (token,), told))


def make_app(client: PushedClient, folder: Path) -> ASGIApp:
    """The server over `client`."""
    tokenizer, template = read_texts(folder)
    generation = Generation(client, tokenizer, template, toy_model(8192))
    settings = ServerSettings(model_names=("toy",), version="0")
    metrics = ServerMetrics("toy", "0")

    async def gather() -> ServerMetrics:
        return metrics

    async def look(since: int) -> EngineView:
        raise AssertionError("nobody looks")

    return OpenRequests(create_app(generation, settings, metrics, live=Live(look, gather)))


async def measure(kind: str, folder: Path, num_choices: int, rounds: int) -> float:
    """Microseconds for a token of this kind of stream."""
    route, asked = KINDS[kind]
    client = PushedClient()
    server = HttpServer(make_app(client, folder), lambda: None)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    serving = asyncio.create_task(server.serve([listener]))
    body = json.dumps({**asked, "stream": True, "temperature": 0})
    head = f"POST /v1/{route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()
    num_streams = num_choices // asked.get("n", 1)
    threading.Thread(target=read, args=(listener.getsockname(), num_streams, request), daemon=True).start()
    while len(client.streams) < num_choices:
        await asyncio.sleep(0.01)
    best = float("inf")
    for step in range(_WARM_UP + rounds):
        began = time.thread_time()
        client.push(300 + step % 1000)
        for _ in range(8):
            await asyncio.sleep(0)
        if step >= _WARM_UP:
            best = min(best, time.thread_time() - began)
        await asyncio.sleep(0.005)  # the reader's turn
    for _, stream in client.streams:
        stream.fail(EngineStoppedError("enough"))
    await asyncio.sleep(0.1)
    server.should_exit = True
    await serving
    return best / num_choices * 1e6


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(f"{'microseconds a token':<28}{'by the task':>14}{'past it':>10}")
    divert = OutputStream.divert
    for kind in KINDS:
        found = []
        for method in (_stay, divert):
            OutputStream.divert = method  # type: ignore[assignment,method-assign]
            with (
                tempfile.TemporaryDirectory() as folder,
                asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            ):
                write_tokenizer(Path(folder))
                found.append(runner.run(measure(kind, Path(folder), options.streams, options.rounds)))
        print(f"{kind:<28}{found[0]:>14.1f}{found[1]:>10.1f}", flush=True)


def _stay(stream: OutputStream, take: object) -> None:
    """Every output wakes the task, as if nothing could be written past it."""


if __name__ == "__main__":
    main()

"""What a token costs between scheduler and client's socket: microseconds of each process, events per second.

    python loadtest/frontends.py --frontends 2 --streams 256 --clients 2 --step-ms 20
    python loadtest/frontends.py --streams 64 --route responses

The engine, its scheduler, the front ends and their sockets are the product's; the device is a script that
brings every sequence a token each `--step-ms`, and loads no torch. Clients read raw bytes and count frames.
With 0 front ends HTTP runs in the engine's process. A front end that lags merges deltas: events < tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any

import uvloop
from toy import ScriptedExecutor, toy_model, write_tokenizer

from octavo.app.control_messages import Setup
from octavo.app.engine_server import EngineServer
from octavo.app.frames import PROTOCOL_VERSION
from octavo.app.generation import Generation
from octavo.app.http_front import HttpFront
from octavo.app.inproc_client import InprocClient
from octavo.app.lifecycle import Front
from octavo.app.listener import bind
from octavo.app.metrics import ServerMetrics
from octavo.app.model_source import read_texts
from octavo.app.server_settings import ServerSettings
from octavo.app.supervisor import Supervisor
from octavo.cache.config import CacheConfig
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.scheduler import Scheduler

_MAX_MODEL_LEN = 4096
_ASKED = [{"role": "user", "content": "x" * 16}]
_ROUTES: dict[str, tuple[dict[str, Any], str]] = {
    "completions": ({"prompt": "x" * 16}, "max_tokens"),
    "chat/completions": ({"messages": _ASKED}, "max_tokens"),
    "responses": ({"input": "x" * 16, "store": False}, "max_output_tokens"),
    "messages": ({"model": "toy", "messages": _ASKED}, "max_tokens"),
}
"""What a request says, and what it calls its limit."""
_ENDS = (b"[DONE]", b"response.incomplete", b"message_stop")


def read_streams(
    port: int, num_streams: int, num_tokens: int, route: str, more: dict[str, Any], results: Any
) -> None:
    """A client process: streams that begin together, read until all have ended."""
    asked, limit = _ROUTES[route]
    body = json.dumps({**asked, limit: num_tokens, "stream": True, "temperature": 0, **more})
    request = (
        f"POST /v1/{route} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"
    ).encode()
    selector = DefaultSelector()
    for _ in range(num_streams):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(request)
        connection.setblocking(False)
        selector.register(connection, EVENT_READ)
    num_open, num_events, num_whole = num_streams, 0, 0
    began_s, used_s = time.monotonic(), _own_cpu_s()
    while num_open:
        for key, _ in selector.select():
            data = key.fileobj.recv(1 << 18)  # type: ignore[union-attr]  # sockets were registered
            num_events += data.count(b"\ndata: ")
            num_whole += any(end in data for end in _ENDS)
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                num_open -= 1
    results.put((num_events, num_whole, time.monotonic() - began_s, _own_cpu_s() - used_s))


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_kib(pid: int) -> int:
    (line,) = (row for row in Path(f"/proc/{pid}/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1])


def server_of(
    options: argparse.Namespace, folder: Path, listener: socket.socket
) -> tuple[EngineServer | InprocClient, Front]:
    """An engine over a script, and what serves it: this process, or `--frontends` others."""
    settings = ServerSettings(model_names=("toy",), version="0")
    num_choices = options.streams * options.more.get("n", 1)
    scheduler = Scheduler(
        SchedulerConfig(max_num_seqs=num_choices, max_num_batched_tokens=8192, max_model_len=_MAX_MODEL_LEN),
        CacheConfig(num_choices * _MAX_MODEL_LEN // 16, 16),
    )
    executor = ScriptedExecutor(options.step_ms / 1000, logprobs="logprobs" in options.more)
    model = toy_model(_MAX_MODEL_LEN)
    if not options.frontends:
        tokenizer, template = read_texts(folder)
        client = InprocClient(scheduler, executor)
        metrics = ServerMetrics("toy", "0", client.stats)
        return client, HttpFront(
            client, lambda door: Generation(door, tokenizer, template, model), settings, metrics, listener
        )
    setup = Setup(
        version=PROTOCOL_VERSION,
        model_path=str(folder),
        model=model,
        settings=settings,
        log_level="info",
    )
    supervisor = Supervisor(setup, listener, options.frontends)
    engine = EngineServer(scheduler, executor)
    supervisor.serve(engine, {})
    return engine, supervisor


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One run."""
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    engine, front = server_of(options, folder, listener)
    engine.start()
    await front.open()
    pids = _children() if options.frontends else []
    results: Any = multiprocessing.get_context("spawn").SimpleQueue()
    each = options.streams // options.clients
    clients = [
        multiprocessing.get_context("spawn").Process(
            target=read_streams, args=(port, each, options.tokens, options.route, options.more, results)
        )
        for _ in range(options.clients)
    ]
    before = [_own_cpu_s(), *map(_cpu_s, pids)]
    small = [*map(_peak_kib, pids)]
    for process in clients:
        process.start()
    heard = [await asyncio.to_thread(results.get) for _ in clients]
    used = [after - then for after, then in zip([_own_cpu_s(), *map(_cpu_s, pids)], before, strict=True)]
    grown = sum(map(_peak_kib, pids)) - sum(small)
    await engine.close()
    await front.stop()
    return _summary(options, heard, used) | {"frontends_kib_per_stream": grown / options.streams}


def _summary(
    options: argparse.Namespace, heard: Iterable[tuple[int, int, float, float]], used: list[float]
) -> dict[str, Any]:
    events, whole, took, clients = zip(*heard, strict=True)
    num_choices = options.streams * options.more.get("n", 1)
    num_events, num_tokens = sum(events), num_choices * options.tokens
    assert sum(whole) == options.streams, f"{options.streams - sum(whole)} streams did not end"
    return {
        "tokens": num_tokens,
        "events": num_events,
        "events_per_s": num_events / max(took),
        "tokens_per_s": num_tokens / max(took),
        "engine_us_per_token": used[0] / num_tokens * 1e6,
        "frontends_us_per_token": sum(used[1:]) / num_tokens * 1e6,
        "frontends_share": [round(share / (sum(used[1:]) or 1), 3) for share in used[1:]],
        "clients_us_per_token": sum(clients) / num_tokens * 1e6,
    }


def _children() -> list[int]:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return [
        pid
        for pid in map(int, children.split())
        if b"app.frontend" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frontends", type=int, default=1)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--route", choices=list(_ROUTES), default="completions")
    parser.add_argument("--more", type=json.loads, default={}, help='of the request, as JSON: {"n": 4}')
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        write_tokenizer(Path(folder))
        print(json.dumps(runner.run(measure(options, Path(folder))), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

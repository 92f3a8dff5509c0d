"""Many requests, and whether memory grows: a slope in bytes per request, and that nothing was lost or left.

    python loadtest/soak.py --requests 100000

HTTP, tokenizer, scheduler and block accounting are the product's, in one process; the device only counts. Of
the clients some stream, some leave in the middle, some ask for what is refused. Exit status 1 past a limit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import uvloop
from toy import ScriptedExecutor, toy_model, write_tokenizer

from octavo.app.engine_host import HostOptions
from octavo.app.generation import Generation
from octavo.app.http_front import HttpFront
from octavo.app.inproc_client import InprocClient
from octavo.app.lifecycle import serve_until_signal
from octavo.app.listener import bind
from octavo.app.metrics import ServerMetrics
from octavo.app.model_source import read_texts
from octavo.app.server_settings import ServerSettings
from octavo.cache.config import CacheConfig
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.scheduler import Scheduler

_NUM_SLOTS = 64
_MAX_MODEL_LEN = 512
_SLOPE_FROM = 0.3
"""Share of the run after which memory is looked at: caches and pools are full by then."""


async def serve(folder: Path) -> int:
    """The server, until SIGTERM."""
    limits = SchedulerConfig(
        max_num_seqs=_NUM_SLOTS,
        max_num_batched_tokens=2048,
        max_model_len=_MAX_MODEL_LEN,
        max_queued_requests=64,
    )
    client = InprocClient(
        Scheduler(limits, CacheConfig(_NUM_SLOTS * 16, 16)),
        ScriptedExecutor(0.0),
        HostOptions(step_timeout_s=60),
    )
    listener = bind("127.0.0.1", 0)
    tokenizer, template = read_texts(folder)
    model = toy_model(_MAX_MODEL_LEN)
    front = HttpFront(
        client,
        lambda door: Generation(door, tokenizer, template, model),
        ServerSettings(model_names=("toy",), version="0", request_timeout_s=30.0),
        ServerMetrics("toy", "0", client.stats),
        listener,
    )
    client.start()
    port = listener.getsockname()[1]
    try:
        return await serve_until_signal(front, client, ready_line=lambda: str(port), drain_timeout_s=10)
    finally:
        await client.close()


class Client:
    """One connection after the other, a request after the other on each. ends: how requests ended."""

    def __init__(self, port: int, seed: int, ends: Counter[str]) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._ends = ends
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self) -> None:
        """One request, to its end or until this client has had enough."""
        draw = self._random.random
        wrong, leaves, streams = draw() < 0.02, draw() < 0.05, draw() < 0.5
        body = {"prompt": "x" * self._random.randint(1, 200), "max_tokens": self._random.randint(1, 24)}
        sent = json.dumps(body | {"stream": streams, "temperature": -1 if wrong else 0}).encode()
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(sent)}\r\n\r\n".encode()
        self._writer.write(head + sent)
        if leaves:
            await asyncio.sleep(draw() * 0.02)
            await self.close()
            self._ends["left"] += 1
            return
        status, whole = await _answer(self._reader)
        assert whole, "half an answer"
        self._ends[status] += 1

    async def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
        self._reader = self._writer = None


async def _answer(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """Status, and whether the body was whole."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = head.split()[1]
    if "transfer-encoding: chunked" in head:
        body = await reader.readuntil(b"\r\n0\r\n\r\n")
        return status, b"data: [DONE]" in body
    length = int(head.split("content-length: ")[1].split("\r\n")[0])
    return status, len(await reader.readexactly(length)) == length


def resident_bytes(pid: int | None = None) -> int:
    """Memory of a process, this one by default."""
    for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has ended")


async def load(
    port: int, pid: int, options: argparse.Namespace
) -> tuple[Counter[str], list[tuple[int, int]]]:
    """(how requests ended, [(requests until then, resident bytes)])."""
    ends: Counter[str] = Counter()
    left = iter(range(options.requests))
    memory: list[tuple[int, int]] = []

    async def work(seed: int) -> None:
        client = Client(port, seed, ends)
        for number in left:
            await client.ask()
            if number % (options.requests // 100 or 1) == 0:
                memory.append((number, resident_bytes(pid)))
                print(f"{number}: {memory[-1][1] / 2**20:.1f} MiB", file=sys.stderr, flush=True)
        await client.close()

    await asyncio.gather(*map(work, range(options.clients)))
    return ends, memory


async def idle_state(port: int) -> dict[str, float]:
    """What /metrics says when nothing runs any more."""
    for _ in range(200):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        pairs = (line.rpartition(" ") for line in text.splitlines() if line.startswith("octavo_"))
        now = {name: float(value) for name, _, value in pairs}
        held = now["octavo_kv_blocks"] - now["octavo_kv_blocks_free"] - now["octavo_kv_blocks_evictable"]
        state = {
            "open": now["octavo_requests_open"],
            "running": now["octavo_engine_requests_running"],
            "blocks_held": held,
            "ended": sum(value for name, value in now.items() if name.startswith("octavo_requests_total{")),
        }
        if not any(state[name] for name in ("open", "running", "blocks_held")):
            break
        await asyncio.sleep(0.05)
    return state


def slope(memory: list[tuple[int, int]]) -> float:
    """Bytes per request, by least squares over the later part."""
    late = sorted(memory)[int(_SLOPE_FROM * len(memory)) :]
    numbers, resident = np.array(late, float).T
    return float(np.polyfit(numbers, resident, 1)[0])


def soak(options: argparse.Namespace) -> dict[str, object]:
    """A whole run."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        command = [sys.executable, __file__, "--serve", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            began_s = time.monotonic()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                ends, memory = runner.run(load(port, server.pid, options))
                took_s = time.monotonic() - began_s
                state = runner.run(idle_state(port))
            server.terminate()
            code = server.wait(60)
    return {
        "requests": options.requests,
        "seconds": round(took_s, 1),
        "ends": dict(ends),
        "slope_bytes_per_request": round(slope(memory), 2),
        "resident_mib": [round(resident / 2**20, 1) for _, resident in sorted(memory)[:: len(memory) // 10]],
        "left": state,
        "exit_code": code,
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--max-slope", type=float, default=50.0, help="bytes per request")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(options.serve))
    seen = soak(options)
    print(json.dumps(seen, indent=1))
    left = seen["left"]
    assert isinstance(left, dict)
    nothing_left = not any(left[name] for name in ("open", "running", "blocks_held"))
    slope_ok = float(str(seen["slope_bytes_per_request"])) < options.max_slope
    return 0 if nothing_left and slope_ok and seen["exit_code"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

"""Front-end processes around one engine: real processes, sockets and signals, and a toy for a device."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from server_process import samples
from toy_server import HOST, ToyServer, alive, answer_of, toy_server, wait_for

from octavo.app.errors import StartupError
from octavo.app.listener import bind


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ToyServer]:
    with toy_server(tmp_path) as server:
        yield server


class Stream:
    """A streamed completion; each has a connection of its own, so that the kernel chooses who serves it."""

    def __init__(self, http: httpx.AsyncClient, prompt: str, max_tokens: int) -> None:
        body = {"prompt": prompt, "max_tokens": max_tokens, "stream": True}
        self._request = http.stream("POST", "/v1/completions", json=body)
        self.events: list[str] = []
        self.status = 0
        self.cut = False

    async def read(self) -> None:
        """Read to the end, or until it is cut."""
        try:
            async with self._request as response:
                self.status = response.status_code
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        self.events.append(line.removeprefix("data: "))
        except httpx.TransportError:
            self.cut = True

    @property
    def text(self) -> str:
        """All text so far."""
        chunks = [json.loads(event) for event in self.events if event != "[DONE]"]
        return "".join(chunk["choices"][0]["text"] for chunk in chunks if "choices" in chunk)

    @property
    def error(self) -> str | None:
        """The error that ended it properly, None if none did."""
        if len(self.events) < 2 or self.events[-1] != "[DONE]":
            return None
        message: str | None = json.loads(self.events[-2]).get("error", {}).get("message")
        return message


async def streams(url: str, num_streams: int, max_tokens: int, disturb: Any = None) -> list[Stream]:
    """Streams that run together; `disturb()` is called once all have begun."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        opened = [Stream(http, f"stream {i}", max_tokens) for i in range(num_streams)]
        reading = [asyncio.create_task(stream.read()) for stream in opened]
        if disturb is not None:
            while not all(len(stream.events) > 2 for stream in opened):
                await asyncio.sleep(0.01)
            disturb()
        await asyncio.gather(*reading)
    return opened


def held_by(server: ToyServer) -> dict[int, int]:
    """Connections that clients have to each front end."""
    port = int(server.url.rpartition(":")[2])
    established, inodes = "01", set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].split(":")[1], 16) == port and fields[3] == established:
            inodes.add(f"socket:[{fields[9]}]")
    held = {}
    for pid in server.frontends():
        links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
        held[pid] = sum(link in inodes for link in links)
    return held


def test_what_a_front_end_imports_leaves_torch_alone() -> None:
    check = "import sys, octavo.app.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_streams_through_both_are_whole_and_in_order(server: ToyServer) -> None:
    held: dict[int, int] = {}
    done = asyncio.run(streams(server.url, 64, 40, lambda: held.update(held_by(server))))
    assert sum(held.values()) == 64
    assert len([count for count in held.values() if count]) == 2, f"one served all: {held}"
    for i, stream in enumerate(done):
        assert stream.events[-1] == "[DONE]"
        assert stream.text == answer_of(f"stream {i}", 40)
    assert not any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in server.frontends())
    assert server.end(signal.SIGTERM) == 0
    assert "Traceback" not in server.log


def test_an_address_in_use_is_still_found(server: ToyServer) -> None:
    with pytest.raises(StartupError, match="Address already in use"):
        bind(HOST, int(server.url.rpartition(":")[2]))


def test_the_official_client(server: ToyServer) -> None:
    async def ask() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0) as client:
            whole = await client.completions.create(model="toy", prompt="hello", max_tokens=30)
            chunks = await client.completions.create(model="toy", prompt="hello", max_tokens=30, stream=True)
            return whole.choices[0].text, "".join([chunk.choices[0].text async for chunk in chunks])

    whole, streamed = asyncio.run(ask())
    assert whole == streamed == answer_of("hello", 30)


def test_numbers_are_the_same_wherever_they_are_read(server: ToyServer) -> None:
    asyncio.run(streams(server.url, 20, 15))
    seen = []
    for _ in range(8):  # a connection each: by and by, every front end is asked
        with httpx.Client(base_url=server.url, timeout=30) as http:
            seen.append(samples(http))
            assert http.get("/readyz").status_code == 200
    for now in seen:
        assert now['octavo_requests_total{cause="length"}'] == 20
        assert now["octavo_request_generation_tokens_sum"] == 20 * 15
        assert now["octavo_generation_tokens_total"] == 20 * 15
        assert now["octavo_time_to_first_token_seconds_count"] == 20
        assert now["octavo_requests_open"] == 0
        assert now["octavo_frontends"] == 2
    asked = [now.get('octavo_http_responses_total{route="/metrics",status="200"}', 0) for now in seen]
    assert asked == list(range(8))


def test_a_killed_front_end_ends_its_own_streams_only(server: ToyServer) -> None:
    victim = server.frontends()[0]
    held: dict[int, int] = {}

    def kill() -> None:
        held.update(held_by(server))
        os.kill(victim, signal.SIGKILL)

    done = asyncio.run(streams(server.url, 32, 200, kill))
    cut = [stream for stream in done if stream.cut]
    assert 0 < len(cut) == held[victim] < 32
    for i, stream in enumerate(done):
        if not stream.cut:
            assert stream.text == answer_of(f"stream {i}", 200)
    wait_for(lambda: len(server.frontends()) == 2 and victim not in server.frontends())
    with httpx.Client(base_url=server.url, timeout=30) as http:
        wait_for(lambda: samples(http)["octavo_frontends"] == 2)
        now = samples(http)
        assert now['octavo_memory_bytes{kind="weights"}'] == 3000, "the new one was told, too"
    assert now['octavo_frontends_lost_total{cause="died"}'] == 1
    assert now['octavo_requests_total{cause="error"}'] == len(cut)
    assert now["octavo_requests_open"] == now["octavo_engine_requests_running"] == 0
    assert now["octavo_kv_blocks_free"] + now["octavo_kv_blocks_evictable"] == now["octavo_kv_blocks"]
    lines = [line for line in server.log.splitlines() if f"front end {victim} is lost" in line]
    assert len(lines) == 1 and f"and {len(cut)} requests with it" in lines[0] and "exit code -9" in lines[0]
    again = asyncio.run(streams(server.url, 16, 5))
    assert [stream.text for stream in again] == [answer_of(f"stream {i}", 5) for i in range(16)]
    assert server.end(signal.SIGTERM) == 0


def test_a_killed_engine_ends_every_stream_properly_and_every_process(server: ToyServer) -> None:
    frontends = server.frontends()
    ended: list[float] = []

    def kill() -> None:
        server.process.kill()
        ended.append(time.monotonic())

    done = asyncio.run(streams(server.url, 16, 1000, kill))
    assert time.monotonic() - ended[0] < 5
    assert [stream.error for stream in done] == ["the engine's process is gone"] * 16
    assert server.end() == -signal.SIGKILL
    wait_for(lambda: not any(map(alive, frontends)))


def test_an_engine_that_fails_ends_every_stream_and_the_server(tmp_path: Path) -> None:
    with toy_server(tmp_path, fail_at=30) as server:
        done = asyncio.run(streams(server.url, 8, 500))
        assert all("step 30 failed" in (stream.error or "") for stream in done)
        assert server.end() == 1
        assert "the engine has died: DeviceError: step 30 failed" in server.log


@pytest.mark.parametrize("everybody", [False, True], ids=["engine", "group"])
def test_running_requests_finish_and_new_ones_are_refused(server: ToyServer, everybody: bool) -> None:
    refused: list[httpx.Response] = []

    def stop() -> None:
        # A service manager tells all processes; the front ends leave it to the engine.
        for pid in [*(server.frontends() if everybody else ()), server.process.pid]:
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.3)
        with httpx.Client(base_url=server.url, timeout=30) as http:
            refused.append(http.post("/v1/completions", json={"prompt": "x"}))
            refused.append(http.get("/readyz"))

    done = asyncio.run(streams(server.url, 8, 150, stop))
    assert [stream.text for stream in done] == [answer_of(f"stream {i}", 150) for i in range(8)]
    assert [response.status_code for response in refused] == [503, 503]
    assert refused[0].json()["error"]["code"] == "server_draining"
    assert server.end() == 0
    assert "draining: 8 running" in server.log


@pytest.mark.parametrize(("drain_timeout", "num_signals"), [(0.2, 1), (60.0, 2)])
def test_what_does_not_finish_in_time_is_told_so(
    tmp_path: Path, drain_timeout: float, num_signals: int
) -> None:
    with toy_server(tmp_path, drain_timeout=drain_timeout) as server:

        def stop() -> None:
            for _ in range(num_signals):
                server.process.send_signal(signal.SIGTERM)
                time.sleep(0.2)

        began = time.monotonic()
        done = asyncio.run(streams(server.url, 8, 1900, stop))
        assert [stream.error for stream in done] == ["the engine was stopped"] * 8
        assert server.end() == 0
        assert time.monotonic() - began < 15


def test_refusals_have_their_status_before_anything_is_streamed(tmp_path: Path) -> None:
    with toy_server(tmp_path, max_seqs=1, max_queued=1) as server:
        body = {"prompt": "x", "max_tokens": 1900, "stream": True}

        def ask(http: httpx.Client) -> Any:
            return http.stream("POST", "/v1/completions", json=body)

        with ExitStack() as stack:
            # A client each, since one that closes a stream early closes its connection.
            http, *others = (
                stack.enter_context(httpx.Client(base_url=server.url, timeout=30)) for _ in range(3)
            )
            # One at a time: a request that has only just come waits, too, whoever runs.
            for other, name in zip(others, ("running", "waiting"), strict=True):
                assert stack.enter_context(ask(other)).status_code == 200
                wait_for(lambda name=name: samples(http)[f"octavo_engine_requests_{name}"] == 1)
            for _ in range(4):
                with ask(http) as response:
                    assert response.status_code == 503
                    assert "wait already" in response.read().decode()
            assert samples(http)['octavo_requests_total{cause="refused"}'] == 4


def test_a_client_that_goes_away_costs_nothing_more(server: ToyServer) -> None:
    with httpx.Client(base_url=server.url) as other:
        body = {"prompt": "x", "max_tokens": 1900, "stream": True}
        with (
            httpx.Client(base_url=server.url) as http,
            http.stream("POST", "/v1/completions", json=body) as response,
        ):
            next(response.iter_lines())
        wait_for(lambda: samples(other)["octavo_engine_requests_running"] == 0, within_s=2)
        assert samples(other)['octavo_requests_total{cause="disconnect"}'] == 1


def test_a_front_end_that_hangs_is_replaced(tmp_path: Path) -> None:
    # One second would be long enough, but on a loaded machine the other front end may be as slow as that.
    with toy_server(tmp_path, max_silent=3) as server:
        victim = server.frontends()[0]
        os.kill(victim, signal.SIGSTOP)
        wait_for(lambda: victim not in server.frontends() and len(server.frontends()) == 2)
        with httpx.Client(base_url=server.url, timeout=30) as http:
            assert samples(http)['octavo_frontends_lost_total{cause="dropped"}'] == 1
        assert "it has not answered for 3 s" in server.log
        assert server.end(signal.SIGTERM) == 0

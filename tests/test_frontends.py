"""Front-end processes around one engine: real processes, sockets and signals, and a toy for a device."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from open_streams import held_by, streams
from openai import AsyncOpenAI
from patience import at_some_pace
from server_process import samples, wait_idle
from toy_server import HOST, ToyServer, alive, answer_of, toy_server, wait_for

from octavo.app.errors import StartupError
from octavo.app.listener import bind


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ToyServer]:
    with toy_server(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ToyServer]:
    """For tests that leave it as it was."""
    with toy_server(tmp_path_factory.mktemp("shared")) as server:
        yield server


def test_what_a_front_end_imports_leaves_torch_alone() -> None:
    check = "import sys, octavo.app.frontend; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_streams_through_both_are_whole_and_in_order(server: ToyServer) -> None:
    def check(pace: float) -> None:
        held: dict[int, int] = {}

        def look() -> None:
            held.update(held_by(server))
            server.pace(0)

        server.pace(0.25)
        done = asyncio.run(streams(server.url, 64, 40, look))
        assert sum(held.values()) == 64
        for i, stream in enumerate(done):
            assert stream.events[-1] == "[DONE]"
            assert stream.text == answer_of(f"stream {i}", 40)
        # Whoever stands still for a moment takes none of those that come meanwhile.
        assert len([count for count in held.values() if count]) == 2, f"one served all: {held}"

    at_some_pace(check)
    assert not any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in server.frontends())
    assert server.end(signal.SIGTERM) == 0
    assert "Traceback" not in server.log


def test_an_address_in_use_is_still_found(shared: ToyServer) -> None:
    with pytest.raises(StartupError, match="Address already in use"):
        bind(HOST, int(shared.url.rpartition(":")[2]))


def test_the_official_client(shared: ToyServer) -> None:
    async def ask() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=f"{shared.url}/v1", api_key="-", max_retries=0) as client:
            whole = await client.completions.create(model="toy", prompt="hello", max_tokens=30)
            chunks = await client.completions.create(model="toy", prompt="hello", max_tokens=30, stream=True)
            return whole.choices[0].text, "".join([chunk.choices[0].text async for chunk in chunks])

    whole, streamed = asyncio.run(ask())
    assert whole == streamed == answer_of("hello", 30)


def test_numbers_are_the_same_wherever_they_are_read(server: ToyServer) -> None:
    asyncio.run(streams(server.url, 20, 15))

    def check(pace: float) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            before = wait_idle(http)
        seen = []
        for _ in range(8):  # a connection each: by and by, every front end is asked
            with httpx.Client(base_url=server.url, timeout=60) as http:
                seen.append(samples(http))
                assert http.get("/readyz").status_code == 200
        for now in seen:
            assert now['octavo_requests_total{cause="length"}'] == 20
            assert now["octavo_request_generation_tokens_sum"] == 20 * 15
            assert now["octavo_generation_tokens_total"] == 20 * 15
            assert now["octavo_time_to_first_token_seconds_count"] == 20
            assert now["octavo_requests_open"] == 0
            assert now["octavo_frontends"] == 2
        scrapes = 'octavo_http_responses_total{route="/metrics",status="200"}'
        assert [now[scrapes] - before.get(scrapes, 0) for now in seen] == list(range(1, 9))

    at_some_pace(check)  # who does not answer for two seconds is told of as it was


def test_a_killed_front_end_ends_its_own_streams_only(server: ToyServer) -> None:
    victim = server.frontends()[0]
    held: dict[int, int] = {}
    server.pace(0.1)

    def kill() -> None:
        held.update(held_by(server))
        os.kill(victim, signal.SIGKILL)
        server.pace(0.005)

    done = asyncio.run(streams(server.url, 32, 200, kill))
    cut = [stream for stream in done if stream.cut]
    assert 0 < len(cut) == held[victim] < 32
    for i, stream in enumerate(done):
        if not stream.cut:
            assert stream.text == answer_of(f"stream {i}", 200)
    wait_for(lambda: len(server.frontends()) == 2 and victim not in server.frontends())
    with httpx.Client(base_url=server.url, timeout=60) as http:
        wait_for(lambda: samples(http)["octavo_frontends"] == 2)
        now = wait_idle(http)
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
    server.pace(0.1)
    done = asyncio.run(streams(server.url, 16, 1000, server.process.kill))
    assert [stream.error for stream in done] == ["the engine's process is gone"] * 16
    assert server.end() == -signal.SIGKILL
    wait_for(lambda: not any(map(alive, frontends)))


def test_an_engine_that_fails_ends_every_stream_and_the_server(tmp_path: Path) -> None:
    with toy_server(tmp_path, fail_at=30) as server:
        server.pace(0.25)
        done = asyncio.run(streams(server.url, 8, 500, lambda: server.pace(0)))
        assert all("step 30 failed" in (stream.error or "") for stream in done)
        assert server.end() == 1
        assert "the engine has died: DeviceError: step 30 failed" in server.log


@pytest.mark.parametrize("everybody", [False, True], ids=["engine", "group"])
def test_running_requests_finish_and_new_ones_are_refused(server: ToyServer, everybody: bool) -> None:
    refused: list[httpx.Response] = []
    server.pace(0.3)

    def stop() -> None:
        # A service manager tells all processes; the front ends leave it to the engine.
        for pid in [*(server.frontends() if everybody else ()), server.process.pid]:
            os.kill(pid, signal.SIGTERM)
        with httpx.Client(base_url=server.url, timeout=60) as http:
            wait_for(lambda: http.get("/readyz").status_code == 503)
            refused.append(http.post("/v1/completions", json={"prompt": "x"}))
            refused.append(http.get("/readyz"))
        server.pace(0)

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
        server.pace(0.1)

        def stop() -> None:
            for _ in range(num_signals):
                server.process.send_signal(signal.SIGTERM)
                wait_for(lambda: "draining" in server.log)  # two signals at once are one

        done = asyncio.run(streams(server.url, 8, 1900, stop))
        assert [stream.error for stream in done] == ["the engine was stopped"] * 8
        assert server.end() == 0


def test_refusals_have_their_status_before_anything_is_streamed(tmp_path: Path) -> None:
    with toy_server(tmp_path, max_seqs=1, max_queued=1, latency=0.2) as server:
        body = {"prompt": "x", "max_tokens": 1900, "stream": True}

        def ask(http: httpx.Client) -> Any:
            return http.stream("POST", "/v1/completions", json=body)

        with ExitStack() as stack:
            # A client each, since one that closes a stream early closes its connection.
            http, *others = (
                stack.enter_context(httpx.Client(base_url=server.url, timeout=60)) for _ in range(3)
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


def test_a_client_that_goes_away_costs_nothing_more(shared: ToyServer) -> None:
    shared.pace(0.1)
    with httpx.Client(base_url=shared.url, timeout=60) as other:
        body = {"prompt": "x", "max_tokens": 1900, "stream": True}
        with (
            httpx.Client(base_url=shared.url, timeout=60) as http,
            http.stream("POST", "/v1/completions", json=body) as response,
        ):
            next(response.iter_lines())
        wait_for(lambda: samples(other)["octavo_engine_requests_running"] == 0)
        assert wait_idle(other)['octavo_requests_total{cause="disconnect"}'] == 1


def test_a_front_end_that_hangs_is_replaced(tmp_path: Path) -> None:
    # One second would be long enough, but on a loaded machine the other front end may be as slow as that.
    with toy_server(tmp_path, max_silent=3) as server:
        victim = server.frontends()[0]
        os.kill(victim, signal.SIGSTOP)
        wait_for(lambda: victim not in server.frontends() and len(server.frontends()) == 2)
        assert f"front end {victim} is lost" in server.log and "it has not answered for 3 s" in server.log
        with httpx.Client(base_url=server.url, timeout=60) as http:
            # A machine that stands still for so long costs the other its place, too.
            assert samples(http)['octavo_frontends_lost_total{cause="dropped"}'] >= 1
        assert server.end(signal.SIGTERM) == 0

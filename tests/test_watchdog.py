"""A device that does not come back: who is told, what still works, how it ends."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_clock import EngineClock
from fakes import FakeExecutor, ToyModel
from patience import until
from server_process import samples
from toy_server import alive, toy_server, wait_for

from octavo.app.engine_host import HostOptions
from octavo.app.errors import EngineOverloadedError
from octavo.app.inproc_client import InprocClient
from octavo.cache.config import CacheConfig
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.closing import close_within
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Claim, FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

LIMIT_S = 500.0
HELD = 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> EngineClock:
    """The engine's, which the test puts forward: nothing here takes its time, however slow the machine."""
    clock = EngineClock()
    monkeypatch.setattr("octavo.scheduler.engine.time", clock)
    return clock


def make_client() -> tuple[InprocClient, FakeExecutor]:
    """A client, and a device that does not finish step `HELD` before its gate is opened."""
    config = SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=400)
    executor = FakeExecutor(ToyModel(), num_slots=2, num_blocks=100, block_size=4)
    executor.gates[HELD] = asyncio.Event()
    scheduler = Scheduler(config, CacheConfig(100, 4))
    return InprocClient(scheduler, executor, HostOptions(step_timeout_s=LIMIT_S)), executor


def request(name: str, max_tokens: int = 20, **claim: Any) -> Request:
    params = SamplingParams(temperature=0, max_tokens=max_tokens)
    claimed = Claim(arrival_s=time.monotonic(), **claim)
    return Request(
        request_id=name, prompt_token_ids=[1, 2, 3], params=params, max_tokens=max_tokens, claim=claimed
    )


async def last_of(stream: Any) -> TokenOutput:
    while True:
        for output in await stream.next():
            if output.finish_reason is not None:
                assert isinstance(output, TokenOutput)
                return output


def test_a_step_that_comes_back_late_costs_its_own_requests_only(
    clock: EngineClock, capfd: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        client, device = make_client()
        client.start()
        try:
            affected = [client.submit(request(name)) for name in "ab"]
            waits = client.submit(request("waits"))
            await until(lambda: device.awaited == HELD)
            clock.pass_s(1.5 * LIMIT_S)
            for stream in affected:
                last = await last_of(stream)
                assert last.finish_reason is FinishReason.ERROR
                assert last.error is not None and last.error.startswith(
                    "the device has not finished a step for"
                )
            assert client.pulse().trouble() is not None
            with pytest.raises(EngineOverloadedError, match="has not finished a step"):
                client.submit(request("refused"))
            device.gates[HELD].set()
            assert (await last_of(waits)).finish_reason is FinishReason.LENGTH
            assert client.pulse().trouble() is None
            assert (await last_of(client.submit(request("later")))).finish_reason is FinishReason.LENGTH
        finally:
            await client.close()
        assert not client.stuck

    asyncio.run(run())
    said = capfd.readouterr().err
    assert said.count("Current thread") + said.count("(most recent call first)") >= 1


def test_a_step_that_never_comes_back_ends_the_engine_and_all_requests(clock: EngineClock) -> None:
    async def run() -> str:
        client, device = make_client()
        client.start()
        *affected, waits = (client.submit(request(name)) for name in "abc")
        await until(lambda: device.awaited == HELD)
        clock.pass_s(1.5 * LIMIT_S)
        lasts = [await last_of(stream) for stream in affected]
        clock.pass_s(0.75 * LIMIT_S)
        lasts.append(await last_of(waits))
        assert {last.finish_reason for last in lasts} == {FinishReason.ERROR}
        cause = await client.wait_dead()
        assert all(str(last.error).endswith("(--step-timeout 500)") for last in lasts)
        await client.close()
        return cause

    assert asyncio.run(run()).startswith("StepTimeoutError: the device has not finished a step for 1.1")


def test_time_runs_out_while_the_device_is_at_a_long_step() -> None:
    async def run() -> None:
        client, device = make_client()
        client.start()
        runs = client.submit(request("runs", deadline_s=time.monotonic() + 0.05))
        assert (await last_of(runs)).finish_reason is FinishReason.DEADLINE
        device.gates[HELD].set()
        await client.close()

    asyncio.run(run())


@pytest.mark.parametrize("hangs", [False, True])
def test_closing_waits_so_long_and_no_longer(hangs: bool) -> None:
    over = threading.Event()

    class Device:
        def close(self) -> None:
            if hangs:
                over.wait(120)

    limit_s = 0.1 if hangs else 120
    assert asyncio.run(close_within(Device(), limit_s)) is not hangs  # type: ignore[arg-type]
    over.set()


def test_a_stuck_device_shows_in_health_and_ends_the_server(tmp_path: Path) -> None:
    with (
        toy_server(tmp_path, hang_at=30, step_timeout=LIMIT_S) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        frontends = server.frontends()
        assert http.get("/health").json()["step_age_s"] == 0
        body = {"prompt": "hello", "max_tokens": 100}
        asked = pool.submit(httpx.post, f"{server.url}/v1/completions", json=body, timeout=120)
        # The step after it is launched ahead once the one before it is done.
        wait_for(lambda: samples(http)["octavo_engine_steps_total"] == 30 + 2)
        server.process.send_signal(signal.SIGUSR1)
        failed = asked.result(120)
        assert failed.status_code == 500
        assert "has not finished a step for 60" in failed.json()["error"]["message"]
        wait_for(lambda: http.get("/health").status_code == 503)
        refused = http.get("/health").json()["error"]
        assert refused["code"] == "server_not_ready" and "has not finished a step" in refused["message"]
        wait_for(lambda: http.get("/readyz").status_code == 503)
        assert http.get("/livez").status_code == 200
        again = http.post("/v1/completions", json=body)
        assert again.status_code == 503 and int(again.headers["retry-after"]) > 0
        server.process.send_signal(signal.SIGUSR1)
        assert server.end() == 1
        wait_for(lambda: not any(map(alive, frontends)))
        assert "(most recent call first)" in server.log
        assert "the engine has died: StepTimeoutError: the device has not finished a step" in server.log


def test_a_full_queue_is_not_ready_but_well(tmp_path: Path) -> None:
    with toy_server(tmp_path, max_seqs=1, max_queued=2, latency=0.5) as server:

        async def crowd() -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:

                async def status(path: str) -> int:
                    return (await http.get(path)).status_code

                body = {"prompt": "hello", "max_tokens": 75}
                tasks = [asyncio.create_task(http.post("/v1/completions", json=body))]
                while (await http.get("/health")).json()["running"] == 0:  # it waits no more
                    await asyncio.sleep(0.01)
                assert await status("/readyz") == 200
                tasks += [asyncio.create_task(http.post("/v1/completions", json=body)) for _ in range(2)]
                async with asyncio.timeout(60):
                    while await status("/readyz") != 503:
                        assert await status("/health") == 200
                        await asyncio.sleep(0.05)
                assert await status("/health") == 200
                server.pace(0)
                assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 3

        asyncio.run(crowd())
        with httpx.Client(base_url=server.url, timeout=60) as http:
            wait_for(lambda: http.get("/readyz").status_code == 200)

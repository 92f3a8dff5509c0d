"""A device that does not come back: who is told, what still works, how it ends."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import FakeExecutor, ToyModel
from toy_server import alive, toy_server, wait_for

from octavo.app.engine_host import HostOptions
from octavo.app.errors import EngineOverloadedError
from octavo.app.inproc_client import InprocClient
from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.closing import close_within
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Claim, FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

LIMIT_S = 0.2


class Hanging:
    """Seconds of each step; `hang_s` for one of them."""

    def __init__(self, at: int, hang_s: float) -> None:
        self.at, self.hang_s, self.steps = at, hang_s, 0

    def __call__(self, plan: StepPlan) -> float:
        self.steps += 1
        return self.hang_s if self.steps - 1 == self.at else 0.0


def make_client(latency: Hanging) -> InprocClient:
    config = SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=400)
    executor = FakeExecutor(ToyModel(), num_slots=2, num_blocks=100, block_size=4, latency_s=latency)
    scheduler = Scheduler(config, CacheConfig(100, 4))
    return InprocClient(scheduler, executor, HostOptions(step_timeout_s=LIMIT_S))


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


def test_a_step_that_comes_back_late_costs_its_own_requests_only(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        client = make_client(Hanging(3, 1.5 * LIMIT_S))
        client.start()
        try:
            affected = [client.submit(request(name)) for name in "ab"]
            waits = client.submit(request("waits"))
            for stream in affected:
                last = await last_of(stream)
                assert last.finish_reason is FinishReason.ERROR
                assert last.error is not None and last.error.startswith(
                    "the device has not finished a step for"
                )
            assert client.pulse().trouble() is not None
            with pytest.raises(EngineOverloadedError, match="has not finished a step"):
                client.submit(request("refused"))
            assert (await last_of(waits)).finish_reason is FinishReason.LENGTH
            assert client.pulse().trouble() is None
            assert (await last_of(client.submit(request("later")))).finish_reason is FinishReason.LENGTH
        finally:
            await client.close()
        assert not client.stuck

    asyncio.run(run())
    said = capfd.readouterr().err
    assert said.count("Current thread") + said.count("(most recent call first)") >= 1


def test_a_step_that_never_comes_back_ends_the_engine_and_all_requests() -> None:
    async def run() -> str:
        client = make_client(Hanging(3, 3600))
        client.start()
        streams = [client.submit(request(name)) for name in "abc"]
        lasts = await asyncio.gather(*map(last_of, streams))
        assert {last.finish_reason for last in lasts} == {FinishReason.ERROR}
        cause = await client.wait_dead()
        assert all(str(last.error).endswith("(--step-timeout 0.2)") for last in lasts)
        await client.close()
        return cause

    assert asyncio.run(run()).startswith("StepTimeoutError: the device has not finished a step for 0.4")


def test_time_runs_out_while_the_device_is_at_a_long_step() -> None:
    async def run() -> None:
        client = make_client(Hanging(3, 1.2 * LIMIT_S))
        client.start()
        now_s = time.monotonic()
        runs = client.submit(request("runs", deadline_s=now_s + 0.05))
        assert (await last_of(runs)).finish_reason is FinishReason.DEADLINE
        assert time.monotonic() - now_s < LIMIT_S
        await client.close()

    asyncio.run(run())


@pytest.mark.parametrize("hangs", [False, True])
def test_closing_waits_so_long_and_no_longer(hangs: bool) -> None:
    class Device:
        def close(self) -> None:
            time.sleep(1.0 if hangs else 0.0)

    began_s = time.monotonic()
    assert asyncio.run(close_within(Device(), 0.1)) is not hangs  # type: ignore[arg-type]
    assert time.monotonic() - began_s < 0.9


def test_a_stuck_device_shows_in_health_and_ends_the_server(tmp_path: Path) -> None:
    with toy_server(tmp_path, hang_at=30, step_timeout=3.0) as server:
        frontends = server.frontends()
        with httpx.Client(base_url=server.url, timeout=60) as http:
            assert http.get("/health").json()["step_age_s"] < 1
            body = {"prompt": "hello", "max_tokens": 100}
            failed = http.post("/v1/completions", json=body)
            assert failed.status_code == 500
            assert "has not finished a step for 3" in failed.json()["error"]["message"]
            wait_for(lambda: http.get("/health").status_code == 503, 10)
            refused = http.get("/health").json()["error"]
            assert refused["code"] == "server_not_ready" and "has not finished a step" in refused["message"]
            assert http.get("/readyz").status_code == 503
            assert http.get("/livez").status_code == 200
            again = http.post("/v1/completions", json=body)
            assert again.status_code == 503 and int(again.headers["retry-after"]) > 0
        assert server.end(within_s=30) == 1
        assert not any(map(alive, frontends))
        assert "(most recent call first)" in server.log
        assert "the engine has died: StepTimeoutError: the device has not finished a step" in server.log


def test_a_full_queue_is_not_ready_but_well(tmp_path: Path) -> None:
    with toy_server(tmp_path, max_seqs=1, max_queued=2, latency=0.02) as server:

        async def crowd() -> None:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
                body = {"prompt": "hello", "max_tokens": 75}
                tasks = [asyncio.create_task(http.post("/v1/completions", json=body))]
                while (await http.get("/health")).json()["running"] == 0:  # it waits no more
                    await asyncio.sleep(0.01)
                tasks += [asyncio.create_task(http.post("/v1/completions", json=body)) for _ in range(2)]
                ready = {200}
                for _ in range(100):
                    ready.add((await http.get("/readyz")).status_code)
                    assert (await http.get("/health")).status_code == 200
                    await asyncio.sleep(0.05)
                    if 503 in ready:
                        break
                assert ready == {200, 503}
                assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 3

        asyncio.run(crowd())
        with httpx.Client(base_url=server.url, timeout=60) as http:
            wait_for(lambda: http.get("/readyz").status_code == 200, 10)

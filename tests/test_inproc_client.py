"""How the streams of an engine in this event loop end with the engine."""

from __future__ import annotations

import asyncio

import pytest
from fakes import FakeExecutor, ToyModel

from octavo.app.client import OutputStream
from octavo.app.errors import EngineStoppedError
from octavo.app.inproc_client import InprocClient
from octavo.cache.config import CacheConfig
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler


async def running(fail_at_step: int | None = None) -> tuple[InprocClient, OutputStream]:
    """An engine, and a stream that has begun."""
    executor = FakeExecutor(
        ToyModel(vocab_size=64),
        num_slots=2,
        num_blocks=100,
        block_size=4,
        latency_s=0.001,
        fail_at_step=fail_at_step,
    )
    config = SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=400)
    client = InprocClient(Scheduler(config, CacheConfig(100, 4)), executor)
    client.start()
    params = SamplingParams(temperature=0, max_tokens=None)
    request = Request(request_id="r", prompt_token_ids=[1, 2, 3], params=params, max_tokens=390)
    stream = client.submit(request)
    await stream.next()
    return client, stream


async def rest_of(stream: OutputStream) -> TokenOutput:
    """The last output."""
    while (last := (await stream.next())[-1]).finish_reason is None:
        pass
    return last


def test_streams_of_an_engine_that_is_stopped_are_told_so() -> None:
    async def run() -> None:
        client, stream = await running()
        await client.close()
        with pytest.raises(EngineStoppedError, match="the engine was stopped"):
            await asyncio.wait_for(rest_of(stream), 60)

    asyncio.run(run())


def test_streams_of_an_engine_that_dies_end_with_its_error() -> None:
    async def run() -> None:
        client, stream = await running(fail_at_step=5)
        last = await asyncio.wait_for(rest_of(stream), 60)
        assert last.finish_reason is FinishReason.ERROR and "step 5 failed" in (last.error or "")
        await client.close()

    asyncio.run(run())

"""InprocClient while its engine runs: every request's outputs reach its own reader, in order and at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from expected import expected_output
from fakes import EOS, FakeExecutor, ToyModel

from octavo.app.client import OutputStream
from octavo.app.errors import EngineDeadError, EngineOverloadedError, RequestError
from octavo.app.inproc_client import InprocClient
from octavo.cache.config import CacheConfig
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

MODEL = ToyModel(eos_probability=0.02)
NUM_BLOCKS, BLOCK_SIZE = 24, 4


@asynccontextmanager
async def running(fail_at_step: int | None = None, **limits: Any) -> AsyncIterator[InprocClient]:
    """A client of a fresh engine with two slots; closed at the end."""
    executor = FakeExecutor(
        MODEL, num_slots=2, num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE, fail_at_step=fail_at_step
    )
    config = SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=16, max_model_len=200, **limits)
    client = InprocClient(Scheduler(config, CacheConfig(NUM_BLOCKS, BLOCK_SIZE)), executor)
    client.start()
    try:
        yield client
    finally:
        await client.close()


def request(number: int = 0, *, max_tokens: int = 12, prompt: int = 3) -> Request:
    return Request(
        request_id=f"r{number}",
        prompt_token_ids=[1 + number % 40] * prompt,
        params=SamplingParams(temperature=0, max_tokens=max_tokens),
        max_tokens=max_tokens,
        eos_token_ids=frozenset({EOS}),
    )


async def read(stream: OutputStream) -> list[TokenOutput]:
    """All outputs to the last."""
    outputs: list[TokenOutput] = []
    while not outputs or outputs[-1].finish_reason is None:
        outputs += await asyncio.wait_for(stream.next(), 30)
    return outputs


async def idle(client: InprocClient) -> None:
    """Wait until the engine has nothing left."""
    async with asyncio.timeout(30):
        while (stats := client.stats()).num_running or stats.num_waiting:
            await asyncio.sleep(0)


def test_each_reader_gets_its_own_answer() -> None:
    async def main() -> None:
        async with running() as client:
            requests = [request(number) for number in range(9)]
            streams = [client.submit(each) for each in requests]
            for stream in streams:
                await stream.accepted()
            for each, outputs in zip(requests, await asyncio.gather(*map(read, streams)), strict=True):
                expected = expected_output(each, MODEL)
                assert [token for output in outputs for token in output.token_ids] == expected.token_ids
                assert outputs[-1].finish_reason is expected.finish_reason
                assert {output.request_id for output in outputs} == {each.request_id}
            await idle(client)

    asyncio.run(main())


def test_a_reader_that_lags_gets_all_that_piled_up_at_once() -> None:
    async def main() -> None:
        async with running() as client:
            stream = client.submit(request())
            await idle(client)
            outputs = await stream.next()
            assert [t for output in outputs for t in output.token_ids] == expected_output(
                request(), MODEL
            ).token_ids
            assert len(outputs) > 1 and outputs[-1].finish_reason is not None

    asyncio.run(main())


def test_an_aborted_request_frees_its_slot_and_can_be_aborted_again() -> None:
    async def main() -> None:
        async with running() as client:
            endless = [client.submit(request(number, max_tokens=40)) for number in range(3)]
            await endless[0].next()
            assert client.stats().num_running + client.stats().num_waiting == 3
            for stream in endless:
                stream.abort()
            assert (client.stats().num_running, client.stats().num_waiting) == (0, 0)
            for stream in endless:
                stream.abort()
            client.abort("nobody")
            # The engine goes on, also under an id that was used before.
            assert (await read(client.submit(request())))[-1].finish_reason is not FinishReason.ABORT

    asyncio.run(main())


def test_what_can_never_fit_is_the_clients_mistake() -> None:
    async def main() -> None:
        async with running() as client:
            with pytest.raises(RequestError) as refusal:
                client.submit(request(max_tokens=NUM_BLOCKS * BLOCK_SIZE))
            assert (refusal.value.status, refusal.value.code) == (400, "context_length_exceeded")
            assert client.stats().num_waiting == 0

    asyncio.run(main())


def test_a_full_queue_is_an_overload_that_passes() -> None:
    async def main() -> None:
        async with running(max_queued_requests=2) as client:
            accepted = [client.submit(request(number)) for number in range(2)]
            with pytest.raises(EngineOverloadedError) as refusal:
                client.submit(request(2))
            assert refusal.value.status == 503 and refusal.value.retry_after_s
            await asyncio.gather(*map(read, accepted))
            assert (await read(client.submit(request(2))))[-1].finish_reason is not None

    asyncio.run(main())


def test_after_the_engine_died_a_new_request_hears_the_cause() -> None:
    async def main() -> None:
        async with running(fail_at_step=2) as client:
            stream = client.submit(request())
            cause = await asyncio.wait_for(client.wait_dead(), 30)
            assert cause == "DeviceError: step 2 failed"
            with pytest.raises(EngineDeadError, match=cause):
                client.submit(request(1))
            first, *_, last = await read(stream)
            assert list(first.token_ids) == expected_output(request(), MODEL).token_ids[:1]  # it is not lost
            assert (last.finish_reason, last.error) == (FinishReason.ERROR, cause)

    asyncio.run(main())

"""An engine server over a toy device and front ends' clients, joined by real sockets in one event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fakes import FakeExecutor, ToyModel

from octavo.app.client import OutputStream
from octavo.app.engine_frontend import Frontend
from octavo.app.engine_server import EngineServer
from octavo.app.remote_client import RemoteClient
from octavo.cache.config import CacheConfig
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

TOY = ToyModel(vocab_size=300)


def request(name: str, max_tokens: int = 20, **params: Any) -> Request:
    return Request(
        request_id=name,
        prompt_token_ids=list(name.encode()),
        params=SamplingParams(temperature=0, max_tokens=None, **params),
        max_tokens=max_tokens,
    )


def new_server(
    latency_s: float = 0.0, num_blocks: int = 2000, max_queued: int = 100, **limits: Any
) -> EngineServer:
    executor = FakeExecutor(TOY, num_slots=8, num_blocks=num_blocks, block_size=4, latency_s=latency_s)
    config = SchedulerConfig(
        max_num_seqs=8, max_num_batched_tokens=64, max_model_len=1000, max_queued_requests=max_queued
    )
    return EngineServer(Scheduler(config, CacheConfig(num_blocks, 4)), executor, **limits)


@asynccontextmanager
async def running(server: EngineServer) -> AsyncIterator[EngineServer]:
    server.start()
    try:
        yield server
    finally:
        await server.close()
        for frontend in server.frontends:
            frontend.link.cut("the test is over")
            await frontend.lost
        await asyncio.sleep(0.01)  # for the other ends to see it


async def join(server: EngineServer) -> tuple[RemoteClient, Frontend]:
    ours, theirs = socket.socketpair()
    client = RemoteClient()
    await client.attach(theirs)
    return client, await server.attach(ours)


async def read(stream: OutputStream) -> list[TokenOutput]:
    outputs: list[TokenOutput] = []
    while not outputs or outputs[-1].finish_reason is None:
        outputs += await stream.next()
    return outputs


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 120)

    asyncio.run(bounded())

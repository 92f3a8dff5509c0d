"""An engine over a FakeExecutor on a real event loop, with its clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from expected import expected_output
from fakes import EOS, FakeExecutor, ToyModel
from toy_grammar import ToyConstraint, toy_grammar

from octavo.cache.config import CacheConfig
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.engine import Engine
from octavo.scheduler.request import Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

MODEL = ToyModel(eos_probability=0.03)


class Clients:
    """Everything that `deliver` brought, by request, and who waits for an end."""

    def __init__(self) -> None:
        self.deliveries: list[list[TokenOutput]] = []
        self.outputs: dict[str, list[TokenOutput]] = {}
        self.ended: dict[str, asyncio.Event] = {}

    def __call__(self, outputs: Sequence[TokenOutput]) -> None:
        self.deliveries.append(list(outputs))
        for output in outputs:
            assert not self.ended[output.request_id].is_set(), f"{output.request_id} had ended"
            self.outputs[output.request_id].append(output)
            if output.finish_reason is not None:
                self.ended[output.request_id].set()

    def tokens(self, request_id: str) -> list[int]:
        return [token for output in self.outputs[request_id] for token in output.token_ids]

    def last(self, request_id: str) -> TokenOutput:
        return self.outputs[request_id][-1]


class Served:
    """A running engine and its clients."""

    def __init__(self, *, overlap: bool = True, num_blocks: int = 64, **fake: Any) -> None:
        self.scheduler = Scheduler(
            SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=16, max_model_len=64),
            CacheConfig(num_blocks, block_size=4),
        )
        self.executor = FakeExecutor(MODEL, num_slots=4, num_blocks=num_blocks, block_size=4, **fake)
        self.clients = Clients()
        self.engine = Engine(self.scheduler, self.executor, self.clients, overlap=overlap)
        self.requests: dict[str, Request] = {}

    def add(
        self,
        prompt: list[int],
        max_tokens: int = 8,
        ignore_eos: bool = False,
        constraint: ToyConstraint | None = None,
    ) -> str:
        request_id = f"r{len(self.requests)}"
        params = SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=ignore_eos,
            structured_outputs=None if constraint is None else toy_grammar(40),
        )
        request = Request(
            request_id=request_id,
            prompt_token_ids=prompt,
            params=params,
            max_tokens=max_tokens,
            eos_token_ids=frozenset({EOS}),
        )
        self.clients.outputs[request_id] = []
        self.clients.ended[request_id] = asyncio.Event()
        self.engine.add(request, constraint)
        self.requests[request_id] = request
        return request_id

    async def ended(self, *request_ids: str) -> None:
        for request_id in request_ids:
            await asyncio.wait_for(self.clients.ended[request_id].wait(), 120)

    def check(self, request_id: str) -> None:
        expected = expected_output(self.requests[request_id], MODEL, 64)
        assert self.clients.tokens(request_id) == expected.token_ids
        assert self.clients.last(request_id).finish_reason is expected.finish_reason


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Served]:
    served = Served(**settings)
    task = asyncio.create_task(served.engine.run())
    try:
        yield served
        assert not task.done(), "the engine stopped by itself"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert served.executor.closed

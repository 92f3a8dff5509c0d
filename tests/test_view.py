"""What a look at a running engine shows, and that nothing is recorded unless somebody looks."""

from __future__ import annotations

import asyncio

import pytest
from fakes import FakeExecutor, ToyModel
from patience import until

from octavo.cache.config import CacheConfig
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler import timeline
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.engine import Engine
from octavo.scheduler.request import Request
from octavo.scheduler.scheduler import Scheduler
from octavo.scheduler.timeline import Timeline
from octavo.scheduler.view import EngineView


def engine_of(*, max_num_seqs: int = 2, latency_s: float = 0.002) -> Engine:
    scheduler = SchedulerConfig(max_num_seqs=max_num_seqs, max_num_batched_tokens=16, max_model_len=64)
    executor = FakeExecutor(
        ToyModel(), num_slots=max_num_seqs, num_blocks=32, block_size=4, latency_s=latency_s
    )
    return Engine(Scheduler(scheduler, CacheConfig(32, 4)), executor, lambda outputs: None)


def add(engine: Engine, name: str, num_prompt: int, max_tokens: int) -> None:
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    engine.add(
        Request(
            request_id=name,
            prompt_token_ids=list(range(1, num_prompt + 1)),
            params=params,
            max_tokens=max_tokens,
        )
    )


async def until_idle(engine: Engine) -> None:
    async with asyncio.timeout(60):
        while engine.look(-1).num_running:
            await asyncio.sleep(0.005)


async def until_idle_of(engine: Engine) -> None:
    """The same without a look."""
    await until(lambda: engine.load()[:2] == (0, 0))


def test_a_look_shows_requests_blocks_and_every_step() -> None:
    async def test() -> tuple[EngineView, EngineView]:
        engine = engine_of()
        for name in ("a", "b", "c"):
            add(engine, name, num_prompt=20, max_tokens=20)
        assert engine.look(-1).num_waiting == 3
        running = asyncio.create_task(engine.run())
        async with asyncio.timeout(30):
            while (busy := engine.look(-1)).num_steps < 10:
                await asyncio.sleep(0.002)
            await until_idle(engine)
        last = engine.look(-1)
        running.cancel()
        await asyncio.wait([running])
        return busy, last

    busy, last = asyncio.run(test())
    assert (busy.num_running, busy.max_running, busy.num_waiting) == (2, 2, 1)
    assert busy.step_age_s >= 0 == last.step_age_s
    # The prompts are equal: the second holds blocks of the first.
    assert set(busy.pool.states) >= {"2", "0"} and len(busy.pool.states) == busy.num_blocks == 32
    assert busy.num_free_blocks + busy.num_evictable_blocks < 32
    assert (last.num_running, last.num_waiting, last.generation_tokens, last.prompt_tokens) == (0, 0, 60, 60)
    assert last.num_free_blocks + last.num_evictable_blocks == 32
    assert set(last.pool.states) == {"0", "1"}
    assert [step.number for step in last.steps] == list(range(last.num_steps))
    # What the prefix cache gave was computed by nobody.
    computed = sum(step.prefill_tokens + step.decode_rows for step in last.steps)
    assert computed == 60 - last.prefix_hit_tokens + 3 * 19
    for before, after in zip(last.steps, last.steps[1:], strict=False):
        assert before.began_s < before.ended_s <= after.began_s < after.ended_s <= last.now_s


def test_nobody_looks_and_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Timeline] = []
    original = Timeline.__init__

    def noted(self: Timeline, next_number: int) -> None:
        made.append(self)
        original(self, next_number)

    monkeypatch.setattr(Timeline, "__init__", noted)
    monkeypatch.setattr(timeline, "_WATCHED_S", 0.05)

    async def test() -> None:
        engine = engine_of(latency_s=0.001)
        running = asyncio.create_task(engine.run())
        add(engine, "unwatched", num_prompt=5, max_tokens=20)
        await until_idle_of(engine)
        assert not made
        engine.look(-1)
        add(engine, "watched", num_prompt=5, max_tokens=5)
        await until_idle_of(engine)
        await asyncio.sleep(0.1)
        add(engine, "after", num_prompt=5, max_tokens=5)  # its first step finds nobody watching
        await until_idle_of(engine)
        seen = engine.look(-1)
        assert len(made) == 2 and not seen.steps
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(test())

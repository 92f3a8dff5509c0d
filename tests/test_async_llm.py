"""AsyncLLM with the real demo model: growing results, abort, errors, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from patience import until

from octavo import AsyncLLM, RequestOutput, SamplingParams, StructuredOutputsParams
from octavo.app.errors import ContextLengthError, RequestError

GREEDY = SamplingParams(temperature=0, max_tokens=12)
ENDLESS = SamplingParams(temperature=0, max_tokens=None, ignore_eos=True)
CAPITAL = "The capital of France is"
SETTINGS: dict[str, Any] = {"max_model_len": 512, "kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 8}


@asynccontextmanager
async def running() -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM(**SETTINGS) as llm:
        yield llm


async def collect(
    llm: AsyncLLM, prompt: str, params: SamplingParams = GREEDY, request_id: str = "r"
) -> list[RequestOutput]:
    return [output async for output in llm.generate(prompt, params, request_id)]


async def check_growing(llm: AsyncLLM) -> None:
    outputs = await collect(llm, CAPITAL)
    texts = [output.outputs[0].text for output in outputs]
    assert "Paris" in texts[-1]
    assert len(outputs) > 3
    assert all(longer.startswith(shorter) for shorter, longer in zip(texts, texts[1:], strict=False))
    lengths = [len(output.outputs[0].token_ids) for output in outputs]
    assert lengths == sorted(lengths) and lengths[-1] == 12
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert outputs[-1].outputs[0].finish_reason == "length"
    assert outputs[-1].metrics is not None


async def check_choices(llm: AsyncLLM) -> None:
    params = SamplingParams(n=3, seed=3, max_tokens=6, ignore_eos=True)
    last = (await collect(llm, "Once upon", params))[-1]
    assert [output.index for output in last.outputs] == [0, 1, 2]
    assert len({output.text for output in last.outputs}) == 3
    assert all(len(output.token_ids) == 6 for output in last.outputs)


async def check_several(llm: AsyncLLM) -> None:
    finished = await asyncio.gather(*(collect(llm, CAPITAL, request_id=f"r{i}") for i in range(12)))
    assert {outputs[-1].outputs[0].text for outputs in finished} == {finished[0][-1].outputs[0].text}


async def check_abort(llm: AsyncLLM) -> None:
    seen = []
    async for output in llm.generate(CAPITAL, ENDLESS, "long"):
        seen.append(output)
        if len(seen) == 3:
            await llm.abort("long")
            await llm.abort("long")
    assert seen[-1].finished
    assert seen[-1].outputs[0].finish_reason == "abort"
    assert len(seen) < 6
    await llm.abort("never heard of")
    await check_idle(llm)


async def check_abort_from_outside(llm: AsyncLLM) -> None:
    task = asyncio.create_task(collect(llm, CAPITAL, ENDLESS, "long"))
    await until(lambda: llm.stats().num_running)
    await llm.abort("long")
    outputs = await asyncio.wait_for(task, 120)
    assert outputs[-1].outputs[0].finish_reason == "abort"


async def check_leaving(llm: AsyncLLM) -> None:
    async with aclosing(llm.generate(CAPITAL, ENDLESS, "long")) as outputs:
        async for _ in outputs:
            break
    await check_idle(llm)
    task = asyncio.create_task(collect(llm, CAPITAL, ENDLESS, "long"))
    await until(lambda: llm.stats().num_running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await check_idle(llm)


async def check_idle(llm: AsyncLLM) -> None:
    def idle() -> bool:
        stats = llm.stats()
        return stats.num_running == stats.num_waiting == 0 and stats.kv_usage == 0

    await until(idle)


async def check_errors(llm: AsyncLLM) -> None:
    with pytest.raises(RequestError, match="must not be empty"):
        await collect(llm, "")
    with pytest.raises(ContextLengthError):
        await collect(llm, CAPITAL, SamplingParams(max_tokens=600))
    with pytest.raises(TypeError, match="prompt must be text"):
        await collect(llm, 3)  # type: ignore[arg-type]
    first = llm.generate(CAPITAL, ENDLESS, "same")
    await anext(first)
    with pytest.raises(ValueError, match="request_id must not be that of a running request, got 'same'"):
        await collect(llm, CAPITAL, request_id="same")
    await first.aclose()
    assert (await collect(llm, CAPITAL, request_id="same"))[-1].finished


async def check_grammars(llm: AsyncLLM) -> None:
    choice = StructuredOutputsParams(choice=["red", "green"])
    last = (await collect(llm, CAPITAL, SamplingParams(max_tokens=12, structured_outputs=choice)))[-1]
    assert last.outputs[0].text in ("red", "green") and last.outputs[0].finish_reason == "stop"
    bad = SamplingParams(structured_outputs=StructuredOutputsParams(regex="("))
    with pytest.raises(RequestError, match="unclosed group"):
        await collect(llm, CAPITAL, bad)


def test_with_the_demo_model() -> None:
    """One engine for all checks: it must serve on whatever one of them did."""

    async def run() -> None:
        checks: list[Callable[[AsyncLLM], Awaitable[None]]] = [
            check_growing,
            check_choices,
            check_several,
            check_abort,
            check_abort_from_outside,
            check_leaving,
            check_grammars,
            check_errors,
            check_growing,
        ]
        async with running() as llm:
            for check in checks:
                await asyncio.wait_for(check(llm), 120)

    asyncio.run(run())


def test_loads_at_first_use_and_closes_while_running() -> None:
    async def run() -> None:
        llm = AsyncLLM(model="demo", max_model_len=64, kv_cache_memory_bytes="32MiB")
        with pytest.raises(RuntimeError, match="not started"):
            llm.get_default_sampling_params()
        task = asyncio.create_task(collect(llm, "Hello", ENDLESS))
        while not (llm.started and llm.stats().num_running):
            await asyncio.sleep(0.01)
        assert isinstance(llm.get_default_sampling_params(), SamplingParams)
        await llm.close()
        await llm.close()
        outputs = await asyncio.wait_for(task, 120)
        assert outputs[-1].outputs[0].finish_reason == "abort"
        with pytest.raises(RuntimeError, match="closed"):
            await collect(llm, "Hello")

    asyncio.run(run())


def test_settings_are_checked_at_once() -> None:
    with pytest.raises(TypeError, match="did you mean max_num_seqs"):
        AsyncLLM(model="demo", max_num_seq=1)

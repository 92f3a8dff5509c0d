"""Executors over a real runner: steps in flight, their results, their errors, and what is left after them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Sequence

import pytest
import torch
from runner_harness import (
    BLOCK_SIZE,
    MAX_LENGTH,
    POISON,
    VOCAB_SIZE,
    PlanMaker,
    continuation,
    make_runner,
    random_model,
)
from torch import Tensor

from octavo.app.engine_host import HostOptions
from octavo.app.inproc_client import InprocClient
from octavo.cache.config import CacheConfig
from octavo.model.batch import ForwardBatch
from octavo.model.decoder import DecoderLM
from octavo.model.executor import StreamExecutor, ThreadExecutor
from octavo.model.plan import INVALID_TOKEN, Executor, StepPlan, StepResult
from octavo.model.runner import ModelRunner
from octavo.model.sampling_params import SamplingParams
from octavo.ops import sampling
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

PROMPTS = [[5, 9, 2, 33, 7, 8, 1], [40, 3, 40, 3, 40, 3, 17]]


def executor_for(runner: ModelRunner) -> Executor:
    return ThreadExecutor(runner) if runner.device.type == "cpu" else StreamExecutor(runner)


def worker_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("octavo-step")]


def test_steps_launched_ahead_of_their_tokens_give_the_tokens_of_a_recompute(device: torch.device) -> None:
    """Nine steps are in flight before the first token is read: each takes the last one's from the device."""

    async def main() -> list[StepResult]:
        executor, plans = executor_for(make_runner(device=device)), PlanMaker()
        plans.start(0, logprobs=2)
        steps = [plans.plan(plans.prefill(0, PROMPTS[0]))]
        plans.start(1)
        steps.append(plans.plan(plans.decode(0), plans.prefill(1, PROMPTS[1][:4], samples=False)))
        steps.append(plans.plan(plans.decode(0), plans.prefill(1, PROMPTS[1][4:])))
        steps += [plans.plan(plans.decode(1), plans.decode(0)) for _ in range(6)]
        try:
            return [await handle.result() for handle in [executor.launch(step) for step in steps]]
        finally:
            executor.close()

    results = asyncio.run(main())
    first = [result.tokens[0] for result in results[:3]] + [result.tokens[1] for result in results[3:]]
    second = [results[2].tokens[1], *(result.tokens[0] for result in results[3:])]
    assert first == continuation(PROMPTS[0], 9)
    assert second == continuation(PROMPTS[1], 7)
    for result in results[3:]:
        assert result.logprobs is not None
        unasked, asked = result.logprobs
        assert unasked is None
        assert asked is not None and asked.rank == 1 and len(asked.top) == 2
        assert asked.top[0] == (result.tokens[1], asked.logprob)


def test_a_step_that_samples_nothing_and_one_that_finds_no_number() -> None:
    async def main() -> None:
        executor, plans = ThreadExecutor(make_runner()), PlanMaker()
        plans.start(0, logprobs=0)
        prompt = executor.launch(plans.plan(plans.prefill(0, [1, 2], samples=False)))
        poisoned = executor.launch(plans.plan(plans.prefill(0, [POISON])))
        assert await prompt.result() == StepResult(())
        assert await poisoned.result() == StepResult([INVALID_TOKEN], (None,))
        executor.close()

    asyncio.run(main())


def test_what_the_runner_raises_reaches_whoever_awaits_that_step() -> None:
    async def main() -> None:
        executor, plans = ThreadExecutor(make_runner()), PlanMaker()
        plans.start(0)
        healthy = executor.launch(plans.plan(plans.prefill(0, PROMPTS[0])))
        failing = executor.launch(plans.plan(plans.prefill(0, [VOCAB_SIZE])))  # no such row of the embedding
        assert (await healthy.result()).tokens == continuation(PROMPTS[0], 1)
        with pytest.raises(IndexError, match="out of range"):
            await failing.result()
        executor.close()

    asyncio.run(main())


def test_close_waits_for_the_step_under_way_and_drops_those_behind_it() -> None:
    async def main() -> None:
        executor, plans = ThreadExecutor(make_runner()), PlanMaker()
        plans.start(0)
        first = executor.launch(plans.plan(plans.prefill(0, PROMPTS[0])))
        rest = [executor.launch(plans.plan(plans.decode(0))) for _ in range(50)]
        await first.result()
        executor.close()
        assert worker_threads() == []
        ended = await asyncio.gather(*(handle.result() for handle in rest), return_exceptions=True)
        done = [end for end in ended if isinstance(end, StepResult)]
        assert all(isinstance(end, asyncio.CancelledError) for end in ended[len(done) :])
        assert [result.tokens[0] for result in done] == continuation(PROMPTS[0], 1 + len(done))[1:]
        assert len(done) < len(rest), "50 steps ran before close was called: launch more"

    asyncio.run(main())


def test_close_lets_go_of_the_model() -> None:
    async def main() -> None:
        runner, plans = make_runner(), PlanMaker()
        gone = weakref.ref(runner)
        executor = ThreadExecutor(runner)
        plans.start(0)
        await executor.launch(plans.plan(plans.prefill(0, PROMPTS[0]))).result()
        executor.close()
        del runner
        gc.collect()
        assert gone() is None
        del executor

    asyncio.run(main())


def narrow(model: DecoderLM, monkeypatch: pytest.MonkeyPatch, max_tokens: int) -> None:
    """Let no step of more tokens fit into memory."""
    whole = model.hidden

    def hidden(batch: ForwardBatch, kv: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        if len(batch.token_ids) > max_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return whole(batch, kv)

    monkeypatch.setattr(model, "hidden", hidden)


def results_of(runner: ModelRunner, steps: Sequence[StepPlan]) -> list[StepResult]:
    async def main() -> list[StepResult]:
        executor = executor_for(runner)
        try:
            return [await handle.result() for handle in [executor.launch(step) for step in steps]]
        finally:
            executor.close()

    return asyncio.run(main())


@pytest.mark.parametrize("max_tokens", [100, 8, 7, 2, 1])
def test_out_of_memory_costs_the_row_that_does_not_fit_alone_and_no_other(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, max_tokens: int
) -> None:
    """Three sequences decode; a fourth comes with a chunk of 7 tokens."""
    model = random_model(device)
    runner, plans = make_runner(device=device, model=model), PlanMaker()
    prompts = [[9], [41], [17], PROMPTS[0]]
    first = []
    for slot in range(3):
        plans.start(slot, **({"presence_penalty": 0.0, "logprobs": 1} if slot == 1 else {}))
        first.append(plans.prefill(slot, prompts[slot]))
    steps = [plans.plan(*first), plans.plan(*map(plans.decode, range(3)))]
    plans.start(3)
    steps.append(plans.plan(*map(plans.decode, range(3)), plans.prefill(3, prompts[3])))
    survivors = [0, 1, 2, 3] if max_tokens >= 7 else [0, 1, 2]
    steps += [plans.plan(*map(plans.decode, survivors)) for _ in range(3)]
    narrow(model, monkeypatch, max_tokens)
    results = results_of(runner, steps)
    for slot in survivors:
        tokens = [result.tokens[slot] for result in results if len(result.tokens) > slot]
        assert tokens == continuation(prompts[slot], len(tokens))
    assert all(result.logprobs is not None and result.logprobs[1] is not None for result in results)
    errors = [dict(result.errors) for result in results]
    if max_tokens >= 7:
        assert not any(errors)
    else:
        assert errors.pop(2).keys() == {3} and not any(errors)
        assert results[2].tokens[3] == INVALID_TOKEN


def test_a_prompt_whose_logprobs_do_not_fit_fails_alone(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(device)
    whole = model.logits

    def logits(hidden: Tensor, out: Tensor | None = None) -> Tensor:
        if len(hidden) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(hidden, out)

    monkeypatch.setattr(model, "logits", logits)
    runner, plans = make_runner(device=device, model=model), PlanMaker()
    plans.start(0)
    steps = [plans.plan(plans.prefill(0, PROMPTS[1]))]
    plans.start(1, prompt_logprobs=2)
    asking = plans.prefill(1, PROMPTS[0])._replace(targets=PROMPTS[0][1:])
    steps += [plans.plan(plans.decode(0), asking), plans.plan(plans.decode(0))]
    results = results_of(runner, steps)
    assert [result.tokens[0] for result in results] == continuation(PROMPTS[1], 3)
    assert [list(result.errors) for result in results] == [[], [1], []]
    assert "6 log-probabilities" in str(results[1].errors[1])
    assert list(results[1].prompt_logprobs) == [()]


def test_a_token_whose_logprobs_do_not_fit_is_not_chosen_twice(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step has been run by then: its other rows keep their tokens, and what they counted."""

    def none_fits(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    expected: list[int] = []
    got: list[int] = []
    for fits in (True, False):
        runner, plans = make_runner(device=device), PlanMaker()
        plans.start(0, frequency_penalty=1.5)
        plans.start(1, logprobs=1)
        steps = [plans.plan(plans.prefill(0, PROMPTS[0]), plans.prefill(1, PROMPTS[1]))]
        steps += [plans.plan(plans.decode(0)) for _ in range(6)]
        with monkeypatch.context() as patched:
            if not fits:
                patched.setattr(sampling, "log_probabilities", none_fits)
            results = results_of(runner, steps)
        (expected if fits else got).extend(result.tokens[0] for result in results)
        assert [list(result.errors) for result in results] == [[] if fits else [1], *[[]] * 6]
    assert got == expected


def test_a_server_lives_on_after_a_request_that_ran_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    narrow(model, monkeypatch, 6)
    scheduler = Scheduler(
        SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=32, max_model_len=MAX_LENGTH),
        CacheConfig(64, BLOCK_SIZE),
    )

    async def main() -> list[list[TokenOutput]]:
        client = InprocClient(scheduler, ThreadExecutor(make_runner(model=model)), HostOptions())
        client.start()
        params = SamplingParams(temperature=0, max_tokens=5)
        streams = [
            client.submit(Request(request_id=name, prompt_token_ids=ids, params=params, max_tokens=5))
            for name, ids in (("small", [9, 4]), ("large", PROMPTS[0]), ("last", [41]))
        ]
        outputs: list[list[TokenOutput]] = [[] for _ in streams]
        for stream, got in zip(streams, outputs, strict=True):
            while not got or got[-1].finish_reason is None:
                got += await stream.next()
        await client.close()
        return outputs

    small, large, last = asyncio.run(main())
    for outputs, prompt in ((small, [9, 4]), (last, [41])):
        assert [token for output in outputs for token in output.token_ids] == continuation(prompt, 5)
    assert large[-1].finish_reason is FinishReason.ERROR
    assert large[-1].error is not None and "out of memory at this request" in large[-1].error
    scheduler.check()

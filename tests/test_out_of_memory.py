"""Out of memory in a step: who is told, and that nobody else notices. Over a real runner and its executor."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from runner_harness import (
    BLOCK_SIZE,
    MAX_LENGTH,
    PlanMaker,
    continuation,
    make_runner,
    random_model,
    results_of,
)
from torch import Tensor

from octavo.app.engine_host import HostOptions
from octavo.app.inproc_client import InprocClient
from octavo.cache.config import CacheConfig
from octavo.model.batch import ForwardBatch
from octavo.model.decoder import DecoderLM
from octavo.model.executor import ThreadExecutor
from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.plan import INVALID_TOKEN, TokenMasks
from octavo.model.sampling_params import SamplingParams
from octavo.model.sampling_state import SamplingState
from octavo.ops import sampling
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

PROMPTS = [[5, 9, 2, 33, 7, 8, 1], [40, 3, 40, 3, 40, 3, 17]]


def narrow(model: DecoderLM, monkeypatch: pytest.MonkeyPatch, max_tokens: int) -> None:
    """Let no step of more tokens fit into memory."""
    whole = model.hidden

    def hidden(batch: ForwardBatch, kv: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        if len(batch.token_ids) > max_tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return whole(batch, kv)

    monkeypatch.setattr(model, "hidden", hidden)


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


@pytest.mark.parametrize("part", ["start", "set_masks"])
def test_out_of_memory_before_a_step_has_begun_loses_no_settings_and_no_blocks(
    device: torch.device, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """In the step that fails slots start, one with a bias and one with a mask; another takes a new block."""
    runner, plans = make_runner(device=device), PlanMaker()
    plans.start(0)
    steps = [plans.plan(plans.prefill(0, PROMPTS[0][:BLOCK_SIZE]))]
    plans.start(1, logit_bias={3: 100.0})
    plans.start(2, structured_outputs=Grammar(GrammarKind.REGEX, "a"))
    only_five = TokenMasks([2], np.array([[1 << 5, 0]], np.int32))
    rows = plans.decode(0), plans.prefill(1, PROMPTS[1]), plans.prefill(2, PROMPTS[1])
    steps.append(replace(plans.plan(*rows), masks=(only_five,)))
    steps += [plans.plan(*map(plans.decode, range(3))) for _ in range(2)]
    whole, num_calls = getattr(SamplingState, part), itertools.count(1)
    fails_at = {"start": 2, "set_masks": 1}[part]

    def once_too_large(*arguments: Any) -> Any:
        if next(num_calls) == fails_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return whole(*arguments)

    monkeypatch.setattr(SamplingState, part, once_too_large)
    results = results_of(runner, steps)
    assert next(num_calls) > fails_at + 1, "nothing has failed"
    assert [result.tokens[0] for result in results] == continuation(PROMPTS[0][:BLOCK_SIZE], 4)
    assert [list(result.tokens[1:]) for result in results[1:]] == [[3, 5]] * 3
    assert not any(result.errors for result in results)


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

"""SamplingState: a start that cannot be laid out is its own slot's affair."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from runner_harness import PlanMaker, continuation, make_runner
from sampler_harness import VOCAB_SIZE, generate, rows_of_logits, sample, sampler, start

from octavo.model import prompt_scores
from octavo.model import sampler as sampler_file
from octavo.model.executor import ThreadExecutor
from octavo.model.plan import SequenceSlice, SlotStart, StepPlan, StepResult, TokenLogprobs

BROKEN: list[tuple[str, Any]] = [
    ("logit_bias", {3: "much"}),
    ("temperature", "hot"),
    ("top_k", "all"),
    ("min_tokens", None),
    ("logprobs", "yes"),
    ("mask", b"\0" * 12),
]
"""Settings that no validation lets through: whatever it is that goes wrong there, it goes wrong like this."""


def broken(slot: int, field: str, value: Any) -> SlotStart:
    good = start(slot, seed=5, min_tokens=1, repetition_penalty=1.2)
    if field == "mask":
        return replace(good, mask=value)
    object.__setattr__(good.params, field, value)
    return good


@pytest.mark.parametrize(("field", "value"), BROKEN)
def test_others_start_as_if_it_had_not_been_there(field: str, value: Any) -> None:
    logits = rows_of_logits(4)
    settings: list[dict[str, Any]] = [
        {"temperature": 0.9},
        {"top_k": 7, "logprobs": 2},
        {"logit_bias": {4: 9.0}, "frequency_penalty": 0.5},
    ]
    others = [start(slot, seed=slot, **each) for slot, each in enumerate(settings)]
    used = sampler()
    errors = used.start([others[0], broken(5, field, value), *others[1:]])
    assert list(errors) == [5] and isinstance(errors[5], TypeError | ValueError)
    alone = sampler(*others)
    for step in range(3):
        got = sample(used, logits, [0, 5, 1, 2], step)
        assert got[:1] + got[2:] == sample(alone, logits[[0, 2, 3]], [0, 1, 2], step)
        assert got[1] == logits[1].argmax(), "the broken slot is greedy and plain"


def test_the_slot_is_good_again_for_its_next_owner() -> None:
    logits, good = rows_of_logits(5), start(3, seed=6, top_k=9, repetition_penalty=1.3)
    used = sampler()
    assert used.start([broken(3, "logit_bias", {1: "much"})])
    generate(used, 3, logits)
    assert not used.start([good])
    assert generate(used, 3, logits) == generate(sampler(good), 3, logits)


def test_what_is_wrong_with_all_of_them_is_raised() -> None:
    with pytest.raises(AssertionError, match="starts twice"):
        sampler().start([start(3, seed=1), start(3, seed=2)])
    assert VOCAB_SIZE > 3


def run_all(*plans: StepPlan) -> list[StepResult]:
    async def main() -> list[StepResult]:
        executor = ThreadExecutor(make_runner())
        try:
            return [await handle.result() for handle in [executor.launch(plan) for plan in plans]]
        finally:
            executor.close()

    return asyncio.run(main())


def test_the_result_names_the_slot_even_of_a_step_that_samples_nothing() -> None:
    """Through runner and executor: the neighbour's tokens are those of a recompute."""
    plans, prompt = PlanMaker(), [5, 9, 2, 33]
    plans.start(0)
    plans.start(1)
    first = plans.plan(plans.prefill(0, prompt[:2], samples=False), plans.prefill(1, [7, 8], samples=False))
    bad = replace(first.starts[1], params=broken(1, "top_k", "all").params)
    steps = [
        replace(first, starts=(first.starts[0], bad)),
        plans.plan(plans.prefill(0, prompt[2:]), plans.prefill(1, [9, 9])),
        plans.plan(plans.decode(0)),
    ]
    results = run_all(*steps)
    assert list(results[0].errors) == [1] and not results[0].tokens
    assert not results[1].errors and not results[2].errors
    assert [results[1].tokens[0], results[2].tokens[0]] == continuation(prompt, 2)


class Untold(TokenLogprobs):
    """Cannot be made with three alternatives."""

    def __new__(cls, logprob: float, rank: int, top: Any) -> TokenLogprobs:  # type: ignore[misc]
        if len(top) == 3:
            raise RuntimeError("planted")
        return TokenLogprobs(logprob, rank, top)


def test_log_probabilities_that_cannot_be_told_are_their_slots_affair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plans, prompts = PlanMaker(), ([5, 9, 2], [40, 3, 40])
    rows: list[SequenceSlice] = []
    for slot, prompt in enumerate(prompts):
        plans.start(slot, logprobs=2, prompt_logprobs=3 - slot)
        rows.append(plans.prefill(slot, prompt)._replace(targets=prompt[1:]))
    monkeypatch.setattr(prompt_scores, "TokenLogprobs", Untold)
    (result,) = run_all(plans.plan(*rows))
    assert list(result.errors) == [0] and list(map(len, result.prompt_logprobs)) == [0, 2]
    assert result.logprobs is not None and all(result.logprobs)

    monkeypatch.setattr(sampler_file, "TokenLogprobs", Untold)
    plans = PlanMaker()
    for slot in range(2):
        plans.start(slot, logprobs=2 + slot)
    (result,) = run_all(plans.plan(*[plans.prefill(slot, prompt) for slot, prompt in enumerate(prompts)]))
    assert list(result.errors) == [1]
    assert result.logprobs is not None and result.logprobs[0] is not None and result.logprobs[1] is None
    assert result.tokens[0] == continuation(prompts[0], 1)[0]

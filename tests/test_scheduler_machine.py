"""Scheduler: requests come, go and starve at random; whoever ends by itself has the one right answer."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from fakes import EOS, ToyModel
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from stepper import Stepper
from toy_grammar import toy_grammar

from octavo.model.grammar import Grammar
from octavo.scheduler import prompt_budget
from octavo.scheduler.errors import CapacityError
from octavo.scheduler.request import Claim, FinishReason

MODEL_LEN = 48


def from_now(within_s: float) -> float:
    """A moment that comes while the steps are under way."""
    return time.monotonic() + within_s


PREFIXES = [[], [3] * 9, [3] * 9 + [4] * 7, list(range(1, 21))]


class SchedulerMachine(RuleBasedStateMachine):
    """Adds, aborts and steps in any order, under limits drawn once."""

    stepper: Stepper
    patch: pytest.MonkeyPatch

    @initialize(
        num_blocks=st.integers(3, 30),
        block_size=st.sampled_from([1, 2, 4, 8]),
        prefix_caching=st.booleans(),
        depth=st.sampled_from([0, 1, 1, 2]),
        num_seqs=st.integers(1, 6),
        chunk=st.none() | st.integers(1, 64),
        itl_target_s=st.sampled_from([None, 0.005, 0.02]),
        unit=st.sampled_from([1, 2, 64]),
        eos_probability=st.sampled_from([0.0, 0.1]),
        nan_probability=st.sampled_from([0.0, 0.0, 0.03]),
    )
    def begin(
        self,
        num_blocks: int,
        block_size: int,
        prefix_caching: bool,
        depth: int,
        num_seqs: int,
        chunk: int | None,
        itl_target_s: float | None,
        unit: int,
        eos_probability: float,
        nan_probability: float,
    ) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(prompt_budget, "UNIT", unit)  # so that steps this small are shared, too
        self.stepper = Stepper(
            num_blocks=num_blocks,
            block_size=block_size,
            prefix_caching=prefix_caching,
            depth=depth,
            model=ToyModel(eos_probability=eos_probability, nan_probability=nan_probability),
            max_num_seqs=num_seqs,
            max_num_batched_tokens=MODEL_LEN if chunk is None else max(chunk, num_seqs),
            max_model_len=MODEL_LEN,
            enable_chunked_prefill=chunk is not None,
            itl_target_s=None if chunk is None else itl_target_s,
        )

    @rule(
        prefix=st.sampled_from(PREFIXES),
        suffix=st.lists(st.integers(1, 3), min_size=1, max_size=8),
        max_tokens=st.integers(1, 24),
        min_tokens=st.integers(0, 4),
        seed=st.none() | st.integers(0, 3),
        stop_token_ids=st.sampled_from([(), (), (7,), (7, EOS)]),
        ignore_eos=st.booleans(),
        logprobs=st.sampled_from([None, None, 0, 2]),
        prompt_logprobs=st.sampled_from([None, None, None, 1]),
        priority=st.sampled_from([0, 0, 0, 1]),
        cache_salt=st.sampled_from(["", "", "tenant"]),
        structured_outputs=st.sampled_from([None, None, toy_grammar(1), toy_grammar(9)]),
        claim=st.builds(
            Claim,
            tenant=st.sampled_from("abc"),
            weight=st.sampled_from([0.1, 1.0, 5.0]),
            deadline_s=st.sampled_from([math.inf, math.inf, 0.0]) | st.floats(0.001, 0.01).map(from_now),
            queue_deadline_s=st.sampled_from([math.inf, math.inf, 0.0]),
        ),
    )
    def add(
        self, prefix: list[int], suffix: list[int], max_tokens: int, min_tokens: int, **rest: Any
    ) -> None:
        prompt = prefix + suffix
        seed = rest.pop("seed")
        length = min(len(prompt) + max_tokens, MODEL_LEN)
        capacity = self.stepper.scheduler.cache.capacity_tokens

        def submit() -> str:
            return self.stepper.add(
                prompt,
                max_tokens=max_tokens,
                min_tokens=min(min_tokens, max_tokens),
                temperature=0 if seed is None else 1,
                seed=seed,
                eos_token_ids=frozenset({EOS}),
                **rest,
            )

        # The last token's K and V are never needed.
        if length - 1 > capacity:
            with pytest.raises(CapacityError, match=f"{length} tokens.*{capacity}"):
                submit()
        else:
            submit()

    @rule(
        count=st.integers(2, 6),
        num_prompt=st.integers(1, 8),
        max_tokens=st.integers(8, 24),
        seed=st.integers(0, 3),
        grammar=st.sampled_from([None, toy_grammar(20)]),
    )
    def add_many(
        self, count: int, num_prompt: int, max_tokens: int, seed: int, grammar: Grammar | None
    ) -> None:
        """Alike, and longer in their answers than in their prompts: the pool runs dry while they decode.

        Every other one keeps to the grammar.
        """
        if num_prompt + max_tokens - 1 <= self.stepper.scheduler.cache.capacity_tokens:
            for index in range(count):
                self.stepper.add(
                    [index + 1] * num_prompt,
                    max_tokens=max_tokens,
                    temperature=1,
                    seed=seed,
                    structured_outputs=grammar if index % 2 else None,
                )

    @rule(steps=st.integers(1, 12))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.stepper.step()

    @precondition(lambda self: self.stepper.requests)
    @rule(index=st.integers(0, 1000))
    def abort(self, index: int) -> None:
        requests = list(self.stepper.requests)
        self.stepper.abort(requests[index % len(requests)])

    @precondition(lambda self: self.stepper.requests)
    @rule(index=st.integers(0, 1000))
    def abort_living(self, index: int) -> None:
        # Deadlines go by the clock, so who lives is nothing that a precondition may depend on.
        alive = self.stepper.alive()
        if alive:
            self.stepper.abort(alive[index % len(alive)])

    def teardown(self) -> None:
        stepper = self.stepper
        stepper.run()
        self.patch.undo()
        received = stepper.received.values()
        assert stepper.scheduler.counters.generation_tokens == sum(len(r.token_ids) for r in received)
        for request_id, answer in stepper.received.items():
            num_cached = answer.timings.num_cached_tokens
            num_prompt = len(stepper.requests[request_id].prompt_token_ids)
            assert num_cached % stepper.scheduler.cache.block_size == 0 and num_cached < num_prompt
            assert num_cached == 0 or stepper.scheduler.cache.enable_prefix_caching
            if answer.end.finish_reason not in (FinishReason.ABORT, FinishReason.DEADLINE):
                stepper.check_answer(request_id)


SchedulerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSchedulerMachine = SchedulerMachine.TestCase

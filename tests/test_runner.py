"""ModelRunner on a small random model: whatever plans look like, its tokens are those of a full recompute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from runner_harness import (
    BLOCK_SIZE,
    CONFIG,
    POISON,
    PlanMaker,
    continuation,
    make_runner,
    random_model,
)

from octavo.model.plan import INVALID_TOKEN, SequenceSlice, StepPlan
from octavo.model.runner import ModelRunner
from octavo.ops.native_code import find_team

PROMPTS = [[5, 9, 2, 33, 7, 8, 1], [11], [40, 3, 40, 3, 40, 3, 40, 3, 40, 3, 17], [0, 59]]


def run(runner: ModelRunner, plan: StepPlan) -> list[int]:
    """The tokens of one step, in row order."""
    sampled = runner.run(plan)
    return [] if sampled is None else sampled.tokens.tolist()


def test_chunks_beside_decodes_change_no_token() -> None:
    runner, plans = make_runner(), PlanMaker()
    first, second, third, _ = PROMPTS
    outputs: dict[int, list[int]] = {0: [], 1: [], 2: []}
    # Slot 0 has its prompt at once, slot 1 in chunks of 4, 1 and 6 while slot 0 decodes, slot 2 comes later.
    plans.start(0)
    outputs[0] += run(runner, plans.plan(plans.prefill(0, first)))
    plans.start(1)
    outputs[0] += run(runner, plans.plan(plans.decode(0), plans.prefill(1, third[:4], samples=False)))
    outputs[0] += run(runner, plans.plan(plans.decode(0), plans.prefill(1, third[4:5], samples=False)))
    plans.start(2)
    rows = plans.decode(0), plans.prefill(2, second), plans.prefill(1, third[5:])
    for slot, token in zip((0, 2, 1), run(runner, plans.plan(*rows)), strict=True):
        outputs[slot].append(token)
    for _ in range(6):  # over the edges of blocks, in an order that is not that of the slots
        tokens = run(runner, plans.plan(*map(plans.decode, (2, 0, 1))))
        for slot, token in zip((2, 0, 1), tokens, strict=True):
            outputs[slot].append(token)
    for slot, prompt in enumerate((first, third, second)):
        assert outputs[slot] == continuation(prompt, len(outputs[slot])), slot
    assert len({*outputs[0], *outputs[1], *outputs[2]}) > 5, "a model that says one thing shows no mistake"


@pytest.mark.parametrize("wishes", [{}, {20: {"logprobs": 2}, 3: {"temperature": 1.0, "seed": 5}}])
def test_tokens_are_the_same_where_logits_are_never_written_down(
    wishes: dict[int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Greedy rows, alone and beside others, with and without logits."""
    config, num_rows = replace(CONFIG, vocab_size=64), 24
    model = random_model(config=config)
    assert model.likeliest(torch.randn(num_rows, config.hidden_size)) is not None or find_team() is None
    outputs = []
    for _ in range(2):
        runner, plans = make_runner(num_slots=num_rows, model=model, vocab_size=64), PlanMaker()
        for slot in range(num_rows):
            plans.start(slot, **wishes.get(slot, {}))
        prompts = [[slot + 1, 7, POISON if slot == 5 else 3] for slot in range(num_rows)]
        steps = [plans.plan(*map(plans.prefill, range(num_rows), prompts))]
        steps += [plans.plan(*map(plans.decode, range(num_rows))) for _ in range(3)]
        outputs.append([runner.run(step) for step in steps])
        monkeypatch.setattr(model, "likeliest", lambda hidden: None)
    for chosen, written in zip(*outputs, strict=True):
        assert chosen is not None and written is not None
        assert chosen.tokens.tolist() == written.tokens.tolist() and len({*chosen.tokens.tolist()}) > 5
        assert chosen.tokens[5] == INVALID_TOKEN and list(chosen.slots) == list(written.slots)
        assert chosen.logprob_rows.tolist() == written.logprob_rows.tolist() == [s for s in wishes if s == 20]
        for mine, theirs in zip(chosen.logprobs or (), written.logprobs or (), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_step_that_samples_nothing_has_no_result() -> None:
    runner, plans = make_runner(), PlanMaker()
    plans.start(0)
    assert runner.run(plans.plan(plans.prefill(0, [1, 2], samples=False))) is None
    assert run(runner, plans.plan(plans.prefill(0, [3]))) == continuation([1, 2, 3], 1)


def test_a_slot_that_changes_hands_forgets_its_blocks() -> None:
    runner, plans = make_runner(num_slots=1), PlanMaker()
    for prompt in PROMPTS:
        plans.start(0)
        tokens = run(runner, plans.plan(plans.prefill(0, prompt)))
        for _ in range(3):
            tokens += run(runner, plans.plan(plans.decode(0)))
        assert tokens == continuation(prompt, 4)


def test_a_cached_prefix_is_read_from_the_pages_of_another_slot() -> None:
    runner, plans = make_runner(), PlanMaker()
    prompt, num_cached = PROMPTS[2], 2 * BLOCK_SIZE
    plans.start(0)
    row = plans.prefill(0, prompt)
    run(runner, plans.plan(row))
    plans.start(1)
    blocks = [*row.new_blocks[:2], next(block for block in range(64) if block not in row.new_blocks)]
    rest = SequenceSlice(1, num_cached, len(prompt) - num_cached, prompt[num_cached:], blocks, True)
    assert run(runner, plans.plan(rest)) == continuation(prompt, 1)


def test_a_row_without_finite_logits_says_so_and_spoils_nobody() -> None:
    runner, plans = make_runner(), PlanMaker()
    plans.start(0)
    plans.start(1)
    healthy = run(runner, plans.plan(plans.prefill(0, PROMPTS[0]), plans.prefill(1, [4, POISON])))
    assert healthy.pop() == INVALID_TOKEN
    # The next step is launched before anyone knows: it must neither fail nor touch the others.
    for _ in range(2):
        token, invalid = run(runner, plans.plan(plans.decode(0), plans.decode(1)))
        healthy.append(token)
        assert invalid == INVALID_TOKEN
    assert healthy == continuation(PROMPTS[0], 3)


@pytest.mark.parametrize("prompt", [[6], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]])
def test_pages_that_held_nan_serve_their_next_owner(prompt: list[int], device: torch.device) -> None:
    """Rows beyond a sequence's end, in its last page, have no weight; 0 * NaN would be NaN."""
    runner, plans = make_runner(num_blocks=2, device=device), PlanMaker(num_blocks=2)
    plans.start(0)
    assert run(runner, plans.plan(plans.prefill(0, [POISON] * 8))) == [INVALID_TOKEN]
    plans.start(0)
    tokens = run(runner, plans.plan(plans.prefill(0, prompt)))
    tokens += run(runner, plans.plan(plans.decode(0)))
    assert tokens == continuation(prompt, 2)

"""Attention over a step cut into decodes and chunks: the cut, and that a mixed step is two steps in one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_harness import Harness
from runner_harness import CONFIG, CPU, random_model

from octavo.model.attention import AttentionStep


@pytest.fixture
def harness() -> Harness:
    """Four slots, of which 0 and 2 have seen tokens."""
    made = Harness(random_model(), CONFIG, num_slots=4, max_length=32)
    made.step({0: [1, 2, 3, 4, 5], 2: [9, 8, 7]})
    return made


def test_a_mixed_step_is_cut_after_its_decodes(harness: Harness) -> None:
    batch = harness.batch({0: [6], 1: [1, 2, 3], 2: [5], 3: [4, 4, 4, 4, 4]})
    step = AttentionStep.of(batch, None)
    assert (step.decode_slots.tolist(), step.decode_lens.tolist()) == ([0, 2], [6, 4])
    assert (step.chunk_slots.tolist(), step.chunk_lens.tolist()) == ([1, 3], [3, 5])
    assert step.chunk_starts.tolist() == [0, 3, 8]  # counted from the first chunk's first query
    assert step.decode_slots.data_ptr() == batch.slots.data_ptr()  # a captured step must see new values


def test_steps_of_one_kind_have_nothing_of_the_other(harness: Harness) -> None:
    chunks = AttentionStep.of(harness.batch({1: [1, 2], 3: [4, 4, 4]}), None)
    assert (len(chunks.decode_slots), chunks.chunk_starts.tolist()) == (0, [0, 2, 5])
    decodes = AttentionStep.of(harness.batch({0: [1], 2: [4]}), None)
    assert (len(decodes.chunk_slots), decodes.chunk_starts.tolist()) == (0, [0])


def test_a_mixed_step_gives_what_its_halves_give_alone(harness: Harness) -> None:
    apart = Harness(harness.model, CONFIG, num_slots=4, max_length=32)
    apart.step({0: [1, 2, 3, 4, 5], 2: [9, 8, 7]})
    decodes, chunks = {0: [6], 2: [5]}, {1: [1, 2, 3], 3: [4, 14, 4, 24, 4]}
    expected = apart.step(decodes) | apart.step(chunks)
    for slot, logits in harness.step(decodes | chunks).items():
        torch.testing.assert_close(logits, expected[slot], rtol=1e-4, atol=1e-4)


def test_a_single_token_is_the_same_as_a_decode_and_as_a_chunk(harness: Harness) -> None:
    as_decode = harness.batch({0: [6], 2: [5]})
    assert as_decode.num_decodes == 2 and as_decode.token_ids.device == CPU
    logits = harness.run(as_decode)
    torch.testing.assert_close(harness.run(replace(as_decode, num_decodes=0)), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(harness.run(replace(as_decode, num_decodes=1)), logits, rtol=1e-4, atol=1e-4)

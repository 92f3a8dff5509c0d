"""Attention over a step of decodes and chunks: a mixed step is two steps in one, and padding is nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_harness import Harness
from runner_harness import CONFIG, random_model


@pytest.fixture
def harness() -> Harness:
    """Four slots, of which 0 and 2 have seen tokens."""
    made = Harness(random_model(), CONFIG, num_slots=4, max_length=32)
    made.step({0: [1, 2, 3, 4, 5], 2: [9, 8, 7]})
    return made


def test_a_mixed_step_gives_what_its_halves_give_alone(harness: Harness) -> None:
    apart = Harness(harness.model, CONFIG, num_slots=4, max_length=32)
    apart.step({0: [1, 2, 3, 4, 5], 2: [9, 8, 7]})
    decodes, chunks = {0: [6], 2: [5]}, {1: [1, 2, 3], 3: [4, 14, 4, 24, 4]}
    expected = apart.step(decodes) | apart.step(chunks)
    for slot, logits in harness.step(decodes | chunks).items():
        torch.testing.assert_close(logits, expected[slot], rtol=1e-4, atol=1e-4)


def test_a_single_token_is_the_same_as_a_decode_and_as_a_chunk(harness: Harness) -> None:
    decodes = harness.batch({0: [6], 2: [5]})
    expected = harness.run(decodes)
    for num_decodes in (0, 1):
        mixed = replace(
            decodes,
            decode_slots=decodes.decode_slots[:num_decodes],
            decode_lens=decodes.decode_lens[:num_decodes],
            chunk_slots=decodes.decode_slots[num_decodes:],
            chunk_starts=torch.arange(num_decodes, 3, dtype=torch.int32),
            chunk_lens=decodes.decode_lens[num_decodes:],
        )
        torch.testing.assert_close(harness.run(mixed), expected, rtol=1e-4, atol=1e-4)


def test_padding_rows_leave_the_tokens_of_others_alone(harness: Harness) -> None:
    """As in a captured graph: decodes without keys stand where the chunks' tokens are, chunks at the end."""
    batch = harness.batch({0: [6], 1: [1, 2, 3], 2: [5], 3: [4, 4, 4, 4, 4]})
    expected = harness.run(batch)
    padding = torch.zeros(4, dtype=torch.int32)
    padded = replace(
        batch,
        decode_slots=torch.cat((batch.decode_slots, padding)),
        decode_lens=torch.cat((batch.decode_lens, padding)),
        chunk_slots=torch.cat((batch.chunk_slots, padding)),
        chunk_starts=torch.cat((batch.chunk_starts, padding + len(batch.token_ids))),
        chunk_lens=torch.cat((batch.chunk_lens, padding)),
    )
    torch.testing.assert_close(harness.run(padded), expected, rtol=1e-4, atol=1e-4)

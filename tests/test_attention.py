"""Attention over a step of decodes and chunks: a mixed step is two steps in one, and padding is nobody."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_harness import Harness, with_padding
from runner_harness import CONFIG, random_model

from octavo.ops.paged_attention import ChunkRows, DecodeRows


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
    slots, seq_lens, max_seq_len = decodes.decodes
    for num_decodes in (0, 1):
        starts = torch.arange(num_decodes, 3, dtype=torch.int32)
        mixed = replace(
            decodes,
            decodes=DecodeRows(slots[:num_decodes], seq_lens[:num_decodes], max_seq_len),
            chunks=ChunkRows(slots[num_decodes:], starts, seq_lens[num_decodes:]),
        )
        torch.testing.assert_close(harness.run(mixed), expected, rtol=1e-4, atol=1e-4)


def test_padding_rows_leave_the_tokens_of_others_alone(harness: Harness) -> None:
    """As in a captured graph: decodes without keys stand where the chunks' tokens are, chunks at the end."""
    batch = harness.batch({0: [6], 1: [1, 2, 3], 2: [5], 3: [4, 4, 4, 4, 4]})
    expected = harness.run(batch)
    padding = torch.zeros(4, dtype=torch.int32)
    slots, starts, seq_lens = batch.chunks
    chunks = ChunkRows(
        torch.cat((slots, padding)),
        torch.cat((starts, padding + len(batch.token_ids))),
        torch.cat((seq_lens, padding)),
    )
    padded = replace(batch, decodes=with_padding(batch.decodes, 4), chunks=chunks)
    torch.testing.assert_close(harness.run(padded), expected, rtol=1e-4, atol=1e-4)

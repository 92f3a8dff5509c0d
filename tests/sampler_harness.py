"""A sampler whose sequences start, step and generate in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from octavo.model.plan import SlotStart
from octavo.model.sampler import Sampler
from octavo.model.sampling_params import SamplingParams

NUM_SLOTS = 9
SPARE = NUM_SLOTS - 1
VOCAB_SIZE = 700
EOS = 2


def start(
    slot: int,
    *,
    seed: int = 0,
    prompt: Sequence[int] = (1, 2, 3),
    output: Sequence[int] = (),
    stop: Sequence[int] = (EOS,),
    **params: Any,
) -> SlotStart:
    return SlotStart(
        slot=slot,
        params=SamplingParams(**params),
        seed=seed,
        stop_token_ids=frozenset(stop),
        prompt_tokens=prompt,
        output_tokens=output,
    )


def sampler(*starts: SlotStart, vocab_size: int = VOCAB_SIZE) -> Sampler:
    made = Sampler(NUM_SLOTS, vocab_size, "cpu")
    made.start(starts)
    return made


def sample(
    used: Sampler, logits: Tensor, slots: Sequence[int], positions: Sequence[int] | int = 3
) -> list[int]:
    places = [positions] * len(slots) if isinstance(positions, int) else positions
    result = used.sample(
        logits, torch.tensor(slots, dtype=torch.int32), torch.tensor(places, dtype=torch.int32), slots
    )
    assert result.tokens.dtype == torch.int32
    return result.tokens.tolist()


def rows_of_logits(num_steps: int, seed: int = 0) -> Tensor:
    """[num_steps, VOCAB_SIZE] float32, peaked about as much as a model's."""
    return torch.randn(num_steps, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 2.5


def generate(
    used: Sampler, slot: int, logits: Tensor, first_position: int = 3, steps: range | None = None
) -> list[int]:
    """The tokens of one sequence alone in the batch, a row of logits per step."""
    steps = steps if steps is not None else range(len(logits))
    return [sample(used, logits[i : i + 1], [slot], first_position + i)[0] for i in steps]

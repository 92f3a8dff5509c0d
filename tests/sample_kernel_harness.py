"""The kernels of the sampler beside its torch reference: on a GPU if there is one, else interpreted."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the kernels are imported

from octavo.model.plan import SlotStart
from octavo.model.sampler import Sampler
from octavo.model.sampling_params import SamplingParams
from octavo.ops import sample_kernel

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def slot_start(slot: int, params: SamplingParams, seed: int) -> SlotStart:
    """A sequence with one token of prompt that nothing stops."""
    return SlotStart(slot, params, seed, frozenset(), [1], [])


class KernelsAndReference:
    """Two samplers of the same sequences, one for each of `filters`, in slots of their own."""

    def __init__(self, filters: Sequence[SamplingParams], vocab_size: int) -> None:
        starts = [slot_start(slot, params, 31 * slot) for slot, params in enumerate(filters)]
        self._slots = torch.arange(len(filters), dtype=torch.int32)
        self._kernels = Sampler(len(filters), vocab_size, DEVICE)
        self._reference = Sampler(len(filters), vocab_size, "cpu")
        self._kernels.start(starts)
        self._reference.start(starts)

    def sample(self, logits: Tensor, positions: Tensor, *, changes: bool) -> tuple[list[int], list[int]]:
        """What the kernels choose and what the reference does, of logits [sequences, vocab_size]."""
        state = self._kernels.state
        tokens = sample_kernel.sample(
            logits.to(DEVICE), self._slots.to(DEVICE), positions.to(DEVICE),
            state.table, state.biases, state.history, state.masks, changes=changes,
        )  # fmt: skip
        expected = self._reference.sample(logits, self._slots, positions, range(len(self._slots))).tokens
        return tokens.tolist(), expected.tolist()

"""Sampling settings and penalties' history on the device, by slot, and on the host what each slot asks for.

Does not know how settings become rows of the tables (start_layout.py); chooses no tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ops.sampling import Column, mask_words
from .plan import SlotStart, TokenMasks
from .sampling_params import MAX_BIASES
from .start_layout import BIAS_FIELDS, Stage, lay_out_starts, sound_start
from .upload import uploaded


def pinned_masks(num_rows: int, num_words: int) -> NDArray[np.int32]:
    """Room for TokenMasks.words, [num_rows, num_words], from where a GPU fetches them by itself."""
    return torch.empty((num_rows, num_words), dtype=torch.int32, pin_memory=True).numpy()


class SamplingState:
    """Device tensors, indexed by slot; slots that never started are greedy and plain.

    table: [num_slots, len(Column)] int32, float32 bits where Column says so; `floats` is the same memory.
    biases: [num_slots, MAX_BIASES, BIAS_FIELDS] int32.
    history: [num_slots, vocab_size] int16, see ops.sampling.PROMPT_SEEN; kept for slots with penalties.
    masks: [num_slots, mask_words(vocab_size)] int32, of slots that may not take every token.
    None ever moves: captured graphs hold their addresses.
    stages, num_logprobs, num_prompt_logprobs: on the host, by slot.
    any_logprobs: whether any slot's last owner wanted log-probabilities.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.vocab_size = vocab_size
        self.table = torch.zeros(num_slots, len(Column), dtype=torch.int32, device=device)
        self.table[:, Column.HISTORY] = -1
        self.floats = self.table.view(torch.float32)
        self.biases = torch.zeros(num_slots, MAX_BIASES, BIAS_FIELDS, dtype=torch.int32, device=device)
        self.history = torch.zeros(num_slots, vocab_size, dtype=torch.int16, device=device)
        self.masks = torch.zeros(num_slots, mask_words(vocab_size), dtype=torch.int32, device=device)
        self.stages = np.zeros(num_slots, np.uint8)
        self.any_logprobs = False
        self.num_logprobs = np.zeros(num_slots, np.int64)
        self.num_prompt_logprobs = np.zeros(num_slots, np.int64)
        self._banned_steps = np.zeros(num_slots, np.int64)

    def start(self, starts: Sequence[SlotStart]) -> dict[int, Exception]:
        """Slots change hands. One copy to the device for all of them; nothing waits for the device.

        A start that cannot be laid out leaves its slot greedy and plain; returns what each such raised.
        """
        if not starts:
            return {}
        slots = [start.slot for start in starts]
        assert len(set(slots)) == len(slots), f"a slot starts twice in one step: {slots}"
        errors: dict[int, Exception] = {}
        try:
            laid_out = lay_out_starts(starts, self.vocab_size)
        except Exception:
            starts = [sound_start(start, self.vocab_size, errors) for start in starts]
            laid_out = lay_out_starts(starts, self.vocab_size)
        self._mirror(laid_out.arrays.slots, laid_out.mirror)
        self._write(*_upload(laid_out.arrays, self.table.device))
        if laid_out.masks is not None:
            self.set_masks(laid_out.masks)
        return errors

    def set_masks(self, masks: TokenMasks) -> None:
        """What these slots may take from now on. One copy to the device; nothing waits for the device."""
        words = torch.from_numpy(masks.words)
        if self.masks.is_cuda and not words.is_pinned():
            words = words.pin_memory()  # 19 KB a row with 152,000 tokens
        where = uploaded(np.array(masks.slots, np.int64), self.masks.device)
        self.masks.index_copy_(0, where, words.to(self.masks.device, non_blocking=True))

    def row_stages(self, host_slots: Sequence[int], num_rows: int) -> NDArray[np.uint8]:
        """The stages [num_rows] of the rows of a step, which counts as sampled; rows past host_slots are
        padding."""
        slots = np.asarray(host_slots, np.int64)
        stages = np.zeros(num_rows, np.uint8)
        stages[: len(slots)] = self.stages[slots]
        if np.bitwise_or.reduce(stages, initial=0) & Stage.BAN:
            self._banned_steps[slots] -= 1
            self.stages[slots[self._banned_steps[slots] <= 0]] &= ~np.uint8(Stage.BAN)
        return stages

    def _mirror(self, slots: NDArray[np.int32], facts: NDArray[np.int64]) -> None:
        self.stages[slots] = facts[0]
        self.num_logprobs[slots], self.num_prompt_logprobs[slots], self._banned_steps[slots] = facts[1:]
        self.any_logprobs = bool((self.stages & Stage.LOGPROBS).any())

    def _write(
        self,
        slots: Tensor,
        settings: Tensor,
        biased: Tensor,
        biases: Tensor,
        fresh: Tensor,
        where: Tensor,
        values: Tensor,
    ) -> None:
        self.table.index_copy_(0, slots.long(), settings)
        if len(biased):
            rows = self.biases.new_zeros(len(biased), MAX_BIASES, BIAS_FIELDS)
            rows[:, : biases.shape[1]] = biases
            self.biases.index_copy_(0, biased.long(), rows)
        if len(fresh):
            self.history.index_fill_(0, fresh.long(), 0)
            self.history[where[0].long(), where[1].long()] = values.to(self.history.dtype)


def _upload(pieces: Sequence[NDArray[np.int32]], device: torch.device) -> list[Tensor]:
    """The pieces on the device, through one copy."""
    packed = uploaded(np.concatenate([piece.ravel() for piece in pieces]), device)
    ends = np.cumsum([piece.size for piece in pieces]).tolist()
    parts = (packed[end - piece.size : end] for piece, end in zip(pieces, ends, strict=True))
    return [part.view(piece.shape) for part, piece in zip(parts, pieces, strict=True)]

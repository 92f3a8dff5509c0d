"""Sampling settings and penalties' history on the device, by slot, with a host mirror of what each slot
needs.

Knows how the settings are laid out for ops/sampling.py; chooses no tokens.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ops.sampling import MAX_COUNT, PROMPT_SEEN, Column, mask_words
from .plan import SlotStart, TokenMasks
from .sampling_params import MAX_BIASES, SamplingParams
from .upload import uploaded

_PLAIN = SamplingParams(temperature=0.0)
_FOREVER = 2**31 - 1
_BIAS_FIELDS = 3


class Stage(enum.IntFlag):
    """What a slot asks for beyond the likeliest token."""

    RANDOM = 1
    FILTER = 2
    """top_k or top_p."""
    MIN_P = 4
    PENALTY = 8
    BIAS = 16
    BAN = 32
    LOGPROBS = 64
    MASK = 128


def pinned_masks(num_rows: int, num_words: int) -> NDArray[np.int32]:
    """Room for TokenMasks.words, [num_rows, num_words], from where a GPU fetches them by itself."""
    return torch.empty((num_rows, num_words), dtype=torch.int32, pin_memory=True).numpy()


class SamplingState:
    """Device tensors, indexed by slot; slots that never started are greedy and plain.

    table: [num_slots, len(Column)] int32, float32 bits where Column says so; `floats` is the same memory.
    biases: [num_slots, MAX_BIASES, 3] int32: token, float32 bits of the addend, position from which it ends.
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
        self.biases = torch.zeros(num_slots, MAX_BIASES, _BIAS_FIELDS, dtype=torch.int32, device=device)
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
            laid_out = _lay_out(starts, self.vocab_size)
        except Exception:
            starts = [_sound(start, self.vocab_size, errors) for start in starts]
            laid_out = _lay_out(starts, self.vocab_size)
        self._mirror(laid_out.pieces[0], laid_out.mirror)
        self._write(*_upload(laid_out.pieces, self.table.device))
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
            rows = self.biases.new_zeros(len(biased), MAX_BIASES, _BIAS_FIELDS)
            rows[:, : biases.shape[1]] = biases
            self.biases.index_copy_(0, biased.long(), rows)
        if len(fresh):
            self.history.index_fill_(0, fresh.long(), 0)
            self.history[where[0].long(), where[1].long()] = values.to(self.history.dtype)


class _LaidOut(NamedTuple):
    """pieces: what `SamplingState._write` takes, on the host; the first are the slots.

    mirror: [4, N], of each start: stages, how many log-probabilities, of the prompt too, steps with bans.
    masks: of the starts that bring one.
    """

    mirror: NDArray[np.int64]
    pieces: list[NDArray[np.int32]]
    masks: TokenMasks | None


def _lay_out(starts: Sequence[SlotStart], vocab_size: int) -> _LaidOut:
    """Raises whatever a start that is not as promised leads to; nothing has been changed then."""
    slots = np.array([start.slot for start in starts], np.int32)
    biases = [_biases(start, vocab_size) for start in starts]
    history_rows = [start.slot if _penalised(start) else -1 for start in starts]
    biased = [i for i, entries in enumerate(biases) if len(entries)]
    pieces = [
        slots,
        _settings(starts, history_rows, [len(entries) for entries in biases], vocab_size),
        slots[biased],
        _padded([biases[i] for i in biased]),
        np.array([row for row in history_rows if row >= 0], np.int32),
        *_histories(starts, history_rows, vocab_size),
    ]
    mirror = [
        [_stages(start, vocab_size, len(b) > 0) for start, b in zip(starts, biases, strict=True)],
        [start.params.logprobs or 0 for start in starts],
        [start.params.prompt_logprobs or 0 for start in starts],
        [start.params.min_tokens - len(start.output_tokens) for start in starts],
    ]
    return _LaidOut(np.array(mirror, np.int64), pieces, _fixed_masks(starts, mask_words(vocab_size)))


def _fixed_masks(starts: Sequence[SlotStart], num_words: int) -> TokenMasks | None:
    fixed = [(start.slot, start.mask) for start in starts if start.mask is not None]
    if not fixed:
        return None
    words = np.empty((len(fixed), num_words), np.int32)
    for row, (_, mask) in zip(words, fixed, strict=True):
        row[:] = np.frombuffer(mask, np.int32)
    return TokenMasks([slot for slot, _ in fixed], words)


def _sound(start: SlotStart, vocab_size: int, errors: dict[int, Exception]) -> SlotStart:
    """`start`, or a greedy and plain one if it cannot be laid out, with the reason in `errors`."""
    try:
        _lay_out([start], vocab_size)
    except Exception as error:
        errors[start.slot] = error
        return SlotStart(start.slot, _PLAIN, 0, frozenset(), (), ())
    return start


def _padded(biases: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Entries of each slot, [N, width, 3], as wide as the longest; padding has ended at position 0."""
    width = max((len(entries) for entries in biases), default=0)
    padded = np.zeros((len(biases), width, _BIAS_FIELDS), np.int32)
    for row, entries in zip(padded, biases, strict=True):
        row[: len(entries)] = entries
    return padded


def _penalised(start: SlotStart) -> bool:
    params = start.params
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0


def masked(start: SlotStart) -> bool:
    """Whether a mask says what the slot may take."""
    return start.mask is not None or start.params.constrained


def _stages(start: SlotStart, vocab_size: int, biased: bool) -> int:
    params = start.params
    stages = Stage(0)
    if not params.greedy:
        stages |= Stage.RANDOM
        if params.top_p < 1 or 0 < params.top_k < vocab_size:
            stages |= Stage.FILTER
        if params.min_p > 0:
            stages |= Stage.MIN_P
    if _penalised(start):
        stages |= Stage.PENALTY
    if biased and params.logit_bias:
        stages |= Stage.BIAS
    if biased and len(start.output_tokens) < params.min_tokens:
        stages |= Stage.BAN
    if params.logprobs is not None:
        stages |= Stage.LOGPROBS
    if masked(start):
        stages |= Stage.MASK
    return int(stages)


def _biases(start: SlotStart, vocab_size: int) -> NDArray[np.int32]:
    """Entries [N, 3] for `biases`. Tokens outside the vocabulary are left out: they cannot be sampled
    anyway."""
    bias = {t: b for t, b in (start.params.logit_bias or {}).items() if t < vocab_size}
    banned = [t for t in sorted(start.stop_token_ids) if t < vocab_size]
    ends = len(start.prompt_tokens) + start.params.min_tokens
    if len(start.output_tokens) >= start.params.min_tokens:
        banned = []
    entries = np.empty((len(bias) + len(banned), _BIAS_FIELDS), np.int32)
    entries[:, 0] = [*bias, *banned]
    entries[:, 1] = np.array([*bias.values(), *[-np.inf] * len(banned)], np.float32).view(np.int32)
    entries[:, 2] = [_FOREVER] * len(bias) + [ends] * len(banned)
    return entries


def _settings(
    starts: Sequence[SlotStart], history_rows: Sequence[int], num_biases: Sequence[int], vocab_size: int
) -> NDArray[np.int32]:
    """Rows of `table`, [N, len(Column)] int32."""
    table = np.zeros((len(starts), len(Column)), np.int32)
    floats = table.view(np.float32)
    params = [start.params for start in starts]
    floats[:, Column.TEMPERATURE] = [p.temperature for p in params]
    floats[:, Column.TOP_P] = [p.top_p for p in params]
    floats[:, Column.MIN_P] = [p.min_p for p in params]
    floats[:, Column.REPETITION] = [p.repetition_penalty for p in params]
    floats[:, Column.PRESENCE] = [p.presence_penalty for p in params]
    floats[:, Column.FREQUENCY] = [p.frequency_penalty for p in params]
    table[:, Column.TOP_K] = [min(p.top_k, vocab_size) if p.top_k > 0 else vocab_size for p in params]
    table[:, Column.HISTORY] = history_rows
    table[:, Column.NUM_BIASES] = num_biases
    table[:, Column.MASKED] = [masked(start) for start in starts]
    seeds = np.array([start.seed & (1 << 64) - 1 for start in starts], np.uint64)
    table[:, Column.SEED_LOW] = (seeds & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)
    table[:, Column.SEED_HIGH] = (seeds >> np.uint64(32)).astype(np.uint32).view(np.int32)
    return table


def _histories(
    starts: Sequence[SlotStart], history_rows: Sequence[int], vocab_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where the fresh history rows are not zero, [2, N] (row, token), and what stands there, [N]."""
    where = [np.zeros((2, 0), np.int32)]
    values = [np.zeros(0, np.int32)]
    for start, row in zip(starts, history_rows, strict=True):
        if row < 0:
            continue
        entries = np.zeros(vocab_size, np.int32)
        output = np.asarray(start.output_tokens, np.int64)
        np.add.at(entries, output[output < vocab_size], 1)
        np.minimum(entries, MAX_COUNT, out=entries)
        if start.params.repetition_penalty != 1:
            prompt = np.asarray(start.prompt_tokens, np.int64)
            entries[prompt[prompt < vocab_size]] |= PROMPT_SEEN
        tokens = entries.nonzero()[0]
        where.append(np.stack([np.full(len(tokens), row), tokens]).astype(np.int32))
        values.append(entries[tokens])
    return np.concatenate(where, 1), np.concatenate(values)


def _upload(pieces: Sequence[NDArray[np.int32]], device: torch.device) -> list[Tensor]:
    """The pieces on the device, through one copy."""
    packed = uploaded(np.concatenate([piece.ravel() for piece in pieces]), device)
    ends = np.cumsum([piece.size for piece in pieces]).tolist()
    parts = (packed[end - piece.size : end] for piece, end in zip(pieces, ends, strict=True))
    return [part.view(piece.shape) for part, piece in zip(parts, pieces, strict=True)]

"""What slots start with, as arrays for the sampling tables: settings, bias entries, histories, masks.

Knows how ops/sampling.py wants them laid out; has no tables and no device.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..ops.sampling import MAX_COUNT, PROMPT_SEEN, Column, mask_words
from .plan import SlotStart, TokenMasks
from .sampling_params import SamplingParams

_PLAIN = SamplingParams(temperature=0.0)
_FOREVER = 2**31 - 1
BIAS_FIELDS = 3
"""Of an entry: token, float32 bits of the addend, position from which it does not apply any more."""


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


class StartArrays(NamedTuple):
    """What N slots that start write into the tables, int32.

    slots: [N].   settings: [N, len(Column)], their rows of the table.
    biased: [B], slots that have bias entries or bans.   biases: [B, width, 3], these.
    fresh: [H], slots with penalties, whose history begins anew.   where: [2, M], (slot, token) of what is not
    zero in it.   values: [M], what stands there.
    """

    slots: NDArray[np.int32]
    settings: NDArray[np.int32]
    biased: NDArray[np.int32]
    biases: NDArray[np.int32]
    fresh: NDArray[np.int32]
    where: NDArray[np.int32]
    values: NDArray[np.int32]


class LaidOutStarts(NamedTuple):
    """arrays: for the device.   masks: of the starts that bring one.

    mirror: [4, N] int64, for the host, of each start: its stages, how many log-probabilities, how many of the
    prompt, and in how many steps tokens are banned.
    """

    arrays: StartArrays
    mirror: NDArray[np.int64]
    masks: TokenMasks | None


def lay_out_starts(starts: Sequence[SlotStart], vocab_size: int) -> LaidOutStarts:
    """Raises whatever a start that is not as promised leads to."""
    biases = [_biases(start, vocab_size) for start in starts]
    biased = [i for i, entries in enumerate(biases) if len(entries)]
    history_rows = [start.slot if _penalised(start) else -1 for start in starts]
    slots = np.array([start.slot for start in starts], np.int32)
    arrays = StartArrays(
        slots,
        _settings(starts, history_rows, [len(entries) for entries in biases], vocab_size),
        slots[biased],
        _padded([biases[i] for i in biased]),
        np.array([row for row in history_rows if row >= 0], np.int32),
        *_histories(starts, history_rows, vocab_size),
    )
    mirror = [
        [_stages(start, vocab_size, len(b) > 0) for start, b in zip(starts, biases, strict=True)],
        [start.params.logprobs or 0 for start in starts],
        [start.params.prompt_logprobs or 0 for start in starts],
        [start.params.min_tokens - len(start.output_tokens) for start in starts],
    ]
    masks = _fixed_masks(starts, mask_words(vocab_size))
    return LaidOutStarts(arrays, np.array(mirror, np.int64), masks)


def sound_start(start: SlotStart, vocab_size: int, errors: dict[int, Exception]) -> SlotStart:
    """`start`, or a greedy and plain one if it cannot be laid out, with the reason in `errors`."""
    try:
        lay_out_starts([start], vocab_size)
    except Exception as error:
        errors[start.slot] = error
        return SlotStart(start.slot, _PLAIN, 0, frozenset(), (), ())
    return start


def _fixed_masks(starts: Sequence[SlotStart], num_words: int) -> TokenMasks | None:
    fixed = [(start.slot, start.mask) for start in starts if start.mask is not None]
    if not fixed:
        return None
    words = np.empty((len(fixed), num_words), np.int32)
    for row, (_, mask) in zip(words, fixed, strict=True):
        row[:] = np.frombuffer(mask, np.int32)
    return TokenMasks([slot for slot, _ in fixed], words)


def _padded(biases: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Entries of each slot, [N, width, 3], as wide as the longest; padding has ended at position 0."""
    width = max((len(entries) for entries in biases), default=0)
    padded = np.zeros((len(biases), width, BIAS_FIELDS), np.int32)
    for row, entries in zip(padded, biases, strict=True):
        row[: len(entries)] = entries
    return padded


def _penalised(start: SlotStart) -> bool:
    params = start.params
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0


def _masked(start: SlotStart) -> bool:
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
    if _masked(start):
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
    entries = np.empty((len(bias) + len(banned), BIAS_FIELDS), np.int32)
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
    table[:, Column.MASKED] = [_masked(start) for start in starts]
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

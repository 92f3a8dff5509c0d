"""What the scheduler asks of a device and what comes back: plain values, no torch, no policy.

A plan has no phase. A prefill chunk, the rest of a prefix-cache hit and a decode are rows that differ in
`length` only, so continuous batching, chunked prefill, overlap and graphs all see the same shape. Rows that
say nothing but where they are, as most decodes do, are written as two arrays instead of one object each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .sampling_params import SamplingParams

INVALID_TOKEN = -1
"""Stands in `StepResult.tokens` for a row whose logits were not finite."""


class DeviceFullError(Exception):
    """The device ran out of memory at what one request asked for. The message is for whoever asked."""


class SequenceSlice(NamedTuple):
    """One row of a step: `length` tokens of the sequence in `slot`, from position `start` on.

    tokens: their ids; None means one token, `last_token[slot]`, which is already on the device.
    new_blocks: block ids appended to the slot's block table before the row runs.
    samples: whether a token is sampled after the last position; False for all but the last prefill chunk.
    targets: tokens that follow the first positions of the row, one each, and whose log-probabilities are
        wanted, beside as many alternatives as the slot's `params.prompt_logprobs` says.
    """

    slot: int
    start: int
    length: int
    tokens: Sequence[int] | None
    new_blocks: Sequence[int]
    samples: bool
    targets: Sequence[int] = ()


class PlainRows(NamedTuple):
    """Rows of one token that the device sampled last, which sample, and ask nothing else.

    slots, starts: [N] int32, in memory that nobody writes to any more.
    grown, blocks: [K], slots of those that bring a block, and its id.
    """

    slots: NDArray[np.int32]
    starts: NDArray[np.int32]
    grown: Sequence[int] = ()
    blocks: Sequence[int] = ()


NO_PLAIN_ROWS = PlainRows(np.zeros(0, np.int32), np.zeros(0, np.int32))


@dataclass(frozen=True, slots=True)
class SlotStart:
    """A slot changes hands: the device forgets its block table and takes these sampling settings.

    seed: drawn by the scheduler if the request named none, so that a token depends on (seed, position) only.
    stop_token_ids: ids that end the sequence; banned while fewer than `params.min_tokens` tokens are out.
    output_tokens: what the sequence had generated before it was preempted; empty for a new one.
    mask: what it may take in every step whose plan has no mask for it, a row of TokenMasks.words. None with
        `params` that are constrained: every step in which it samples has one.
    """

    slot: int
    params: SamplingParams
    seed: int
    stop_token_ids: frozenset[int]
    prompt_tokens: Sequence[int]
    output_tokens: Sequence[int]
    mask: bytes | None = None


class TokenMasks(NamedTuple):
    """Which tokens some rows of a step may take: a slot keeps its mask until it is given another.

    slots: [N], of rows that sample.   words: [N, ceil(vocab_size / 32)] int32, contiguous, in memory that
    nobody writes to any more; token t may be taken if bit t % 32 of word t // 32 is set.
    """

    slots: Sequence[int]
    words: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Its rows are `plain`, then `slices`, those of length 1 first; `starts` come before any row.

    masks: of rows that sample and that something follows token by token; each is copied once.
    """

    slices: tuple[SequenceSlice, ...]
    starts: tuple[SlotStart, ...] = ()
    masks: tuple[TokenMasks, ...] = ()
    plain: PlainRows = NO_PLAIN_ROWS

    @property
    def num_rows(self) -> int:
        """Sequences that take part."""
        return len(self.plain.slots) + len(self.slices)

    @property
    def rows(self) -> tuple[SequenceSlice, ...]:
        """All of them as slices, in order. An object each: for whom a step's time does not matter."""
        slots, starts, grown, blocks = self.plain
        new = {slot: [block] for slot, block in zip(grown, blocks, strict=True)}
        where = zip(slots.tolist(), starts.tolist(), strict=True)
        plain = (SequenceSlice(slot, start, 1, None, new.get(slot, ()), True) for slot, start in where)
        return (*plain, *self.slices)


class TokenLogprobs(NamedTuple):
    """Log-probabilities (natural logarithm of the model's own softmax) at one sampled position.

    rank: 1 for the likeliest token. top: the likeliest (token id, logprob) pairs, best first.
    """

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class StepResult:
    """Sampled tokens, one for each row with `samples`, in row order; `INVALID_TOKEN` where logits were NaN.

    logprobs: None if no row asked, else one entry per sampled row, None for rows that did not ask.
    prompt_logprobs: one sequence for each row with targets, one entry for each of them.
    errors: by slot, what went wrong with what its request alone asked for. Its sequence cannot go on; what
        stands here for its row means nothing, and the other rows are as if it had asked for nothing.
    """

    tokens: Sequence[int]
    logprobs: Sequence[TokenLogprobs | None] | None = None
    prompt_logprobs: Sequence[Sequence[TokenLogprobs]] = ()
    errors: Mapping[int, Exception] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GraphCounts:
    """Steps so far by how they reached the device, per kind of step; kinds are few and fixed.

    `decode` steps have rows of one token only, `mixed` steps carry prompt tokens.
    replayed: as a CUDA graph.   launched: kernel by kernel.
    """

    replayed: dict[str, int]
    launched: dict[str, int]


class StepHandle(Protocol):
    """A step under way."""

    async def result(self) -> StepResult:
        """Wait without blocking the event loop. Raises what the device raised."""


class Executor(Protocol):
    """Runs plans in the order given. `launch` returns at once; several steps may be in flight."""

    def launch(self, plan: StepPlan) -> StepHandle: ...

    def graph_counts(self) -> GraphCounts:
        """How steps reached the device, as of now."""

    def tend(self) -> bool:
        """Do a little of what can wait until nothing is in flight; whether there is more of it."""

    def close(self) -> None: ...

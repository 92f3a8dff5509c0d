"""The life of one request inside the scheduler: its tokens, its blocks and how far the device has come."""

from __future__ import annotations

import enum
import time
from array import array
from collections.abc import Sequence as Tokens
from typing import NamedTuple

from ..cache.block_table import BlockTable
from ..cache.prefix_cache import hash_chain, root_hash
from ..model.plan import SlotStart, TokenLogprobs
from .constraint import Constraint
from .request import FinishReason, Request, RequestTimings, TokenOutput

_MAX_TOLD = 1 << 20
"""Log-probabilities that one step tells of one prompt, a dozen bytes each."""


class Clock:
    """now: the number of the step that was planned last."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0


class SequenceStatus(enum.Enum):
    """WAITING sequences own nothing; RUNNING ones own a slot and blocks; FINISHED ones are forgotten."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED = enum.auto()


class Ending(NamedTuple):
    """How a sequence ended; see TokenOutput."""

    finish_reason: FinishReason
    stop_reason: int | None = None
    error: str | None = None


_NOT_FINITE = "the model's logits were not finite"
_NOTHING_LEFT = f"no token was left that the grammar and the request's bans allow, or {_NOT_FINITE}"


class Sequence:
    """Mutable state of one request. Counts are in tokens, positions start at 0.

    position:   0                 num_scheduled        len(token_ids)
                | in cache or flying | still to schedule | tokens that the device is sampling

    num_prefill: positions below it get explicit tokens; later ones take the device's own last token.
    last_step: number of the last plan that mentions the sequence, as of when it was no member of a batch.
    place: where it is in the decode batch, -1 outside; its clock is then the batch's.
    num_named: leading blocks that were offered to the prefix cache.
    constraint: what it may say next; follows the known tokens of the output, also while it is preempted.
    charged: tokens that its tenant was charged when it began to run, see waiting.py.
    num_told: prompt positions whose next tokens' log-probabilities were asked for and told.
    A preempted or finished sequence keeps slot and blocks until the last plan that mentions it commits.
    """

    __slots__ = (
        "_clock",
        "_root_hash",
        "_scheduled",
        "block_hashes",
        "charged",
        "constraint",
        "finish_reason",
        "last_step",
        "max_length",
        "num_named",
        "num_prefill",
        "num_prompt",
        "num_told",
        "order",
        "place",
        "request",
        "request_id",
        "seed",
        "slot",
        "status",
        "stop_ids",
        "table",
        "timings",
        "token_ids",
    )

    def __init__(
        self,
        request: Request,
        table: BlockTable,
        constraint: Constraint | None = None,
        *,
        max_length: int,
        order: int,
        seed: int,
    ) -> None:
        self.request = request
        self.request_id = request.request_id
        self.constraint = constraint
        self.table = table
        self.token_ids = array("i", request.prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.max_length = max_length
        self.order = (request.priority, order)
        self.seed = seed
        self.stop_ids = request.stop_ids
        self.timings = RequestTimings(request.arrival_s)
        self.status = SequenceStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self._root_hash = root_hash(request.cache_salt)
        self.block_hashes: list[bytes] = []
        self.slot = -1
        self.num_prefill = self.num_prompt
        self.place = -1
        self._clock: Clock | None = None
        self._scheduled = 0
        self.last_step = 0
        self.num_named = 0
        self.charged = 0.0
        self.num_told = 0

    def __lt__(self, other: Sequence) -> bool:
        """Whether this one runs earlier: priority, then order of arrival."""
        return self.order < other.order

    @property
    def num_output(self) -> int:
        """Tokens generated and known."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_scheduled(self) -> int:
        """Positions that some plan computes, or did."""
        return self._scheduled if self._clock is None else self._scheduled + self._clock.now

    @num_scheduled.setter
    def num_scheduled(self, value: int) -> None:
        self._scheduled = value if self._clock is None else value - self._clock.now

    def go_by(self, clock: Clock | None) -> int:
        """From now on `num_scheduled` moves with the clock, or stands; how far it is ahead of it."""
        num_scheduled, self._clock = self.num_scheduled, clock
        self.num_scheduled = num_scheduled
        return self._scheduled

    @property
    def num_computed(self) -> int:
        """Positions that the device has computed for it, what the prefix cache gave left out."""
        return max(0, self.num_scheduled - self.timings.num_cached_tokens)

    def no_token(self) -> Ending:
        """Why none could be sampled."""
        constraint = self.constraint
        if constraint is None:
            error = _NOT_FINITE if self.request.limits is None else _NOTHING_LEFT
        else:
            error = constraint.error or _NOTHING_LEFT
        return Ending(FinishReason.ERROR, error=error)

    def is_bound_at(self, position: int) -> bool:
        """Whether the token at `position` depends on the mask that its constraint has then."""
        return self.constraint is not None and position - self.num_prompt >= self.constraint.binds_from

    def may_sample(self, position: int) -> bool:
        """Whether the token at `position` can be sampled now: if not, a token or a mask is still to come."""
        constraint = self.constraint
        if constraint is None or position - self.num_prompt < constraint.binds_from:
            return True
        return position == len(self.token_ids) and constraint.mask is not None

    def append(self, token: int) -> Ending | None:
        """Add a sampled token; why it is the last, if it is."""
        self.token_ids.append(token)
        length = len(self.token_ids)
        if self.constraint is not None and self.constraint.error is not None:
            return Ending(FinishReason.ERROR, error=self.constraint.error)  # whatever the token is
        if token in self.stop_ids and length - self.num_prompt > self.request.params.min_tokens:
            return Ending(FinishReason.STOP, self.stop_reason(token))
        if self.constraint is not None:
            self.constraint.advance(token)
            if self.constraint.error is not None:
                return Ending(FinishReason.ERROR, error=self.constraint.error)
            if self.constraint.complete:
                return Ending(FinishReason.STOP)
        return Ending(FinishReason.LENGTH) if length >= self.max_length else None

    def stop_reason(self, token: int) -> int | None:
        """What to report of the stop token that ended it: None for the model's own end."""
        request = self.request
        return None if token in request.eos_token_ids and not request.params.ignore_eos else token

    def hash_blocks(self, num_blocks: int, block_size: int) -> None:
        """Name the first `num_blocks` blocks, of known tokens, where it has not been done."""
        hashes = self.block_hashes
        if len(hashes) < num_blocks:
            parent = hashes[-1] if hashes else self._root_hash
            tokens = self.token_ids[len(hashes) * block_size : num_blocks * block_size]
            hashes += hash_chain(tokens, block_size, parent)

    @property
    def max_chunk(self) -> int:
        """Tokens that a step may compute at once: what is told of a prompt travels in bounded pieces."""
        num_top = self.request.params.prompt_logprobs
        return self.max_length if num_top is None else max(1, _MAX_TOLD // (num_top + 1))

    def targets(self, start: int, end: int) -> Tokens[int]:
        """Prompt tokens after positions [start, end), if their log-probabilities are still to be told."""
        if self.request.params.prompt_logprobs is None or end <= self.num_told:
            return ()
        return self.token_ids[start + 1 : min(end + 1, self.num_prompt)]

    def tell(self, start: int, logprobs: Tokens[TokenLogprobs]) -> TokenOutput:
        """What a step says of the targets from position `start` on; after a preemption, what is new in it."""
        new = logprobs[self.num_told - start :]
        self.num_told += len(new)
        return TokenOutput(self.request_id, prompt_logprobs=new)

    def begin(self, slot: int, num_cached: int) -> None:
        """Take a slot; the first `num_cached` positions came from the prefix cache."""
        self.status = SequenceStatus.RUNNING
        self.slot = slot
        self.num_prefill = len(self.token_ids)
        self.num_scheduled = num_cached
        self.num_named = len(self.table)

    def slot_start(self) -> SlotStart:
        """What the device must be told of its new slot."""
        limits = self.request.fixed_limits
        return SlotStart(
            slot=self.slot,
            params=self.request.params,
            seed=self.seed,
            stop_token_ids=self.stop_ids,
            prompt_tokens=self.token_ids[: self.num_prompt],
            output_tokens=self.token_ids[self.num_prompt :],
            mask=None if limits is None else limits.fixed_mask().tobytes(),
        )

    def end(self, reason: FinishReason) -> None:
        """Nothing more is planned for it."""
        self.status = SequenceStatus.FINISHED
        self.finish_reason = reason
        self.timings.finished_s = time.monotonic()

    def give_up(self) -> None:
        """Back to the queue: everything but the tokens is lost."""
        self.status = SequenceStatus.WAITING
        self.timings.num_preemptions += 1

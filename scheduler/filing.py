"""Files what a step brought with the sequences that took part: tokens, named blocks, ends.

Knows nothing of what comes next. How a sequence ends, in order or by a failure, is the scheduler's affair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import repeat

from ..cache.config import CacheConfig
from ..cache.prefix_cache import PrefixCache
from ..model.plan import INVALID_TOKEN, StepResult, TokenLogprobs
from .constraint import Constraint
from .planner import Planned
from .request import TokenOutput
from .running import Running
from .sequence import Ending, Sequence, SequenceStatus
from .stats import Counters

Finish = Callable[[Sequence, Ending, tuple[int, ...], tuple[TokenLogprobs, ...]], TokenOutput]
Fail = Callable[[Sequence, Exception], TokenOutput]
Sampled = Iterator[tuple[int, TokenLogprobs | None]]


class Filing:
    """Shares cache, running sequences and counters with the scheduler.

    finish, fail: end a sequence, and say what its request is told.
    asked: constraints that the step last filed has moved on, and that need another mask.
    sound: whether filing it has left nothing half done.
    """

    def __init__(
        self,
        cache: CacheConfig,
        prefix_cache: PrefixCache,
        running: Running,
        counters: Counters,
        finish: Finish,
        fail: Fail,
    ) -> None:
        self._cache = cache
        self._prefix_cache = prefix_cache
        self._running = running
        self._counters = counters
        self._finish = finish
        self._fail = fail
        self.asked: list[Constraint] = []
        self.sound = True

    def file(self, planned: Planned, result: StepResult) -> list[TokenOutput]:
        """What each living request got, in row order."""
        self._running.begin_commit(planned.number)
        self.asked, self.sound = [], True
        failed: dict[Sequence, Exception] = {}
        if result.errors:
            # What was computed is right, but for what was asked of it; so are the blocks.
            owners = zip(planned.plan.rows, planned.sequences(), strict=True)
            failed = {s: result.errors[row.slot] for row, s in owners if row.slot in result.errors}
        outputs = [self._fail(s, error) for s, error in failed.items() if _lives(s)]
        sampled = zip(result.tokens, result.logprobs or repeat(None), strict=False)
        self._file_plain(planned, sampled, failed, outputs)
        self._file_slices(planned, sampled, result, outputs)
        self._running.end_commit()
        return outputs

    def _file_plain(
        self,
        planned: Planned,
        sampled: Sampled,
        failed: dict[Sequence, Exception],
        outputs: list[TokenOutput],
    ) -> None:
        special = {*failed, *self._running.retiring}
        for sequence in planned.turning:
            if _lives(sequence) and not self._fill(sequence, outputs):
                special.add(sequence)
        # Nearly all of them have one token more, and that is all.
        new, num_plain = tuple.__new__, 0
        for sequence, (token, logprobs) in zip(planned.plain_owners, sampled, strict=False):
            try:
                if sequence in special or token < 0 or token in sequence.stop_ids or logprobs is not None:
                    if _lives(sequence):
                        self._name_blocks(sequence, len(sequence.token_ids))
                        outputs.append(self._append(sequence, token, logprobs))
                    else:
                        self._counters.surplus_tokens += 1
                else:
                    sequence.token_ids.append(token)
                    # NamedTuple's own constructor would take twice as long.
                    output = (sequence.request_id, (token,), (), None, None, None, None, ())
                    outputs.append(new(TokenOutput, output))
                    num_plain += 1
            except Exception as error:
                self._failed(sequence, error, outputs)
        self._counters.generation_tokens += num_plain

    def _file_slices(
        self, planned: Planned, sampled: Sampled, result: StepResult, outputs: list[TokenOutput]
    ) -> None:
        told = iter(result.prompt_logprobs)
        for row, sequence in zip(planned.plan.slices, planned.owners, strict=True):
            scores = next(told) if row.targets else ()
            token, logprobs = next(sampled) if row.samples else (INVALID_TOKEN, None)
            if not _lives(sequence):
                self._counters.surplus_tokens += row.samples
                continue
            try:
                self._name_blocks(sequence, row.start + row.length)
                if row.targets:
                    outputs.append(sequence.tell(row.start, scores))
                if row.samples:
                    outputs.append(self._append(sequence, token, logprobs))
            except Exception as error:
                self._failed(sequence, error, outputs)

    def _fill(self, sequence: Sequence, outputs: list[TokenOutput]) -> bool:
        """Name the block that got full; whether the sequence goes on after the token that is to come."""
        length = len(sequence.token_ids)
        try:
            self._name_blocks(sequence, length)
        except Exception as error:
            self._failed(sequence, error, outputs)
            return False
        return length + 1 < sequence.max_length

    def _failed(self, sequence: Sequence, error: Exception, outputs: list[TokenOutput]) -> None:
        self.sound = False
        outputs.append(self._fail(sequence, error))

    def _append(self, sequence: Sequence, token: int, logprobs: TokenLogprobs | None) -> TokenOutput:
        """Add a sampled token that may be the first, the last, or something else than a token."""
        if token == INVALID_TOKEN:
            for block in sequence.table.blocks:
                self._prefix_cache.forget(block)  # what led to this must not reach another request
            self._counters.num_corrupted += 1
            return self._finish(sequence, sequence.no_token(), (), ())
        ending = sequence.append(token)
        self._counters.generation_tokens += 1
        timings = sequence.timings if sequence.num_output == 1 else None
        if timings is not None:
            timings.first_token_s = time.monotonic()
        brought = ((token,), () if logprobs is None else (logprobs,))
        if ending is not None:
            return self._finish(sequence, ending, *brought)
        if sequence.constraint is not None:
            self.asked.append(sequence.constraint)
        return TokenOutput(sequence.request_id, *brought, timings=timings)

    def _name_blocks(self, sequence: Sequence, num_computed: int) -> None:
        """Offer the blocks whose every token is computed to other sequences."""
        num_full = num_computed // self._cache.block_size
        if num_full <= sequence.num_named:
            return
        if self._cache.enable_prefix_caching:
            sequence.hash_blocks(num_full, self._cache.block_size)
            new = slice(sequence.num_named, num_full)
            self._prefix_cache.insert_all(sequence.block_hashes[new], sequence.table.blocks[new])
        sequence.num_named = num_full


def _lives(sequence: Sequence) -> bool:
    return sequence.status is not SequenceStatus.FINISHED

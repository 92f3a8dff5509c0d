"""Turns logits into tokens, for the whole batch at once, by each slot's own settings.

Knows slots and which stages their rows need; the arithmetic is in ops/. Does not know when sequences end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ops import sampling
from ..ops.sampling import Column
from .plan import DeviceFullError, SlotStart, TokenLogprobs, TokenMasks
from .prompt_scores import MAX_PIECE_ROWS, LogprobTensors, PromptScores
from .sampling_state import SamplingState
from .start_layout import Stage
from .upload import uploaded

_NARROWS = Stage.FILTER | Stage.MIN_P
_NO_ROWS = np.zeros(0, np.int64)
_CHANGES_LOGITS = Stage.MASK | Stage.PENALTY | Stage.BIAS | Stage.BAN


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one step chose.

    tokens: [S] int32 on the device, INVALID_TOKEN where the largest logit is not finite.
    logprobs: None if no row asked, or if they did not fit into memory.
     logprob_rows, num_top: [L] on the host, who asked and for how many.
    slots: [S] on the host, whose the tokens are.
    prompt_scores: what was asked of prompts; None if nothing.
    errors: see StepResult; only what is known when the step is launched.
    """

    tokens: Tensor
    logprobs: LogprobTensors | None
    logprob_rows: NDArray[np.int64]
    num_top: NDArray[np.int64]
    slots: Sequence[int] = ()
    prompt_scores: PromptScores | None = None
    errors: Mapping[int, Exception] = field(default_factory=dict)

    @classmethod
    def nothing(cls, device: torch.device) -> Sampled:
        """Of a step without rows that sample."""
        return cls.tokens_alone(torch.empty(0, device=device))

    @classmethod
    def tokens_alone(cls, tokens: Tensor, slots: Sequence[int] = ()) -> Sampled:
        """Tokens [S] that nothing else is to be told of."""
        return cls(tokens.to(torch.int32), None, _NO_ROWS, _NO_ROWS, slots)

    def among(self, tokens: Tensor, rows: NDArray[np.int64], slots: Sequence[int]) -> Sampled:
        """This as `rows` of a larger step, whose other rows have `tokens` [S] and nothing else."""
        tokens = tokens.to(torch.int32)
        tokens[torch.from_numpy(rows)] = self.tokens
        return replace(self, tokens=tokens, logprob_rows=rows[self.logprob_rows], slots=slots)

    def logprobs_to_host(
        self, fetched: LogprobTensors, errors: dict[int, Exception]
    ) -> tuple[TokenLogprobs | None, ...]:
        """One entry per row. fetched: `logprobs` in host memory.

        None for rows that did not ask, for rows whose logits were not finite, and for what cannot be told:
        `errors` says of whose slot and why.
        """
        result: list[TokenLogprobs | None] = [None] * len(self.tokens)
        columns = (self.logprob_rows, self.num_top, *fetched)
        for row, num_top, chosen, rank, top, tokens in zip(*(c.tolist() for c in columns), strict=True):
            try:
                if chosen == chosen:
                    pairs = tuple(zip(tokens[:num_top], top[:num_top], strict=True))
                    result[row] = TokenLogprobs(chosen, rank, pairs)
            except Exception as error:
                errors[self.slots[row]] = error
        return tuple(result)


class Sampler:
    """Calls come in the order of steps. num_slots includes a spare slot for padding, which never starts."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device | str) -> None:
        self.state = SamplingState(num_slots, vocab_size, torch.device(device))

    def start(self, starts: Sequence[SlotStart]) -> dict[int, Exception]:
        """Slots change hands: settings, seeds, bans and what penalties count. See SamplingState.start."""
        return self.state.start(starts)

    def mask(self, masks: Sequence[TokenMasks]) -> None:
        """What rows of the next step may take, where it is not what their slots took before."""
        for together in masks:
            self.state.set_masks(together)

    def sample(self, logits: Tensor, slots: Tensor, positions: Tensor, host_slots: Sequence[int]) -> Sampled:
        """Choose a token for each row of logits [S, vocab_size] and count it where penalties need it.

        slots: [S] int32.   positions: [S] int32, of the new token in its sequence.
        host_slots: `slots` on the host, with or without padding at the end; other slots appear once.
        """
        stages = self.state.row_stages(host_slots, len(logits))
        used = Stage(int(np.bitwise_or.reduce(stages, initial=0)))
        if logits.is_cuda:
            # One variant of the kernels for all batches: it is compiled before the first request.
            tokens = self.choose_on_gpu(logits, slots, positions, changes=True, filters=True)
        else:
            tokens = self._choose(logits, slots, positions, stages, used)
        return self._report(logits, tokens, stages, host_slots)

    def rows_beyond_greedy(self, host_slots: Sequence[int]) -> NDArray[np.int64]:
        """Which of these rows want more than the likeliest token."""
        return np.flatnonzero(self.state.stages[np.asarray(host_slots, np.int64)])

    def report(self, logits: Tensor, tokens: Tensor, host_slots: Sequence[int]) -> Sampled:
        """What `sample` returns, of tokens that `choose_on_gpu` chose inside a graph; once per step."""
        if not self.state.any_logprobs:
            return Sampled.tokens_alone(tokens)
        return self._report(logits, tokens, self.state.row_stages(host_slots, len(logits)), host_slots)

    def _report(
        self, logits: Tensor, tokens: Tensor, stages: NDArray[np.uint8], host_slots: Sequence[int]
    ) -> Sampled:
        rows = np.flatnonzero(stages & Stage.LOGPROBS)
        num_top = self.state.num_logprobs[np.asarray(host_slots, np.int64)[rows]]
        logprobs = self._logprobs_within_memory(logits, tokens, rows, num_top) if len(rows) else None
        errors: dict[int, Exception] = {}
        if logprobs is None and len(rows):
            error = DeviceFullError(
                "the device ran out of memory at this request: its log-probabilities did not fit"
            )
            errors = {host_slots[row]: error for row in rows.tolist()}
        return Sampled(tokens.to(torch.int32), logprobs, rows, num_top, host_slots, errors=errors)

    def choose_on_gpu(
        self, logits: Tensor, slots: Tensor, positions: Tensor, changes: bool, filters: bool
    ) -> Tensor:
        """The tokens, [S] int32, counted.

        Nothing but launches, so a CUDA graph may hold them.
        changes: whether any row may have a mask, penalties, bias or bans.
        filters: likewise top-k, top-p or min-p.
        """
        from ..ops import sample_kernel  # Triton exists for some platforms only and is slow to load

        state = self.state
        return sample_kernel.sample(
            logits,
            slots,
            positions,
            state.table,
            state.biases,
            state.history,
            state.masks,
            changes=changes,
            filters=filters,
        )

    def _choose(
        self, logits: Tensor, slots: Tensor, positions: Tensor, stages: NDArray[np.uint8], used: Stage
    ) -> Tensor:
        """The tokens, [S] int64, counted."""
        if not used & ~Stage.LOGPROBS:
            return sampling.choose_greedy(logits)
        settings = self.state.table.index_select(0, slots)
        logits = logits.to(torch.float32, copy=bool(used & _CHANGES_LOGITS))
        if used & Stage.MASK:
            rows = self._rows(stages, Stage.MASK)
            sampling.apply_masks(logits, rows, self.state.masks.index_select(0, slots[rows]))
        if used & (Stage.BIAS | Stage.BAN):
            self._bias(logits, slots, positions, self._rows(stages, Stage.BIAS | Stage.BAN))
        if used & Stage.PENALTY:
            self._penalise(logits, settings, self._rows(stages, Stage.PENALTY))
        if used & Stage.RANDOM:
            tokens = self._draw(logits, settings, positions, stages, used)
        else:
            tokens = sampling.choose_greedy(logits)
        if used & Stage.PENALTY:
            rows = self._rows(stages, Stage.PENALTY)
            sampling.count_tokens(self.state.history, settings[rows, Column.HISTORY], tokens[rows])
        return tokens

    def _rows(self, stages: NDArray[np.uint8], wanted: Stage) -> Tensor:
        """Rows [N] int64 that want one of these stages."""
        return torch.from_numpy(np.flatnonzero(stages & wanted)).to(self.state.table.device)

    def _bias(self, logits: Tensor, slots: Tensor, positions: Tensor, rows: Tensor) -> None:
        entries = self.state.biases.index_select(0, slots[rows])
        tokens, until = entries[:, :, 0].long(), entries[:, :, 2]
        values = entries.view(torch.float32)[:, :, 1]
        sampling.apply_bias(logits, rows, tokens, values, until, positions[rows])

    def _penalise(self, logits: Tensor, settings: Tensor, rows: Tensor) -> None:
        floats = settings[rows].view(torch.float32)
        sampling.apply_penalties(
            logits,
            rows,
            self.state.history,
            settings[rows, Column.HISTORY],
            floats[:, Column.REPETITION],
            floats[:, Column.PRESENCE],
            floats[:, Column.FREQUENCY],
        )

    def _draw(
        self, logits: Tensor, settings: Tensor, positions: Tensor, stages: NDArray[np.uint8], used: Stage
    ) -> Tensor:
        """Tokens [S] int64, drawn for rows with a temperature, the likeliest for the others."""
        drawn = np.flatnonzero(stages & Stage.RANDOM)
        if len(drawn) == len(stages):
            return self._draw_all(logits, settings, positions, stages, used)
        greedy = np.flatnonzero(~stages & Stage.RANDOM)
        tokens = torch.empty(len(stages), dtype=torch.int64, device=logits.device)
        rows = torch.from_numpy(greedy).to(logits.device)
        tokens[rows] = sampling.choose_greedy(logits.index_select(0, rows))
        rows = torch.from_numpy(drawn).to(logits.device)
        tokens[rows] = self._draw_all(
            logits.index_select(0, rows), settings[rows], positions[rows], stages[drawn], used
        )
        return tokens

    def _draw_all(
        self, logits: Tensor, settings: Tensor, positions: Tensor, stages: NDArray[np.uint8], used: Stage
    ) -> Tensor:
        floats = settings.view(torch.float32)
        filters = None
        if used & _NARROWS:
            rows = self._rows(stages, Stage.FILTER)
            filters = sampling.Filters(
                rows,
                settings[rows, Column.TOP_K].long(),
                floats[rows, Column.TOP_P],
                floats[:, Column.MIN_P] if used & Stage.MIN_P else None,
            )
        seeds = settings[:, Column.SEED_LOW].long() & 0xFFFFFFFF
        seeds |= settings[:, Column.SEED_HIGH].long() << 32
        keys = sampling.draw_keys(seeds, positions)
        return sampling.choose(logits, keys, floats[:, Column.TEMPERATURE], filters)

    def _logprobs_within_memory(
        self, logits: Tensor, tokens: Tensor, host_rows: NDArray[np.int64], num_top: NDArray[np.int64]
    ) -> LogprobTensors | None:
        """None if not even one row's fit. The tokens are chosen and counted: the step cannot run again."""
        for max_rows in (MAX_PIECE_ROWS, 1):
            with contextlib.suppress(torch.OutOfMemoryError):
                return self._logprobs(logits, tokens, host_rows, num_top, max_rows)
            if logits.is_cuda:
                torch.cuda.empty_cache()
        return None

    def _logprobs(
        self,
        logits: Tensor,
        tokens: Tensor,
        host_rows: NDArray[np.int64],
        num_top: NDArray[np.int64],
        max_rows: int,
    ) -> LogprobTensors:
        rows = uploaded(host_rows, logits.device)
        count = min(int(num_top.max()), logits.shape[1])
        pieces = [
            sampling.log_probabilities(logits.index_select(0, part), tokens[part], count)
            for part in rows.split(max_rows)  # in float32, all rows at once would take gigabytes
        ]
        return LogprobTensors(*map(torch.cat, zip(*pieces, strict=True)))

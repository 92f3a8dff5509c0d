"""Log-probabilities of prompt tokens: which positions of a step tell them, and how they are computed.

A step's hidden states fit, but their logits would not: a prompt of 8,192 tokens has gigabytes of them. So the
head is applied in pieces of no more rows than a step may sample, which memory is set aside for.

    row      position  start ........................ start + length - 1
             target    start + 1 .................... start + length         tokens of the prompt
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..ops.sampling import log_probabilities
from .plan import StepPlan, TokenLogprobs
from .upload import uploaded

MIN_PIECE_ROWS, MAX_PIECE_ROWS = 8, 64
"""Rows whose logits are in memory as float32 at once, where log-probabilities are told."""


class LogprobTensors(NamedTuple):
    """On one device, for L rows; N is the most that one of them asked for.

    chosen: [L] float32.   ranks: [L] int64.   top: [L, N] float32, best first.   top_tokens: [L, N] int64.
    """

    chosen: Tensor
    ranks: Tensor
    top: Tensor
    top_tokens: Tensor


class Span(NamedTuple):
    """Positions of one row that are asked about, and how many likeliest tokens at each."""

    slot: int
    num_tokens: int
    num_top: int


@dataclass(frozen=True, slots=True)
class PromptQuestions:
    """What a plan asks of prompts.

    tokens, targets: [P], index in the step's tokens, and the id after it.
    slots, lens: [P], whose tokens they are and how many tokens each sees, itself included.
    """

    tokens: NDArray[np.int64]
    slots: NDArray[np.int32]
    lens: NDArray[np.int32]
    targets: NDArray[np.int64]
    spans: tuple[Span, ...]

    @classmethod
    def of(cls, plan: StepPlan, num_top: NDArray[np.int64]) -> PromptQuestions | None:
        """None if the plan asks nothing. num_top: by slot."""
        if not any([row.targets for row in plan.slices]):
            return None
        tokens: list[int] = []
        slots: list[int] = []
        lens: list[int] = []
        targets: list[int] = []
        spans = []
        begin = 0
        for row in plan.rows:
            if row.targets:
                num_targets = len(row.targets)
                tokens += range(begin, begin + num_targets)
                slots += [row.slot] * num_targets
                lens += range(row.start + 1, row.start + 1 + num_targets)
                targets += row.targets
                spans.append(Span(row.slot, num_targets, int(num_top[row.slot])))
            begin += row.length
        return cls(
            np.array(tokens, np.int64),
            np.array(slots, np.int32),
            np.array(lens, np.int32),
            np.array(targets, np.int64),
            tuple(spans),
        )

    def answer(self, hidden: Tensor, head: Callable[[Tensor], Tensor], num_slots: int) -> PromptScores:
        """hidden: [P, hidden_size], of `tokens`.   head: hidden states -> logits."""
        num_top = max(span.num_top for span in self.spans)
        targets = uploaded(self.targets, hidden.device)
        size = max(MIN_PIECE_ROWS, min(MAX_PIECE_ROWS, num_slots))
        pieces = [
            log_probabilities(head(rows), wanted, num_top)
            for rows, wanted in zip(hidden.split(size), targets.split(size), strict=True)
        ]
        return PromptScores(LogprobTensors(*map(torch.cat, zip(*pieces, strict=True))), self.spans)


@dataclass(frozen=True, slots=True)
class PromptScores:
    """The answers, in the order of the questions."""

    tensors: LogprobTensors
    spans: tuple[Span, ...]

    def moved(self, copy: Callable[[Tensor], Tensor]) -> PromptScores:
        """The same, each tensor copied by `copy`."""
        return PromptScores(LogprobTensors(*map(copy, self.tensors)), self.spans)

    def to_host(self, errors: dict[int, Exception]) -> tuple[Sequence[TokenLogprobs], ...]:
        """One sequence for each row that was asked about; the tensors are in host memory.

        It is empty where it cannot be told: `errors` says of whose slot and why.
        """
        columns = zip(*(column.tolist() for column in self.tensors), strict=True)
        return tuple(_told(span, list(islice(columns, span.num_tokens)), errors) for span in self.spans)


def _told(
    span: Span,
    columns: Sequence[tuple[float, int, list[float], list[int]]],
    errors: dict[int, Exception],
) -> Sequence[TokenLogprobs]:
    num_top = span.num_top
    try:
        return [
            TokenLogprobs(chosen, rank, tuple(zip(tokens[:num_top], top[:num_top], strict=True)))
            for chosen, rank, top, tokens in columns
        ]
    except Exception as error:
        errors[span.slot] = error
        return ()

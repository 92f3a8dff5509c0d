"""A step that ran out of memory is run again in halves, down to single rows. Knows no device.

Rows of a step do not depend on each other, so pieces of a step say together what the whole would have said.
A row that does not fit even alone fails, and with it only the request whose row it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from .plan import INVALID_TOKEN, DeviceFullError, SequenceSlice, StepPlan, StepResult, TokenLogprobs

log = logging.getLogger(__name__)

Part = TypeVar("Part")
Parts = Sequence[tuple[Sequence[SequenceSlice], Part | None]]
"""Rows of a step, in order and in pieces, and what became of them; None: out of memory, of a single row.
Of a step in one piece the rows are left out: most steps are, and rows cost an object each."""


def run_within_memory(
    plan: StepPlan, run: Callable[[StepPlan], Part], refile: Callable[[StepPlan], None]
) -> Parts[Part]:
    """The plan's rows in pieces, each with what `run` returned; one piece, if memory was enough.

    refile: brings the device's block tables up to date with a plan whose run broke off.
    """
    fits, part = _tried(plan, run)
    if fits:
        return [((), part)]
    refile(plan)
    return list(run_divided(plan.rows, run))


def run_divided(
    rows: Sequence[SequenceSlice], run: Callable[[StepPlan], Part]
) -> Iterator[tuple[Sequence[SequenceSlice], Part | None]]:
    """Yields all rows as `Parts`.

    The rows' slots have started and their blocks are filed, so `run` gets rows that bring none.
    Each piece is waited for: steps are packed in turn in a few host buffers, one of which is read still while
    the next is written, and there may be more pieces than buffers.
    """
    bare = tuple(row._replace(new_blocks=()) for row in rows)
    fits, part = _tried(StepPlan(bare), run)
    if fits or len(rows) == 1:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        yield rows, part
        return
    half = len(rows) // 2
    yield from run_divided(rows[:half], run)
    yield from run_divided(rows[half:], run)


def _tried(plan: StepPlan, run: Callable[[StepPlan], Part]) -> tuple[bool, Part | None]:
    try:
        return True, run(plan)
    except torch.OutOfMemoryError as error:
        log.warning("%d rows did not fit into memory: %s", len(plan.rows), str(error).partition(". ")[0])
    # Only now has the error let go of the tensors of the step that failed.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return False, None


def merged(parts: Parts[StepResult]) -> StepResult:
    """The result of the whole step; rows without one have an error."""
    if len(parts) == 1 and parts[0][1] is not None:
        return parts[0][1]
    tokens: list[int] = []
    logprobs: list[TokenLogprobs | None] = []
    prompt_logprobs: list[Sequence[TokenLogprobs]] = []
    errors: dict[int, Exception] = {}
    for rows, result in parts:
        if result is None:
            (row,) = rows
            errors[row.slot] = out_of_memory(row)
            result = StepResult([INVALID_TOKEN] * row.samples, prompt_logprobs=[()] if row.targets else ())
        else:
            errors |= result.errors
        tokens += result.tokens
        logprobs += result.logprobs or [None] * len(result.tokens)
        prompt_logprobs += result.prompt_logprobs
    told = any(entry is not None for entry in logprobs)
    return StepResult(tokens, logprobs if told else None, prompt_logprobs, errors)


def out_of_memory(row: SequenceSlice) -> DeviceFullError:
    """What the request of the row is told."""
    what = f"{row.length} tokens" + (f" and their {len(row.targets)} log-probabilities" * bool(row.targets))
    return DeviceFullError(f"the device ran out of memory at this request: a step of {what} did not fit")

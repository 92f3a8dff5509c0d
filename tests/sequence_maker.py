"""Sequences for tests of the scheduler's parts, with as much behind them as the part looks at."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import Any

from octavo.cache.block_pool import BlockPool
from octavo.cache.block_table import BlockTable
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import Request
from octavo.scheduler.sequence import Sequence

BLOCK_SIZE = 4


def make_sequence(
    prompt: Ids[int] = (1, 2, 3), *, order: int = 0, pool: BlockPool | None = None, **request: Any
) -> Sequence:
    """A sequence that waits; settings are fields of Request."""
    fields: dict[str, Any] = {"params": SamplingParams(), "max_tokens": 8} | request
    made = Request(request_id=f"r{order}", prompt_token_ids=prompt, **fields)
    table = BlockTable(pool or BlockPool(8), BLOCK_SIZE)
    return Sequence(made, table, max_length=len(prompt) + made.max_tokens, order=order, seed=0)

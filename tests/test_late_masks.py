"""An engine whose sequences wait for masks: nobody else waits with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from served_engine import MODEL, serving
from toy_grammar import ToyConstraint


class LateConstraint(ToyConstraint):
    """Its masks, but for the first, take takes_s."""

    takes_s = 0.02

    def prepare(self, batch: Sequence[ToyConstraint], came: Callable[[], None]) -> None:
        super().prepare(batch, came)
        for constraint in batch:
            asyncio.get_running_loop().call_later(self.takes_s, constraint.arrive)


def late_constraint() -> LateConstraint:
    constraint = LateConstraint(MODEL.vocab_size, 40)
    assert constraint.mask is not None
    constraint.late = True
    return constraint


@pytest.mark.parametrize("overlap", [True, False])
def test_an_engine_that_has_only_to_wait_for_masks_sleeps_and_goes_on(overlap: bool) -> None:
    async def main() -> None:
        async with serving(overlap=overlap) as served:
            ids = [served.add([1, 2], 5, True, late_constraint()) for _ in range(3)]
            await served.ended(*ids)
            for request_id in ids:
                served.check(request_id)
            assert len(served.executor.plans) <= 15

    asyncio.run(main())


@pytest.mark.parametrize("overlap", [True, False])
def test_a_mask_that_takes_long_holds_up_its_own_request_only(overlap: bool) -> None:
    async def main() -> None:
        async with serving(overlap=overlap, latency_s=0.002) as served:
            late = late_constraint()
            late.takes_s = 1.0
            slow = served.add([1, 2], 3, True, late)
            others = [
                served.add([3, 4], 20, True),
                served.add([5], 20, True, ToyConstraint(MODEL.vocab_size, 40)),
            ]
            await served.ended(*others)
            assert len(served.clients.tokens(slow)) == 1
            await served.ended(slow)
            for request_id in (slow, *others):
                served.check(request_id)

    asyncio.run(main())

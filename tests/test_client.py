"""The buffer between engine and reader."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from octavo.app.client import OutputStream
from octavo.app.errors import EngineDeadError
from octavo.scheduler.request import FinishReason, TokenOutput


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def output(token: int) -> TokenOutput:
    return TokenOutput("r", (token,))


def test_a_reader_that_lags_gets_all_at_once() -> None:
    async def check() -> None:
        stream = OutputStream(lambda reason: None)
        reading = asyncio.create_task(stream.next())
        await asyncio.sleep(0)
        stream.push(output(1))
        stream.push(output(2))
        assert await reading == [output(1), output(2)]
        stream.push(output(3))
        assert await stream.next() == [output(3)]

    run(check())


def test_what_came_before_a_failure_is_read_first() -> None:
    async def check() -> None:
        stream = OutputStream(lambda reason: None)
        stream.push(output(1))
        stream.fail(EngineDeadError("gone"))
        assert await stream.next() == [output(1)]
        with pytest.raises(EngineDeadError, match="gone"):
            await stream.next()

    run(check())


@pytest.mark.parametrize("how", [OutputStream.accept, lambda stream: stream.push(output(1))])
def test_accepted_waits_for_the_engine(how: Any) -> None:
    async def check() -> None:
        stream = OutputStream(lambda reason: None)
        waiting = asyncio.create_task(stream.accepted())
        await asyncio.sleep(0)
        assert not waiting.done()
        how(stream)
        await waiting
        await stream.accepted()

    run(check())


def test_a_refusal_is_raised_to_whoever_waits() -> None:
    async def check() -> None:
        stream = OutputStream(lambda reason: None)
        waiting = asyncio.create_task(stream.accepted())
        await asyncio.sleep(0)
        stream.fail(EngineDeadError("gone"))
        with pytest.raises(EngineDeadError):
            await waiting

    run(check())


def test_abort_is_the_owners() -> None:
    aborts: list[FinishReason] = []
    stream = OutputStream(aborts.append)
    stream.abort()
    stream.abort(FinishReason.STOP)
    assert aborts == [FinishReason.ABORT, FinishReason.STOP]


def test_plain_outputs_are_taken_without_waking_the_reader_and_a_turn_is_one() -> None:
    async def check() -> None:
        stream, taken = OutputStream(lambda reason: None), list[list[TokenOutput]]()

        def take(outputs: Sequence[TokenOutput]) -> bool:
            if outputs[-1].finish_reason is not None:
                return False
            taken.append(list(outputs))
            return True

        stream.divert(take)
        reading = asyncio.create_task(stream.next())
        await asyncio.sleep(0)
        for tokens in ([1], [2, 3]):
            for token in tokens:
                stream.push(output(token))
            await asyncio.sleep(0.001)
        assert taken == [[output(1)], [output(2), output(3)]] and not reading.done()
        last = output(4)._replace(finish_reason=FinishReason.LENGTH)
        stream.push(last)
        assert await reading == [last] and len(taken) == 2

    run(check())


def test_while_the_reader_is_at_work_nothing_overtakes_it() -> None:
    async def check() -> None:
        stream, taken = OutputStream(lambda reason: None), list[TokenOutput]()
        stream.divert(lambda outputs: not taken.extend(outputs))  # type: ignore[func-returns-value]
        stream.push(output(1))
        await asyncio.sleep(0.001)
        assert not taken
        assert await stream.next() == [output(1)]

    run(check())


def test_who_fails_to_take_ends_the_stream_where_it_is_read() -> None:
    async def check() -> None:
        stream = OutputStream(lambda reason: None)

        def take(outputs: Sequence[TokenOutput]) -> bool:
            raise ZeroDivisionError("a bug")

        stream.divert(take)
        reading = asyncio.create_task(stream.next())
        await asyncio.sleep(0)
        stream.push(output(1))
        with pytest.raises(ZeroDivisionError):
            await reading

    run(check())

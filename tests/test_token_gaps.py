"""Gaps between tokens, counted a step at a time, are those that each stream has seen."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest
from engine_link import TOY, join, new_server, read, request, run, running
from fakes import FakeExecutor

from octavo.app.client import EngineClient
from octavo.app.inproc_client import InprocClient
from octavo.app.remote_client import RemoteClient
from octavo.app.token_gaps import TokenGaps
from octavo.cache.config import CacheConfig
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.distribution import Distribution
from octavo.scheduler.scheduler import Scheduler

BOUNDS = (0.5, 1.5, 2.5, 3.5, 10.0)


class Clock:
    """A loop's turns and the time, as the test says."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._due: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        """As a loop's."""
        self._due.append(call)

    def turn(self, seconds: float = 0.0) -> None:
        """The loop turns, and time passes."""
        due, self._due = self._due, []
        for call in due:
            call()
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now_s)
    return clock


class Heard:
    """Streams that hear steps, whose engine says when one begins."""

    def __init__(self) -> None:
        self.seconds = Distribution(BOUNDS)
        self.gaps = TokenGaps[int](self.seconds)
        self._begun: set[int] = set()

    def step(self, *streams: int) -> None:
        """A step for these."""
        num = len(streams) if self._begun.issuperset(streams) else 0
        self._begun.update(streams)
        self.gaps.step(num, lambda: set(streams))

    def end(self, stream: int) -> None:
        """Its number may be used again."""
        self._begun.discard(stream)
        self.gaps.forget(stream)


def test_streams_that_step_together_share_their_gap(clock: Clock) -> None:
    heard = Heard()
    for _ in range(3):
        heard.step(1, 2, 3)
        clock.turn(1.0)
    assert heard.seconds.counts == [0, 6, 0, 0, 0, 0] and heard.seconds.total == 6.0


def test_first_tokens_have_no_gap_and_who_sat_out_has_a_long_one(clock: Clock) -> None:
    heard = Heard()
    for streams in ((1, 2), (1,), (1, 3), (1, 2, 3)):
        heard.step(*streams)
        clock.turn(1.0)
    assert heard.seconds.counts == [0, 4, 0, 1, 0, 0]  # of 1 three, of 3 one; of 2 one of three seconds
    assert heard.seconds.total == 7.0


def test_what_comes_in_one_turn_came_together(clock: Clock) -> None:
    heard = Heard()
    heard.step(1, 2)
    clock.turn(1.0)
    for streams in ((1,), (1, 2), (1, 2, 3)):  # a front end that lags finds three steps
        heard.step(*streams)
    clock.turn(1.0)
    heard.step(1, 2, 3)
    assert heard.seconds.counts == [0, 5, 0, 0, 0, 0]


def test_a_number_that_is_used_again_is_another_stream(clock: Clock) -> None:
    heard = Heard()
    for _ in range(2):
        heard.step(1, 2)
        heard.end(1)
        clock.turn(1.0)
    assert heard.seconds.counts == [0, 1, 0, 0, 0, 0]
    heard.step(2)
    heard.end(1)
    clock.turn(1.0)
    heard.step(1)
    assert heard.seconds.total == 2.0


def test_a_step_without_tokens_is_none(clock: Clock) -> None:
    heard = Heard()
    for streams in ((1,), (), (1,)):
        heard.step(*streams)
        clock.turn(1.0)
    assert heard.seconds.counts == [0, 0, 1, 0, 0, 0]


def test_any_course_is_counted_as_if_each_stream_had_a_watch(clock: Clock) -> None:
    rng = random.Random(4)
    heard, expected = Heard(), Distribution(BOUNDS)
    last: dict[int, float] = {}
    for _ in range(5000):
        streams = [stream for stream in range(6) if rng.random() < 0.95]
        heard.step(*streams)
        for stream in streams:
            if stream in last and last[stream] != clock.now_s:
                expected.observe(clock.now_s - last[stream])
            last[stream] = clock.now_s
        if rng.random() < 0.2:
            ended = rng.randrange(6)
            heard.end(ended)
            last.pop(ended, None)
        if rng.random() < 0.8:
            clock.turn(float(rng.randrange(1, 5)))
    assert heard.seconds.counts == expected.counts
    assert heard.seconds.total == expected.total


def test_streams_are_not_asked_for_while_they_must_be_the_same(clock: Clock) -> None:
    heard = Heard()
    for _ in range(2):
        heard.step(1, 2)
        clock.turn(1.0)
    heard.gaps.step(2, lambda: pytest.fail("they are the same"))
    assert heard.seconds.counts == [0, 4, 0, 0, 0, 0]


def test_a_step_for_as_many_streams_as_before_may_be_for_others(clock: Clock) -> None:
    """A grammar's rows, for example, take turns."""
    heard = Heard()
    for streams in ((1, 2), (1, 2), (1,), (2,), (1,), (2,)):
        heard.step(*streams)
        clock.turn(1.0)
    assert heard.seconds.counts == [0, 3, 3, 0, 0, 0]


STEP_S = 0.004
LENGTHS = (9, 20, 14, 3)


async def read_all(client: EngineClient) -> None:
    """Streams of so many tokens, and one that leaves early."""
    streams = [client.submit(request(f"r{n}", max_tokens=n)) for n in LENGTHS]
    left = client.submit(request("left", max_tokens=500))
    await asyncio.gather(*map(read, streams))
    left.abort()


def check(seconds: Distribution) -> None:
    """A gap for every token but the first ones; the one that left saw as many as the longest, or one more."""
    gaps = sum(LENGTHS) - len(LENGTHS)
    assert gaps + max(LENGTHS) - 2 <= seconds.count <= gaps + max(LENGTHS) + 2
    assert seconds.total >= 0.5 * STEP_S * seconds.count


def test_an_engine_in_process_is_timed() -> None:
    async def test() -> None:
        executor = FakeExecutor(TOY, num_slots=8, num_blocks=2000, block_size=4, latency_s=STEP_S)
        config = SchedulerConfig(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=1000)
        client = InprocClient(Scheduler(config, CacheConfig(2000, 4)), executor)
        seconds = Distribution(BOUNDS)
        client.time_tokens(seconds)
        client.start()
        await read_all(client)
        await client.close()
        check(seconds)

    run(test)


def test_an_engine_in_another_process_is_timed() -> None:
    async def test() -> None:
        async with running(new_server(STEP_S)) as server:
            client, _ = await join(server)
            assert isinstance(client, RemoteClient)
            seconds = Distribution(BOUNDS)
            client.time_tokens(seconds)
            await read_all(client)
            check(seconds)

    run(test)

"""When it is too late for what a client has to send."""

from __future__ import annotations

import asyncio

from octavo.app.http_connection import ReadTimer


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time goes where it is put."""

    now_s = 100.0

    def time(self) -> float:
        return self.now_s

    def go(self, seconds: float) -> None:
        """Let time pass, and do what is due."""
        self.now_s += seconds
        for _ in range(2):
            self.call_soon(self.stop)
            self.run_forever()


def timer(loop: Clock) -> tuple[ReadTimer, list[float]]:
    late: list[float] = []
    return ReadTimer(loop, 10, lambda: late.append(loop.now_s)), late


def test_what_is_expected_as_a_whole_is_not_put_off() -> None:
    loop = Clock()
    reading, late = timer(loop)
    reading.expect()
    loop.go(6)
    reading.expect()
    loop.go(3)
    assert late == []
    loop.go(2)
    assert late == [111]
    loop.go(50)
    assert late == [111], "once"
    loop.close()


def test_each_part_gives_time_again() -> None:
    loop = Clock()
    reading, late = timer(loop)
    reading.expect()
    for _ in range(5):
        loop.go(8)
        reading.more()
    assert late == []
    loop.go(11)
    assert late == [151]
    loop.close()


def test_nothing_is_too_late_when_all_is_there_or_the_client_has_gone() -> None:
    loop = Clock()
    reading, late = timer(loop)
    reading.expect()
    reading.done()
    loop.go(20)
    reading.expect()
    loop.go(5)
    reading.close()
    loop.go(20)
    assert late == []
    loop.close()

"""A link over a real socket pair: frames arrive, and an end that does not read is cut, not waited for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from patience import at_some_pace

from octavo.app.frame_link import FrameLink
from octavo.app.frames import Kind, frame

BIG = frame(Kind.STEP, bytes(1 << 20))


class End:
    """A link and what it has heard."""

    def __init__(self, **limits: Any) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.link = FrameLink(
            lambda kind, payload: self.frames.append((kind, bytes(payload))), self.lost.set_result, **limits
        )


def with_socket(visit: Callable[[End, socket.socket], Awaitable[None]], **limits: Any) -> None:
    """Runs `visit(one end, the other end's socket)`."""

    async def run() -> None:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        end = End(**limits)
        await end.link.attach(ours)
        with theirs:
            await visit(end, theirs)
        end.link.cut("the test is over")
        await end.lost

    asyncio.run(run())


def test_frames_go_both_ways() -> None:
    async def visit(end: End, theirs: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        end.link.send(frame(Kind.ABORT, b"abcd"))
        assert await loop.sock_recv(theirs, 100) == frame(Kind.ABORT, b"abcd")
        await loop.sock_sendall(theirs, BIG + frame(Kind.ADD, b"x"))
        while len(end.frames) < 2:
            await asyncio.sleep(0.001)
        assert end.frames == [(Kind.STEP, bytes(1 << 20)), (Kind.ADD, b"x")]

    with_socket(visit)


def test_unread_bytes_are_bounded() -> None:
    async def visit(end: End, theirs: socket.socket) -> None:
        for _ in range(5):
            end.link.send(BIG)  # never waits: nobody reads
        assert await end.lost == "it left more than 3000000 bytes unread"
        assert end.link.was_cut
        end.link.send(BIG)  # is nothing any more

    with_socket(visit, max_buffered_bytes=3_000_000)


def test_unread_time_is_bounded() -> None:
    async def visit(end: End, theirs: socket.socket) -> None:
        end.link.send(BIG)
        assert await asyncio.wait_for(end.lost, 60) == "it has read nothing for 0.1 s"

    with_socket(visit, max_stalled_s=0.1)


def test_whoever_reads_again_in_time_is_kept() -> None:
    async def visit(end: End, theirs: socket.socket, pace: float) -> None:
        end.link.send(BIG)
        await asyncio.sleep(0.1 * pace)
        got = 0
        while got < len(BIG):
            part = await asyncio.get_running_loop().sock_recv(theirs, 1 << 20)
            assert part, "it was cut off"
            got += len(part)
        await asyncio.sleep(0.4 * pace)
        assert not end.lost.done()

    at_some_pace(lambda pace: with_socket(partial(visit, pace=pace), max_stalled_s=0.3 * pace))


@pytest.mark.parametrize("noise", [b"\xff" * 9])
def test_noise_ends_the_link(noise: bytes) -> None:
    async def visit(end: End, theirs: socket.socket) -> None:
        theirs.send(noise)
        assert "a frame may have" in await end.lost

    with_socket(visit)


def test_the_other_end_is_gone() -> None:
    async def visit(end: End, theirs: socket.socket) -> None:
        theirs.close()
        await end.lost
        assert not end.link.was_cut

    with_socket(visit)

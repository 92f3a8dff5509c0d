"""Engine server and remote client over a real socket, in one event loop: no process, no HTTP."""

from __future__ import annotations

import asyncio
import socket

import pytest
from engine_link import TOY, join, new_server, read, request, run, running
from expected import expected_output

from octavo.app import control_messages as messages
from octavo.app.errors import EngineDeadError, RequestError
from octavo.app.frames import PROTOCOL_VERSION, encode_abort, encode_add
from octavo.app.metrics import ServerMetrics
from octavo.scheduler.request import FinishReason


def test_two_front_ends_get_their_own() -> None:
    async def test() -> None:
        async with running(new_server()) as server:
            clients = [(await join(server))[0] for _ in range(2)]
            asked = [request(f"stream {i}", logprobs=2 if i % 3 == 0 else None) for i in range(8)]
            streams = [clients[i % 2].submit(one) for i, one in enumerate(asked)]
            for stream in streams:
                await stream.accepted()
            for one, outputs in zip(asked, await asyncio.gather(*map(read, streams)), strict=True):
                expected = expected_output(one, TOY)
                assert [token for output in outputs for token in output.token_ids] == expected.token_ids
                assert [entry for output in outputs for entry in output.logprobs] == expected.logprobs
                timings = outputs[-1].timings
                assert outputs[-1].finish_reason is FinishReason.LENGTH and timings is not None
                assert timings.arrival_s <= timings.scheduled_s <= timings.first_token_s

    run(test)


def test_what_can_never_fit_is_raised_by_accepted() -> None:
    async def test() -> None:
        async with running(new_server(num_blocks=10)) as server:
            client, _ = await join(server)
            with pytest.raises(RequestError, match="the KV cache holds 40") as refused:
                await client.submit(request("big", 500)).accepted()
            assert (refused.value.status, refused.value.param) == (400, "max_tokens")
            assert await read(client.submit(request("small", 5)))

    run(test)


def test_a_full_queue_is_told() -> None:
    async def test() -> None:
        async with running(new_server(latency_s=0.05, max_queued=2)) as server:
            client, _ = await join(server)
            streams = [client.submit(request(f"s{i}", 900)) for i in range(12)]
            told = await asyncio.gather(*(s.accepted() for s in streams), return_exceptions=True)
            statuses = [error.status for error in told if isinstance(error, RequestError)]
            assert statuses and set(statuses) == {503}

    run(test)


def test_an_aborted_stream_hears_nothing_and_frees_the_engine() -> None:
    async def test() -> None:
        async with running(new_server(latency_s=0.001)) as server:
            client, _ = await join(server)
            stream = client.submit(request("x", 900))
            await stream.next()
            stream.abort()
            stream.abort()
            while server.stats().num_running:
                await asyncio.sleep(0.001)
            assert server.num_streams == 0

    run(test)


def test_a_front_end_that_does_not_read_is_dropped_and_others_go_on() -> None:
    async def test() -> None:
        async with running(new_server(latency_s=0.001, max_buffered_bytes=2_000)) as server:
            mute, deaf = socket.socketpair()
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            with deaf:
                dropped = await server.attach(mute)
                deaf.sendall(b"".join(encode_add(i, request(f"deaf {i}", 900)) for i in range(4)))
                client, _ = await join(server)
                other = asyncio.create_task(read(client.submit(request("other", 200))))
                assert "unread" in await dropped.lost
            assert dropped.num_cut == 4
            assert server.numbers.counts.lost == {"died": 0, "dropped": 1}
            outputs = await other
            tokens = [token for output in outputs for token in output.token_ids]
            assert tokens == expected_output(request("other", 200), TOY).token_ids
            assert server.num_streams == 0

    run(test)


def test_a_closed_engine_fails_every_stream() -> None:
    async def test() -> None:
        async with running(new_server(latency_s=0.001)) as server:
            client, _ = await join(server)
            stream = client.submit(request("x", 900))
            await stream.next()
            await server.close()
            with pytest.raises(EngineDeadError, match="the engine was stopped"):
                while True:
                    await stream.next()
            with pytest.raises(EngineDeadError):
                client.submit(request("y"))

    run(test)


def test_a_lost_front_ends_numbers_stay() -> None:
    async def test() -> None:
        async with running(new_server(latency_s=0.001)) as server:
            client, frontend = await join(server)
            asker, _ = await join(server)
            counted = ServerMetrics("toy", "1")
            counted.count_response("/version", 200)
            counted.begin(3, 0.0)
            stream = client.submit(request("x", 900))
            await stream.next()
            answer = frontend.ask()
            assert isinstance(await client.control.get(), messages.AskNumbers)
            client.tell(messages.Numbers(counted.state()))
            await answer
            frontend.link.cut("the test says so")
            await frontend.lost
            scraped = await asker.scrape()
            whole = ServerMetrics("toy", "1")
            for state in scraped.others:
                whole.absorb(state)
            assert whole.state().http == {("/version", "200"): 1}
            assert whole.num_open == 0 and whole.ended["error"] == 1
            assert scraped.frontends.num_running == 1

    run(test)


@pytest.mark.parametrize(
    "noise",
    [
        encode_abort(1, FinishReason.ABORT)[:-1],
        messages.encode(messages.Hello(PROTOCOL_VERSION + 1)),
        messages.encode(messages.Stop()),
    ],
    ids=["half", "version", "direction"],
)
def test_what_no_front_end_sends_ends_the_link(noise: bytes) -> None:
    async def test() -> None:
        async with running(new_server()) as server:
            ours, theirs = socket.socketpair()
            with theirs:
                frontend = await server.attach(ours)
                theirs.sendall(noise)
                theirs.shutdown(socket.SHUT_WR)
                await frontend.lost
            assert not server.frontends

    run(test)

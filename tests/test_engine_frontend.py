"""What the engine owes one front end, when something fails at one of its streams or questions."""

from __future__ import annotations

import asyncio

import pytest
from engine_link import TOY, join, new_server, read, request, run, running
from expected import expected_output

from octavo.app import frames
from octavo.app.engine_host import EngineHost, HostOptions
from octavo.app.errors import RequestError
from octavo.app.grammar_compiler import GrammarCompiler
from octavo.model.grammar import Grammar, GrammarKind
from octavo.scheduler.cause import OUR_FAULT
from octavo.scheduler.constraint import Constraint
from octavo.scheduler.request import FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler


def test_what_fails_at_one_stream_ends_that_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ADD that the engine cannot read, a request that it cannot take in, an output that it cannot send."""
    add, encode = Scheduler.add, frames.StepEncoder.add

    def breaking_add(scheduler: Scheduler, one: Request, constraint: Constraint | None = None) -> None:
        if one.request_id == "not taken":
            raise ZeroDivisionError("planted")
        add(scheduler, one, constraint)

    def breaking_encode(encoder: frames.StepEncoder, number: int, output: TokenOutput) -> None:
        if output.request_id == "not sent" and output.error is None:
            raise ZeroDivisionError("planted")
        encode(encoder, number, output)

    monkeypatch.setattr(Scheduler, "add", breaking_add)
    monkeypatch.setattr(frames.StepEncoder, "add", breaking_encode)

    async def test() -> None:
        async with running(new_server(latency_s=0.001)) as server:
            client, frontend = await join(server)
            whole = request("whole", 200)
            others = asyncio.create_task(read(client.submit(whole)))
            unreadable = request("not read")
            object.__setattr__(unreadable.params, "top_p", 7.0)
            for broken in (unreadable, request("not taken")):
                with pytest.raises(RequestError, match="failed at this request") as failed:
                    await client.submit(broken).accepted()
                assert (failed.value.status, failed.value.code) == (500, "generation_failed")
            (last,) = await read(client.submit(request("not sent", 900)))
            assert last.finish_reason is FinishReason.ERROR and last.error == OUR_FAULT
            tokens = [token for output in await others for token in output.token_ids]
            assert tokens == expected_output(whole, TOY).token_ids
            assert not frontend.requests and server.num_streams == 0 and server.stats().num_running == 0

    run(test)


def test_a_question_that_cannot_be_answered_costs_no_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with running(new_server(latency_s=0.001)) as server:
            client, _ = await join(server)
            stream = client.submit(request("x", 300))
            await stream.next()

            def planted(*args: object) -> None:
                raise ZeroDivisionError("planted")

            monkeypatch.setattr(server.host, "look", planted)
            monkeypatch.setattr(server, "stats", planted)
            for question in (client.look(0), client.scrape()):
                with pytest.raises(RequestError, match="failed at this request"):
                    await question
            assert (await read(stream))[-1].finish_reason is FinishReason.LENGTH

    run(test)


def test_a_grammar_compiler_that_breaks_ends_who_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even as an exception that is none: its task must not be taken for a success."""

    class PanicException(BaseException):
        pass

    async def panic(host: EngineHost, *args: object) -> None:
        await asyncio.sleep(0)
        raise PanicException("planted")

    monkeypatch.setattr(EngineHost, "_add_later", panic)
    monkeypatch.setattr(GrammarCompiler, "kept", lambda compiler, grammar: None)
    monkeypatch.setattr(GrammarCompiler, "close", lambda compiler: None)

    async def test() -> None:
        compiler = GrammarCompiler.__new__(GrammarCompiler)
        async with running(new_server(options=HostOptions(grammars=compiler))) as server:
            client, _ = await join(server)
            grammar = Grammar(GrammarKind.REGEX, "a")
            with pytest.raises(RequestError, match="failed at this request"):
                await client.submit(request("x", structured_outputs=grammar)).accepted()
            assert server.num_streams == 0

    run(test)

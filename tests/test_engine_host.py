"""Requests with a grammar on their way into the engine: in this process, and from a front end."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fakes import FakeExecutor, ToyModel
from http_harness import EOS, VOCAB_SIZE, byte_tokenizer

from octavo.app.client import EngineClient, OutputStream
from octavo.app.engine_host import HostOptions
from octavo.app.engine_server import EngineServer
from octavo.app.errors import EngineStoppedError, RequestError
from octavo.app.grammar_compiler import GrammarCompiler
from octavo.app.grammar_matcher import CompiledGrammar, GrammarVocabulary
from octavo.app.inproc_client import InprocClient
from octavo.app.remote_client import RemoteClient
from octavo.cache.config import CacheConfig
from octavo.model.grammar import Grammar, GrammarKind
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import FinishReason, Request, TokenOutput
from octavo.scheduler.scheduler import Scheduler

PATTERN = "[a-c]{3}x?"
WORD = Grammar(GrammarKind.REGEX, PATTERN)


class GatedVocabulary(GrammarVocabulary):
    """Compiles once `gate` is open."""

    def __init__(self) -> None:
        super().__init__(byte_tokenizer(), VOCAB_SIZE, frozenset({EOS}))
        self.gate = threading.Event()
        self.gate.set()

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        assert self.gate.wait(30)
        return super().compile(grammar)


def scheduler_and_executor() -> tuple[Scheduler, FakeExecutor]:
    model = ToyModel(vocab_size=VOCAB_SIZE)
    executor = FakeExecutor(model, num_slots=2, num_blocks=100, block_size=4, latency_s=0.001)
    config = SchedulerConfig(max_num_seqs=2, max_num_batched_tokens=64, max_model_len=400)
    return Scheduler(config, CacheConfig(100, 4)), executor


def request(request_id: str = "r", grammar: Grammar | None = WORD, **params: Any) -> Request:
    asked = SamplingParams(structured_outputs=grammar, max_tokens=50, **({"temperature": 0} | params))
    return Request(
        request_id=request_id,
        prompt_token_ids=[1, 2, 3],
        params=asked,
        max_tokens=50,
        eos_token_ids=frozenset({EOS}),
    )


async def whole(stream: Any) -> tuple[bytes, TokenOutput]:
    tokens: list[int] = []
    while True:
        outputs: Sequence[TokenOutput] = await asyncio.wait_for(stream.next(), 30)
        for output in outputs:
            tokens += output.token_ids
        if outputs[-1].finish_reason is not None:
            return bytes(token for token in tokens if token < EOS), outputs[-1]


@asynccontextmanager
async def in_process(vocabulary: GrammarVocabulary | None) -> Any:
    compiler = None if vocabulary is None else GrammarCompiler(vocabulary)
    client = InprocClient(*scheduler_and_executor(), HostOptions(grammars=compiler))
    client.start()
    yield client, client.stats
    await client.close()


@asynccontextmanager
async def from_a_front_end(vocabulary: GrammarVocabulary | None) -> Any:
    compiler = None if vocabulary is None else GrammarCompiler(vocabulary)
    server = EngineServer(*scheduler_and_executor(), HostOptions(grammars=compiler))
    server.start()
    ours, theirs = socket.socketpair()
    client = RemoteClient()
    await server.attach(ours)
    await client.attach(theirs)
    yield client, server.stats
    await server.close()
    for frontend in server.frontends:
        frontend.link.cut("the test is over")


both = pytest.mark.parametrize("engine", [in_process, from_a_front_end])


@both
def test_answers_conform_the_first_time_and_again(engine: Callable[..., Any]) -> None:
    async def run() -> None:
        async with engine(GatedVocabulary()) as (client, _):
            for number in range(2):
                stream = client.submit(request(f"r{number}"))
                await asyncio.wait_for(stream.accepted(), 30)
                text, last = await whole(stream)
                assert re.fullmatch(PATTERN.encode(), text)
                assert (last.finish_reason, last.stop_reason) == (FinishReason.STOP, None)

    asyncio.run(run())


@both
def test_who_has_no_grammar_does_not_wait_for_those_that_have(engine: Callable[..., Any]) -> None:
    async def run() -> None:
        vocabulary = GatedVocabulary()
        vocabulary.gate.clear()
        async with engine(vocabulary) as (client, stats):
            bound = client.submit(request("bound"))
            _, last = await whole(client.submit(request("free", None, ignore_eos=True)))
            assert last.finish_reason is FinishReason.LENGTH
            assert (stats().num_waiting, stats().num_running) == (0, 0)
            vocabulary.gate.set()
            text, _ = await whole(bound)
            assert re.fullmatch(PATTERN.encode(), text)

    asyncio.run(run())


@both
def test_a_bad_grammar_is_refused_before_anything_runs(engine: Callable[..., Any]) -> None:
    async def run() -> None:
        async with engine(GatedVocabulary()) as (client, stats):
            stream = client.submit(request(grammar=Grammar(GrammarKind.REGEX, "(")))
            with pytest.raises(RequestError, match="unclosed group") as caught:
                await asyncio.wait_for(stream.accepted(), 30)
            assert (caught.value.status, caught.value.param) == (400, "structured_outputs")
            assert stats().counters.num_steps == 0

    asyncio.run(run())


@both
def test_whoever_leaves_while_the_grammar_is_compiled_never_runs(engine: Callable[..., Any]) -> None:
    async def run() -> None:
        vocabulary = GatedVocabulary()
        vocabulary.gate.clear()
        async with engine(vocabulary) as (client, stats):
            client.submit(request("gone")).abort()
            _, last = await whole(client.submit(request("free", None, ignore_eos=True)))
            assert last.finish_reason is FinishReason.LENGTH
            vocabulary.gate.set()
            await whole(client.submit(request("same")))
            counters = stats().counters
            assert counters.prompt_tokens == 6  # of the two that ran

    asyncio.run(run())


@both
def test_an_engine_that_stops_ends_those_that_wait_for_a_grammar(engine: Callable[..., Any]) -> None:
    async def run() -> None:
        vocabulary = GatedVocabulary()
        vocabulary.gate.clear()
        streams: list[OutputStream] = []
        async with engine(vocabulary) as (client, _):
            streams.append(client.submit(request()))
            await whole(client.submit(request("free", None, ignore_eos=True)))
        with pytest.raises(EngineStoppedError):
            await asyncio.wait_for(streams[0].accepted(), 30)
        vocabulary.gate.set()

    asyncio.run(run())


@both
def test_without_a_compiler_grammars_are_refused(engine: Callable[..., Any]) -> None:
    async def ask(client: EngineClient) -> None:
        await asyncio.wait_for(client.submit(request()).accepted(), 30)

    async def run() -> None:
        async with engine(None) as (client, _):
            with pytest.raises(RequestError, match="no grammars are compiled here"):
                await ask(client)

    asyncio.run(run())

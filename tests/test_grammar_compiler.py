"""Compiling beside the loop: once for all who ask, within limits, and survived."""

from __future__ import annotations

import asyncio
import json
import threading
import time

import pytest
from http_harness import EOS, VOCAB_SIZE, byte_tokenizer
from patience import at_some_pace

from octavo.app import grammar_compiler
from octavo.app.errors import EngineOverloadedError, RequestError
from octavo.app.grammar_compiler import GrammarCompiler
from octavo.app.grammar_matcher import CompiledGrammar, GrammarVocabulary
from octavo.model.grammar import MAX_SOURCE_BYTES, Grammar, GrammarKind

VOCABULARY = GrammarVocabulary(byte_tokenizer(), VOCAB_SIZE, frozenset({EOS}))
WORD = Grammar(GrammarKind.REGEX, "a+")


class SlowVocabulary(GrammarVocabulary):
    """The real one, after `gate` opens."""

    def __init__(self) -> None:
        super().__init__(byte_tokenizer(), VOCAB_SIZE, frozenset({EOS}))
        self.gate = threading.Event()
        self.compiled: list[Grammar] = []

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        self.compiled.append(grammar)
        assert self.gate.wait(120)
        return super().compile(grammar)


def test_a_grammar_is_compiled_once_and_kept() -> None:
    async def run() -> None:
        vocabulary = SlowVocabulary()
        compiler = GrammarCompiler(vocabulary)
        assert compiler.kept(WORD) is None
        asked = [asyncio.create_task(compiler.compile(WORD)) for _ in range(3)]
        await asyncio.sleep(0.01)
        asked[0].cancel()  # who leaves takes nothing from the others
        vocabulary.gate.set()
        one, other = await asyncio.gather(*asked[1:])
        assert one is other is compiler.kept(WORD)
        assert vocabulary.compiled == [WORD]

    asyncio.run(run())


def test_the_loop_runs_while_a_grammar_is_compiled() -> None:
    async def run(pace: float) -> None:
        names = [f"property {i} of {pace}" for i in range(1500)]
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
        compiling = asyncio.create_task(
            GrammarCompiler(VOCABULARY).compile(Grammar(GrammarKind.JSON, json.dumps(schema)))
        )
        turns = 0
        while not compiling.done():
            await asyncio.sleep(0.001)
            turns += 1
        await compiling
        assert turns > 10

    at_some_pace(lambda pace: asyncio.run(run(pace)))


def test_whoever_waits_too_long_is_told_so() -> None:
    async def run() -> None:
        vocabulary = SlowVocabulary()
        compiler = GrammarCompiler(vocabulary, limit_s=0.05)
        with pytest.raises(RequestError, match="must be compiled within 0.05 s") as caught:
            await compiler.compile(WORD)
        assert (caught.value.status, caught.value.param) == (400, "structured_outputs")
        vocabulary.gate.set()
        while compiler.kept(WORD) is None:  # the work was not in vain
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_few_are_compiled_at_once_and_not_many_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_compiler, "_MAX_WAITING", 4)

    async def run() -> None:
        vocabulary = SlowVocabulary()
        compiler = GrammarCompiler(vocabulary)
        asked = [
            asyncio.create_task(compiler.compile(Grammar(GrammarKind.REGEX, f"a{{{i}}}"))) for i in range(4)
        ]
        deadline = time.monotonic() + 60
        while len(vocabulary.compiled) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(vocabulary.compiled) == 2
        with pytest.raises(EngineOverloadedError, match="4 grammars are being compiled"):
            await compiler.compile(WORD)
        vocabulary.gate.set()
        await asyncio.gather(*asked)

    asyncio.run(run())


def test_a_bad_grammar_is_refused_and_not_kept() -> None:
    async def run() -> None:
        compiler, bad = GrammarCompiler(VOCABULARY), Grammar(GrammarKind.REGEX, "(")
        for _ in range(2):
            with pytest.raises(RequestError, match="unclosed group") as caught:
                await compiler.compile(bad)
            assert (caught.value.status, caught.value.param) == (400, "structured_outputs")
        assert compiler.kept(bad) is None

    asyncio.run(run())


def test_those_used_least_recently_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_compiler, "_NUM_KEPT", 2)

    async def run() -> None:
        compiler = GrammarCompiler(VOCABULARY)
        first, second, third = (Grammar(GrammarKind.REGEX, pattern) for pattern in "abc")
        await compiler.compile(first)
        await compiler.compile(second)
        assert compiler.kept(first) is not None
        await compiler.compile(third)
        assert compiler.kept(second) is None and compiler.kept(first) is not None

    asyncio.run(run())


def chain_of_rules() -> str:
    rules, size = ["start: r0"], 0
    while size < MAX_SOURCE_BYTES - 200:
        rules.append(f"r{len(rules) - 1}: r{len(rules)}")
        size += len(rules[-1]) + 1
    return "\n".join([*rules, f'r{len(rules) - 1}: "a"'])


def chain_of_references() -> str:
    definitions: dict[str, object] = {}
    size = 0
    while size < MAX_SOURCE_BYTES - 200:
        number = len(definitions)
        definitions[f"{number}"] = {"allOf": [{"$ref": f"#/$defs/{number + 1}"}]}
        size += len(json.dumps(definitions[f"{number}"])) + len(f'"{number}": , ')
    definitions[f"{len(definitions)}"] = {"type": "null"}
    return json.dumps({"$defs": definitions, "$ref": "#/$defs/0"})


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(GrammarKind.EBNF, chain_of_rules()),
        Grammar(GrammarKind.JSON, chain_of_references()),
    ],
    ids=["rules", "references"],
)
def test_long_chains_do_not_outgrow_the_stack(grammar: Grammar) -> None:
    """On a thread of the usual size they kill the process."""

    async def run() -> None:
        compiled = await GrammarCompiler(VOCABULARY, limit_s=120).compile(grammar)
        bound = compiled.follower(ignore_eos=False)
        for byte in b"null" if grammar.kind is GrammarKind.JSON else b"a":
            bound.advance(byte)
        assert bound.complete and bound.error is None

    asyncio.run(run())

"""Grammars of answers in parts: what models write passes, and whatever passes is read as it was meant."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from http_harness import EOS, VOCAB_SIZE, byte_tokenizer
from tokenizers import AddedToken

from octavo.app.answer_grammar import AnswerGrammar, tools_complaint
from octavo.app.grammar_matcher import GrammarError, GrammarFollower, GrammarVocabulary
from octavo.app.reasoning import ReasoningFormat
from octavo.app.tokenizer import Tokenizer
from octavo.app.tool_formats import (
    HERMES,
    LLAMA3_JSON,
    LLAMA3_JSON_SINGLE,
    MISTRAL,
    MISTRAL_ARGS,
    WrittenCall,
)
from octavo.app.tool_stream import CallArguments, CallStart, Content, ToolStream
from octavo.app.tool_types import ToolUse, read_tools
from octavo.model.grammar import Grammar, GrammarKind, StructuredOutputsParams

FORMATS = {"hermes": HERMES, "llama3_json": LLAMA3_JSON, "mistral": MISTRAL, "mistral_args": MISTRAL_ARGS}
MARKERS = ("<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "</think>", "<think>")
THINK = ReasoningFormat("<think>", "</think>")
SCHEMAS: dict[str, Any] = {
    "paint": {
        "type": "object",
        "properties": {"colour": {"enum": ["röd", 'b"lue']}, "coats": {"$ref": "#/$defs/small"}},
        "required": ["colour"],
        "$defs": {"small": {"type": "integer", "minimum": 1, "maximum": 3}},
    },
    "wait": {"type": "object", "properties": {}},
}
PAINT, WAIT = WrittenCall("paint", '{"colour": "röd", "coats": 2}'), WrittenCall("wait", "{}")


def special_tokenizer() -> Tokenizer:
    plain = byte_tokenizer()
    plain.backend.add_special_tokens([AddedToken(marker, special=True) for marker in MARKERS])
    return Tokenizer(plain.backend, eos_token_ids=[EOS])


TOKENIZERS = {"spelled": byte_tokenizer(), "special": special_tokenizer()}


@pytest.fixture(scope="module", params=TOKENIZERS)
def model(request: pytest.FixtureRequest) -> tuple[Tokenizer, GrammarVocabulary]:
    tokenizer = TOKENIZERS[request.param]
    return tokenizer, GrammarVocabulary(tokenizer, VOCAB_SIZE, frozenset([EOS]))


Model = tuple[Tokenizer, GrammarVocabulary]


def tools(choice: Any = "required", *, parallel: bool = True, strict: bool = False) -> ToolUse:
    functions = [
        {"name": name, "parameters": schema, "strict": strict and name == "paint"}
        for name, schema in SCHEMAS.items()
    ]
    use = read_tools([{"type": "function", "function": f} for f in functions], choice, parallel, [])
    assert use is not None
    return use


def writer(model: Model, thinking: ReasoningFormat | None = None, inside: bool = False) -> AnswerGrammar:
    return AnswerGrammar(thinking, inside, model[0].special_id)


def follow(model: Model, grammar: Grammar, text: str) -> GrammarFollower:
    tokenizer, vocabulary = model
    follower = vocabulary.compile(grammar).follower(ignore_eos=False)
    for token in tokenizer.encode(text):
        assert follower.error is None
        follower.advance(token)
        if follower.error is not None:
            break
    return follower


def accepts(model: Model, grammar: Grammar, text: str) -> bool:
    follower = follow(model, grammar, text)
    if follower.error is None and not follower.complete:
        follower.advance(EOS)
    return follower.error is None


@pytest.mark.parametrize("name", FORMATS)
def test_required(model: Model, name: str) -> None:
    form = FORMATS[name]
    grammar = writer(model).calling(tools(), form)
    for calls in ([PAINT], [WAIT], [PAINT, WAIT, PAINT]):
        assert accepts(model, grammar, form.write(calls)), calls
    for calls in (
        [WrittenCall("paint", '{"colour": "green"}')],
        [WrittenCall("paint", "{}")],
        [WrittenCall("paint", '{"colour": "röd", "coats": 4}')],
        [WrittenCall("wait", '{"s": 1}')],
        [WrittenCall("paint", '{"colour": "röd", "shade": 1}')],
        [WrittenCall("leave", "{}")],
    ):
        assert not accepts(model, grammar, form.write(calls)), calls
    assert not accepts(model, grammar, "Hello")
    assert not accepts(model, grammar, "")
    assert not accepts(model, grammar, f"{form.write([WAIT])} and")


@pytest.mark.parametrize("name", FORMATS)
def test_one_call_where_one_is_allowed(model: Model, name: str) -> None:
    form = FORMATS[name]
    named = tools({"type": "function", "function": {"name": "wait"}})
    for use, calls in ((named, [WAIT]), (tools(parallel=False), [PAINT])):
        grammar = writer(model).calling(use, form)
        assert accepts(model, grammar, form.write(calls))
        assert not accepts(model, grammar, form.write(calls * 2))
    assert not accepts(model, writer(model).calling(named, form), form.write([PAINT]))


def test_a_template_that_takes_one_call(model: Model) -> None:
    grammar = writer(model).calling(tools(), LLAMA3_JSON_SINGLE)
    assert not accepts(model, grammar, LLAMA3_JSON_SINGLE.write([WAIT, WAIT]))


@pytest.mark.parametrize("name", FORMATS)
def test_reasoning_comes_first(model: Model, name: str) -> None:
    form = FORMATS[name]
    call = form.write([WAIT])
    inside = writer(model, THINK, inside=True).calling(tools(), form)
    assert accepts(model, inside, f"Hm.\n\n</think>\n\n{call}")
    assert accepts(model, inside, f"<think>Hm.</think>{call}")
    assert not accepts(model, inside, f"Hm.</think>\n{call} and")
    assert not accepts(model, inside, call)
    outside = writer(model, THINK).calling(tools(), form)
    assert accepts(model, outside, f"<think>\nHm.\n</think>\n\n{call}")
    assert accepts(model, outside, call)
    assert not accepts(model, outside, f"Hm.</think>{call}")


def test_reasoning_before_json(model: Model) -> None:
    answer = StructuredOutputsParams(json=SCHEMAS["paint"]).to_grammar()
    grammar = writer(model, THINK).thoughtful(answer)
    assert accepts(model, grammar, '<think>{"a": 1}</think>\n\n{ "colour" : "röd" }')
    assert accepts(model, grammar, '{"colour": "röd", "more": 1}')
    assert not accepts(model, grammar, '<think>Hm.</think>{"colour": 1}')
    choice = writer(model, THINK).thoughtful(Grammar(GrammarKind.CHOICE, '["é", "no"]'))
    assert accepts(model, choice, "<think>\n\n</think>\n\né") and not accepts(model, choice, "yes")
    tight = writer(model, THINK).thoughtful(Grammar(GrammarKind.JSON, '{"type": "object"}', ""))
    assert accepts(model, tight, '{"a":1}') and not accepts(model, tight, '{"a": 1}')
    anything = writer(model, THINK).thoughtful(Grammar(GrammarKind.JSON, "true"))
    assert accepts(model, anything, "[1, null]")


@pytest.mark.parametrize("name", FORMATS)
def test_calls_or_json(model: Model, name: str) -> None:
    form = FORMATS[name]
    answer = StructuredOutputsParams(json={"type": "object", "required": ["done"]}).to_grammar()
    grammar = writer(model).calling_or(tools("auto"), form, answer)
    assert accepts(model, grammar, form.write([PAINT, WAIT]))
    assert accepts(model, grammar, '{"done": true}')
    assert not accepts(model, grammar, "Done.") and not accepts(model, grammar, '{"found": 1}')


@pytest.mark.parametrize("name", FORMATS)
def test_strict_tools_bind_their_arguments_and_nothing_else(model: Model, name: str) -> None:
    form = FORMATS[name]
    grammar = writer(model).strictly(tools("auto", strict=True), form)
    assert accepts(model, grammar, "")
    assert accepts(model, grammar, "Hello {there} <tool [TOOL\n")
    assert accepts(model, grammar, form.write([PAINT, WAIT]))
    assert accepts(model, grammar, form.write([WrittenCall("wait", '{"s": 1}')]))
    assert not accepts(model, grammar, form.write([WrittenCall("paint", '{"colour": "green"}')]))
    assert not accepts(model, grammar, form.write([WrittenCall("leave", "{}")]))
    if form is not LLAMA3_JSON:
        said = f"First. {form.write([PAINT])} Then. {form.write([PAINT])} Done."
        assert accepts(model, grammar, said)
        assert not accepts(model, grammar, said.replace("röd", "rød"))


@pytest.mark.parametrize("name", FORMATS)
def test_whatever_passes_is_read_as_calls(model: Model, name: str) -> None:
    form = FORMATS[name]
    for seed in range(20):
        text = wander(model, writer(model).calling(tools(), form), random.Random(seed))
        stream = ToolStream(form.syntax, SCHEMAS.keys(), lambda: "id")
        calls: list[list[str]] = []
        for piece in [*stream.push(text), *stream.finish()]:
            match piece:
                case Content(said):
                    raise AssertionError(f"{said!r} in {text!r}")
                case CallStart(_, _, tool):
                    calls.append([tool, ""])
                case CallArguments(number, arguments):
                    calls[number][1] += arguments
        assert calls
        for tool, arguments in calls:
            given = json.loads(arguments)
            assert given == {} if tool == "wait" else given["colour"] in ("röd", 'b"lue')
            assert given.keys() <= SCHEMAS[tool]["properties"].keys() and 1 <= given.get("coats", 1) <= 3


def wander(model: Model, grammar: Grammar, chance: random.Random) -> str:
    """A random text that conforms."""
    tokenizer, vocabulary = model
    follower = vocabulary.compile(grammar).follower(ignore_eos=False)
    tokens: list[int] = []
    while not follower.complete:
        vocabulary.compute([follower])
        assert follower.mask is not None
        words = follower.mask.words.view(np.uint32)
        allowed = [t for t in range(VOCAB_SIZE) if words[t // 32] >> np.uint32(t % 32) & 1]
        token = EOS if EOS in allowed else chance.choice(allowed)
        follower.advance(token)
        assert follower.error is None
        tokens.append(token)
    return tokenizer.decode([token for token in tokens if token != EOS], skip_special_tokens=False)


def test_schemas_that_cannot_be_kept_to(model: Model) -> None:
    use = read_tools(
        [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}}],
        "required",
        True,
        [],
    )
    assert use is not None
    with pytest.raises(GrammarError) as caught:
        model[1].compile(writer(model).calling(use, HERMES))
    told = tools_complaint(str(caught.value))
    assert told == "tools: the parameters of a function cannot be kept to: Invalid type: x"

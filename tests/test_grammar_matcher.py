"""Grammars over tokens: what a random model says under one conforms to it, by somebody else's judgement."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from http_harness import EOS, VOCAB_SIZE, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLParserLimits

from octavo.app import grammar_matcher
from octavo.app.grammar_matcher import GrammarError, GrammarFollower, GrammarVocabulary
from octavo.model.grammar import Grammar, GrammarKind, StructuredOutputsParams

VOCABULARY = GrammarVocabulary(byte_tokenizer(), VOCAB_SIZE, frozenset({EOS}))


def follower(ignore_eos: bool = False, **asked: Any) -> GrammarFollower:
    grammar = StructuredOutputsParams(**asked).to_grammar()
    return VOCABULARY.compile(grammar).follower(ignore_eos=ignore_eos)


def allowed(*followers: GrammarFollower) -> list[set[int]]:
    VOCABULARY.compute(followers)
    rows = [follower.mask.words for follower in followers if follower.mask is not None]
    words = np.stack(rows).view(np.uint8)
    assert words.shape == (len(followers), 4 * -(-VOCAB_SIZE // 32))
    bits = np.unpackbits(words, axis=1, bitorder="little")
    return [set(np.flatnonzero(row).tolist()) for row in bits]


def say(bound: GrammarFollower, text: str) -> None:
    for byte in text.encode():
        assert byte in allowed(bound)[0], f"{chr(byte)!r} of {text!r} is not allowed"
        bound.advance(byte)


def babble(bound: GrammarFollower, seed: int, max_tokens: int = 4000) -> str:
    """What a model with random logits says, until it may not go on or chooses to end."""
    chance = random.Random(seed)
    said = bytearray()
    while not bound.complete:
        assert bound.error is None and len(said) < max_tokens, (bound.error, bytes(said))
        token = chance.choice(sorted(allowed(bound)[0]))
        if token == EOS:
            break
        said.append(token)
        bound.advance(token)
    return said.decode()


WORDS = st.text('abc "\\é🙂', max_size=4)
VALUES = WORDS | st.integers(-(2**53), 2**53) | st.none()  # larger ones lose their last digits
LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)},
              st.integers(-200, 200), st.integers(-200, 200)),
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 5)),
    st.builds(lambda n: {"type": "string", "pattern": f"^[a-c]{{1,{n}}}-?$"}, st.integers(1, 4)),
    st.builds(lambda values: {"enum": values}, st.lists(VALUES, min_size=1)),
    st.builds(lambda value: {"const": value}, WORDS),
)  # fmt: skip


def larger(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def an_object(properties: dict[str, Any], optional: int) -> dict[str, Any]:
        names = list(properties)
        return {
            "type": "object",
            "properties": properties,
            "required": names[optional:],
            "additionalProperties": False,
        }

    return st.one_of(
        st.builds(an_object, st.dictionaries(WORDS, schemas, max_size=3), st.integers(0, 2)),
        st.builds(
            lambda items, n: {"type": "array", "items": items, "minItems": n // 2, "maxItems": n},
            schemas,
            st.integers(0, 3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(schemas, min_size=1, max_size=3)),
    )


@settings(max_examples=60, deadline=None)
@given(
    schema=st.recursive(LEAVES, larger, max_leaves=6),
    whitespace=st.sampled_from(["", " ?", None]),
    seed=st.integers(0, 2**32),
)
def test_random_answers_are_instances_of_random_schemas(
    schema: dict[str, Any], whitespace: str | None, seed: int
) -> None:
    text = babble(follower(json=schema, whitespace_pattern=whitespace), seed)
    jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("seed", range(10))
def test_random_answers_match_regular_expressions_choices_and_grammars(seed: int) -> None:
    pattern = r"[A-Z][a-zé]{1,4}(, [A-Z][a-zé]{1,4}){0,3}\d?"
    assert re.fullmatch(pattern, babble(follower(regex=pattern), seed))
    assert re.fullmatch("ab{1,3}", babble(follower(regex="^ab{1,3}$"), seed))
    choices = ["yes", "no", 'a "quote"\n', "ye", "🙂"]
    assert babble(follower(choice=choices), seed) in choices
    lark = 'start: "(" B ")"\nB: /[0-9]{1,3}/'
    gbnf = 'root ::= "(" b ")"\nb ::= [0-9] [0-9]? [0-9]?'
    assert all(re.fullmatch(r"\(\d{1,3}\)", babble(follower(grammar=text), seed)) for text in (lark, gbnf))


def test_any_object_is_an_object() -> None:
    bound = follower(json_object=True)
    assert allowed(bound)[0] == {ord("{")}
    say(bound, '{"a": [1, {"b": null}]}')
    assert bound.complete and bound.error is None


def test_blanks_come_in_bounded_runs() -> None:
    bound = follower(json_object=True)
    say(bound, "{" + " " * 40)
    assert allowed(bound)[0] == {ord('"'), ord("}")}
    assert allowed(follower(json={"type": "null"}))[0] == {ord("n")}


def test_the_end_is_allowed_where_the_grammar_is_satisfied() -> None:
    bound, ignoring = follower(regex="ab*"), follower(regex="ab*", ignore_eos=True)
    assert allowed(bound, ignoring) == [{ord("a")}, {ord("a")}]
    bound.advance(ord("a"))
    ignoring.advance(ord("a"))
    assert allowed(bound, ignoring) == [{ord("b"), EOS}, {ord("b")}]
    assert not bound.complete
    bound.advance(EOS)
    assert bound.complete and bound.error is None


def test_where_only_the_end_is_left_it_comes_though_it_is_ignored() -> None:
    assert allowed(follower(regex="", ignore_eos=True)) == [{EOS}]


def test_sequences_of_one_grammar_do_not_disturb_each_other() -> None:
    compiled = VOCABULARY.compile(Grammar(GrammarKind.CHOICE, '["ab", "cd"]'))
    one, other = (compiled.follower(ignore_eos=False) for _ in range(2))
    one.advance(ord("a"))
    assert allowed(one, other, follower(regex="x")) == [{ord("b")}, {ord("a"), ord("c")}, {ord("x")}]


def test_a_token_that_is_not_allowed_ends_the_following() -> None:
    bound = follower(regex="a")
    bound.advance(ord("b"))
    assert bound.error is not None and bound.error.startswith("the grammar cannot be followed any further")


def test_a_mask_that_takes_too_long_is_no_end_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = LLParserLimits(step_max_items=60, verbose_errors=False)
    monkeypatch.setattr(grammar_matcher, "_LIMITS", limits)
    bound = follower(grammar='start: e\ne: e e | e "+" e | /[a-z]/')  # as ambiguous as can be
    for _ in range(60):
        allowed(bound)
        if bound.error is not None:
            break
        bound.advance(ord("a"))
    assert bound.error is not None and "Too many items" in bound.error


def test_names_of_special_tokens_may_be_said_as_text() -> None:
    bound = follower(json={"type": "string"})
    say(bound, '"<end')
    assert EOS not in allowed(bound)[0]
    say(bound, '>"')
    assert bound.complete


@pytest.mark.parametrize(
    ("kind", "source", "cause"),
    [
        (GrammarKind.JSON, '{"type": "nope"}', "The JSON schema cannot be compiled: Invalid type: nope"),
        (GrammarKind.JSON, "[1]", "Expecting object schema"),
        (GrammarKind.JSON, "false", "Expecting object schema"),
        (GrammarKind.JSON, '{"type": "integer", "minimum": 3, "maximum": 2}', "Unsatisfiable schema"),
        (GrammarKind.JSON, '{"$ref": "#"}', "there is no text that conforms to it"),
        (GrammarKind.JSON, '{"$ref": "http://x.y/z.json"}', "http://x.y/z.json"),
        (GrammarKind.JSON, '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        (GrammarKind.JSON, '{"type": "string", "pattern": "("}', "unclosed group"),
        (GrammarKind.JSON, '{"items":' * 5000 + "{}" + "}" * 5000, "recursion limit exceeded"),
        (GrammarKind.REGEX, "a(", "The regular expression cannot be compiled: .*unclosed group"),
        (GrammarKind.REGEX, "(?=a)b", "look-ahead"),
        (GrammarKind.REGEX, r"(a)\1", "backreferences are not supported"),
        (GrammarKind.REGEX, r"[^\s\S]", "there is no text that conforms to it"),
        (GrammarKind.EBNF, 'start: foo', 'The grammar cannot be compiled: .*unknown name: "foo"'),
        (GrammarKind.EBNF, 'root ::= "a" (', r"Expected '\)'"),
        (GrammarKind.EBNF, "start: " + "(" * 9000 + '"a"' + ")" * 9000, "too deeply nested"),
        (GrammarKind.EBNF, "root ::= " + "(" * 9000 + '"a"' + ")" * 9000, "recursion"),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_is_told_in_one_line(kind: GrammarKind, source: str, cause: str) -> None:
    with pytest.raises(GrammarError, match=cause) as caught:
        VOCABULARY.compile(Grammar(kind, source))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400

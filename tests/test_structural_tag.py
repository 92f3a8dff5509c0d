"""Text of which some parts keep to a form: what gets through, byte by byte, and what does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from http_harness import EOS, VOCAB_SIZE, byte_tokenizer
from tokenizers import AddedToken

from octavo.app.grammar_matcher import GrammarError, GrammarVocabulary
from octavo.app.structural_tag import structural_lark
from octavo.app.tokenizer import Tokenizer
from octavo.model.grammar import StructuredOutputsParams

NUMBER = {"type": "json_schema", "json_schema": {"type": "integer", "minimum": 1, "maximum": 99}}
CALL = {"type": "tag", "begin": "<f=a>", "content": NUMBER, "end": "</f>"}
OTHER = {"type": "tag", "begin": "<f=b>", "content": {"type": "regex", "pattern": "x+/?"}, "end": "</f>"}
QUOTE = {"type": "tag", "begin": "[[", "content": {"type": "any_text"}, "end": "]]"}
LEGACY = {
    "triggers": ["<f="],
    "structures": [
        {"begin": "<f=a>", "schema": NUMBER["json_schema"], "end": "</f>"},
        {"begin": "<f=b>", "schema": {"type": "boolean"}, "end": "</f>"},
    ],
}


def special_tokenizer() -> Tokenizer:
    plain = byte_tokenizer()
    plain.backend.add_special_tokens(
        [AddedToken("<call>", special=True), AddedToken("<end-call>", special=True)]
    )
    return Tokenizer(plain.backend, eos_token_ids=plain.eos_token_ids)


PLAIN = GrammarVocabulary(byte_tokenizer(), VOCAB_SIZE, frozenset({EOS}))
CALL_ID, END_ID = EOS + 1, EOS + 2
SPECIAL = GrammarVocabulary(special_tokenizer(), VOCAB_SIZE, frozenset({EOS}))


def triggered(*tags: Any, triggers: tuple[str, ...] = ("<f=",), **more: bool) -> dict[str, Any]:
    return {"format": {"type": "triggered_tags", "triggers": [*triggers], "tags": [*tags], **more}}


def lets_through(vocabulary: GrammarVocabulary, asked: dict[str, Any], tokens: list[int]) -> bool:
    """Whether an answer may be these tokens, and end there."""
    source = {"type": "structural_tag", **asked}
    follower = vocabulary.compile(StructuredOutputsParams(structural_tag=source).to_grammar()).follower(
        ignore_eos=False
    )
    for token in [*tokens, EOS]:
        if follower.complete:
            return token == EOS
        vocabulary.compute([follower])
        assert follower.mask is not None and follower.error is None
        bits = np.unpackbits(follower.mask.words.view(np.uint8), bitorder="little")
        if not bits[token]:
            return False
        if token != EOS:
            follower.advance(token)
    return True


FREE = "Say <g> and </f> or not."
TEXTS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        LEGACY,
        ["", FREE, "<f=a>7</f>", f"{FREE}<f=a>42</f>\n<f=b>true</f>{FREE}"],
        ["<f=a>", "<f=a>x</f>", "<f=c>1</f>", f"{FREE}<f=a>100</f>", "<f=b>7</f>"],
    ),
    (triggered(CALL, OTHER), [FREE, "<f=a>7</f><f=b>xx/</f>."], ["<f=b>7</f>", "<f=b></f>"]),
    (triggered(CALL, at_least_one=True), ["<f=a>7</f>", f"{FREE}<f=a>7</f>!"], ["", FREE]),
    (
        triggered(CALL, stop_after_first=True),
        ["", FREE, f"{FREE}<f=a>7</f>"],
        ["<f=a>7</f>!", "<f=a>7</f><f=a>7</f>"],
    ),
    (
        triggered(CALL, QUOTE, triggers=("<f=", "[["), at_least_one=True, stop_after_first=True),
        ["<f=a>7</f>", "a [[b] c]]", "[[<f=c>]]"],
        ["", "[[b", "<f=c>[[x]]"],
    ),
    ({"format": CALL}, ["<f=a>7</f>"], ["", "7", "<f=a>7</f> "]),
    ({"format": QUOTE}, ["[[]]", "[[a ]b]]"], ["[[a", "[[a]]b"]),
    ({"format": {"type": "any_text"}}, ["", FREE], []),
    (
        {"format": {"type": "sequence", "elements": [{"type": "const_string", "value": "N: "}, NUMBER]}},
        ["N: 7"],
        ["7", "N: ", "N: x"],
    ),
    (
        {"format": {"type": "sequence", "elements": [CALL, {"type": "any_text"}]}},
        ["<f=a>7</f>", f"<f=a>7</f>{FREE}"],
        [FREE],
    ),
    ({"format": {"type": "or", "elements": [CALL, NUMBER]}}, ["<f=a>7</f>", "8"], ["", "87</f>"]),
    (
        {"format": {"type": "tags_with_separator", "tags": [CALL, OTHER], "separator": ";"}},
        ["", "<f=a>7</f>", "<f=a>7</f>;<f=b>x</f>;<f=a>8</f>"],
        [";", "<f=a>7</f>;", "<f=a>7</f><f=b>x</f>"],
    ),
    (
        {
            "format": {
                "type": "tags_with_separator",
                "tags": [CALL],
                "separator": "",
                "at_least_one": True,
                "stop_after_first": True,
            }
        },
        ["<f=a>7</f>"],
        ["", "<f=a>7</f><f=a>7</f>"],
    ),
]


@pytest.mark.parametrize(("asked", "good", "bad"), TEXTS)
def test_texts(asked: dict[str, Any], good: list[str], bad: list[str]) -> None:
    for text in good:
        assert lets_through(PLAIN, asked, list(text.encode())), text
    for text in bad:
        assert not lets_through(PLAIN, asked, list(text.encode())), text


def test_special_tokens_are_such_and_cannot_be_spelled() -> None:
    tag = {"type": "tag", "begin": "<call>", "content": NUMBER, "end": "<end-call>"}
    asked = triggered(tag, triggers=("<call>",), at_least_one=True)
    assert lets_through(SPECIAL, asked, [*b"Hm. ", CALL_ID, *b"7", END_ID, *b"!"])
    assert not lets_through(SPECIAL, asked, [CALL_ID, *b"x"])
    assert not lets_through(SPECIAL, asked, list(b"<call>7<end-call>"))
    free = {**tag, "content": {"type": "any_text"}}
    assert lets_through(SPECIAL, {"format": free}, [CALL_ID, *b"a<b", END_ID])


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({}, "either format or structures"),
        ({"format": CALL, **LEGACY}, "either format or structures"),
        ({"format": CALL, "triggers": ["x"]}, "triggers must be left out"),
        ({"format": {"type": "qwen_xml_parameter", "json_schema": {}}}, "qwen_xml_parameter"),
        ({"format": {"type": "grammar", "grammar": "x"}}, "grammar"),
        ({"format": {**CALL, "colour": 1}}, "colour"),
        ({"format": {"type": "sequence", "elements": []}}, "at least one entry"),
        ({"structures": LEGACY["structures"]}, "triggers must hold at least one"),
        (triggered(CALL, triggers=("<g",)), "must begin with one of the triggers, got '<f=a>'"),
        (
            {"format": {"type": "sequence", "elements": [{"type": "any_text"}, CALL]}},
            "any_text must be the last",
        ),
        (
            {"format": {**CALL, "content": triggered(CALL)["format"]}},
            "triggered_tags must be the last part",
        ),
        ({"format": {**CALL, "content": {"type": "regex", "pattern": "("}}}, "unclosed group"),
        (
            {"format": {**CALL, "content": {"type": "json_schema", "json_schema": {"type": "x"}}}},
            "Invalid type",
        ),
    ],
)
def test_what_cannot_be_kept_to_is_said(asked: dict[str, Any], complaint: str) -> None:
    source = {"type": "structural_tag", **asked}
    with pytest.raises(GrammarError, match="The structural tag cannot be compiled: ") as caught:
        PLAIN.compile(StructuredOutputsParams(structural_tag=json.dumps(source)).to_grammar())
    assert complaint in str(caught.value)


def test_formats_may_not_be_nested_without_end() -> None:
    form: dict[str, Any] = NUMBER
    for _ in range(40):
        form = {"type": "sequence", "elements": [form]}
    with pytest.raises(ValueError, match="at most 32 deep"):
        structural_lark(json.dumps({"format": form}), lambda _: None)
    with pytest.raises(ValueError):
        structural_lark('{"format":' + '{"type":"sequence","elements":[' * 5000, lambda _: None)

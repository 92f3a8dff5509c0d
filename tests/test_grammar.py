"""What a caller may ask for as a grammar, and what is refused with the field's name."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from octavo import SamplingParams, StructuredOutputsParams
from octavo.model.grammar import MAX_SOURCE_BYTES, Grammar, GrammarKind

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


@pytest.mark.parametrize(
    ("given", "grammar"),
    [
        ({"json": SCHEMA}, Grammar(GrammarKind.JSON, json.dumps(SCHEMA))),
        ({"json": json.dumps(SCHEMA)}, Grammar(GrammarKind.JSON, json.dumps(SCHEMA))),
        ({"json_object": True}, Grammar(GrammarKind.JSON, '{"type": "object"}')),
        ({"json": SCHEMA, "disable_any_whitespace": True}, Grammar(GrammarKind.JSON, json.dumps(SCHEMA), "")),
        (
            {"json_object": True, "whitespace_pattern": " ?"},
            Grammar(GrammarKind.JSON, '{"type": "object"}', " ?"),
        ),
        ({"regex": "a+"}, Grammar(GrammarKind.REGEX, "a+")),
        ({"choice": ["é", 'a"b']}, Grammar(GrammarKind.CHOICE, json.dumps(["é", 'a"b']))),
        ({"grammar": 'start: "a"'}, Grammar(GrammarKind.EBNF, 'start: "a"')),
        ({"structural_tag": {"format": {}}}, Grammar(GrammarKind.STRUCTURAL_TAG, '{"format": {}}')),
        ({"structural_tag": "{}"}, Grammar(GrammarKind.STRUCTURAL_TAG, "{}")),
    ],
)
def test_each_kind_becomes_a_grammar(given: dict[str, Any], grammar: Grammar) -> None:
    asked = StructuredOutputsParams(**given)
    assert asked.to_grammar() == grammar
    params = SamplingParams(structured_outputs=asked)
    assert params.grammar == grammar
    assert replace(params, n=2).grammar == grammar
    assert SamplingParams(structured_outputs=grammar) == params


def test_additional_properties_can_be_closed_everywhere() -> None:
    schema = {
        "properties": {"a": {"properties": {}}, "b": {"properties": {}, "additionalProperties": True}},
        "anyOf": [{"properties": {"c": True}}, {"type": "object"}],
    }
    grammar = StructuredOutputsParams(json=schema, disable_additional_properties=True).to_grammar()
    assert json.loads(grammar.source) == {
        "properties": {
            "a": {"properties": {}, "additionalProperties": False},
            "b": {"properties": {}, "additionalProperties": True},
        },
        "anyOf": [{"properties": {"c": True}, "additionalProperties": False}, {"type": "object"}],
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            {},
            "exactly one of json, .*, json_object, structural_tag must be given, got none",
        ),
        ({"regex": "a", "choice": ["b"]}, "exactly one of .* got regex, choice"),
        ({"structural_tag": 3}, "structural_tag must be an object, or one as text, got 3"),
        ({"structural_tag": "{"}, "structural_tag must be an object, but it is no JSON"),
        ({"regex": 3}, "regex must be a string, got 3"),
        ({"regex": "a" * (MAX_SOURCE_BYTES + 1)}, "regex must be at most 131072 bytes, got 131073"),
        ({"choice": "ab"}, "choice must be a list of at least one string, none of them empty, got 'ab'"),
        ({"choice": []}, "choice must be a list"),
        ({"choice": ["a", ""]}, "choice must be a list"),
        ({"json": "{"}, "json must be a JSON schema, but it is no JSON"),
        ({"json": {"a": object()}}, "json must be a JSON schema, but it is no JSON"),
        ({"json": 3}, "json must be a JSON schema, as text or as an object, got 3"),
        ({"json_object": False}, "json_object must be True or left out, got False"),
        (
            {"regex": "a", "disable_any_whitespace": True},
            "disable_any_whitespace must be left out without json",
        ),
        ({"json": {}, "disable_any_whitespace": 1}, "disable_any_whitespace must be True or False, got 1"),
        (
            {"json": {}, "disable_any_whitespace": True, "whitespace_pattern": " "},
            "whitespace_pattern must be left out with disable_any_whitespace",
        ),
    ],
)
def test_what_is_refused_is_named(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^{complaint}"):
        StructuredOutputsParams(**given)


def test_sampling_params_take_nothing_else() -> None:
    with pytest.raises(ValueError, match="^structured_outputs must be StructuredOutputsParams"):
        SamplingParams(structured_outputs={"regex": "a"})  # type: ignore[arg-type]

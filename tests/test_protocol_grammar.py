"""`response_format` and `structured_outputs` as clients send them: understood, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from octavo.app.errors import RequestError
from octavo.app.protocol import SamplingFields, sampling_params
from octavo.app.protocol_chat import read_chat
from octavo.app.protocol_completion import read_completion
from octavo.model.grammar import MAX_SOURCE_BYTES, Grammar, GrammarKind

SCHEMA = {"type": "object", "properties": {"a": {"enum": [None, 1]}}, "default": None}
MISSING, INVALID = "missing_required_parameter", "invalid_value"
UNSUPPORTED, WRONG_TYPE = "unsupported_value", "invalid_type"
JSON = Grammar(GrammarKind.JSON, json.dumps(SCHEMA))
ANY_OBJECT = Grammar(GrammarKind.JSON, '{"type": "object"}')

Read = Callable[[dict[str, Any]], tuple[SamplingFields, list[str]]]


def chat(fields: dict[str, Any]) -> tuple[SamplingFields, list[str]]:
    read = read_chat({"messages": [{"role": "user", "content": "x"}], **fields})
    return read.request, read.ignored


def completion(fields: dict[str, Any]) -> tuple[SamplingFields, list[str]]:
    read = read_completion({"prompt": "x", **fields})
    return read.request, read.ignored


both = pytest.mark.parametrize("read", [chat, completion])


def asked(read: Read, fields: dict[str, Any]) -> tuple[Grammar | None, str, list[str]]:
    request, ignored = read(fields)
    params = sampling_params(
        request, {}, max_tokens=9, max_tokens_field="max_tokens", logprobs=None, prompt_logprobs=None
    )
    return params.grammar, request.grammar_field, ignored


def form(**json_schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": json_schema}}


@both
@pytest.mark.parametrize(
    ("fields", "grammar", "field"),
    [
        ({}, None, ""),
        ({"response_format": {"type": "text"}}, None, ""),
        ({"response_format": {"type": "json_object"}}, ANY_OBJECT, "response_format"),
        (form(name="n", schema=SCHEMA, strict=True), JSON, "response_format.json_schema.schema"),
        (form(schema=SCHEMA, strict=None, description=None), JSON, "response_format.json_schema.schema"),
        ({"structured_outputs": {"json": SCHEMA}}, JSON, "structured_outputs.json"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, JSON, "structured_outputs.json"),
        ({"structured_outputs": {"json_object": True}}, ANY_OBJECT, "structured_outputs.json_object"),
        (
            {"structured_outputs": {"regex": "a+", "choice": None}, "response_format": {"type": "text"}},
            Grammar(GrammarKind.REGEX, "a+"),
            "structured_outputs.regex",
        ),
        (
            {"structured_outputs": {"choice": ["a", "b"], "disable_fallback": True}},
            Grammar(GrammarKind.CHOICE, '["a", "b"]'),
            "structured_outputs.choice",
        ),
        (
            {"structured_outputs": {"grammar": 'start: "a"'}},
            Grammar(GrammarKind.EBNF, 'start: "a"'),
            "structured_outputs.grammar",
        ),
        (
            {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}, "triggers": None}},
            Grammar(GrammarKind.STRUCTURAL_TAG, '{"type": "structural_tag", "format": {"type": "any_text"}}'),
            "response_format",
        ),
        (
            {"structured_outputs": {"structural_tag": {"structures": [], "triggers": []}}},
            Grammar(GrammarKind.STRUCTURAL_TAG, '{"structures": [], "triggers": []}'),
            "structured_outputs.structural_tag",
        ),
        (
            {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ?"}},
            Grammar(GrammarKind.JSON, json.dumps(SCHEMA), " ?"),
            "structured_outputs.json",
        ),
    ],
)
def test_what_is_asked_for(read: Read, fields: dict[str, Any], grammar: Grammar | None, field: str) -> None:
    assert asked(read, fields) == (grammar, field, [])


@both
def test_unknown_fields_inside_are_named(read: Read) -> None:
    fields = form(schema={"x-mine": 1}, title="t") | {"structured_outputs": None}
    fields["response_format"]["more"] = 1
    assert asked(read, fields)[2] == ["response_format.more", "response_format.json_schema.title"]


@both
@pytest.mark.parametrize(
    ("fields", "param", "code", "complaint"),
    [
        ({"response_format": "json"}, "response_format", WRONG_TYPE, "must be an object"),
        ({"response_format": {}}, "response_format.type", MISSING, "is required"),
        ({"response_format": {"type": "xml"}}, "response_format.type", UNSUPPORTED, "one of text"),
        (
            {"response_format": {"type": "json_object", "triggers": ["<"]}},
            "response_format.triggers",
            INVALID,
            'must be left out unless response_format.type is "structural_tag"',
        ),
        (
            {"response_format": {"type": "structural_tag", "format": {"x": "x" * MAX_SOURCE_BYTES}}},
            "response_format",
            INVALID,
            "structural_tag must be at most 131072 bytes",
        ),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", MISSING, "is required"),
        (form(name="n"), "response_format.json_schema.schema", MISSING, "is required"),
        (form(schema="{}"), "response_format.json_schema.schema", WRONG_TYPE, "must be an object"),
        (
            form(schema={"enum": ["x" * MAX_SOURCE_BYTES]}),
            "response_format.json_schema.schema",
            INVALID,
            "response_format.json_schema.schema must be at most 131072 bytes",
        ),
        ({"structured_outputs": {}}, "structured_outputs", INVALID, "exactly one of .* got none"),
        (
            {"structured_outputs": {"regex": "a", "json": {}}},
            "structured_outputs",
            INVALID,
            "got json, regex",
        ),
        ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex", WRONG_TYPE, "must be a string"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", INVALID, "at least one"),
        (
            {"structured_outputs": {"choice": ["a", 1]}},
            "structured_outputs.choice[1]",
            WRONG_TYPE,
            "a string",
        ),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", INVALID, "it is no JSON"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag",
            INVALID,
            "structural_tag must be an object, but it is no JSON",
        ),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            INVALID,
            'must be left out unless response_format.type is "text"',
        ),
    ],
)
def test_what_is_refused(read: Read, fields: dict[str, Any], param: str, code: str, complaint: str) -> None:
    with pytest.raises(RequestError, match=complaint) as caught:
        asked(read, fields)
    assert (caught.value.param, caught.value.code, caught.value.status) == (param, code, 400)

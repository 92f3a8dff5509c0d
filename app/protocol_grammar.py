"""`response_format` and `structured_outputs`: the form that an answer must have. Compiles nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from ..model.grammar import Grammar, StructuredOutputsParams
from .errors import RequestError
from .validation import Refused, missing, read_object, wrong

_TYPES = ("text", "json_object", "json_schema", "structural_tag")
# Of vLLM's other fields, this one chooses among its own backends.
_STRUCTURED_REFUSED: Refused = {"disable_fallback": (False, True)}
_STRUCTURAL = ("structures", "triggers", "format")


class JsonSchema(Struct, kw_only=True):
    """`response_format.json_schema`. name and description are for models that are told of the schema; here
    none is, and every schema is kept to, `strict` or not."""

    schema: dict[str, Any]
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(Struct, kw_only=True):
    """`response_format`, as in the OpenAI API and, for structural_tag, as in vLLM: see StructuralTag."""

    type: str
    json_schema: JsonSchema | None = None
    structures: list[Any] | None = None
    triggers: list[str] | None = None
    format: dict[str, Any] | None = None


class StructuredOutputs(Struct, kw_only=True):
    """`structured_outputs`, as in vLLM; see StructuredOutputsParams."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None


class AskedGrammar(NamedTuple):
    """A grammar, if one is asked for, and the field that asks: `structured_outputs.regex`, say."""

    grammar: Grammar | None
    field: str


def read_grammar_fields(body: Mapping[str, Any], ignored: list[str]) -> Mapping[str, Any]:
    """`body` without nulls in the two fields; the paths of unknown fields there go to `ignored`.

    Schemas stay as they are. Raises RequestError for a field that is refused.
    """
    body = _read(body, "response_format", ResponseFormat, {}, "", ignored)
    form = body.get("response_format")
    if isinstance(form, dict):
        form = _read(form, "json_schema", JsonSchema, {}, "response_format.", ignored)
        body = {**body, "response_format": form}
    return _read(body, "structured_outputs", StructuredOutputs, _STRUCTURED_REFUSED, "", ignored)


def _read(
    body: Mapping[str, Any], name: str, into: type[Struct], refused: Refused, path: str, ignored: list[str]
) -> Mapping[str, Any]:
    if not isinstance(body.get(name), dict):
        return body
    return {**body, name: read_object(body[name], into, refused, path + name, ignored)}


def asked_grammar(form: ResponseFormat | None, structured: StructuredOutputs | None) -> AskedGrammar:
    """What the two fields ask for. Raises RequestError."""
    asked = _from_format(form) if form is not None else AskedGrammar(None, "")
    if structured is None:
        return asked
    if asked.grammar is not None:
        message = 'structured_outputs must be left out unless response_format.type is "text"'
        raise RequestError(message, param="structured_outputs")
    return _from_structured(structured)


def _from_format(form: ResponseFormat) -> AskedGrammar:
    if form.type not in _TYPES:
        raise wrong("response_format.type", f"one of {', '.join(_TYPES)}", form.type, "unsupported_value")
    tag = {name: value for name in _STRUCTURAL if (value := getattr(form, name)) is not None}
    if form.type == "structural_tag":
        try:
            asked = StructuredOutputsParams(structural_tag={"type": form.type, **tag})
        except ValueError as error:
            raise RequestError(f"response_format: {error}", param="response_format") from error
        return AskedGrammar(asked.to_grammar(), "response_format")
    for name in tag:
        field = f"response_format.{name}"
        message = f'{field} must be left out unless response_format.type is "structural_tag"'
        raise RequestError(message, param=field)
    if form.type == "text":
        return AskedGrammar(None, "")
    if form.type == "json_object":
        return AskedGrammar(StructuredOutputsParams(json_object=True).to_grammar(), "response_format")
    field = "response_format.json_schema"
    if form.json_schema is None:
        raise missing(field)
    field = f"{field}.schema"
    try:
        return AskedGrammar(StructuredOutputsParams(json=form.json_schema.schema).to_grammar(), field)
    except ValueError as error:
        raise RequestError(f"{field} {str(error).partition(' ')[2]}", param=field) from error


def _from_structured(structured: StructuredOutputs) -> AskedGrammar:
    values = {name: getattr(structured, name) for name in StructuredOutputs.__struct_fields__}
    try:
        params = StructuredOutputsParams(**values)
    except ValueError as error:
        name, _, complaint = str(error).partition(" ")
        if name in values:
            field = f"structured_outputs.{name}"
            raise RequestError(f"{field} {complaint}", param=field) from error
        raise RequestError(f"structured_outputs: {error}", param="structured_outputs") from error
    return AskedGrammar(params.to_grammar(), f"structured_outputs.{params.kind}")

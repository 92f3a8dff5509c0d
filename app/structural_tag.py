"""`structural_tag`, text with parts of a given form, as a grammar in Lark's syntax.

    {"type": "structural_tag", "triggers": ["<f"],
        "structures": [{"begin": "<f>", "schema": {}, "end": "</f>"}]}
    {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<f"], "tags": [
        {"type": "tag", "begin": "<f>", "content": {"type": "json_schema", "json_schema": {}},
         "end": "</f>"}]}}

The first is vLLM's older form, the second xgrammar's, of which const_string, json_schema, regex, any_text,
sequence, or, tag, triggered_tags and tags_with_separator are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from llguidance import regex_to_lark
from msgspec import Struct, field

from ..model.grammar import JSON_WHITESPACE
from .lark_text import SpecialId, json_rule, marked_text, regex

_SPACES = {"whitespace_pattern": JSON_WHITESPACE}
_MAX_DEPTH = 32
_T = TypeVar("_T")


class ConstString(Struct, tag="const_string", kw_only=True, forbid_unknown_fields=True):
    """A text."""

    value: str


class JsonSchema(Struct, tag="json_schema", kw_only=True, forbid_unknown_fields=True):
    """An instance of a schema."""

    json_schema: dict[str, Any] | bool


class Regex(Struct, tag="regex", kw_only=True, forbid_unknown_fields=True):
    """What a regular expression matches as a whole."""

    pattern: str


class AnyText(Struct, tag="any_text", kw_only=True, forbid_unknown_fields=True):
    """Any text, up to the end of the tag around it or of the answer."""


class Several(Struct, tag="sequence", kw_only=True, forbid_unknown_fields=True):
    """One after the other."""

    elements: list[Format]


class OneOf(Struct, tag="or", kw_only=True, forbid_unknown_fields=True):
    """One of them."""

    elements: list[Format]


class Tag(Struct, tag="tag", kw_only=True, forbid_unknown_fields=True):
    """Something between two texts."""

    begin: str
    content: Format
    end: str


class TriggeredTags(Struct, tag="triggered_tags", kw_only=True, forbid_unknown_fields=True):
    """Text in which each trigger begins one of the tags."""

    triggers: list[str]
    tags: list[Tag]
    at_least_one: bool = False
    stop_after_first: bool = False


class SeparatedTags(Struct, tag="tags_with_separator", kw_only=True, forbid_unknown_fields=True):
    """Tags, and a text between them."""

    tags: list[Tag]
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


Format = ConstString | JsonSchema | Regex | AnyText | Several | OneOf | Tag | TriggeredTags | SeparatedTags


class _Structure(Struct, kw_only=True, forbid_unknown_fields=True):
    begin: str
    end: str
    schema: dict[str, Any] | bool


class StructuralTag(Struct, kw_only=True, forbid_unknown_fields=True):
    """Either `format`, or `structures` and `triggers`."""

    type: str = "structural_tag"
    format: Format | None = None
    structures: list[_Structure] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)


def read_structural_tag(source: str | bytes) -> Format:
    """What the JSON in `source` asks for. Raises ValueError."""
    try:
        asked = msgspec.json.decode(source, type=StructuralTag)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if (asked.format is None) == (not asked.structures):
        raise ValueError("either format or structures must be given")
    if asked.format is not None:
        if asked.triggers:
            raise ValueError("triggers must be left out beside format, which has its own")
        return asked.format
    tags = [
        Tag(begin=one.begin, content=JsonSchema(json_schema=one.schema), end=one.end)
        for one in asked.structures
    ]
    return TriggeredTags(triggers=asked.triggers, tags=tags)


def structural_lark(source: str | bytes, special_id: SpecialId) -> str:
    """The grammar of what the JSON in `source` asks for. Raises ValueError."""
    return _Writer(special_id).whole(read_structural_tag(source))


class _Writer:
    """Writes the rules of one grammar.

    `end` below is what follows a form: a text, None for nothing, or "" for something unknown to the form.
    """

    def __init__(self, special_id: SpecialId) -> None:
        self._special_id = special_id
        self._rules: dict[str, str] = {}

    def whole(self, form: Format) -> str:
        """The grammar."""
        start = self._write(form, None, 0)
        return "\n".join(f"{name}: {rule}" for name, rule in {"start": start, **self._rules}.items())

    def _add(self, name: str, rule: str, kind: str = "") -> str:
        """The name of a new rule; one of capitals is a terminal. kind: [lazy] or nothing."""
        name = f"{name}_{len(self._rules)}"
        self._rules[f"{name}{kind}"] = rule
        return name

    def _text(self, text: str) -> str:
        return marked_text(text, self._special_id)

    def _write(self, form: Format, end: str | None, depth: int) -> str:
        """`form`, and its end if that is a text."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"formats must be nested at most {_MAX_DEPTH} deep")
        closing = self._text(end or "")
        match form:
            case ConstString():
                return f"{self._text(form.value)} {closing}"
            case JsonSchema():
                return f"{self._add('json', json_rule(form.json_schema, _SPACES))} {closing}"
            case Regex():
                return f"{self._add('REGEX', f'/{regex_to_lark(form.pattern)}/')} {closing}"
            case AnyText():
                return self._any_text(end)
            case Several():
                *first, last = _some(form.elements, "elements")
                pieces = [self._write(one, "", depth + 1) for one in first]
                return " ".join([*pieces, self._write(last, end, depth + 1)])
            case OneOf():
                elements = _some(form.elements, "elements")
                return self._either([self._write(one, end, depth + 1) for one in elements])
            case Tag():
                return f"{self._text(form.begin)} {self._write(form.content, form.end, depth + 1)} {closing}"
            case TriggeredTags():
                if end is not None:
                    raise ValueError("triggered_tags must be the last part of the answer")
                return self._triggered(form, depth)
            case SeparatedTags():
                return f"{self._separated(form, depth)} {closing}"

    def _either(self, rules: Sequence[str]) -> str:
        return self._add("either", " | ".join(rules))

    def _any_text(self, end: str | None) -> str:
        if end is None:
            return f"{self._add('TEXT', '/(?s:.+)/')}?"
        if not end:
            raise ValueError("any_text must be the last of a sequence, or stand in a tag that has an end")
        token = self._special_id(end)
        if token is not None:
            return f"{self._add('TEXT', '/(?s:.+)/')}? <[{token}]>"
        return self._add("until", f"/(?s:.*){regex(end)}/", "[lazy]")

    def _triggered(self, form: TriggeredTags, depth: int) -> str:
        triggers = _some(form.triggers, "triggers")
        bodies: dict[str, list[str]] = {}
        for tag in _some(form.tags, "tags"):
            trigger = next((one for one in triggers if one and tag.begin.startswith(one)), None)
            if trigger is None:
                raise ValueError(f"each tag must begin with one of the triggers, got {tag.begin!r}")
            rest = Tag(begin=tag.begin[len(trigger) :], content=tag.content, end=tag.end)
            bodies.setdefault(trigger, []).append(self._write(rest, "", depth + 1))
        spelled = [regex(trigger) for trigger in bodies if self._special_id(trigger) is None]
        outside = f" & ~/(?s:.*)({'|'.join(spelled)})(?s:.*)/" if spelled else ""
        text = self._add("TEXT", f"/(?s:.+)/{outside}")
        groups = []
        for trigger, alternatives in bodies.items():
            token = self._special_id(trigger)
            if token is None:
                opening = self._add("said", f"/(?s:.*){regex(trigger)}/", "[lazy]")
            else:
                opening = f"{text}? <[{token}]>"
            groups.append(f"{opening} ({' | '.join(alternatives)})")
        group = self._either(groups)
        if form.stop_after_first:
            return group if form.at_least_one else self._either([group, f"{text}?"])
        return f"{group}{'+' if form.at_least_one else '*'} {text}?"

    def _separated(self, form: SeparatedTags, depth: int) -> str:
        tag = self._either([self._write(one, "", depth + 1) for one in _some(form.tags, "tags")])
        several = tag if form.stop_after_first else f"{tag} ({self._text(form.separator)} {tag})*"
        return f"({several})" if form.at_least_one else f"({several})?"


def _some(entries: Sequence[_T], name: str) -> Sequence[_T]:
    if not entries:
        raise ValueError(f"{name} must hold at least one entry, got []")
    return entries

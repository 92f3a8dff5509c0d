"""Pieces of grammars in Lark's syntax, as llguidance reads it. Knows no whole grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

SpecialId = Callable[[str], int | None]
"""The id of the special token with this text, if there is one."""

_JSON_PIECES = re.compile(r'"[^"]*"|[{}\[\]:, ]|[^"{}\[\]:, ]+|"')
_MARKERS = re.compile(r"(<[^<>\s]+>|\[/?[A-Z_]+\])")


def literal(text: str) -> str:
    """`text`, and nothing else."""
    return json.dumps(text, ensure_ascii=False)


def regex(text: str) -> str:
    """`text` as a part of a regular expression between slashes."""
    return re.sub(r"[^\w\s<>]", lambda match: f"\\{match[0]}", text)


def json_rule(schema: Mapping[str, Any] | bool, spaces: Mapping[str, Any]) -> str:
    """An instance of `schema`. spaces: llguidance's options for whitespace between tokens of JSON."""
    whole = schema if isinstance(schema, Mapping) else {"anyOf": [schema]}
    return f"%json {json.dumps({**whole, 'x-guidance': spaces}, ensure_ascii=False)}"


def marked_text(text: str, special_id: SpecialId) -> str:
    """`text`, with special tokens as such, since no text can spell them.

    The rest is cut into the pieces that JSON is lexed in, since a call may begin like another object.
    """
    pieces: list[str] = []
    for piece in _MARKERS.split(text):
        token = special_id(piece)
        if piece:
            pieces += map(literal, _JSON_PIECES.findall(piece)) if token is None else [f"<[{token}]>"]
    return " ".join(pieces)

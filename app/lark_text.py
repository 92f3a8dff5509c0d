"""Pieces of grammars in Lark's syntax, as llguidance reads it. Know nothing of what they are part of."""

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
    """An instance of `schema`; spaces: llguidance's options of what stands between tokens of JSON."""
    whole = schema if isinstance(schema, Mapping) else {"anyOf": [schema]}
    return f"%json {json.dumps({**whole, 'x-guidance': spaces}, ensure_ascii=False)}"


def marked_text(text: str, special_id: SpecialId) -> str:
    """`text`, special tokens in it as such: no text can spell them.

    The rest in the pieces that JSON is read in: the beginning of a call may be that of another object.
    """
    pieces: list[str] = []
    for piece in _MARKERS.split(text):
        token = special_id(piece)
        if piece:
            pieces += map(literal, _JSON_PIECES.findall(piece)) if token is None else [f"<[{token}]>"]
    return " ".join(pieces)

"""The header that tells a client which of its fields nobody knows. Does not find them out itself."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

IGNORED_HEADER = "x-octavo-ignored-fields"
_MAX_NAMED_FIELDS = 20
_MAX_NAME_CHARS = 64


def ignored_header(fields: Sequence[str]) -> dict[str, str]:
    """The header that names unknown fields; clients choose the names, so they are quoted and cut."""
    if not fields:
        return {}
    names = [quote(field[:_MAX_NAME_CHARS], safe="[]") for field in fields[:_MAX_NAMED_FIELDS]]
    if len(fields) > _MAX_NAMED_FIELDS:
        names.append("...")
    return {IGNORED_HEADER: ", ".join(names)}

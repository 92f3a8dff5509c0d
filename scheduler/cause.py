"""Why the engine failed, in one line that clients may read: no trace, and no path of the machine."""

from __future__ import annotations

import re

_PATH = re.compile(r"(?<![\w/])(?:[A-Za-z]:)?(?:[\\/][\w.@+~ -]*\w)+[\\/]?(?=[\\/]|\b|$)")
_MAX_CHARACTERS = 300
OUR_FAULT = "The server failed at this request; its log says why."
"""What a client is told whose request alone ran into a failure that nobody foresaw."""


def cause_of(error: BaseException) -> str:
    """The type of `error` and the first line of what it says; of paths, the last part. The log has it all."""
    lines = str(error).encode(errors="replace").decode().strip().splitlines()
    said = _PATH.sub(_last_part, lines[0]) if lines else ""
    if len(said) > _MAX_CHARACTERS:
        said = f"{said[:_MAX_CHARACTERS]}..."
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _last_part(found: re.Match[str]) -> str:
    return re.split(r"[\\/]", found[0].rstrip("\\/"))[-1]

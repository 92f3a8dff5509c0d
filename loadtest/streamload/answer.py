"""From a recorded HTTP response to the events of a stream, each with the time at which its last byte came.

Runs after the load. Knows the chunks of OpenAI's API as far as a measurement needs them.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from .connection import Recording

Times = NDArray[np.float64]


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    def said(self) -> str:
        """Text that this chunk adds."""
        if self.delta is None:
            return self.text or ""
        return self.delta.content or self.delta.reasoning or self.delta.reasoning_content or ""


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    id: str = ""
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class Answer(NamedTuple):
    """One response, understood.

    outcome: `ok`, or what went wrong; problems of one kind have the same words.
    event_s: when each event that carries text came.   num_tokens, num_prompt_tokens: as the server counted.
    num_ids: different response ids seen in the stream; one, unless streams got mixed up.
    """

    outcome: str
    event_s: Times
    num_tokens: int | None
    num_prompt_tokens: int | None
    num_ids: int
    num_reads: int
    text: str


_decode = msgspec.json.Decoder(_Chunk).decode


def read_answer(recording: Recording) -> Answer:
    """Parse what was recorded, complete or not."""
    data = b"".join(recording.reads)
    head, _, _ = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 ") or len(head) < 12:
        return _nothing(recording.end if not data else f"no HTTP: {data[:20]!r}", recording)
    status = int(head[9:12])
    body, raw_end = _body(data, len(head) + 4, b"chunked" in head.lower())
    if status != 200:
        return _nothing(f"HTTP {status}{_code(body)}", recording)
    frames = _frames(body)
    ends = raw_end(np.fromiter((end for _, end in frames), np.int64, len(frames)))
    read_of = np.searchsorted(np.fromiter(accumulate(map(len, recording.reads)), np.int64), ends)
    times = np.asarray(recording.times)[read_of] if frames else np.empty(0)
    return _understand(frames, times, recording)


def _understand(frames: list[tuple[bytes, int]], times: Times, recording: Recording) -> Answer:
    said: list[str] = []
    carrying: list[int] = []
    ids: set[str] = set()
    usage = _Usage()
    done, failure = False, ""
    for i, (frame, _) in enumerate(frames):
        payload = _payload(frame)
        if payload is None:
            continue
        if payload == b"[DONE]":
            done = True
            continue
        try:
            chunk = _decode(payload)
        except msgspec.DecodeError:
            failure = "a chunk that is no JSON"
            continue
        if chunk.error is not None:
            failure = f"error event{_code(payload)}"
            continue
        ids.add(chunk.id)
        usage = chunk.usage or usage
        text = "".join([choice.said() for choice in chunk.choices])
        if text:
            said.append(text)
            carrying.append(i)
    outcome = failure or recording.end
    if outcome == "complete":
        outcome = "ok" if done else "no [DONE]"
    return Answer(
        outcome=outcome,
        event_s=times[carrying],
        num_tokens=usage.completion_tokens,
        num_prompt_tokens=usage.prompt_tokens,
        num_ids=len(ids),
        num_reads=len(recording.reads),
        text="".join(said),
    )


def _nothing(outcome: str, recording: Recording) -> Answer:
    return Answer(outcome, np.empty(0), None, None, 0, len(recording.reads), "")


def _body(data: bytes, start: int, chunked: bool) -> tuple[bytes, Any]:
    """The body, and a function from ends of parts of it to ends in `data` (arrays of offsets)."""
    if not chunked:
        return data[start:], lambda ends: ends + start
    pieces: list[bytes] = []
    raw_starts: list[int] = []
    while (line_end := data.find(b"\r\n", start)) >= 0:
        size = int(data[start:line_end].partition(b";")[0], 16)
        if size == 0:
            break
        raw_starts.append(line_end + 2)
        pieces.append(data[line_end + 2 : line_end + 2 + size])
        start = line_end + 2 + size + 2
    piece_ends = np.fromiter(accumulate(map(len, pieces)), np.int64, len(pieces))
    shifts = np.asarray(raw_starts, np.int64) - np.concatenate(([0], piece_ends[:-1]))[: len(pieces)]

    def raw_end(ends: NDArray[np.int64]) -> NDArray[np.int64]:
        return ends + shifts[np.searchsorted(piece_ends, ends)] if len(ends) else ends

    return b"".join(pieces), raw_end


def _frames(body: bytes) -> list[tuple[bytes, int]]:
    """(event, end of its separator in the body); an incomplete last one is left out."""
    separator = b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
    pieces = body.split(separator)[:-1]
    ends = accumulate(len(piece) + len(separator) for piece in pieces)
    return list(zip(pieces, ends, strict=True))


def _payload(frame: bytes) -> bytes | None:
    """The data of an event; None for a comment."""
    if frame.startswith(b"data: ") and b"\n" not in frame:
        return frame[6:]
    lines = [line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def _code(body: bytes) -> str:
    """The code of an error of OpenAI's shape, else nothing."""
    try:
        error = _decode(body).error
    except msgspec.DecodeError:
        return ""
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    return f" {code}" if code else ""

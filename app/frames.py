"""The wire between the engine's process and a front end: frames, and the layout of the frequent ones.

    frame     | payload bytes u32 | kind u8 | payload |
    STEP      | streams n u32 | tokens t u32 | n numbers u32 | n counts u16 | t tokens i32 | rare, msgpack |
    ADD       | stream number u32 | prompt tokens p u32 | p tokens i32 | the rest of the request, msgpack |
    ABORT     | stream number u32 | reason, its place in FinishReason u8 |
    CONTROL   | msgpack, see control_messages.py |

A step is one frame per front end (a few if it is very large), never one per token. Byte order is the
machine's, since both ends run on it.
"""

from __future__ import annotations

import enum
import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any

import msgspec

from ..model.grammar import Grammar
from ..model.plan import TokenLogprobs
from ..model.sampling_params import SamplingParams
from ..scheduler.request import Claim, FinishReason, Request, RequestTimings, TokenOutput
from ..scheduler.thinking_limit import ThinkingLimit
from ..scheduler.token_limits import TokenLimits

PROTOCOL_VERSION = 2
MAX_FRAME_BYTES = 64 << 20
MAX_STREAMS = 1 << 32
_FULL_BYTES = 16 << 20
"""Of log-probabilities; beyond it another frame begins."""

_HEADER = struct.Struct("=IB")
_TWO = struct.Struct("=II")
_ABORT = struct.Struct("=IB")
_REASONS = tuple(FinishReason)
_DEFAULTS = {field: getattr(SamplingParams(), field) for field in SamplingParams.__dataclass_fields__}
assert (array("I").itemsize, array("H").itemsize, array("i").itemsize) == (4, 2, 4), "C's usual sizes"


class ProtocolError(Exception):
    """The other end has broken the protocol: the connection cannot be used any more."""


class UnreadableRequestError(ProtocolError):
    """The request of one stream cannot be read; those of others can."""

    def __init__(self, number: int, cause: object) -> None:
        super().__init__(f"not a request: {cause}")
        self.number = number


class Kind(enum.IntEnum):
    """What a frame is."""

    STEP = 1
    ADD = 2
    ABORT = 3
    CONTROL = 4


class RareOutput(msgspec.Struct, array_like=True, omit_defaults=True):
    """What few outputs have beside tokens."""

    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    timings: RequestTimings | None = None
    error: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


class _Rest(msgspec.Struct, array_like=True):
    """A request without its prompt. params: those that are not SamplingParams' defaults, without grammar."""

    request_id: str
    params: dict[str, Any]
    grammar: Grammar | None
    max_tokens: int
    eos_token_ids: frozenset[int]
    priority: int
    cache_salt: str
    arrival_s: float
    claim: Claim
    limits: TokenLimits | None
    thinking: ThinkingLimit | None


_SAME_FIELDS = tuple(name for name in _Rest.__struct_fields__ if name not in ("params", "grammar"))
_decode_rare = msgspec.msgpack.Decoder(dict[int, RareOutput]).decode
_decode_rest = msgspec.msgpack.Decoder(_Rest).decode
_encode = msgspec.msgpack.Encoder().encode


def frame(kind: Kind, payload: bytes) -> bytes:
    """A whole frame. Raises ProtocolError if it is larger than any may be."""
    if len(payload) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame may have {MAX_FRAME_BYTES} bytes, got {len(payload)}")
    return _HEADER.pack(len(payload), kind) + payload


class FrameSplitter:
    """Cuts received bytes into frames, keeping an incomplete one."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._num_bytes = 0
        self._needed = _HEADER.size

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """(kind, payload) of every complete frame. Raises ProtocolError for a length that is too large."""
        self._chunks.append(data)
        self._num_bytes += len(data)
        if self._num_bytes < self._needed:
            return
        whole = memoryview(data if len(self._chunks) == 1 else b"".join(self._chunks))
        start, end, self._needed = 0, len(whole), _HEADER.size
        while end - start >= _HEADER.size:
            length, kind = _HEADER.unpack_from(whole, start)
            if length > MAX_FRAME_BYTES:
                raise ProtocolError(f"a frame may have {MAX_FRAME_BYTES} bytes, got {length}")
            if end - start < _HEADER.size + length:
                self._needed = _HEADER.size + length
                break
            start += _HEADER.size
            yield kind, whole[start : start + length]
            start += length
        self._chunks = [bytes(whole[start:])] if start < end else []
        self._num_bytes = end - start


class StepEncoder:
    """Gathers what a step brought for one front end."""

    def __init__(self) -> None:
        self._full: list[bytes] = []
        self._clear()

    def _clear(self) -> None:
        self._numbers: list[int] = []
        self._counts: list[int] = []
        self._tokens: list[int] = []
        self._rare: dict[int, msgspec.Raw] = {}  # by place in the frame
        self._rare_bytes = 0

    def add(self, number: int, output: TokenOutput) -> None:
        """Stream `number` got `output`. If this raises, nothing was added."""
        _, token_ids, logprobs, finish_reason, stop_reason, timings, error, prompt_logprobs = output
        if finish_reason is not None or logprobs or timings is not None or prompt_logprobs:
            told = (tuple(logprobs), tuple(prompt_logprobs))
            rare = _encode(RareOutput(finish_reason, stop_reason, timings, error, *told))
            if self._rare_bytes + len(rare) > _FULL_BYTES:
                self._full.append(self._frame())
            self._rare[len(self._numbers)] = msgspec.Raw(rare)
            self._rare_bytes += len(rare)
        self._numbers.append(number)
        self._counts.append(len(token_ids))
        self._tokens += token_ids

    def take(self) -> bytes:
        """The frame of all that was added, or several if it is very much; starts over."""
        full, self._full = self._full, []
        last = self._frame()
        return b"".join((*full, last)) if full else last

    def _frame(self) -> bytes:
        payload = b"".join(
            (
                _TWO.pack(len(self._numbers), len(self._tokens)),
                array("I", self._numbers).tobytes(),
                array("H", self._counts).tobytes(),
                array("i", self._tokens).tobytes(),
                _encode(self._rare) if self._rare else b"",
            )
        )
        self._clear()
        return frame(Kind.STEP, payload)


def decode_step(payload: memoryview) -> Iterator[tuple[int, TokenOutput]]:
    """(stream number, output) in the order of StepEncoder.add; request ids are left empty. ProtocolError."""
    try:
        num_streams, num_tokens = _TWO.unpack_from(payload)
        at = _TWO.size + 4 * num_streams
        numbers = payload[_TWO.size : at].cast("I").tolist()
        counts = payload[at : at + 2 * num_streams].cast("H").tolist()
        at += 2 * num_streams
        tokens = payload[at : at + 4 * num_tokens].cast("i").tolist()
        at += 4 * num_tokens
        rare = _decode_rare(payload[at:]) if at < len(payload) else {}
        if len(tokens) != num_tokens or sum(counts) != num_tokens or len(counts) != num_streams:
            raise ProtocolError(f"{num_tokens} tokens announced, {sum(counts)} counted, {len(tokens)} sent")
    except (struct.error, TypeError, ValueError, msgspec.DecodeError) as error:
        raise ProtocolError(f"not a step: {error}") from error
    return _outputs(numbers, counts, tokens, rare)


def _outputs(
    numbers: Sequence[int], counts: Sequence[int], tokens: Sequence[int], rare: dict[int, RareOutput]
) -> Iterator[tuple[int, TokenOutput]]:
    start = 0
    make, plain = tuple.__new__, ((), None, None, None, None, ())
    for index, (number, count) in enumerate(zip(numbers, counts, strict=True)):
        token_ids = tokens[start : start + count]
        start += count
        entry = rare.get(index) if rare else None
        if entry is None:
            # For every token of every stream: avoids NamedTuple's own, slower constructor.
            yield number, make(TokenOutput, ("", token_ids, *plain))
        else:
            told = (entry.finish_reason, entry.stop_reason, entry.timings, entry.error, entry.prompt_logprobs)
            yield number, make(TokenOutput, ("", token_ids, entry.logprobs, *told))


def num_going_on(payload: memoryview) -> int:
    """How many streams a step has tokens for, if that is all; 0 if there is more to one of them."""
    num_streams, num_tokens = _TWO.unpack_from(payload)
    return num_streams if len(payload) == _TWO.size + 6 * num_streams + 4 * num_tokens else 0


def streams_with_tokens(payload: memoryview) -> set[int]:
    """The numbers of the streams to which a step brings any; of one that decode_step has taken."""
    num_streams, _ = _TWO.unpack_from(payload)
    at = _TWO.size + 4 * num_streams
    numbers, counts = payload[_TWO.size : at].cast("I"), payload[at : at + 2 * num_streams].cast("H")
    return set(compress(numbers.tolist(), counts.tolist()))


def encode_add(number: int, request: Request) -> bytes:
    """The frame that submits `request` as stream `number`. Raises ProtocolError if it is too long."""
    params = {
        name: value
        for name, default in _DEFAULTS.items()
        if name != "structured_outputs" and (value := getattr(request.params, name)) != default
    }
    same = {name: getattr(request, name) for name in _SAME_FIELDS}
    rest = _Rest(params=params, grammar=request.params.grammar, **same)
    prompt = array("i", request.prompt_token_ids)
    return frame(Kind.ADD, _TWO.pack(number, len(prompt)) + prompt.tobytes() + _encode(rest))


def decode_add(payload: memoryview) -> tuple[int, Request]:
    """(stream number, request). Raises ProtocolError; UnreadableRequestError if the stream is known."""
    try:
        number, num_prompt = _TWO.unpack_from(payload)
    except struct.error as error:
        raise ProtocolError(f"not a request: {error}") from error
    try:
        end = _TWO.size + 4 * num_prompt
        prompt = payload[_TWO.size : end].cast("i").tolist()
        rest = _decode_rest(payload[end:])
        params = SamplingParams(**rest.params, structured_outputs=rest.grammar)
    except Exception as error:  # whatever a wrong setting raises
        raise UnreadableRequestError(number, error) from error
    same = {name: getattr(rest, name) for name in _SAME_FIELDS}
    return number, Request(prompt_token_ids=prompt, params=params, **same)


def encode_abort(number: int, reason: FinishReason) -> bytes:
    """The frame that ends stream `number`."""
    return frame(Kind.ABORT, _ABORT.pack(number, _REASONS.index(reason)))


def decode_abort(payload: memoryview) -> tuple[int, FinishReason]:
    """(stream number, reason). Raises ProtocolError."""
    try:
        number, reason = _ABORT.unpack(payload)
        return number, _REASONS[reason]
    except (struct.error, IndexError) as error:
        raise ProtocolError(f"not an abort: {error}") from error

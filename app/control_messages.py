"""Rare messages between engine and front ends: start, refusals, drain, numbers for /metrics.

Frames of kind CONTROL, as msgpack. Tokens and requests have frames of their own: see frames.py.
"""

from __future__ import annotations

import msgspec

from ..scheduler.stats import EngineStats
from ..scheduler.view import EngineView
from .errors import RequestError
from .frames import Kind, ProtocolError, frame
from .generation import ServedModel
from .metrics_state import FrontendCounts, MetricsState
from .pulse import Pulse
from .rate_limits import Quota
from .server_settings import ServerSettings


class Message(msgspec.Struct, tag_field="what", tag=True, frozen=True):
    """Base of all messages."""


# From the engine.


class Setup(Message, frozen=True):
    """The first message: all that a front end needs to know of model and server.

    model_path: what the tokenizer is read from; None serves token ids alone.
    """

    version: int
    model_path: str | None
    model: ServedModel
    settings: ServerSettings
    log_level: str
    log_format: str = "human"


class Start(Message, frozen=True):
    """The engine runs: accept connections.

    memory_bytes: the device's memory by what holds it, see MemoryLedger.entries.
    """

    memory_bytes: dict[str, int] = {}


class Accepted(Message, frozen=True):
    """The engine has taken these streams. quotas: what is left for the tenants of some of them."""

    numbers: list[int]
    quotas: dict[int, Quota] = {}


class Refused(Message, frozen=True):
    """The engine has not taken a stream; the rest are RequestError's fields."""

    number: int
    message: str
    param: str | None
    code: str
    status: int
    type: str
    retry_after_s: int | None
    headers: dict[str, str] = {}
    refusal: str = "request"

    @classmethod
    def of(cls, number: int, error: RequestError) -> Refused:
        """Stream `number` was refused with `error`."""
        return cls(number, *(getattr(error, name) for name in cls.__struct_fields__[1:]))

    def error(self) -> RequestError:
        """What the client of the stream is told."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__[2:]}
        return RequestError(self.message, **fields)


class Drain(Message, frozen=True):
    """Take nothing new; answer Idle once nothing is open."""


class Cut(Message, frozen=True):
    """The engine was stopped: end every stream with an error, because of `cause`."""

    cause: str


class Stop(Message, frozen=True):
    """Close what is open, and exit."""


class AskNumbers(Message, frozen=True):
    """Answer Numbers. Sent every second, with the engine's pulse."""

    pulse: Pulse


class Scraped(Message, frozen=True):
    """The answer to Scrape `scrape_id`: the numbers of all other front ends, dead ones included."""

    scrape_id: int
    others: list[MetricsState]
    stats: EngineStats
    frontends: FrontendCounts


class Seen(Message, frozen=True):
    """The answer to Look `look_id`."""

    look_id: int
    view: EngineView


class Unanswered(Message, frozen=True):
    """The answer to Scrape or Look `number` if it failed."""

    number: int


# From a front end.


class Hello(Message, frozen=True):
    """The answer to Setup, when connections could be accepted."""

    version: int


class Idle(Message, frozen=True):
    """Nothing is open any more, and nothing new is taken."""


class Numbers(Message, frozen=True):
    """What this front end has counted. Answers come in the order of AskNumbers."""

    state: MetricsState


class Scrape(Message, frozen=True):
    """Somebody reads /metrics here."""

    scrape_id: int


class Look(Message, frozen=True):
    """Somebody watches here. since: the last step that was seen."""

    look_id: int
    since: int


FromEngine = (
    Setup | Start | Accepted | Refused | Drain | Cut | Stop | AskNumbers | Scraped | Seen | Unanswered
)
FromFrontend = Hello | Idle | Numbers | Scrape | Look

_encode = msgspec.msgpack.Encoder().encode
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)
_from_frontend: msgspec.msgpack.Decoder[FromFrontend] = msgspec.msgpack.Decoder(FromFrontend)


def encode(message: Message) -> bytes:
    """The whole frame."""
    return frame(Kind.CONTROL, _encode(message))


def decode_from_engine(payload: memoryview) -> FromEngine:
    """Raises ProtocolError."""
    try:
        return _from_engine.decode(payload)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"not a message of the engine: {error}") from error


def decode_from_frontend(payload: memoryview) -> FromFrontend:
    """Raises ProtocolError."""
    try:
        return _from_frontend.decode(payload)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"not a message of a front end: {error}") from error

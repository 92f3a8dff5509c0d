"""What a run observed, as arrays: compact to send, quick to compute with. No figures here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .answer import Answer
from .ask import Ask

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Observed(NamedTuple):
    """One request's life.   begin_s: since the run's start; in an open loop when it was due."""

    ask: Ask
    begin_s: float
    late_s: float
    answer: Answer


@dataclass(frozen=True)
class Streams:
    """Observed requests, one element each; counts that are not known are -1.

    late_s: how much later than due the client itself came to send.
    asked_tokens: the forced output length.   num_tokens: as the server's usage says.
    num_events: events that carry text; their times are event_s[starts[i] : starts[i + 1]], in seconds since
    the run's start.   texts: by request body, of those that ended well and whose text was wanted.
    """

    group: NDArray[np.str_]
    outcome: NDArray[np.str_]
    client: Ints
    begin_s: Floats
    late_s: Floats
    asked_tokens: Ints
    num_tokens: Ints
    num_prompt_tokens: Ints
    num_events: Ints
    num_reads: Ints
    num_ids: Ints
    event_s: Floats
    texts: dict[bytes, str]

    def __len__(self) -> int:
        return len(self.begin_s)

    @property
    def starts(self) -> Ints:
        """[num_streams + 1]: where each stream's events begin."""
        return np.concatenate((np.zeros(1, np.int64), np.cumsum(self.num_events)))

    @property
    def stream_of_event(self) -> Ints:
        """[num_events of all]: the stream that each event belongs to."""
        return np.repeat(np.arange(len(self)), self.num_events)

    def where(self, chosen: NDArray[np.bool_]) -> Streams:
        """The streams with `chosen` [num_streams]; texts are dropped."""
        kept: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        events = kept.pop("event_s")[chosen[self.stream_of_event]]
        del kept["texts"]
        return Streams(**{name: values[chosen] for name, values in kept.items()}, event_s=events, texts={})


def collect(observed: Sequence[Observed], client: int, zero_s: float) -> Streams:
    """Arrays of one client's observations; times of events become seconds since `zero_s`."""

    def column(value: Callable[[Observed], Any], kind: type) -> NDArray[Any]:
        return np.array([value(entry) for entry in observed], kind)

    def count(value: Callable[[Observed], int | None]) -> Ints:
        return column(lambda o: -1 if value(o) is None else value(o), np.int64)

    return Streams(
        group=column(lambda o: o.ask.group, np.str_),
        outcome=column(lambda o: o.answer.outcome, np.str_),
        client=np.full(len(observed), client, np.int64),
        begin_s=column(lambda o: o.begin_s, np.float64),
        late_s=column(lambda o: o.late_s, np.float64),
        asked_tokens=count(lambda o: o.ask.num_tokens),
        num_tokens=count(lambda o: o.answer.num_tokens),
        num_prompt_tokens=count(lambda o: o.answer.num_prompt_tokens),
        num_events=count(lambda o: len(o.answer.event_s)),
        num_reads=count(lambda o: o.answer.num_reads),
        num_ids=count(lambda o: o.answer.num_ids),
        event_s=np.concatenate([np.empty(0), *(o.answer.event_s for o in observed)]) - zero_s,
        texts={o.ask.body: o.answer.text for o in observed if o.ask.keep_text and o.answer.outcome == "ok"},
    )


def join(parts: Sequence[Streams]) -> Streams:
    """All clients' streams as one."""
    names = [f.name for f in fields(Streams) if f.name != "texts"]
    texts = {body: text for part in parts for body, text in part.texts.items()}
    return Streams(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names}, texts=texts)

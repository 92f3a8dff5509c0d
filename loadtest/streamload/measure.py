"""Figures of a run: latencies, throughput, goodput, bursts, and whether every token came once.

All computed from arrays after the run; nothing here knows processes, sockets or plots.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .streams import Floats, Ints, Streams

OK, CUT = "ok", "cut"
"""Outcomes of requests that were served, and of those that hung up by intention."""
BURST_EVENTS, BURST_S = 16, 0.005
"""So many events of a stream within so long are a burst: no model makes them that fast, they were held up."""


@dataclass(frozen=True)
class Percentiles:
    """Of some times, in milliseconds; None where there are none."""

    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None
    mean: float | None

    @classmethod
    def of(cls, seconds: Floats) -> Percentiles:
        if not len(seconds):
            return cls(None, None, None, None, None)
        p50, p90, p99, most = (float(value) * 1e3 for value in np.percentile(seconds, [50, 90, 99, 100]))
        return cls(p50, p90, p99, most, float(np.mean(seconds)) * 1e3)


@dataclass(frozen=True)
class Objectives:
    """What a request must keep to count as served well, in milliseconds; None is no limit."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None


@dataclass(frozen=True)
class Delivery:
    """Whether tokens arrived as they should.

    wrong_length: answers whose usage differs from the forced length.   without_usage: none given.
    more_events_than_tokens: answers in which something came twice, if every event holds a token.
    merged_or_lost: tokens beyond the events; a comparison with unstreamed answers (verify.py) tells which.
    mixed: streams with chunks of another response.   burst_*: see BURST_EVENTS.
    """

    wrong_length: int
    without_usage: int
    more_events_than_tokens: int
    merged_or_lost: int
    mixed: int
    burst_events: int
    burst_share: float
    burst_streams: int


@dataclass(frozen=True)
class Figures:
    """Of one run, or of one group of its requests.

    output_tokens: as the servers counted, events where they did not.   duration_s: from the start to the last
    token of the last stream.   output_tok_s, events_s: per second of that.   ttft from the time at which the
    request was due (sent, if the number of open streams is limited); itl between events of a stream.
    events_per_read: above 1, several events had come when the client looked.   late: of the client itself.
    """

    requests: int
    outcomes: dict[str, int]
    output_tokens: int
    duration_s: float
    output_tok_s: float
    events_s: float
    requests_s: float
    goodput_s: float
    ttft_ms: Percentiles
    tpot_ms: Percentiles
    itl_ms: Percentiles
    e2e_ms: Percentiles
    late_ms: Percentiles
    events_per_read: float
    delivery: Delivery

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(streams: Streams, objectives: Objectives | None = None) -> Figures:
    """Figures of `streams`. Latencies are of answers that ended well; tokens count wherever they came."""
    well = streams.outcome == OK
    good = streams.where(well & (streams.num_events > 0))
    tokens = tokens_of(streams)
    duration_s = float(streams.event_s.max()) if len(streams.event_s) else 0.0
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    ttft, tpot, e2e = ttft_s(good), tpot_s(good), _last(good) - good.begin_s
    kept = within(objectives or Objectives(), ttft, tpot, e2e)
    return Figures(
        requests=len(streams),
        outcomes=dict(Counter(streams.outcome.tolist()).most_common()),
        output_tokens=int(tokens.sum()),
        duration_s=duration_s,
        output_tok_s=float(tokens.sum()) * per_s,
        events_s=len(streams.event_s) * per_s,
        requests_s=len(good) * per_s,
        goodput_s=int(kept.sum()) * per_s,
        ttft_ms=Percentiles.of(ttft),
        tpot_ms=Percentiles.of(tpot[~np.isnan(tpot)]),
        itl_ms=Percentiles.of(gaps_s(good)[0]),
        e2e_ms=Percentiles.of(e2e),
        late_ms=Percentiles.of(streams.late_s),
        events_per_read=float(streams.num_events.sum()) / max(1, int(streams.num_reads.sum())),
        delivery=delivery(streams),
    )


def tokens_of(streams: Streams) -> Ints:
    """[num_streams]: output tokens of each."""
    return np.where(streams.num_tokens >= 0, streams.num_tokens, streams.num_events)


def ttft_s(streams: Streams) -> Floats:
    """[num_streams]: time to the first text; every stream must have some."""
    return streams.event_s[streams.starts[:-1]] - streams.begin_s


def tpot_s(streams: Streams) -> Floats:
    """[num_streams]: mean time of the tokens after the first; NaN where there is only one."""
    after_first = (tokens_of(streams) - 1).astype(np.float64)
    after_first[after_first < 1] = np.nan
    return (_last(streams) - streams.event_s[streams.starts[:-1]]) / after_first


def _last(streams: Streams) -> Floats:
    return streams.event_s[streams.starts[1:] - 1]


def gaps_s(streams: Streams) -> tuple[Floats, Floats]:
    """[num_gaps] each: times between successive events of a stream, and when each gap ended."""
    same = np.diff(streams.stream_of_event) == 0
    return np.diff(streams.event_s)[same], streams.event_s[1:][same]


def within(objectives: Objectives, ttft: Floats, tpot: Floats, e2e: Floats) -> NDArray[np.bool_]:
    """[num_streams]: whether each kept all objectives."""
    kept = np.ones(len(ttft), np.bool_)
    limits = ((ttft, objectives.ttft_ms), (tpot, objectives.tpot_ms), (e2e, objectives.e2e_ms))
    for seconds, limit_ms in limits:
        if limit_ms is not None:
            kept &= ~(seconds * 1e3 > limit_ms)  # NaN, a TPOT of one token, keeps
    return kept


def delivery(streams: Streams) -> Delivery:
    """How the tokens of all streams came; of answers that ended well, whether they are all there."""
    well = streams.outcome == OK
    counted = well & (streams.num_tokens >= 0)
    extra = np.where(counted, streams.num_tokens - streams.num_events, 0)
    in_burst = burst_events(streams)
    streams_with = np.unique(streams.stream_of_event[in_burst])
    return Delivery(
        wrong_length=int(
            (counted & (streams.asked_tokens >= 0) & (streams.num_tokens != streams.asked_tokens)).sum()
        ),
        without_usage=int((well & ~counted).sum()),
        more_events_than_tokens=int((extra < 0).sum()),
        merged_or_lost=int(extra[extra > 0].sum()),
        mixed=int((streams.num_ids > 1).sum()),
        burst_events=int(in_burst.sum()),
        burst_share=float(in_burst.mean()) if len(in_burst) else 0.0,
        burst_streams=len(streams_with),
    )


def burst_events(streams: Streams) -> NDArray[np.bool_]:
    """[num_events]: whether each is one of BURST_EVENTS successive ones of its stream within BURST_S."""
    count, width = len(streams.event_s), BURST_EVENTS - 1
    if count <= width:
        return np.zeros(count, np.bool_)
    of = streams.stream_of_event
    begins = (streams.event_s[width:] - streams.event_s[:-width] <= BURST_S) & (of[width:] == of[:-width])
    edges = np.zeros(count + 1, np.int64)
    edges[: len(begins)] += begins
    edges[BURST_EVENTS : BURST_EVENTS + len(begins)] -= begins
    return np.cumsum(edges[:-1]) > 0

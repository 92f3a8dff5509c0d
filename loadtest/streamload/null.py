"""Is this client the limit? Two runs against a server that does nothing but send, each token checked.

First as fast as both can; then at a steady rate in rounds, as an engine's steps are, where every event must
come alone and on time. The second is the proof: at full speed events pile up and are cheap to read together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ask import Ask, Target
from .fleet import Load, run
from .measure import OK, Percentiles, gaps_s
from .null_server import null_server, token

_FLAT_OUT_STREAMS, _FLAT_OUT_TOKENS = 64, 2000
_PACE_S, _PACED_TOKENS = 0.01, 400
_KEEPS_UP = 0.97


@dataclass(frozen=True)
class NullRun:
    """One run.   read_us: clients' processor time for a read.   busy: share of a core of the busiest client.

    whole: every answer ended well and held every token once, in order.
    """

    streams: int
    events: int
    events_s: float
    events_per_read: float
    read_us: float
    busy: float
    itl_ms: Percentiles
    whole: bool


@dataclass(frozen=True)
class NullFigures:
    """rate: events/s that the paced run offered."""

    clients: int
    servers: int
    rate: float
    flat_out: NullRun
    paced: NullRun

    @property
    def passed(self) -> bool:
        """Whether the client kept up with the rate and lost nothing."""
        return self.flat_out.whole and self.paced.whole and self.paced.events_s >= _KEEPS_UP * self.rate

    def lines(self) -> Sequence[str]:
        """For people."""
        fast, paced = self.flat_out, self.paced
        return (
            f"null server: {self.clients} client and {self.servers} server processes, {os.cpu_count()} cores",
            f"flat out, {fast.streams} streams: "
            f"{fast.events_s:,.0f} events/s, {fast.events_per_read:.1f} a read",
            f"paced, {paced.streams} streams, a token each every {_PACE_S * 1000:g} ms: "
            f"{paced.events_s:,.0f} of {self.rate:,.0f} events/s, {paced.events_per_read:.2f} a read, "
            f"seen every {paced.itl_ms.p50:.2f} ms (p50), {paced.itl_ms.p99:.2f} (p99)",
            f"{paced.read_us:.1f} us of the client's processor a read: a core of its own would take "
            f"{1e6 / paced.read_us:,.0f} events/s; the busiest client used {paced.busy:.0%} of one",
            "every token came once and in order"
            if fast.whole and paced.whole
            else "WRONG: tokens lost or moved",
            "passed" if self.passed else "FAILED: client or null server cannot keep up with the rate",
        )


def measure_null(num_clients: int, num_servers: int, rate: float) -> NullFigures:
    """Both runs. The processes share the machine's cores with the null server's."""
    fast = _run(num_clients, num_servers, _FLAT_OUT_STREAMS * num_clients, _FLAT_OUT_TOKENS, 0.0)
    streams = max(num_clients, round(rate * _PACE_S))
    paced = _run(num_clients, num_servers, streams, _PACED_TOKENS, _PACE_S)
    return NullFigures(num_clients, num_servers, streams / _PACE_S, fast, paced)


def _run(num_clients: int, num_servers: int, num_streams: int, tokens: int, pace_s: float) -> NullRun:
    bodies = [json.dumps({"prompt": str(i), "max_tokens": tokens}).encode() for i in range(num_streams)]
    asks = [Ask(body, 0.0, tokens, keep_text=True) for body in bodies]
    with null_server(num_servers, pace_s) as url:
        seen = run(Load(Target(url), asks, num_clients, timeout_s=120))
    streams = seen.streams
    expected = "".join(map(token, range(tokens)))
    num_events, num_reads = len(streams.event_s), max(1, int(streams.num_reads.sum()))
    # From the first token on: connecting is not what is asked about here.
    lasted_s = float(np.ptp(streams.event_s)) if num_events else float("inf")
    return NullRun(
        streams=num_streams,
        events=num_events,
        events_s=num_events / lasted_s,
        events_per_read=num_events / num_reads,
        read_us=sum(seen.cpu_s) / num_reads * 1e6,
        busy=max(seen.cpu_s) / seen.wall_s,
        itl_ms=Percentiles.of(gaps_s(streams)[0]),
        whole=bool((streams.outcome == OK).all()) and all(streams.texts.get(b) == expected for b in bodies),
    )

"""Several simulated replicas behind a router, one trace through them, and the figures of the run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.errors import RequestRefusedError
from octavo.scheduler.request import Request, TokenOutput

from .engine import SimulatedEngine
from .router import Router

_NUM_BUCKETS = 3000
_BUCKETS_PER_S = 4000.0
_TELL_EVERY = 20_000
_TIMINGS = TokenOutput._fields.index("timings")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run showed. Times in seconds; rates per simulated second, of all replicas together.

    itl: between a replica's steps, weighted by the streams that got a token: what streams wait.
    device_busy: share of the time until the last arrival that devices worked.
    """

    num_requests: int
    num_refused: int
    tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p50_s: float
    itl_p99_s: float
    itl_p999_s: float
    hit_rate: float
    preemptions: int
    device_busy: float
    simulated_s: float

    def as_json(self) -> dict[str, Any]:
        """For files."""
        return asdict(self)


class Replica:
    """An engine and what its clients noticed."""

    def __init__(
        self, config: SchedulerConfig, cache: CacheConfig, seconds: Callable[[StepPlan], float]
    ) -> None:
        self.engine = SimulatedEngine(config, cache, seconds, self._receive)
        self.num_open = 0
        self.num_tokens = 0
        self.ttft_s = array("d")
        self.gaps = [0] * _NUM_BUCKETS
        self._last_s = 0.0

    def submit(self, request: Request) -> None:
        """Its arrival is now. Raises RequestRefusedError."""
        self.engine.scheduler.add(request)
        self.num_open += 1

    def _receive(self, now_s: float, outputs: Sequence[TokenOutput]) -> None:
        bucket = int((now_s - self._last_s) * _BUCKETS_PER_S)
        self.gaps[min(bucket, _NUM_BUCKETS - 1)] += len(outputs)
        self.num_tokens += len(outputs)
        self._last_s = now_s
        for output in outputs:
            if output[_TIMINGS] is not None:  # the first token or the end
                if output.finish_reason is not None:
                    self.num_open -= 1
                timings = output.timings
                if timings is not None and timings.first_token_s:
                    self.ttft_s.append(now_s - timings.arrival_s)
                    timings.first_token_s = 0.0  # the end has the same timings


Progress = Callable[[int, float, float], None]
"""Told how many requests have come, at which simulated moment the last did, and the share of prefix hits."""


def simulate(
    replicas: Sequence[Replica],
    router: Router,
    trace: Iterable[Request],
    progress: Progress = lambda num_requests, now_s, hit_rate: None,
) -> Figures:
    """Send the trace through, to the end of its last request."""
    num_requests = num_refused = 0
    arrival_s = 0.0
    for request in trace:
        num_requests += 1
        arrival_s = request.arrival_s
        for replica in replicas:
            replica.engine.advance(arrival_s)
        index = router.choose(request, [replica.num_open for replica in replicas])
        try:
            replicas[index].submit(request)
        except RequestRefusedError:
            num_refused += 1
        if num_requests % _TELL_EVERY == 0:
            progress(num_requests, arrival_s, _hit_rate(replicas))
    busy_s = sum(replica.engine.busy_s for replica in replicas)
    for replica in replicas:
        replica.engine.run(())
    end_s = max(replica.engine.now_s for replica in replicas)
    ttft_s = sorted(t for replica in replicas for t in replica.ttft_s)
    gaps = [sum(counts) for counts in zip(*(replica.gaps for replica in replicas), strict=True)]
    return Figures(
        num_requests=num_requests,
        num_refused=num_refused,
        tokens_per_s=sum(replica.num_tokens for replica in replicas) / end_s,
        ttft_p50_s=ttft_s[len(ttft_s) // 2],
        ttft_p99_s=ttft_s[int(len(ttft_s) * 0.99)],
        itl_p50_s=_quantile_s(gaps, 0.5),
        itl_p99_s=_quantile_s(gaps, 0.99),
        itl_p999_s=_quantile_s(gaps, 0.999),
        hit_rate=_hit_rate(replicas),
        preemptions=sum(r.engine.scheduler.counters.num_preemptions for r in replicas),
        device_busy=busy_s / (arrival_s * len(replicas)) if arrival_s else 1.0,
        simulated_s=end_s,
    )


def _hit_rate(replicas: Sequence[Replica]) -> float:
    caches = [replica.engine.scheduler.prefix_cache for replica in replicas]
    return sum(c.hit_tokens for c in caches) / max(1, sum(c.query_tokens for c in caches))


def _quantile_s(counts: Sequence[int], share: float) -> float:
    left = share * sum(counts)
    for bucket, count in enumerate(counts):
        left -= count
        if left <= 0:
            return (bucket + 0.5) / _BUCKETS_PER_S
    return len(counts) / _BUCKETS_PER_S

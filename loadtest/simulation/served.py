"""The loads of the table 'Served' in simulated time: ShareGPT's lengths, each request heard token by token.

Nothing is shared between prompts, and nothing but scheduler and device takes time: no HTTP, no tokenizer.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from octavo.cache.config import CacheConfig
from octavo.model.plan import StepPlan
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.config import SchedulerConfig
from octavo.scheduler.request import Request, TokenOutput

from .engine import SimulatedEngine

_PARAMS = SamplingParams(temperature=0, max_tokens=None)


@dataclass(frozen=True, slots=True)
class ServedFigures:
    """Times in seconds, but for tokens a second to the last token of the last request."""

    tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    itl_p50_s: float
    itl_p99_s: float
    itl_max_s: float
    preemptions: int

    def as_json(self) -> dict[str, Any]:
        """For files."""
        return asdict(self)


class ServedLoad:
    """Requests of `lengths`, (asked, answered) in tokens, one after the other, over one engine.

    rate: requests a second, Poisson; None is all at once, of which `max_open` at a time, None being all.
    """

    def __init__(
        self,
        lengths: Sequence[tuple[int, int]],
        *,
        rate: float | None = None,
        max_open: int | None = None,
        seed: int = 0,
    ) -> None:
        self._lengths = lengths
        self._rate = rate
        self._max_open = max_open if max_open is not None and rate is None else len(lengths)
        self._rng = random.Random(seed)
        self._asked_s: dict[str, float] = {}
        self._heard_s: dict[str, array[float]] = {}

    def run(
        self, config: SchedulerConfig, cache: CacheConfig, seconds: Callable[[StepPlan], float]
    ) -> ServedFigures:
        """To the end of the last request."""
        engine = SimulatedEngine(config, cache, seconds, self._receive)
        requests = self._requests()
        if self._rate is not None:
            engine.run(requests)
        else:
            engine.follow(requests, self._max_open)
        return self._figures(engine)

    def _requests(self) -> Iterator[Request]:
        at_s, first = 0.0, 0
        for index, (asked, answered) in enumerate(self._lengths):
            at_s += self._rng.expovariate(self._rate) if self._rate is not None else 0.0
            first += asked
            yield Request(
                request_id=str(index),
                prompt_token_ids=array("i", range(first - asked, first)),
                params=_PARAMS,
                max_tokens=answered,
                arrival_s=at_s,
            )

    def _receive(self, now_s: float, outputs: Sequence[TokenOutput]) -> None:
        for output in outputs:
            times = self._heard_s.get(output.request_id)
            if times is None:
                times = self._heard_s[output.request_id] = array("d")
                assert output.timings is not None, "the first token comes with its timings"
                self._asked_s[output.request_id] = output.timings.arrival_s
            times.append(now_s)

    def _figures(self, engine: SimulatedEngine) -> ServedFigures:
        heard = self._heard_s
        gaps = sorted(b - a for times in heard.values() for a, b in zip(times, times[1:], strict=False))
        ttft = sorted(times[0] - self._asked_s[name] for name, times in heard.items())
        tpot = sorted((t[-1] - t[0]) / (len(t) - 1) for t in heard.values() if len(t) > 1)
        return ServedFigures(
            tokens_per_s=sum(map(len, heard.values())) / engine.now_s,
            ttft_p50_s=_quantile(ttft, 0.5),
            ttft_p99_s=_quantile(ttft, 0.99),
            tpot_p50_s=_quantile(tpot, 0.5),
            itl_p50_s=_quantile(gaps, 0.5),
            itl_p99_s=_quantile(gaps, 0.99),
            itl_max_s=gaps[-1],
            preemptions=engine.scheduler.counters.num_preemptions,
        )


def _quantile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]

"""The studies of simulate.py: what is run, and with which settings. Knows neither tables nor processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from octavo.cache.config import CacheConfig
from octavo.scheduler.config import SchedulerConfig

from .device import FINER_GRAPHS, GRAPHS, H100
from .fleet import Figures, Progress, Replica, simulate
from .router import CacheAware, RoundRobin
from .served import ServedFigures, ServedLoad
from .trace import Trace

STUDIES = ("pool", "chunks", "replicas", "million", "served", "places", "graphs")
_POOL_BLOCKS = {"llama": 27_875, "qwen": 155_000}
"""What 80 GB hold beside weights, in blocks of 16 tokens."""
_TILE = 128
"""Products of many rows take as long as the next multiple."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run. rate: requests a second, for each replica.   itl_target_ms: 0 is none."""

    study: str
    name: str
    num_requests: int
    rate: float
    model: str = "llama"
    pool_blocks: int | None = None
    block_size: int = 16
    num_replicas: int = 1
    cache_aware: bool = True
    max_num_batched_tokens: int = 8192
    itl_target_ms: float = 12.0
    shorten: int = 8
    long_every: int = 0

    def run(
        self,
        lengths: Sequence[tuple[int, int]],
        progress: Progress = lambda num_requests, now_s, hit_rate: None,
    ) -> Figures:
        """All requests of a trace, to their end."""
        scheduler = SchedulerConfig(
            max_num_seqs=min(1024, self.max_num_batched_tokens),
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=131_072,
            itl_target_s=self.itl_target_ms / 1000 or None,
        )
        blocks = (self.pool_blocks or _POOL_BLOCKS[self.model]) * 16 // self.block_size
        cache = CacheConfig(blocks, self.block_size)
        seconds = H100[self.model].seconds
        replicas = [Replica(scheduler, cache, seconds) for _ in range(self.num_replicas)]
        trace = Trace(
            lengths=lengths,
            num_requests=self.num_requests,
            rate=self.rate * self.num_replicas,
            shorten=self.shorten,
            long_every=self.long_every,
        )
        return simulate(replicas, CacheAware() if self.cache_aware else RoundRobin(), trace, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedCase:
    """One load of the table 'Served'. rate: None is all at once, `max_open` at a time."""

    study: str
    name: str
    model: str
    num_requests: int
    rate: float | None = None
    max_open: int | None = None
    max_num_seqs: int = 1024
    itl_target_ms: float = 12.0
    graphs: tuple[int, ...] = GRAPHS

    def run(self, lengths: Sequence[tuple[int, int]]) -> ServedFigures:
        """All requests, to their end."""
        scheduler = SchedulerConfig(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=8192,
            max_model_len=32_768,
            itl_target_s=self.itl_target_ms / 1000 or None,
            step_sizes=self.graphs,
        )
        device = replace(H100[self.model], sizes=self.graphs, padding=_TILE)
        asked = [lengths[i % len(lengths)] for i in range(self.num_requests)]
        load = ServedLoad(asked, rate=self.rate, max_open=self.max_open)
        return load.run(scheduler, CacheConfig(_POOL_BLOCKS[self.model]), device.seconds)


def cases(study: str, num_requests: int | None, shorten: int) -> Iterator[Case | ServedCase]:
    """The runs of a study. num_requests: None is as many as the study is meant for."""
    if study == "million":
        yield from _million(num_requests or 1_000_000, shorten)
    elif study in ("served", "places", "graphs"):
        yield from {"served": _served, "places": _places, "graphs": _graphs}[study]()
    else:
        yield from _policies(study, num_requests or 10_000, shorten)


def _policies(study: str, num_requests: int, shorten: int) -> Iterator[Case]:
    if study == "pool":
        for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4):
            yield Case(
                study=study,
                name=f"{share:g} x 80 GB's",
                num_requests=num_requests,
                rate=55,
                pool_blocks=int(share * _POOL_BLOCKS["llama"]),
                shorten=shorten,
            )
    elif study == "chunks":
        yield from _chunks(num_requests // 4)
    else:
        for replicas in (1, 2, 4, 8):
            for aware in (False, True) if replicas > 1 else (True,):
                yield Case(
                    study=study,
                    name=f"{replicas}, {'cache-aware' if aware else 'in turn'}",
                    num_requests=num_requests // 2 * replicas,
                    rate=55,
                    num_replicas=replicas,
                    cache_aware=aware,
                    shorten=shorten,
                )


def _chunks(num_requests: int) -> Iterator[Case]:
    policies = [(8192, 0.0), (2048, 0.0), (512, 0.0), (8192, 50.0), (8192, 20.0), (8192, 12.0), (8192, 8.0)]
    for tokens, target in policies:
        yield Case(
            study="chunks",
            name=f"target {target:g} ms" if target else f"{tokens} tokens a step",
            num_requests=num_requests,
            rate=8,
            max_num_batched_tokens=tokens,
            itl_target_ms=target,
            shorten=1,
            long_every=50,
        )


def _million(num_requests: int, shorten: int) -> Iterator[Case]:
    """Blocks of 64, since naming four times as many would take longer than all the rest."""
    usual = Case(
        study="million",
        name="8 replicas, cache-aware",
        num_requests=num_requests,
        rate=45,
        num_replicas=8,
        block_size=64,
        shorten=shorten,
    )
    yield usual
    yield replace(usual, name="in turn", cache_aware=False)
    yield replace(usual, name="half the pool", pool_blocks=_POOL_BLOCKS["llama"] // 2)
    yield replace(usual, name="no target, 8192 tokens a step", itl_target_ms=0.0)


def _served() -> Iterator[ServedCase]:
    def case(name: str, model: str, num_requests: int, **load: float) -> ServedCase:
        return ServedCase(study="served", name=name, model=model, num_requests=num_requests, **load)  # type: ignore[arg-type]

    for target in (12.0, 0.0):
        said = f"target {target:g} ms" if target else "no target"
        yield case(f"Qwen, 504 streams, {said}", "qwen", 1500, max_open=504, itl_target_ms=target)
        yield case(f"Llama, 504 streams, {said}", "llama", 1500, max_open=504, itl_target_ms=target)
        yield case(f"Llama, 10 req/s, {said}", "llama", 400, rate=10, itl_target_ms=target)
    yield case("Qwen, 64 streams", "qwen", 1000, max_open=64)
    yield case("Qwen, 40 req/s", "qwen", 1000, rate=40)


def _places() -> Iterator[ServedCase]:
    for places in (1024, 2048, 4096):
        name = f"4,096 at once, {places} places"
        yield ServedCase(study="places", name=name, model="qwen", num_requests=4096, max_num_seqs=places)


def _graphs() -> Iterator[ServedCase]:
    for model in ("qwen", "llama"):
        for graphs in (GRAPHS, FINER_GRAPHS):
            name = f"{model}, 504 streams, {len(graphs)} sizes"
            yield ServedCase(
                study="graphs", name=name, model=model, num_requests=1500, max_open=504, graphs=graphs
            )

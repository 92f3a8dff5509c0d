"""octavo's scheduler and cache in simulated time: what pool size, chunk policy and routing are worth.

    python loadtest/simulate.py pool chunks replicas --json runs.json --plot simulated.png
    python loadtest/simulate.py million

The device is a formula with the constants of one H100 (simulation/device.py), requests are conversations with
ShareGPT's lengths (simulation/trace.py); plans, blocks, prefix cache and chunk sizes are octavo's own code.
Time is the formula's: a run takes what the scheduler takes, about a millisecond a request. To keep it there,
all studies but `chunks` make answers shorter by `--shorten`; prompts keep their length, so the mix is heavier
in prompts than it would be, and throughput is not to be compared with anything outside the study.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.device import H100
from simulation.fleet import Figures, Replica, simulate
from simulation.plots import draw
from simulation.router import CacheAware, RoundRobin
from simulation.trace import Trace

from octavo.cache.config import CacheConfig
from octavo.scheduler.config import SchedulerConfig

LENGTHS = Path(__file__).parent.parent / "tests" / "data" / "sharegpt_lengths.json"
_POOL_BLOCKS = {"llama": 27_875, "qwen": 155_000}
"""What 80 GB hold beside weights, in blocks of 16 tokens."""


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


def cases(study: str, options: argparse.Namespace) -> Iterator[Case]:
    """The runs of a study."""
    count, shorten = options.requests, options.shorten
    if study == "pool":
        for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4):
            blocks = int(share * _POOL_BLOCKS["llama"])
            yield Case(
                study=study,
                name=f"{share:g} x 80 GB's",
                num_requests=count,
                rate=60,
                pool_blocks=blocks,
                shorten=shorten,
            )
    elif study == "chunks":
        policies = [
            (8192, 0.0),
            (2048, 0.0),
            (512, 0.0),
            (8192, 50.0),
            (8192, 20.0),
            (8192, 12.0),
            (8192, 8.0),
        ]
        for tokens, target in policies:
            name = f"target {target:g} ms" if target else f"{tokens} tokens a step"
            yield Case(
                study=study,
                name=name,
                num_requests=count // 4,
                rate=8,
                max_num_batched_tokens=tokens,
                itl_target_ms=target,
                shorten=1,
                long_every=50,
            )
    elif study == "replicas":
        for replicas in (1, 2, 4, 8):
            for aware in (False, True) if replicas > 1 else (True,):
                yield Case(
                    study=study,
                    name=f"{replicas}, {'cache-aware' if aware else 'in turn'}",
                    num_requests=count // 2 * replicas,
                    rate=60,
                    num_replicas=replicas,
                    cache_aware=aware,
                    shorten=shorten,
                )
    else:
        yield Case(
            study=study,
            name="1,000,000 requests, 8 replicas, cache-aware",
            num_requests=1_000_000,
            rate=70,
            num_replicas=8,
            block_size=64,
            shorten=4 * shorten,
        )


def run(case: Case, lengths: Sequence[tuple[int, int]]) -> Figures:
    """One run."""
    scheduler = SchedulerConfig(
        max_num_seqs=min(1024, case.max_num_batched_tokens),
        max_num_batched_tokens=case.max_num_batched_tokens,
        max_model_len=131_072,
        itl_target_s=case.itl_target_ms / 1000 or None,
    )
    blocks = case.pool_blocks or _POOL_BLOCKS[case.model] * 16 // case.block_size
    cache = CacheConfig(blocks, case.block_size)
    device = H100[case.model]
    replicas = [Replica(scheduler, cache, device.seconds) for _ in range(case.num_replicas)]
    trace = Trace(
        lengths=lengths,
        num_requests=case.num_requests,
        rate=case.rate * case.num_replicas,
        shorten=case.shorten,
        long_every=case.long_every,
    )
    return simulate(replicas, CacheAware() if case.cache_aware else RoundRobin(), trace)


_COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("out tok/s", lambda f: f"{f.tokens_per_s:,.0f}"),
    ("TTFT p50 / p99 ms", lambda f: f"{f.ttft_p50_s * 1000:,.0f} / {f.ttft_p99_s * 1000:,.0f}"),
    (
        "ITL p50 / p99 / p99.9 ms",
        lambda f: " / ".join(f"{s * 1000:.1f}" for s in (f.itl_p50_s, f.itl_p99_s, f.itl_p999_s)),
    ),
    ("prefix hits", lambda f: f"{f.hit_rate:.1%}"),
    ("preempted", lambda f: f"{f.preemptions:,}"),
    ("device busy", lambda f: f"{f.device_busy:.0%}"),
    ("took s", lambda f: f"{f.took_s:,.0f}"),
)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="+", choices=["pool", "chunks", "replicas", "million"])
    parser.add_argument("--requests", type=int, default=10_000, help="of a run, default 10000")
    parser.add_argument("--shorten", type=int, default=8, help="divides the length of answers, default 8")
    parser.add_argument("--json", type=Path, help="write cases and figures here")
    parser.add_argument("--plot", type=Path, help="draw them into this file (needs matplotlib)")
    options = parser.parse_args()
    lengths = [(asked, answered) for asked, answered in json.loads(LENGTHS.read_text())]
    results: dict[str, list[dict[str, Any]]] = {}
    for study in options.studies:
        print(f"\n| {study} | " + " | ".join(name for name, _ in _COLUMNS) + " |")
        print("|---" * (len(_COLUMNS) + 1) + "|")
        for case in cases(study, options):
            figures = run(case, lengths)
            cells = (show(figures) for _, show in _COLUMNS)
            print(f"| {case.name} | " + " | ".join(cells) + " |", flush=True)
            row = {"name": case.name, "pool_blocks": case.pool_blocks, "num_replicas": case.num_replicas}
            results.setdefault(study, []).append(row | figures.as_json())
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.plot:
        draw(results, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())

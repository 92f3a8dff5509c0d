"""octavo's scheduler and cache in simulated time: what pool size, chunk policy and routing are worth.

    python loadtest/simulate.py pool chunks replicas --json runs.json --plot simulated.png
    python loadtest/simulate.py million --processes 2
    python loadtest/simulate.py served places graphs

The device is a formula with the constants of one H100 (simulation/device.py), requests are conversations with
ShareGPT's lengths (simulation/trace.py) or the loads of the table 'Served' (simulation/served.py); plans,
blocks, prefix cache and chunk sizes are octavo's own code. Time is the formula's: a run takes what the
scheduler takes, about half a millisecond a request. To keep it there, conversations but for `chunks` have
answers shorter by `--shorten`; prompts keep their length, so the mix is heavier in prompts than it would be,
and throughput is not to be compared with anything outside the study.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from simulation.fleet import Figures
from simulation.plots import draw
from simulation.served import ServedFigures
from simulation.studies import STUDIES, Case, ServedCase, cases

LENGTHS = Path(__file__).parent.parent / "tests" / "data" / "sharegpt_lengths.json"
Column = tuple[str, Callable[[Any], str]]


def _ms(*names: str) -> Callable[[Any], str]:
    return lambda figures: " / ".join(f"{getattr(figures, f'{name}_s') * 1000:,.1f}" for name in names)


_USUAL: tuple[Column, ...] = (
    ("out tok/s", lambda f: f"{f.tokens_per_s:,.0f}"),
    ("TTFT p50 / p99 ms", _ms("ttft_p50", "ttft_p99")),
)
_CONVERSATIONS: tuple[Column, ...] = (
    *_USUAL,
    ("ITL p50 / p99 / p99.9 ms", _ms("itl_p50", "itl_p99", "itl_p999")),
    ("prefix hits", lambda f: f"{f.hit_rate:.1%}"),
    ("preempted", lambda f: f"{f.preemptions:,}"),
    ("device busy", lambda f: f"{f.device_busy:.0%}"),
)
_SERVED: tuple[Column, ...] = (
    *_USUAL,
    ("TPOT p50 ms", _ms("tpot_p50")),
    ("ITL p50 / p99 / worst ms", _ms("itl_p50", "itl_p99", "itl_max")),
    ("preempted", lambda f: f"{f.preemptions:,}"),
)


def run(case: Case | ServedCase, lengths: list[tuple[int, int]]) -> tuple[Figures | ServedFigures, float]:
    """One run, and the processor time that it took. A long one says on the way how far it is."""
    began_s, began_wall_s = time.process_time(), time.perf_counter()

    def progress(num_requests: int, now_s: float, hit_rate: float) -> None:
        took_s, wall_s = time.process_time() - began_s, time.perf_counter() - began_wall_s
        print(
            f"{case.name}: {num_requests:,} of {case.num_requests:,} requests, {now_s:,.0f} s simulated, "
            f"{hit_rate:.1%} prefix hits, {took_s:,.0f} s of a processor in {wall_s:,.0f} s",
            file=sys.stderr,
            flush=True,
        )

    figures = case.run(lengths, progress) if isinstance(case, Case) else case.run(lengths)
    return figures, time.process_time() - began_s


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument(
        "--requests", type=int, help="of a run of pool, chunks and replicas (default 10000), or of million"
    )
    parser.add_argument("--shorten", type=int, default=8, help="divides the length of answers, default 8")
    parser.add_argument("--processes", type=int, default=1, help="runs at the same time, default 1")
    parser.add_argument("--json", type=Path, help="write cases and figures here")
    parser.add_argument("--plot", type=Path, help="draw them into this file (needs matplotlib)")
    options = parser.parse_args()
    lengths = [(asked, answered) for asked, answered in json.loads(LENGTHS.read_text())]
    results: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        for study in options.studies:
            wanted = list(cases(study, options.requests, options.shorten))
            columns = _CONVERSATIONS if isinstance(wanted[0], Case) else _SERVED
            print(f"\n| {study} | " + " | ".join(name for name, _ in columns) + " | took s |")
            print("|---" * (len(columns) + 2) + "|")
            for case, (figures, took_s) in zip(
                wanted, pool.map(partial(run, lengths=lengths), wanted), strict=True
            ):
                cells = " | ".join(show(figures) for _, show in columns)
                print(f"| {case.name} | {cells} | {took_s:,.0f} |", flush=True)
                row: dict[str, Any] = {"name": case.name, "took_s": took_s}
                if isinstance(case, Case):
                    row |= {"pool_blocks": case.pool_blocks, "num_replicas": case.num_replicas}
                results.setdefault(study, []).append(row | figures.as_json())
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.plot:
        draw(results, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())

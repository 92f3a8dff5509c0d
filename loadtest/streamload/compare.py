"""Two servers under the same load, in turn, round after round: figures beside each other, and their ratios.

In turn and not at once, because servers that share a machine would slow each other; whoever begins a round
ends the next, so that what else the machine does meets both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .fleet import Load, Run, run
from .measure import Figures, Objectives, measure

FIGURES: dict[str, Callable[[Figures], float | None]] = {
    "output tok/s": lambda f: f.output_tok_s,
    "events/s": lambda f: f.events_s,
    "goodput requests/s": lambda f: f.goodput_s,
    "TTFT p50 ms": lambda f: f.ttft_ms.p50,
    "TTFT p99 ms": lambda f: f.ttft_ms.p99,
    "TPOT p50 ms": lambda f: f.tpot_ms.p50,
    "ITL p50 ms": lambda f: f.itl_ms.p50,
    "ITL p99 ms": lambda f: f.itl_ms.p99,
    "ITL max ms": lambda f: f.itl_ms.max,
    "E2E p50 ms": lambda f: f.e2e_ms.p50,
    "requests that failed": lambda f: float(f.requests - f.outcomes.get("ok", 0)),
}


@dataclass(frozen=True)
class Comparison:
    """rounds: figures of A and of B.   last_runs, last_figures: of the last round, by label."""

    labels: tuple[str, str]
    rounds: list[tuple[Figures, Figures]]
    last_runs: dict[str, Run]

    @property
    def last_figures(self) -> dict[str, Figures]:
        return dict(zip(self.labels, self.rounds[-1], strict=True))

    def rows(self) -> dict[str, tuple[list[float], list[float], list[float]]]:
        """By figure: A's values, B's values and the ratios A / B, round by round, where both are known."""
        found = {}
        for name, value in FIGURES.items():
            pairs = [(value(a), value(b)) for a, b in self.rounds]
            known = [(a, b) for a, b in pairs if a is not None and b is not None]
            if known:
                ratios = [a / b for a, b in known if b]
                found[name] = ([a for a, _ in known], [b for _, b in known], ratios)
        return found

    def table(self) -> list[list[str]]:
        """Medians, the median ratio and its spread."""
        lines = [["median of rounds", *self.labels, "A / B", "from", "to"]]
        for name, (ours, theirs, ratios) in self.rows().items():
            shown = [f"{statistics.median(values):,.1f}" for values in (ours, theirs)]
            spread = (statistics.median(ratios), min(ratios), max(ratios)) if ratios else ()
            lines.append([name, *shown, *(f"{r:.2f}" for r in spread), *["-"] * (3 - len(spread))])
        return lines

    def as_json(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "rounds": [[figures.as_json() for figures in pair] for pair in self.rounds],
            "ratios": {name: ratios for name, (_, _, ratios) in self.rows().items()},
        }


def compare(
    urls: Sequence[str],
    build: Callable[[str, int], Load],
    num_rounds: int,
    seed: int,
    objectives: Objectives,
) -> Comparison:
    """Both servers get the same requests in a round, new ones in the next.   build: (url, seed) -> load."""
    labels = (f"A {urls[0]}", f"B {urls[1]}")
    rounds: list[tuple[Figures, Figures]] = []
    last: dict[str, Run] = {}
    for number in range(num_rounds):
        for index in (0, 1) if number % 2 == 0 else (1, 0):
            last[labels[index]] = run(build(urls[index], seed + number))
        a, b = (measure(last[label].streams, objectives) for label in labels)
        rounds.append((a, b))
    return Comparison(labels, rounds, {label: last[label] for label in labels})

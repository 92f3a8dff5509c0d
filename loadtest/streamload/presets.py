"""The loads of the table 'Served' in docs/performance.md, with the figures to reach. Knows no server.

The columns vLLM, must and aim are for one H100 80 GB; `small` is for two CPU cores and a tiny model,
`wide` for the same with the demo's vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from .arrivals import Arrivals
from .ask import Ask
from .measure import Figures
from .prompts import MakePrompt
from .sharegpt import lengths
from .workload import Length, Style, made_up, scheduled

Groups = Mapping[str, Figures]
Build = Callable[[MakePrompt, Style, random.Random], list[Ask]]


@dataclass(frozen=True)
class Goal:
    """A figure and its lines to reach; None where nothing is set.   less: whether less is better."""

    name: str
    value: Callable[[Groups], float | None]
    vllm: str = "-"
    must: float | None = None
    aim: float | None = None
    less: bool = True


@dataclass(frozen=True)
class PresetLoad:
    """One run.   max_open: open streams of all clients; None is an open loop."""

    title: str
    clients: int
    max_open: int | None
    build: Build
    goals: tuple[Goal, ...]


@dataclass(frozen=True)
class Preset:
    """Loads by their short names, flags that the server needs for them, and seconds to be ready in.

    vocab_size: of the tiny model, where there is no other.   share: what part of the tokens a second that
    matrix products and argmax alone allow on a CPU the events of `rows` streams must reach.
    """

    loads: Mapping[str, PresetLoad]
    ready: Goal
    flags: tuple[str, ...] = ()
    vocab_size: int | None = None
    share: Goal | None = None
    rows: int = 256


def _asks(wanted: list[Length], arrivals: Arrivals | None = None) -> Build:
    def build(make: MakePrompt, style: Style, rng: random.Random) -> list[Ask]:
        return scheduled(made_up(wanted, make, style, rng), arrivals or Arrivals(), rng)

    return build


def _injected(steady: list[Length], long: Length, at_s: float) -> Build:
    def build(make: MakePrompt, style: Style, rng: random.Random) -> list[Ask]:
        (one,) = made_up([long], make, style, rng)
        return [*made_up(steady, make, style, rng), replace(one, due_s=at_s, group="long")]

    return build


def _all(figure: Callable[[Figures], float | None]) -> Callable[[Groups], float | None]:
    return lambda groups: figure(groups["all"])


def _in_s(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _throughput(vllm: str, must: float, aim: float) -> Goal:
    return Goal("out tok/s", _all(lambda f: f.output_tok_s), vllm, must, aim, less=False)


def _failed(groups: Groups) -> float:
    """Requests that did not end well, or not as they should."""
    wrong = [
        (f.delivery.wrong_length, f.delivery.mixed, f.delivery.more_events_than_tokens)
        for f in groups.values()
    ]
    failed = sum(f.requests - f.outcomes.get("ok", 0) for f in groups.values())
    return failed + sum(map(sum, wrong))


_FAILED = Goal("answers not whole", _failed, must=0, aim=0)
_BURSTS = Goal("events in one burst", _all(lambda f: f.delivery.burst_events), "half the clients", 0, 0)


def _ms(name: str, figure: Callable[[Figures], float | None], vllm: str, must: float, aim: float) -> Goal:
    return Goal(name, _all(figure), vllm, must, aim)


_QWEN = {
    "504": PresetLoad(
        "504 streams", 6, 504, _asks(lengths(1500)), (_throughput("13,100", 24000, 32000), _FAILED)
    ),
    "64": PresetLoad(
        "64 streams", 1, 64, _asks(lengths(1000)), (_throughput("10,400", 17000, 22000), _FAILED)
    ),
    "rate": PresetLoad(
        "40 req/s",
        2,
        None,
        _asks(lengths(1000), Arrivals(40)),
        (
            _ms("TTFT p50 ms", lambda f: f.ttft_ms.p50, "43", 20, 12),
            _ms("TTFT p99 ms", lambda f: f.ttft_ms.p99, "132", 60, 40),
            _ms("TPOT p50 ms", lambda f: f.tpot_ms.p50, "4.5", 2.6, 2.1),
            _FAILED,
        ),
    ),
    "4096": PresetLoad(
        "4,096 streams",
        8,
        None,
        _asks(lengths(4096)),
        (
            _throughput("13,100", 28000, 45000),
            _ms("TTFT p50 s", lambda f: _in_s(f.ttft_ms.p50), "1.6-56", 6, 4),
            _ms("TTFT p99 s", lambda f: _in_s(f.ttft_ms.p99), "63", 12, 8),
            _BURSTS,
            _FAILED,
        ),
    ),
}
_LLAMA = {
    "504": PresetLoad(
        "504 streams", 6, 504, _asks(lengths(1500)), (_throughput("10,500", 10500, 11500), _FAILED)
    ),
    "rate": PresetLoad(
        "10 req/s",
        1,
        None,
        _asks(lengths(400), Arrivals(10)),
        (
            _ms("TTFT p50 ms", lambda f: f.ttft_ms.p50, "28", 22, 16),
            _ms("TPOT p50 ms", lambda f: f.tpot_ms.p50, "7.3", 6.8, 6.4),
            _ms("ITL p99 ms", lambda f: f.itl_ms.p99, "22", 14, 9),
            _FAILED,
        ),
    ),
    "long": PresetLoad(
        "32 streams + 100,000",
        2,
        None,
        _injected([(300, 600)] * 32, (100_000, 16), 2.0),
        (
            _ms("ITL p99 ms", lambda f: f.itl_ms.p99, "660", 50, 30),
            _ms("ITL max ms", lambda f: f.itl_ms.max, "1005", 90, 50),
            Goal("long TTFT s", lambda groups: _in_s(groups["long"].ttft_ms.p50), "8.0", 12, 9),
            _FAILED,
        ),
    ),
}
_SMALL = {
    "256": PresetLoad(
        "256 streams",
        2,
        256,
        _asks([(32, 128)] * 768),
        (Goal("SSE events/s", _all(lambda f: f.events_s), must=6000, less=False), _FAILED),
    ),
    "4096": PresetLoad(
        "4,096 streams",
        8,
        None,
        _asks([(16, 32)] * 4096),
        (
            Goal("SSE events/s", _all(lambda f: f.events_s), less=False),
            Goal("TTFT p50 s", _all(lambda f: _in_s(f.ttft_ms.p50))),
            Goal("TTFT p99 s", _all(lambda f: _in_s(f.ttft_ms.p99))),
            _BURSTS,
            _FAILED,
        ),
    ),
    "rate": PresetLoad(
        "10 req/s",
        1,
        None,
        _asks([(64, 64)] * 100, Arrivals(10)),
        (
            Goal("TTFT p50 ms", _all(lambda f: f.ttft_ms.p50)),
            Goal("TPOT p50 ms", _all(lambda f: f.tpot_ms.p50)),
            _FAILED,
        ),
    ),
    "long": PresetLoad(
        "32 streams + 8,000",
        2,
        None,
        _injected([(64, 1000)] * 32, (8000, 16), 2.0),
        (
            Goal("ITL p99 ms", _all(lambda f: f.itl_ms.p99)),
            Goal("ITL max ms", _all(lambda f: f.itl_ms.max)),
            Goal("long TTFT s", lambda groups: _in_s(groups["long"].ttft_ms.p50)),
            _FAILED,
        ),
    ),
}


def _ready(vllm: str, must: float | None, aim: float | None) -> Goal:
    return Goal("command to ready s", lambda groups: None, vllm, must, aim)


_SMALL_FLAGS = ("--max-num-seqs", "256", "--max-model-len", "16384", "--kv-cache-memory-bytes", "512MiB")
_WIDE = {
    "256": replace(
        _SMALL["256"], goals=(Goal("SSE events/s", _all(lambda f: f.events_s), less=False), _FAILED)
    )
}
PRESETS = {
    "qwen": Preset(_QWEN, _ready("111-134", 25, 12)),
    "llama": Preset(_LLAMA, _ready("111-134", 25, 12)),
    "small": Preset(_SMALL, _ready("-", None, None), _SMALL_FLAGS, vocab_size=2000),
    "wide": Preset(
        _WIDE,
        _ready("-", None, None),
        _SMALL_FLAGS,
        vocab_size=49_152,
        share=Goal("share of what products and argmax allow", lambda groups: None, must=0.6, less=False),
    ),
}

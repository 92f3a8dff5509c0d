"""For every alert: numbers of a server for which it must fire, and of one for which it must not.

Series are written as promtool's rule tests want them, a value every 15 seconds.
"""

from __future__ import annotations

from typing import NamedTuple

_LENGTH = 240
AT = "59m"
"""When the alerts are looked at."""


class Case(NamedTuple):
    """Series -> values."""

    ill: dict[str, str]
    well: dict[str, str]


def _name(metric: str, **labels: str) -> str:
    pairs = {"instance": "a", "job": "octavo", **labels}
    return f"{metric}{{{','.join(f'{name}={value!r}' for name, value in pairs.items())}}}".replace("'", '"')


def _rising(by: float) -> str:
    return f"0+{by:g}x{_LENGTH}"


def _steady(value: float) -> str:
    return f"{value:g}+0x{_LENGTH}"


def _two_counters(metric: str, label: str, ill: str, well: str, share: float) -> Case:
    """A share of `metric` has the label's value `ill`, or hardly any; the rest has `well`."""

    def series(share: float) -> dict[str, str]:
        return {
            _name(metric, **{label: ill}): _rising(1000 * share),
            _name(metric, **{label: well}): _rising(1000 * (1 - share)),
        }

    return Case(series(share), series(0.001))


def _slow(metric: str, bound: float) -> Case:
    """A tenth of the observations lies above `bound` seconds, or all below."""

    def series(share: float) -> dict[str, str]:
        return {
            _name(f"{metric}_bucket", le=f"{bound / 100:g}"): _rising(1000 * (1 - share)),
            _name(f"{metric}_bucket", le=f"{bound:g}"): _rising(1000 * (1 - share)),
            _name(f"{metric}_bucket", le=f"{4 * bound:g}"): _rising(1000),
            _name(f"{metric}_bucket", le="+Inf"): _rising(1000),
        }

    return Case(series(0.1), series(0.0))


def _gauge(metric: str, ill: float, well: float) -> Case:
    return Case({_name(metric): _steady(ill)}, {_name(metric): _steady(well)})


def _events(metric: str, per_step: float, **labels: str) -> Case:
    return Case({_name(metric, **labels): _rising(per_step)}, {_name(metric, **labels): _steady(7)})


def _ratio(numerator: str, denominators: dict[str, str], share: float) -> Case:
    return Case({numerator: _rising(1000 * share), **denominators}, {numerator: _rising(0.1), **denominators})


_BUSY = {
    _name("octavo_engine_requests_running"): _steady(1),
    _name("octavo_engine_requests_waiting"): _steady(0),
}
_RESPONSES = "octavo_http_responses_total"
_GRAPHS = "octavo_graph_steps_total"
_COMPLETIONS = "/v1/completions"

CASES = {
    "OctavoDown": _gauge("up", 0, 1),
    "OctavoStuck": Case(
        {**_BUSY, _name("octavo_engine_steps_total"): _steady(99)},
        {**_BUSY, _name("octavo_engine_steps_total"): _rising(1)},
    ),
    "OctavoFails": _two_counters("octavo_requests_total", "cause", "error", "stop", 0.05),
    "OctavoRefuses": Case(
        {
            _name(_RESPONSES, route=_COMPLETIONS, status="503"): _rising(10),
            _name(_RESPONSES, route=_COMPLETIONS, status="200"): _rising(90),
        },
        {
            _name(_RESPONSES, route="/readyz", status="503"): _rising(10),  # a probe that waits is no client
            _name(_RESPONSES, route=_COMPLETIONS, status="200"): _rising(90),
        },
    ),
    "OctavoQueueLong": _gauge("octavo_engine_oldest_waiting_seconds", 45, 2),
    "OctavoFirstTokenLate": _slow("octavo_time_to_first_token_seconds", 10),
    "OctavoStreamsStutter": _slow("octavo_inter_token_latency_seconds", 0.5),
    "OctavoDeadlines": _two_counters("octavo_requests_total", "cause", "deadline", "stop", 0.2),
    "OctavoClientsLeave": _two_counters("octavo_requests_total", "cause", "disconnect", "stop", 0.5),
    "OctavoPreempts": _ratio(
        _name("octavo_preemptions_total"), {_name("octavo_requests_total", cause="stop"): _rising(1000)}, 0.5
    ),
    "OctavoWastes": _ratio(
        _name("octavo_wasted_tokens_total", cause="abort"),
        {
            _name("octavo_prompt_tokens_total"): _rising(500),
            _name("octavo_generation_tokens_total"): _rising(500),
        },
        0.5,
    ),
    "OctavoNotFinite": _events("octavo_corrupted_requests_total", 1),
    "OctavoMissesGraphs": Case(
        {
            _name(_GRAPHS, kind="decode", result="hit"): _rising(50),
            _name(_GRAPHS, kind="decode", result="miss"): _rising(50),
        },
        {  # a CPU has no graphs
            _name(_GRAPHS, kind="decode", result="hit"): _steady(0),
            _name(_GRAPHS, kind="decode", result="miss"): _rising(50),
        },
    ),
    "OctavoFreesLate": _slow("octavo_abort_to_free_seconds", 1),
    "OctavoLoopLags": _slow("octavo_event_loop_lag_seconds", 0.1),
    "OctavoEngineLoopLags": _slow("octavo_engine_event_loop_lag_seconds", 0.1),
    "OctavoFrontendLost": _events("octavo_frontends_lost_total", 0.02, cause="died"),
    "OctavoSlowReaders": _events("octavo_slow_readers_total", 1),
    "OctavoMemoryGrows": Case(
        {
            _name("process_resident_memory_bytes"): _rising(2e6),
            _name("process_start_time_seconds"): _steady(-20000),
        },
        {  # it was started a while ago, and fills its caches
            _name("process_resident_memory_bytes"): _rising(2e6),
            _name("process_start_time_seconds"): _steady(0),
        },
    ),
}

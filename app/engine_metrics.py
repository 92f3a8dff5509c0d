"""The engine's numbers as metric families, under octavo's names and under vLLM's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..scheduler.stats import EngineStats
from .metrics_state import FrontendCounts


def engine_families(stats: EngineStats, model_name: str) -> Iterator[Metric]:
    """The engine's gauges and counters, under octavo's names and under vLLM's."""
    counters = stats.counters
    gauges = {
        "engine_requests_running": ("Requests in the batch.", stats.num_running),
        "engine_requests_waiting": ("Requests in the queue.", stats.num_waiting),
        "kv_blocks": ("KV cache blocks.", stats.num_blocks),
        "kv_blocks_free": ("KV cache blocks that hold nothing.", stats.num_free_blocks),
        "kv_blocks_evictable": ("KV cache blocks kept for their prefix only.", stats.num_evictable_blocks),
        "kv_usage_ratio": ("Share of KV cache blocks that sequences hold.", stats.kv_usage),
        "kv_waste_ratio": ("Share of room in held KV cache blocks that is not filled.", stats.kv_waste),
        "engine_last_step_seconds": ("Duration of the last step.", stats.last_step_s),
    }
    totals = {
        "engine_steps": ("Steps.", counters.num_steps),
        "prompt_tokens": ("Prompt tokens admitted, cached ones included.", counters.prompt_tokens),
        "generation_tokens": ("Tokens generated.", counters.generation_tokens),
        "preemptions": ("Sequences put back to make room.", counters.num_preemptions),
        "recomputed_tokens": ("Positions computed again after preemption.", counters.recomputed_tokens),
        "surplus_tokens": ("Tokens sampled for sequences that had ended.", counters.surplus_tokens),
        "prefix_cache_query_tokens": ("Prompt tokens looked up.", counters.prefix_query_tokens),
        "prefix_cache_hit_tokens": ("Prompt tokens found.", counters.prefix_hit_tokens),
    }
    for name, (help, value) in gauges.items():
        yield GaugeMetricFamily(f"octavo_{name}", help, value)
    for name, (help, total) in totals.items():
        yield CounterMetricFamily(f"octavo_{name}", help, total)
    label = ((model_name,), ("model_name",))
    for alias, name in (
        ("num_requests_running", "engine_requests_running"),
        ("num_requests_waiting", "engine_requests_waiting"),
        ("kv_cache_usage_perc", "kv_usage_ratio"),
    ):
        gauge = GaugeMetricFamily(f"vllm:{alias}", gauges[name][0], labels=label[1])
        gauge.add_metric(label[0], gauges[name][1])
        yield gauge
    for alias, name in (
        ("prompt_tokens", "prompt_tokens"),
        ("generation_tokens", "generation_tokens"),
        ("num_preemptions", "preemptions"),
        ("prefix_cache_queries", "prefix_cache_query_tokens"),
        ("prefix_cache_hits", "prefix_cache_hit_tokens"),
    ):
        counter = CounterMetricFamily(f"vllm:{alias}", totals[name][0], labels=label[1])
        counter.add_metric(label[0], totals[name][1])
        yield counter


def memory_family(memory_bytes: Mapping[str, int]) -> Metric:
    """The device's memory as it was divided, by what holds it; `total` is left out, since sums give it."""
    family = GaugeMetricFamily(
        "octavo_memory_bytes", "Device memory as it was divided at the start.", labels=("kind",)
    )
    for name, size in memory_bytes.items():
        if name != "total":
            family.add_metric((name.lower().replace(" ", "_"),), size)
    return family


def frontend_families(counts: FrontendCounts) -> Iterator[Metric]:
    """The front-end processes."""
    yield GaugeMetricFamily("octavo_frontends", "Front-end processes that serve.", counts.num_running)
    lost = CounterMetricFamily(
        "octavo_frontends_lost", "Front-end processes that died or were dropped.", labels=("cause",)
    )
    for cause, count in counts.lost.items():
        lost.add_metric((cause,), count)
    yield lost

"""The engine's numbers as metric families, under octavo's names and under vLLM's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..scheduler.stats import EngineStats
from .histogram import histogram_family
from .metrics_state import FrontendCounts

_MODEL = ("model_name",)


def engine_families(stats: EngineStats, model_name: str) -> Iterator[Metric]:
    """The engine's numbers: gauges of this moment, counters and distributions since the start."""
    yield from _gauges(stats)
    yield from _counters(stats)
    yield from _distributions(stats)
    yield from _vllm(stats, (model_name,))


def _gauges(stats: EngineStats) -> Iterator[Metric]:
    for name, help, value in (
        ("engine_requests_running", "Requests in the batch.", stats.num_running),
        ("engine_requests_waiting", "Requests in the queue.", stats.num_waiting),
        ("engine_oldest_waiting_seconds", "Since the first in the queue arrived.", stats.oldest_waiting_s),
        ("engine_last_step_seconds", "From the end of the step before to the last's.", stats.last_step_s),
        ("kv_blocks", "KV cache blocks.", stats.num_blocks),
        ("kv_blocks_free", "KV cache blocks that hold nothing.", stats.num_free_blocks),
        ("kv_blocks_evictable", "KV cache blocks kept for their prefix only.", stats.num_evictable_blocks),
        ("kv_usage_ratio", "Share of KV cache blocks that sequences hold.", stats.kv_usage),
        ("kv_waste_ratio", "Share of room in held KV cache blocks that is not filled.", stats.kv_waste),
    ):
        yield GaugeMetricFamily(f"octavo_{name}", help, value)


def _counters(stats: EngineStats) -> Iterator[Metric]:
    counters, graphs = stats.counters, stats.graphs
    for name, help, total in (
        ("engine_steps", "Steps.", counters.num_steps),
        ("prompt_tokens", "Prompt tokens admitted, cached ones included.", counters.prompt_tokens),
        ("generation_tokens", "Tokens generated.", counters.generation_tokens),
        ("preemptions", "Sequences put back to make room.", counters.num_preemptions),
        ("corrupted_requests", "Requests whose logits were not finite.", counters.num_corrupted),
        ("prefix_cache_query_tokens", "Prompt tokens looked up.", counters.prefix_query_tokens),
        ("prefix_cache_hit_tokens", "Prompt tokens found.", counters.prefix_hit_tokens),
    ):
        yield CounterMetricFamily(f"octavo_{name}", help, total)
    yield _labelled(
        "octavo_wasted_tokens",
        "Positions computed in vain: again after preemption, past an end, or for a request then aborted.",
        ("cause",),
        [
            (("preemption",), counters.recomputed_tokens),
            (("surplus",), counters.surplus_tokens),
            (("abort",), counters.aborted_tokens),
        ],
    )
    yield _labelled(
        "octavo_expired_requests",
        "Requests that ran out of time, by where they were: none that was waiting is computed any further.",
        ("state",),
        [(("waiting",), counters.num_expired_waiting), (("running",), counters.num_expired_running)],
    )
    yield _labelled(
        "octavo_graph_steps",
        "Steps by kind, and by whether a CUDA graph was replayed (hit) or kernels were launched (miss).",
        ("kind", "result"),
        [
            *(((kind, "hit"), count) for kind, count in graphs.replayed.items()),
            *(((kind, "miss"), count) for kind, count in graphs.launched.items()),
        ],
    )


def _distributions(stats: EngineStats) -> Iterator[Metric]:
    steps = stats.steps
    yield histogram_family(
        "octavo_step_phase_seconds",
        "Where a step's time goes in the engine's loop.",
        ("phase",),
        (((phase,), seconds) for phase, seconds in steps.phases.items()),
    )
    for name, help, distribution in (
        ("step_seconds", "From one step's end to the next's, while steps follow each other.", steps.step_s),
        ("step_tokens", "Tokens of a step, of prompts and decodes.", steps.tokens),
        ("step_prompt_tokens", "Prompt tokens of a step that carries any.", steps.prompt_tokens),
        ("step_sequences", "Sequences in a step.", steps.rows),
        (
            "abort_to_free_seconds",
            "From a running request's abort until its slot and blocks are free.",
            stats.counters.abort_to_free_s,
        ),
    ):
        yield histogram_family(f"octavo_{name}", help, (), [((), distribution)])


def _vllm(stats: EngineStats, model: tuple[str]) -> Iterator[Metric]:
    counters = stats.counters
    for name, help, value in (
        ("num_requests_running", "Requests in the batch.", stats.num_running),
        ("num_requests_waiting", "Requests in the queue.", stats.num_waiting),
        ("kv_cache_usage_perc", "Share of KV cache blocks that sequences hold.", stats.kv_usage),
    ):
        gauge = GaugeMetricFamily(f"vllm:{name}", help, labels=_MODEL)
        gauge.add_metric(model, value)
        yield gauge
    reasons = GaugeMetricFamily(
        "vllm:num_requests_waiting_by_reason", "Requests in the queue.", labels=("model_name", "reason")
    )
    reasons.add_metric((*model, "capacity"), stats.num_waiting)
    reasons.add_metric((*model, "deferred"), 0)
    yield reasons
    cache = GaugeMetricFamily(
        "vllm:cache_config_info", "The KV cache.", labels=(*_MODEL, "block_size", "num_gpu_blocks")
    )
    cache.add_metric((*model, str(stats.block_size), str(stats.num_blocks)), 1)
    yield cache
    for name, help, total in (
        ("prompt_tokens", "Prompt tokens.", counters.prompt_tokens),
        ("prompt_tokens_cached", "Prompt tokens found in the cache.", counters.prefix_hit_tokens),
        ("generation_tokens", "Tokens generated.", counters.generation_tokens),
        ("num_preemptions", "Sequences put back to make room.", counters.num_preemptions),
        ("corrupted_requests", "Requests whose logits were not finite.", counters.num_corrupted),
        ("prefix_cache_queries", "Prompt tokens looked up.", counters.prefix_query_tokens),
        ("prefix_cache_hits", "Prompt tokens found.", counters.prefix_hit_tokens),
    ):
        yield _labelled(f"vllm:{name}", help, _MODEL, [(model, total)])
    yield _labelled(
        "vllm:prompt_tokens_by_source",
        "Prompt tokens by where their keys and values came from.",
        ("model_name", "source"),
        [
            ((*model, "local_compute"), max(0, counters.prompt_tokens - counters.prefix_hit_tokens)),
            ((*model, "local_cache_hit"), counters.prefix_hit_tokens),
        ],
    )
    yield histogram_family(
        "vllm:iteration_tokens_total", "Tokens of a step.", _MODEL, [(model, stats.steps.tokens)]
    )


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
    """The front-end processes, and the loop of the engine that they share."""
    yield GaugeMetricFamily("octavo_frontends", "Front-end processes that serve.", counts.num_running)
    yield _labelled(
        "octavo_frontends_lost",
        "Front-end processes that died or were dropped.",
        ("cause",),
        (((cause,), count) for cause, count in counts.lost.items()),
    )
    yield histogram_family(
        "octavo_engine_event_loop_lag_seconds",
        "How late the engine's loop woke a timer.",
        (),
        [((), counts.engine_lag_s)],
    )


def _labelled(
    name: str, help: str, labels: Sequence[str], members: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    family = CounterMetricFamily(name, help, labels=labels)
    for values, total in members:
        family.add_metric(values, total)
    return family

"""The engine's numbers under octavo's names and under vLLM's."""

from __future__ import annotations

import pytest
from test_metrics import value

from octavo.app.metrics import ServerMetrics
from octavo.app.metrics_state import FrontendCounts
from octavo.cache.ledger import MemoryLedger
from octavo.model.plan import GraphCounts
from octavo.scheduler.stats import Counters, EngineStats


def stats() -> EngineStats:
    counters = Counters(num_preemptions=4, prefix_query_tokens=90, prefix_hit_tokens=60)
    return EngineStats(0, 0, 10, 10, 0, 0.0, 0.0, counters)


@pytest.mark.parametrize(
    ("name", "count"), [("num_preemptions", 4), ("prefix_cache_queries", 90), ("prefix_cache_hits", 60)]
)
def test_counters_that_dashboards_of_vllm_read(name: str, count: int) -> None:
    assert value(ServerMetrics("toy", "1.2", stats), f"vllm:{name}_total", model_name="toy") == count


def test_waste_graphs_and_phases_have_labels() -> None:
    counters = Counters(recomputed_tokens=3, surplus_tokens=4, aborted_tokens=5)
    graphs = GraphCounts({"decode": 7}, {"decode": 1, "mixed": 2})
    moment = EngineStats(0, 0, 10, 10, 0, 0.0, 0.0, counters, graphs=graphs)
    moment.steps.completed(step_s=1.0, wait_s=0.5, commit_s=0.25, deliver_s=0.125)
    moment.steps.settle()
    metrics = ServerMetrics("toy", "1.2", lambda: moment)
    wasted = [
        value(metrics, "octavo_wasted_tokens_total", cause=cause)
        for cause in ("preemption", "surplus", "abort")
    ]
    assert wasted == [3, 4, 5]
    assert value(metrics, "octavo_graph_steps_total", kind="decode", result="hit") == 7
    assert value(metrics, "octavo_graph_steps_total", kind="mixed", result="miss") == 2
    assert value(metrics, "octavo_step_phase_seconds_sum", phase="commit") == 0.25
    assert value(metrics, "octavo_step_phase_seconds_count", phase="schedule") == 0


def test_an_engine_behind_front_ends_tells_of_its_own_loop() -> None:
    counts = FrontendCounts(num_running=2)
    counts.engine_lag_s.observe(0.5)
    metrics = ServerMetrics("toy", "1.2", stats, counts)
    assert value(metrics, "octavo_engine_event_loop_lag_seconds_sum") == 0.5


def test_memory_by_what_holds_it_adds_up_to_the_devices() -> None:
    ledger = MemoryLedger(
        total_bytes=1000,
        weights_bytes=300,
        activations_bytes=100,
        graphs_bytes=0,
        num_blocks=5,
        block_bytes=50,
        block_size=16,
        others_bytes=20,
    )
    metrics = ServerMetrics("toy", "1.2", stats, memory_bytes=ledger.entries())
    kinds = ("other_processes", "weights", "activations", "graphs", "kv_cache", "headroom")
    sizes = [value(metrics, "octavo_memory_bytes", kind=kind) for kind in kinds]
    assert sizes == [20, 300, 100, 0, 250, 330]
    with pytest.raises(KeyError):
        value(metrics, "octavo_memory_bytes", kind="total")

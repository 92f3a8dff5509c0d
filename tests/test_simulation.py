"""loadtest/simulation: the trace, the router, and that a simulated fleet shows what it must show."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from simulation import fleet
from simulation.engine import TOKEN
from simulation.fleet import Figures
from simulation.router import CacheAware, RoundRobin
from simulation.served import ServedFigures
from simulation.studies import STUDIES, Case, ServedCase, cases
from simulation.trace import Trace

from octavo.scheduler.request import Request

LENGTHS = json.loads((Path(__file__).parent / "data" / "sharegpt_lengths.json").read_text())


def trace(**changes: object) -> list[Request]:
    settings: dict[str, object] = {"lengths": LENGTHS, "num_requests": 400, "rate": 10.0} | changes
    return list(Trace(**settings))  # type: ignore[arg-type]  # settings of several types


def test_conversations_repeat_what_was_said_before() -> None:
    requests = trace()
    arrivals = [request.arrival_s for request in requests]
    assert arrivals == sorted(arrivals) and 25 < arrivals[-1] < 120
    starts = Counter(tuple(request.prompt_token_ids[:16]) for request in requests)
    assert starts.most_common(1)[0][1] > 20, "applications share their instructions"
    again = [request for request in requests if TOKEN in request.prompt_token_ids]
    assert len(again) > 100, "later turns hold earlier answers"
    prompts = {array("i", request.prompt_token_ids).tobytes() for request in requests}
    for request in again:
        said = array("i", request.prompt_token_ids).tobytes()
        assert any(said.startswith(prompt) for prompt in prompts - {said}), "it begins with an earlier prompt"


def test_long_prompts_come_in_between_and_answers_can_be_shortened() -> None:
    requests = trace(long_every=100, long_tokens=5000)
    assert [r.request_id for r in requests if len(r.prompt_token_ids) == 5000] == ["99", "199", "299", "399"]
    whole, short = (sum(r.max_tokens for r in trace(shorten=shorten)) for shorten in (1, 8))
    assert 6 < whole / short < 9


def test_the_router_follows_prefixes_until_a_replica_has_too_much() -> None:
    (request,), (other,) = (trace(num_requests=1, seed=seed) for seed in (3, 4))
    aware, in_turn = CacheAware(), RoundRobin()
    assert [in_turn.choose(request, [0, 0, 0]) for _ in range(4)] == [0, 1, 2, 0]
    first = aware.choose(request, [3, 1, 3])
    assert first == 1 and aware.choose(request, [3, 7, 3]) == 1
    assert aware.choose(request, [3, 40, 4]) == 0, "half of all its work is more than a prefix is worth"
    assert aware.choose(other, [5, 5, 4]) == 2


def test_the_router_forgets_the_prefix_that_was_used_longest_ago() -> None:
    first, second, third = (
        replace(request, prompt_token_ids=request.prompt_token_ids[:64])
        for request in (trace(num_requests=1, seed=seed)[0] for seed in (3, 4, 5))
    )
    assert len({tuple(request.prompt_token_ids) for request in (first, second, third)}) == 3
    aware = CacheAware(capacity=2)
    for request in (first, second, first, third):
        aware.choose(request, [0, 1])
    assert aware.choose(first, [1, 0]) == 0, "it was used again before the third came"
    assert aware.choose(second, [1, 0]) == 1, "it is forgotten: the idlest gets it"


def test_a_long_run_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_TELL_EVERY", 100)
    told: list[tuple[int, float, float]] = []
    case = Case(study="", name="", num_requests=250, rate=20.0)
    end = case.run(LENGTHS, lambda *progress: told.append(progress))
    assert [num_requests for num_requests, _, _ in told] == [100, 200]
    assert 0 < told[0][1] < told[1][1] < end.simulated_s
    assert 0 < told[1][2] < 1


def figures(**changes: object) -> Figures:
    settings: dict[str, object] = {"study": "", "name": "", "num_requests": 300, "rate": 20.0} | changes
    return Case(**settings).run(LENGTHS)  # type: ignore[arg-type]


def test_a_larger_pool_finds_more_and_routing_by_prefix_beats_turns() -> None:
    small, large = (figures(pool_blocks=blocks) for blocks in (1200, 27_875))
    assert small.hit_rate < large.hit_rate
    assert small.ttft_p99_s > large.ttft_p99_s
    in_turn, aware = (figures(num_replicas=3, cache_aware=flag) for flag in (False, True))
    assert in_turn.hit_rate + 0.03 < aware.hit_rate
    assert in_turn.num_requests == aware.num_requests == 300 and aware.num_refused == 0


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_cases_that_can_run(study: str) -> None:
    made = list(cases(study, 80, 8))
    assert study in ("served", "places", "graphs") or max(case.num_requests for case in made) <= 80 * 4
    assert len({case.name for case in made}) == len(made)
    result = replace(made[-1], num_requests=40).run(LENGTHS)
    assert result.tokens_per_s > 0 and result.ttft_p50_s > 0 and 0 < result.itl_p50_s <= result.itl_p99_s


def served(**changes: object) -> ServedFigures:
    settings: dict[str, object] = {"study": "", "name": "", "model": "qwen", "num_requests": 60} | changes
    return ServedCase(**settings).run(LENGTHS)  # type: ignore[arg-type]


def test_places_and_open_streams_bound_what_runs_at_once() -> None:
    """The last to be let in waits for places; a client that holds itself back waits for none."""
    many, few, patient = served(max_num_seqs=64), served(max_num_seqs=8), served(max_num_seqs=8, max_open=8)
    assert 3 * many.ttft_p99_s < few.ttft_p99_s
    assert patient.ttft_p99_s < 0.1 * few.ttft_p99_s
    assert many.tokens_per_s > few.tokens_per_s == pytest.approx(patient.tokens_per_s, rel=0.1)


def test_steps_padded_to_fewer_sizes_take_longer() -> None:
    tight, loose = (
        served(model="llama", graphs=sizes) for sizes in (tuple(range(64, 8193, 64)), (4096, 8192))
    )
    assert tight.tokens_per_s > 1.1 * loose.tokens_per_s

"""Whole results from a scripted engine: order, choices, stop strings, and nothing left running."""

from __future__ import annotations

import asyncio

import pytest
from replay_engine import ReplayClient, batches_of, make_generation

from octavo.app.errors import EngineDeadError, RequestError
from octavo.app.jobs import Job, run_jobs
from octavo.app.outputs import RequestOutput
from octavo.app.prompts import Prompt
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import FinishReason


def run(client: ReplayClient, num_jobs: int, params: SamplingParams) -> tuple[list[RequestOutput], int]:
    """The results, and how often a job was told to have finished."""
    finished: list[int] = []
    generation = make_generation(client)
    jobs = [Job(generation, Prompt(f"p{i}", [65 + i], f"salt{i}"), params, f"r{i}") for i in range(num_jobs)]
    outputs = asyncio.run(run_jobs(jobs, on_finished=lambda: finished.append(1)))
    return outputs, len(finished)


def test_results_are_whole_and_in_order() -> None:
    client = ReplayClient(batches_of(list("héllo".encode()), sizes=[3], logprobs=True))
    outputs, num_finished = run(client, 3, SamplingParams(logprobs=0))
    assert [output.prompt for output in outputs] == ["p0", "p1", "p2"]
    assert [output.request_id for output in outputs] == ["r0", "r1", "r2"]
    assert num_finished == 3
    for output in outputs:
        (completion,) = output.outputs
        assert (completion.text, completion.token_ids) == ("héllo", list("héllo".encode()))
        assert completion.finish_reason == "length"
        assert completion.logprobs is not None and len(completion.logprobs) == 6
        assert output.num_cached_tokens == 7
    assert [request.cache_salt for request in client.requests] == ["salt0", "salt1", "salt2"]


def test_choices_are_requests_of_their_own() -> None:
    client = ReplayClient(batches_of(list(b"ab")))
    (output,), _ = run(client, 1, SamplingParams(n=3, seed=1))
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    assert [request.request_id for request in client.requests] == ["r0-0", "r0-1", "r0-2"]
    assert [request.params.seed for request in client.requests] == [1, 2, 3]


def test_a_stop_string_ends_a_completion_early() -> None:
    client = ReplayClient(batches_of(list(b"one. two. three")))
    outputs, _ = run(client, 2, SamplingParams(stop="."))
    for output in outputs:
        assert (output.outputs[0].text, output.outputs[0].stop_reason) == ("one", ".")
        assert bytes(output.outputs[0].token_ids) == b"one."
    assert all(stream.num_aborts for stream in client.streams)


def test_an_error_of_one_completion_is_its_own() -> None:
    client = ReplayClient(batches_of(list(b"ab"), reason=FinishReason.ERROR))
    outputs, _ = run(client, 2, SamplingParams())
    assert [output.outputs[0].finish_reason for output in outputs] == ["error", "error"]


@pytest.mark.parametrize("stop", [(), ("z",)])
def test_when_the_engine_dies_nothing_is_left(stop: tuple[str, ...]) -> None:
    client = ReplayClient(batches_of(list(b"abc"))[:1], EngineDeadError("gone"))
    with pytest.raises(EngineDeadError):
        run(client, 3, SamplingParams(stop=stop))
    assert len(client.streams) == 3
    assert all(stream.num_aborts for stream in client.streams)


def test_what_cannot_run_is_refused_before_anything_starts() -> None:
    client = ReplayClient()
    with pytest.raises(RequestError):
        Job(make_generation(client), Prompt(None, []), SamplingParams(), "r")
    assert client.requests == []

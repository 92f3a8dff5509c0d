"""RequestOutput and its parts."""

from __future__ import annotations

import pytest

from octavo.app.outputs import CompletionBuilder, Logprob, request_output
from octavo.model.plan import TokenLogprobs
from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import FinishReason, RequestTimings


def _names(token: int) -> str:
    return f"<{token}>"


def test_a_completion_grows_and_what_was_built_stays() -> None:
    builder = CompletionBuilder(2, SamplingParams())
    builder.add("He", [5], ())
    first = builder.build(None)
    builder.add("llo", [6, 7], ())
    builder.finish(FinishReason.STOP, "llo")
    last = builder.build(None)
    assert (first.text, first.token_ids, first.finish_reason, first.finished()) == ("He", [5], None, False)
    assert (last.index, last.text, last.token_ids) == (2, "Hello", [5, 6, 7])
    assert (last.finish_reason, last.stop_reason, last.finished()) == ("stop", "llo", True)
    assert last.logprobs is None and last.cumulative_logprob is None


def test_prompts_tell_of_all_tokens_but_the_first() -> None:
    builder = CompletionBuilder(0, SamplingParams(prompt_logprobs=1))
    builder.add_prompt([TokenLogprobs(-2.0, 3, ((1, -0.5),))])
    builder.add_prompt([TokenLogprobs(-0.25, 1, ((8, -0.25),))])
    output = request_output("r", None, [6, 7, 8], [builder], None)
    assert output.prompt_logprobs == [
        None,
        {7: Logprob(-2.0, 3), 1: Logprob(-0.5, 1)},
        {8: Logprob(-0.25, 1)},
    ]
    silent = CompletionBuilder(0, SamplingParams())
    silent.add_prompt([TokenLogprobs(-2.0, 3, ())])
    assert request_output("r", None, [6, 7], [silent], None).prompt_logprobs is None


def test_logprobs_hold_the_sampled_token_first_and_the_likeliest_once() -> None:
    builder = CompletionBuilder(0, SamplingParams(logprobs=2))
    builder.add(
        "", [5, 6], [TokenLogprobs(-2.0, 3, ((1, -0.5), (2, -1.0))), TokenLogprobs(-0.25, 1, ((6, -0.25),))]
    )
    completion = builder.build(_names)
    assert completion.cumulative_logprob == pytest.approx(-2.25)
    assert completion.logprobs is not None
    assert list(completion.logprobs[0].items()) == [
        (5, Logprob(-2.0, 3, "<5>")),
        (1, Logprob(-0.5, 1, "<1>")),
        (2, Logprob(-1.0, 2, "<2>")),
    ]
    assert completion.logprobs[1] == {6: Logprob(-0.25, 1, "<6>")}
    bare = builder.build(None).logprobs
    assert bare is not None and bare[0][5].decoded_token is None


def test_a_request_is_finished_when_all_its_completions_are() -> None:
    builders = [CompletionBuilder(index, SamplingParams()) for index in range(2)]
    builders[0].finish(FinishReason.LENGTH, timings=RequestTimings(1.0, num_cached_tokens=16))
    running = request_output("r", "Hi", [1, 2], builders, None)
    assert not running.finished
    assert running.num_cached_tokens == 16
    builders[1].finish(FinishReason.ERROR, error="not finite")
    done = request_output("r", "Hi", [1, 2], builders, None)
    assert done.finished
    assert [output.finish_reason for output in done.outputs] == ["length", "error"]
    assert done.outputs[1].error == "not finite"
    assert (done.request_id, done.prompt, done.prompt_token_ids) == ("r", "Hi", [1, 2])

"""What a request must bring, computed alone and without any scheduler, from the toy model of fakes.py."""

from __future__ import annotations

from dataclasses import dataclass, field

from toy_grammar import ToyConstraint, forbidden, must_close
from toy_model import ToyModel

from octavo.model.plan import INVALID_TOKEN, TokenLogprobs
from octavo.scheduler.request import FinishReason, Request


@dataclass
class ExpectedOutput:
    """What a request must bring, however it was scheduled."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason = FinishReason.LENGTH
    stop_reason: int | None = None


def expected_output(request: Request, model: ToyModel, max_model_len: int = 1 << 30) -> ExpectedOutput:
    """The whole answer, computed alone. The request is greedy or names its seed."""
    params = request.params
    seed = 0 if params.greedy else params.seed
    assert seed is not None, "the scheduler would draw the seed"
    eos_ids = frozenset() if params.ignore_eos else request.eos_token_ids
    stop_ids = eos_ids | set(params.stop_token_ids)
    prompt = list(request.prompt_token_ids)
    expected = ExpectedOutput()
    if params.prompt_logprobs is not None:
        expected.prompt_logprobs = [model.logprobs(t, params.prompt_logprobs) for t in prompt[1:]]
    constraint = ToyConstraint.of(request, model.vocab_size)
    fixed = frozenset[int]()
    if request.limits is not None:
        fixed = forbidden(request.limits.fixed_mask(), model.vocab_size)
    for num_output in range(min(request.max_tokens, max_model_len - len(prompt))):
        banned = fixed | (stop_ids if num_output < params.min_tokens else frozenset())
        if constraint is not None:
            banned |= frozenset(range(model.vocab_size)) - constraint.allowed()
        if request.thinking is not None and must_close(request.thinking, expected.token_ids):
            banned |= frozenset(range(model.vocab_size)) - {request.thinking.closing}
        token = model.next_token(prompt + expected.token_ids, seed, banned)
        if token == INVALID_TOKEN:
            expected.finish_reason = FinishReason.ERROR
            break
        expected.token_ids.append(token)
        if params.logprobs is not None:
            expected.logprobs.append(model.logprobs(token, params.logprobs))
        if token in stop_ids:
            expected.finish_reason = FinishReason.STOP
            expected.stop_reason = None if token in eos_ids else token
            break
        if constraint is not None:
            constraint.advance(token)
            if constraint.complete:
                expected.finish_reason = FinishReason.STOP
                break
    return expected

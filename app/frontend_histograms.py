"""The distributions that a front end keeps: their names, help, buckets, and what vLLM calls them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .histogram import Histogram

_TOKEN_S = (
    0.0005,
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.015,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
_FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUEST_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 1200.0)
_DELTA_S = (0.000001, 0.000003, 0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.01)
_TEXT_S = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0)
_TOKENS = tuple(float(2**i) for i in range(18))
_CHOICES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_PREEMPTIONS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
RESPONSE_S = (0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0)
LAG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class FrontendHistograms:
    """Each is an attribute; iterating gives all."""

    def __init__(self) -> None:
        def both(name: str, help: str, bounds: tuple[float, ...], alias: str = "") -> Histogram:
            return Histogram(name, help, bounds, alias or name)

        self.first_token = both(
            "time_to_first_token_seconds", "From arrival to the first token.", _FIRST_TOKEN_S
        )
        self.inter_token = both(
            "inter_token_latency_seconds", "Between a request's tokens, as steps bring them.", _TOKEN_S
        )
        self.per_token = both(
            "request_time_per_output_token_seconds", "Mean time of a token after the first.", _TOKEN_S
        )
        self.latency = both("e2e_request_latency_seconds", "From arrival to the last token.", _REQUEST_S)
        self.queue = both("request_queue_time_seconds", "From arrival to the first step.", _REQUEST_S)
        self.inference = both(
            "request_inference_time_seconds", "From the first step to the last token.", _REQUEST_S
        )
        self.prefill = both(
            "request_prefill_time_seconds", "From the first step to the first token.", _REQUEST_S
        )
        self.decode = both("request_decode_time_seconds", "From the first token to the last.", _REQUEST_S)
        self.prompt_tokens = both("request_prompt_tokens", "Prompt tokens of a request.", _TOKENS)
        self.computed_tokens = both(
            "request_prefill_kv_computed_tokens", "Prompt tokens that the cache did not have.", _TOKENS
        )
        self.output_tokens = both("request_generation_tokens", "Tokens generated for a request.", _TOKENS)
        self.longest_choice = both(
            "request_max_num_generation_tokens", "Most tokens that one choice of a request got.", _TOKENS
        )
        self.max_tokens = both("request_params_max_tokens", "Tokens that a request may get.", _TOKENS)
        self.choices = both(
            "request_choices", "Choices asked for of each prompt.", _CHOICES, "request_params_n"
        )
        self.preemptions = both(
            "request_preemptions",
            "How often a request was put back.",
            _PREEMPTIONS,
            "request_num_preemptions",
        )
        self.tokenize = Histogram("tokenize_seconds", "Tokenizing the prompts of a request.", _TEXT_S)
        self.detokenize = Histogram(
            "detokenize_seconds", "Making text of one step's tokens: means of one request in 16.", _DELTA_S
        )
        self.loop_lag = Histogram("event_loop_lag_seconds", "How late an HTTP loop woke a timer.", LAG_S)

    def __iter__(self) -> Iterator[Histogram]:
        return iter(vars(self).values())

    def state(self) -> dict[str, tuple[list[int], float]]:
        """name -> (count per bucket, sum)."""
        return {histogram.name: histogram.state() for histogram in self}

    def absorb(self, state: Mapping[str, tuple[list[int], float]]) -> None:
        """Add what another front end has counted."""
        for histogram in self:
            histogram.absorb(*state[histogram.name])

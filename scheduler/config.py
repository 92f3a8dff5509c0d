"""Limits that the scheduler keeps. Validated when built, never changed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Raises ValueError for limits that contradict each other."""

    max_num_seqs: int = 256
    """Sequences that run at once; also the number of device slots."""
    max_num_batched_tokens: int = 2048
    """Tokens that one step may carry, prompts and decodes together."""
    max_model_len: int = 4096
    """Tokens of prompt and output together."""
    enable_chunked_prefill: bool = True
    itl_target_s: float | None = None
    """Seconds between a stream's tokens that prompt chunks aim for; None lets them fill every step."""
    step_sizes: tuple[int, ...] = ()
    """Tokens, ascending, of steps with prompts that the device has prepared; others are padded to the next,
    those beyond the last run as they are. Empty if nothing is padded."""
    max_ttft_s: float | None = None
    """Seconds to the first token; whoever is predicted to wait longer is refused. None is no bound."""
    max_queued_requests: int | None = None
    """Waiting requests beyond which a new one is refused; None is no bound."""

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"max_num_batched_tokens must be at least max_num_seqs ({self.max_num_seqs}), "
                f"or a full batch could not decode in one step, got {self.max_num_batched_tokens}"
            )
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ValueError(
                f"max_num_batched_tokens must be at least max_model_len ({self.max_model_len}) "
                f"when chunked prefill is off, got {self.max_num_batched_tokens}"
            )
        if self.itl_target_s is not None:
            if self.itl_target_s <= 0:
                raise ValueError(f"itl_target_s must be above 0, got {self.itl_target_s}")
            if not self.enable_chunked_prefill:
                raise ValueError(
                    "itl_target_s needs chunked prefill: whole prompts take as long as they take"
                )
        if self.max_queued_requests is not None and self.max_queued_requests < 1:
            raise ValueError(f"max_queued_requests must be at least 1, got {self.max_queued_requests}")

"""What each step carried and where its time went. Knows no metric names."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..model.plan import StepPlan
from .distribution import Distribution

PHASES = ("schedule", "launch", "wait", "commit", "deliver")
"""A step's way through the step coroutine. `wait` is the device's time as far as Python had none of its
own to spend; HTTP in the same loop is served in it."""

_PHASE_S = (
    0.00001,
    0.00003,
    0.0001,
    0.0003,
    0.001,
    0.002,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.3,
    1.0,
    10.0,
)
_STEP_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_TOKENS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
_SETTLED_EVERY = 64


@dataclass(slots=True)
class StepMeter:
    """Distributions over steps, since start.

    phases: seconds of each of PHASES.   step_s: from one step's end to the next's while steps follow each
    other, which is what a stream waits between two tokens.   tokens: prompt and decode tokens of a step.
    prompt_tokens: those of prompts, over steps that carry any: the chunk size that was chosen.
    rows: sequences of a step.   launched, ended: steps that are noted and not counted yet: between steps the
    distributions are out of the processor's caches, and to count one step takes as long there as to count
    several together.
    """

    phases: dict[str, Distribution] = field(
        default_factory=lambda: {phase: Distribution(_PHASE_S) for phase in PHASES}
    )
    step_s: Distribution = field(default_factory=lambda: Distribution(_STEP_S))
    tokens: Distribution = field(default_factory=lambda: Distribution(_TOKENS))
    prompt_tokens: Distribution = field(default_factory=lambda: Distribution(_TOKENS))
    rows: Distribution = field(default_factory=lambda: Distribution(_ROWS))
    launched: list[tuple[int, int, int, float, float]] = field(default_factory=list)
    ended: list[tuple[float, float, float, float]] = field(default_factory=list)

    def planned(self, plan: StepPlan, schedule_s: float, launch_s: float) -> None:
        """A step was launched. O(chunks), since rows of one token come first."""
        num_prompt = num_chunks = 0
        for row in reversed(plan.slices):
            if row.length == 1:
                break
            num_prompt += row.length
            num_chunks += 1
        num_rows = plan.num_rows
        self.launched.append((num_rows, num_rows - num_chunks + num_prompt, num_prompt, schedule_s, launch_s))

    def completed(self, step_s: float, wait_s: float, commit_s: float, deliver_s: float) -> None:
        """A step was committed and delivered."""
        self.ended.append((step_s, wait_s, commit_s, deliver_s))
        if len(self.ended) >= _SETTLED_EVERY:
            self.settle()

    def settle(self) -> None:
        """Count what was only noted; to be done before anybody looks."""
        schedule, launch, wait, commit, deliver = self.phases.values()
        for num_rows, num_tokens, num_prompt, schedule_s, launch_s in self.launched:
            self.rows.observe(num_rows)
            self.tokens.observe(num_tokens)
            if num_prompt:
                self.prompt_tokens.observe(num_prompt)
            schedule.observe(schedule_s)
            launch.observe(launch_s)
        for step_s, wait_s, commit_s, deliver_s in self.ended:
            self.step_s.observe(step_s)
            wait.observe(wait_s)
            commit.observe(commit_s)
            deliver.observe(deliver_s)
        self.launched.clear()
        self.ended.clear()

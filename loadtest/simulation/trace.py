"""A trace of conversations that does not fit into memory: one request after the other, in order of arrival.

A conversation begins with the instructions of one of a few applications (Zipf's law says which); each turn
repeats all turns before it, answers included. Lengths of what users ask and models answer are ShareGPT's.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from octavo.model.sampling_params import SamplingParams
from octavo.scheduler.request import Request

from .engine import TOKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """lengths: (asked, answered) pairs of tokens to draw from.   rate: requests a second.

    num_requests: how many in all.   turns: of a conversation, on average.   think_s: on average between an
    answer and the next question.   num_apps: sets of instructions, of `instructions` tokens on average.
    shorten: answers are divided by it; what a million requests ask of Python is mostly their tokens.
    long_every: every so many-th request is a prompt of `long_tokens` of its own instead; 0 is none.
    """

    lengths: Sequence[tuple[int, int]]
    num_requests: int
    rate: float
    turns: float = 3.0
    think_s: float = 30.0
    num_apps: int = 100
    instructions: int = 400
    shorten: int = 1
    long_every: int = 0
    long_tokens: int = 32_000
    max_tokens: int = 16_384
    seed: int = 0

    def __iter__(self) -> Iterator[Request]:
        rng = random.Random(self.seed)
        apps = [
            self._words(rng, max(16, int(rng.expovariate(1 / self.instructions))))
            for _ in range(self.num_apps)
        ]
        weights = [1 / (rank + 1) for rank in range(self.num_apps)]
        # Turns to come: (when, tie-breaker, what has been said).
        pending: list[tuple[float, int, array[int]]] = []
        opens_s = rng.expovariate(self.rate / self.turns)
        for index in range(self.num_requests):
            if self.long_every and index % self.long_every == self.long_every - 1:
                yield self._request(index, self._words(rng, self.long_tokens), 16, opens_s)
                continue
            if pending and pending[0][0] <= opens_s:
                arrival_s, _, said = heapq.heappop(pending)
            else:
                arrival_s, opens_s = opens_s, opens_s + rng.expovariate(self.rate / self.turns)
                said = apps[rng.choices(range(self.num_apps), weights)[0]][:]
            asked, answered = rng.choice(self.lengths)
            answered = max(2, answered // self.shorten)
            said += self._words(rng, asked)
            yield self._request(index, said, answered, arrival_s)
            if rng.random() < 1 - 1 / self.turns and len(said) + answered < self.max_tokens // 2:
                said = said + array("i", (TOKEN,)) * answered
                again_s = arrival_s + answered * 0.01 + rng.expovariate(1 / self.think_s)
                heapq.heappush(pending, (again_s, index, said))

    def _words(self, rng: random.Random, count: int) -> array[int]:
        """Tokens that nobody else says: consecutive ids from a random one on."""
        first = rng.randrange(1 << 30)
        return array("i", range(first, first + count))

    def _request(self, index: int, prompt: array[int], answered: int, arrival_s: float) -> Request:
        return Request(
            request_id=str(index),
            prompt_token_ids=prompt,
            params=_PARAMS,
            max_tokens=answered,
            arrival_s=arrival_s,
        )


_PARAMS = SamplingParams(temperature=0, max_tokens=None)

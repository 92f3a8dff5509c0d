"""How much each tenant may ask for in a minute: requests and tokens, as token buckets. Knows no HTTP.

A bucket holds a minute's worth and fills evenly. A prompt is paid for when its request is taken, an answer
while it is generated, so a bucket may go below zero; then no request is taken until it is filled again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from .errors import RateLimitError, RequestError

QUOTA_HEADERS = tuple(
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
)
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant has left, as OpenAI's headers tell it; None is no limit. reset_s: until it is full."""

    requests: int | None = None
    requests_left: int = 0
    requests_reset_s: float = 0.0
    tokens: int | None = None
    tokens_left: int = 0
    tokens_reset_s: float = 0.0

    def headers(self) -> dict[str, str]:
        """x-ratelimit-*."""
        told = {}
        for name, limit, left, reset_s in (
            ("requests", self.requests, self.requests_left, self.requests_reset_s),
            ("tokens", self.tokens, self.tokens_left, self.tokens_reset_s),
        ):
            if limit is not None:
                told[f"x-ratelimit-limit-{name}"] = str(limit)
                told[f"x-ratelimit-remaining-{name}"] = str(left)
                told[f"x-ratelimit-reset-{name}"] = f"{reset_s:.3f}s"
        return told


class _Bucket:
    """At most `limit`, filling up in a minute."""

    def __init__(self, limit: int, now_s: float) -> None:
        self.limit = limit
        self._level = float(limit)
        self._at_s = now_s

    def take(self, amount: int, now_s: float) -> None:
        self._level = self.level(now_s) - amount
        self._at_s = now_s

    def level(self, now_s: float) -> float:
        return min(self.limit, self._level + (now_s - self._at_s) * self.limit / _MINUTE_S)

    def wait_s(self, amount: int, now_s: float) -> float:
        """Until `amount` is there; 0 if it is."""
        return max(0.0, (amount - self.level(now_s)) * _MINUTE_S / self.limit)


class RateLimits:
    """requests, tokens: what each tenant, an API key, may ask for in a minute; None is no limit."""

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._limits = {"requests": requests, "tokens": tokens}
        self._buckets: dict[str, dict[str, _Bucket]] = {}

    def take(self, tenant: str, num_prompt: int) -> None:
        """Pay for a request. Raises RateLimitError, and RequestError if it could never run."""
        now_s = time.monotonic()
        buckets = self._of(tenant, now_s)
        asked = {"requests": 1, "tokens": num_prompt}
        for name, bucket in buckets.items():
            if asked[name] > bucket.limit:
                raise RequestError(
                    f"The prompt has {num_prompt} tokens, more than a minute's {bucket.limit}.",
                    param="prompt",
                    code="rate_limit_exceeded",
                )
        for name, bucket in buckets.items():
            wait_s = bucket.wait_s(asked[name], now_s)
            if wait_s > 0:
                raise RateLimitError(
                    f"{bucket.limit} {name} a minute are allowed; try again in {wait_s:.3g} s.",
                    type=name,
                    retry_after_s=max(1, math.ceil(wait_s)),
                    headers=self.quota(tenant).headers(),
                )
        for name, bucket in buckets.items():
            bucket.take(asked[name], now_s)

    def spend(self, tenant: str, num_tokens: int) -> None:
        """`num_tokens` were generated for the tenant."""
        now_s = time.monotonic()
        bucket = self._of(tenant, now_s).get("tokens")
        if bucket is not None:
            bucket.take(num_tokens, now_s)

    def quota(self, tenant: str) -> Quota:
        """What is left at this moment."""
        now_s = time.monotonic()
        told: dict[str, float] = {}
        for name, bucket in self._of(tenant, now_s).items():
            told[name] = bucket.limit
            told[f"{name}_left"] = max(0, math.floor(bucket.level(now_s)))
            told[f"{name}_reset_s"] = bucket.wait_s(bucket.limit, now_s)
        return Quota(**told)  # type: ignore[arg-type]  # limits and what is left are whole

    def _of(self, tenant: str, now_s: float) -> dict[str, _Bucket]:
        buckets = self._buckets.get(tenant)
        if buckets is None:
            buckets = self._buckets[tenant] = {
                name: _Bucket(limit, now_s) for name, limit in self._limits.items() if limit is not None
            }
        return buckets

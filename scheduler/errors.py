"""Refusals: the scheduler will not take a request, and says with which numbers.

RequestRefusedError
  CapacityError     it could never fit the KV cache
  QueueFullError    the queue is at its bound
"""

from __future__ import annotations


class RequestRefusedError(Exception):
    """The request was not taken; nothing was changed."""


class CapacityError(RequestRefusedError):
    """Prompt and output together need more KV blocks than the whole pool has."""


class QueueFullError(RequestRefusedError):
    """As many requests wait as are allowed to."""

"""Refusals: the scheduler will not take a request, and says with which numbers.

RequestRefusedError
  CapacityError     it could never fit the KV cache
  BusyError         not now; retry_after_s: whole seconds until it is worth another try
    QueueFullError  the queue is at its bound
    TooLateError    its first token would come too late
"""

from __future__ import annotations


class RequestRefusedError(Exception):
    """The request was not taken; nothing was changed."""


class CapacityError(RequestRefusedError):
    """Prompt and output together need more KV blocks than the whole pool has."""


class BusyError(RequestRefusedError):
    """There is too much to do at this moment."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFullError(BusyError):
    """As many requests wait as are allowed to."""


class TooLateError(BusyError):
    """The first token is predicted to come later than is allowed."""
